"""Names of fMRIPrep's files -> their entities, and whether the names are valid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from swift_bids.base.errors import InputError


@dataclass(frozen=True)
class FoundFile:
    """A file that the query found.

    Attributes
    ----------
    path, filename
        Its path in the dataset, and the last part of this path.
    entities
        With pybids' names and values.
    """

    path: str
    filename: str
    entities: dict[str, Any]


def entities_in(name: str) -> dict[str, str]:
    """Entities in the name of a run or file, as written there: `{"sub": "01", "task": "rest"}`."""
    return dict(part.split("-", 1) for part in name.split("_") if "-" in part)


def is_in_space(entities: Mapping[str, str], space: str) -> bool:
    """Whether a file is in a space in the notation of `--space`: `NAME`, `NAME:res-2` (also matches
    res-02), `NAME:res-native` (matches files without a res entity), `NAME:cohort-1`."""
    name, *modifiers = space.split(":")
    if entities.get("space") != name:
        return False
    for entity, _, value in (modifier.partition("-") for modifier in modifiers):
        label = entities.get(entity)
        if entity == "res":
            label, value = plain(label or "native"), plain(value)
        if label != value:
            return False
    return True


def stem_of(filename: str, end: str) -> str:
    """Return the part of a file name before `end`, such as `_desc-`."""
    return filename.split(end)[0]


def label_in(bold: FoundFile, entity: str) -> str | None:
    """Return an entity of a file as text; for runs, echoes and resolutions, 01 becomes 1."""
    value = bold.entities.get(entity)
    if value is None:
        return None
    return plain(str(value)) if entity in ("run", "echo", "res") else str(value)


def plain(label: str) -> str:
    """Return a label, without leading zeros if it is a number."""
    return (label.lstrip("0") or "0") if label.isdecimal() else label


def check_name(bold: FoundFile, candidates: Sequence[FoundFile]) -> None:
    """Check that the name of a run is valid and unique.

    Raises
    ------
    InputError
        Two files have this name, the name is not a BIDS name, or the file is in the folder of
        another participant.
    """
    same = sorted(b.path for b in candidates if b.filename == bold.filename)
    if len(same) > 1:
        raise InputError(
            f"there are {len(same)} files with this name ({', '.join(same)}); keep only one of "
            f"them in the input"
        )
    odd = [part for part in stem_of(bold.filename, "_desc-").split("_") if "-" not in part]
    if odd:
        raise InputError(
            f"{bold.path}: {odd[0]!r} in its name is not an entity with a label, such as "
            f"task-rest; labels must not contain underscores, so rename the files of this run"
        )
    if f"/{bold.filename.split('_')[0]}/" not in bold.path:
        raise InputError(f"{bold.path}: is in the folder of another participant; move it")
