"""data/io_spec.json and --bids-filter-file -> the entities by which the app finds files."""

from __future__ import annotations

import difflib
import json
from collections.abc import Collection
from importlib import resources
from pathlib import Path
from typing import Any

from swift_bids.base.errors import UsageError
from swift_bids.base.files import read_json


def read_filter_file(file: str | Path) -> dict[str, dict[str, Any]]:
    """Read a filter file in fMRIPrep's format, `{"bold": {"task": "rest"}}`.

    Raises
    ------
    UsageError
        The file is not valid JSON, or names a kind of file that the app does not read.
    """
    known = set(io_spec())
    try:
        filters = read_json(file)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"--bids-filter-file {file}: cannot be read ({error}); correct it"
        ) from error
    if not isinstance(filters, dict) or not all(isinstance(v, dict) for v in filters.values()):
        raise UsageError(
            f'--bids-filter-file {file}: must look like {{"bold": {{"task": "rest"}}}}'
        )
    unknown = sorted(set(filters) - known)
    if unknown:
        *others, last = sorted(known)
        raise UsageError(
            f"--bids-filter-file {file}: unknown kind(s) of file: {', '.join(unknown)}; the app "
            f"reads only {', '.join(others)} and {last}, so remove the others"
        )
    return filters


def check_entities(kind: str, filters: dict[str, dict[str, Any]], known: Collection[str]) -> None:
    """Check that a filter names entities only; pybids would treat other names as its options.

    Raises
    ------
    UsageError
        A name is not an entity, or is `desc`: output names do not contain the desc of the run, so
        the outputs of two files that differ in desc would overwrite each other.
    """
    for entity in filters.get(kind, {}):
        if entity == "desc":
            raise UsageError(
                f"--bids-filter-file: {kind}: desc cannot be chosen; the app reads desc-preproc "
                f"only, so remove desc from the filter"
            )
        if entity not in known and entity not in ("datatype", "regex_search"):
            near = difflib.get_close_matches(entity, known, n=3)
            hint = f"; did you mean {', '.join(near)}?" if near else ""
            raise UsageError(f"--bids-filter-file: {kind}: {entity} is not an entity{hint}")


def entities_of(kind: str, filters: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the entities with which `BIDSLayout.get` finds one kind of file.

    Parameters
    ----------
    kind
        `bold`, `mask` or `confounds`.
    filters
        The result of `read_filter_file`. As in fMRIPrep's filter files, null and `"Query.NONE"`
        select files without the entity.

    Raises
    ------
    KeyError
        pybids has no `Query` of this name.
    """
    from bids.layout import Query

    def query_value(value: Any) -> Any:
        if value is None:
            return Query.NONE
        if isinstance(value, str) and value.startswith("Query."):
            return Query[value.removeprefix("Query.")]
        return [query_value(v) for v in value] if isinstance(value, list) else value

    query = io_spec()[kind] | filters.get(kind, {})
    return {entity: query_value(value) for entity, value in query.items()}


def io_spec() -> dict[str, dict[str, Any]]:
    """Return the entities of each kind of file (`bold`, `mask`, `confounds`)."""
    return json.loads(resources.files("swift_bids").joinpath("data/io_spec.json").read_text())
