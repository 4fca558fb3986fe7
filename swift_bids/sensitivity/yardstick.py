"""Embedded runs -> how far runs of one participant, and of two participants, lie apart."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from safetensors import SafetensorError, safe_open

from swift_bids.base.errors import UsageError
from swift_bids.group.load import CANDIDATE_ENTITIES, collect_runs
from swift_bids.inputs.run_filter import RunFilter
from swift_bids.outputs.paths import output_path
from swift_bids.sensitivity.changes import distance

_LOG = logging.getLogger("swift_bids")
#: Most runs that are compared with each other.
_MAX_RUNS = 60
#: Names of the rows.
WITHIN, BETWEEN = "another run of the participant", "a run of another participant"


def yardstick(output_dir: Path, like: Mapping[str, Any], n_chunks: int) -> pd.DataFrame:
    """Median distances between runs that were embedded in the same way.

    Parameters
    ----------
    like
        Values of columns of `swift_bids.group.load.collect_runs` that the runs must have.
    n_chunks
        Number of chunks whose tokens are compared.

    Returns
    -------
    pandas.DataFrame
        Up to two rows: `change` (`WITHIN` or `BETWEEN`), `tokens` and `embedding`. The tokens are
        NaN if no two runs have kept theirs; without embeddings, there are no rows.
    """
    try:
        runs, _ = collect_runs(output_dir, RunFilter())
    except UsageError:
        return pd.DataFrame()
    same = (runs.table[list(like)] == pd.Series(like)).all(axis=1)
    twice = runs.table["name"].str.replace(CANDIDATE_ENTITIES, "", regex=True).duplicated()
    table = runs.table[same & ~twice].head(_MAX_RUNS)
    tokens = {
        row: _tokens(output_dir, name, runs.label, n_chunks) for row, name in table["name"].items()
    }
    pairs = []
    for a, b in combinations(table.index, 2):
        same_person = table["participant_id"][a] == table["participant_id"][b]
        of_tokens = np.nan
        first, second = tokens[a], tokens[b]
        if first is not None and second is not None:
            n_shared = min(len(first), len(second))
            of_tokens = distance(first[:n_shared], second[:n_shared])
        pairs.append(
            {
                "change": WITHIN if same_person else BETWEEN,
                "tokens": of_tokens,
                "embedding": distance(runs.features[a], runs.features[b]),
            }
        )
    if not pairs:
        return pd.DataFrame()
    return pd.DataFrame(pairs).groupby("change", sort=True).median().reset_index()


def _tokens(output_dir: Path, name: str, label: str, n_chunks: int) -> np.ndarray | None:
    """The tokens of a run's first chunks, or None."""
    file = output_path(output_dir, name, label, "tokens", ".safetensors")
    if not file.exists():
        return None
    try:
        with safe_open(str(file), framework="numpy") as content:
            tokens = content.get_slice("tokens")
            return tokens[: min(n_chunks, tokens.get_shape()[0])]
    except (SafetensorError, OSError) as error:
        _LOG.warning("%s: cannot be read (%s); embed the run again", file, error)
        return None
