"""What is queried of a participant (data/io_spec.json), narrowed by --bids-filter-file."""

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
        It is not valid JSON or filters something that is not queried here.
    """
    known = set(io_spec())
    try:
        filters = read_json(file)
    except (OSError, ValueError) as error:
        raise UsageError(f"--bids-filter-file {file}: cannot be read ({error})") from error
    if not isinstance(filters, dict) or not all(isinstance(v, dict) for v in filters.values()):
        raise UsageError(
            f'--bids-filter-file {file}: must look like {{"bold": {{"task": "rest"}}}}'
        )
    unknown = sorted(set(filters) - known)
    if unknown:
        raise UsageError(
            f"--bids-filter-file {file}: unknown {', '.join(unknown)}; known are "
            f"{', '.join(sorted(known))}"
        )
    return filters


def check_entities(kind: str, filters: dict[str, dict[str, Any]], known: Collection[str]) -> None:
    """Refuse what is no entity, which pybids would take for an option of its own.

    Raises
    ------
    UsageError
        As said, or `desc`: outputs are named after the run, whichever desc it has, so that those of
        two would be one file.
    """
    for entity in filters.get(kind, {}):
        if entity == "desc":
            raise UsageError(
                f"--bids-filter-file: {kind}: desc cannot be chosen; the network reads desc-preproc"
            )
        if entity not in known and entity not in ("datatype", "regex_search"):
            near = difflib.get_close_matches(entity, known, n=3)
            hint = f"; did you mean {', '.join(near)}" if near else ""
            raise UsageError(f"--bids-filter-file: {kind}: {entity} is no entity{hint}")


def entities_of(kind: str, filters: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Entities that `BIDSLayout.get` finds one kind of file by.

    Parameters
    ----------
    kind
        `bold`, `mask` or `confounds`.
    filters
        What `read_filter_file` returned. As in fMRIPrep's filter files, null and `"Query.NONE"` ask
        for files without the entity.

    Raises
    ------
    KeyError
        There is no such `Query`.
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
    """Kind of file (`bold`, `mask`, `confounds`) -> the entities it is found by."""
    return json.loads(resources.files("swift_bids").joinpath("data/io_spec.json").read_text())
