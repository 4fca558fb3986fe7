"""Data frames -> BIDS tables (tab-separated), and descriptions of their columns."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

import pandas as pd

from swift_bids.base.backbones import network_of_feature
from swift_bids.base.files import write_text

#: Keys of our sidecars that do not describe a column.
_KEYS = (
    "Description",
    "GeneratedBy",
    "Embeddings",
    "Settings",
    "Connectivity",
    "Compared",
    "FaultyVolumes",
    "Sources",
    "InputFingerprint",
    "Files",
    "Columns",
)


def write_table(path: Path, table: pd.DataFrame, digits: int = 10) -> None:
    """Write a BIDS table: tab-separated, `n/a` for missing, `true`/`false` for booleans.

    Double-precision numbers keep `digits` significant digits, so that 14.4 is not written as
    14.399999999999999; features are in single precision and keep all of theirs.
    """
    booleans = table.select_dtypes("bool").columns
    doubles = table.select_dtypes("float64").columns
    table = table.assign(
        **{c: table[c].map({True: "true", False: "false"}) for c in booleans},
        **{c: [float(f"{value:.{digits}g}") for value in table[c]] for c in doubles},
    )
    write_text(path, table.to_csv(sep="\t", na_rep="n/a", index=False, lineterminator="\n"))


def is_reserved(name: str) -> bool:
    """Whether swift_bids itself uses this name for a column or for a key of a sidecar."""
    return name in (*_columns(), *_KEYS) or network_of_feature(name) is not None


@lru_cache(maxsize=1)
def _columns() -> dict[str, Any]:
    return json.loads(resources.files("swift_bids").joinpath("data/columns.json").read_text())


def column_descriptions(
    columns: Iterable[str], inherited: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Descriptions of table columns, with units (BIDS specification, tabular files).

    Parameters
    ----------
    inherited
        Descriptions of other columns, from participants.json.
    """
    known = dict(inherited or {}) | _columns()
    feature = "Feature {} of the {} embedding, mean over the {} tokens"
    from_input = {
        "Description": "Copied from the input's participants.tsv; participants.json does not "
        "describe this column"
    }

    def describe(column: str) -> Any:
        if network := network_of_feature(column):
            number = int(column.removeprefix(network.label))
            return {"Description": feature.format(number, network.title, network.tokens)}
        of_input = column.removeprefix("participants_")
        if of_input != column and of_input in (inherited or {}):
            return dict(inherited or {})[of_input]
        return known.get(of_input, from_input)

    return {column: describe(column) for column in columns}
