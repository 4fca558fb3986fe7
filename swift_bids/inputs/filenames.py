"""Names of fMRIPrep's files -> their parts, and whether they are names at all."""

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
        Its path in the dataset, and the last part of that.
    entities
        As pybids calls and reads them.
    """

    path: str
    filename: str
    entities: dict[str, Any]


def entities_in(name: str) -> dict[str, str]:
    """Entities of a run's or file's name, as they are written: `{"sub": "01", "task": "rest"}`."""
    return dict(part.split("-", 1) for part in name.split("_") if "-" in part)


def is_in_space(entities: Mapping[str, str], space: str) -> bool:
    """Whether a file is in a space as `--space` names it: `NAME`, `NAME:res-2` (res-02 is too),
    `NAME:res-native` (without a res entity), `NAME:cohort-1`."""
    name, *modifiers = space.split(":")
    if entities.get("space") != name:
        return False
    for entity, _, value in (modifier.partition("-") for modifier in modifiers):
        there = entities.get(entity)
        if entity == "res":
            there, value = plain(there or "native"), plain(value)
        if there != value:
            return False
    return True


def stem_of(filename: str, end: str) -> str:
    """A file name up to `end`, such as `_desc-`."""
    return filename.split(end)[0]


def label_in(bold: FoundFile, entity: str) -> str | None:
    """An entity of a file as text; of a run, an echo and a resolution, 01 is the same as 1."""
    value = bold.entities.get(entity)
    if value is None:
        return None
    return plain(str(value)) if entity in ("run", "echo", "res") else str(value)


def plain(label: str) -> str:
    """A label without leading zeros where it is a number."""
    return (label.lstrip("0") or "0") if label.isdecimal() else label


def check_name(bold: FoundFile, candidates: Sequence[FoundFile]) -> None:
    """Refuse a run of whose name there are two files, and a name that is none of BIDS.

    Raises
    ------
    InputError
        As said.
    """
    same = sorted(b.path for b in candidates if b.filename == bold.filename)
    if len(same) > 1:
        raise InputError(
            f"there are {len(same)} files of this name ({', '.join(same)}); keep one of them in "
            f"the input"
        )
    odd = [part for part in stem_of(bold.filename, "_desc-").split("_") if "-" not in part]
    if odd:
        raise InputError(
            f"{bold.path}: {odd[0]!r} in its name is no entity and its value (as in task-rest); "
            f"labels have no underscore, rename the files of this run"
        )
    if f"/{bold.filename.split('_')[0]}/" not in bold.path:
        raise InputError(f"{bold.path}: lies in the folder of another participant; move it")
