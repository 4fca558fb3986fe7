"""bids_dir (and -d) -> which folder holds the fMRIPrep derivatives, and who is in it."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swift_bids.base.errors import Problem, UsageError
from swift_bids.base.files import read_json


@dataclass(frozen=True)
class Dataset:
    """The derivatives to read.

    Attributes
    ----------
    root
        Folder of the fMRIPrep derivatives.
    raw
        The raw dataset they were made from, where it was given.
    description
        Content of `dataset_description.json`, empty where there is none; what it lacks, from the
        raw dataset's.
    understood
        How the call was understood, in one sentence for the log and for errors.
    """

    root: Path
    raw: Path | None
    description: dict[str, Any]
    understood: str

    @property
    def participants(self) -> list[str]:
        """Labels of all participant folders, without `sub-`."""
        return sorted(p.name[4:] for p in self.root.glob("sub-*") if p.is_dir())

    def choose(
        self,
        labels: Sequence[str] | None = None,
        excluded: Sequence[str] | None = None,
        batch: tuple[int, int] = (1, 1),
    ) -> tuple[list[str], list[Problem]]:
        """Split asked-for labels into those there and a problem for each that is not.

        Parameters
        ----------
        labels, excluded
            With or without `sub-`; None asks for everybody and excludes nobody.
        batch
            (i, n): of what remains every nth from the ith on, counted from 1.
        """
        there = self.participants
        wanted, problems = self._there(there, labels)
        not_wanted, unknown = self._there(there, excluded or [])
        left = [label for label in wanted if label not in set(not_wanted)]
        number, of = batch
        # somebody who is not there is told by the first job only
        return left[number - 1 :: of], [*problems, *unknown] if number == 1 else []

    def _there(
        self, there: Sequence[str], labels: Sequence[str] | None
    ) -> tuple[list[str], list[Problem]]:
        if labels is None:
            return list(there), []
        wanted = list(dict.fromkeys(label.removeprefix("sub-") for label in labels))
        problems = []
        for label in wanted:
            if label not in there:
                near = difflib.get_close_matches(label, there, n=3) or there[:5]
                listed = ", ".join(near) + (", ..." if len(there) > len(near) else "")
                reason = (
                    f"there is no such participant in {self.root}, which has {len(there)} "
                    f"({listed})"
                )
                problems.append(Problem(label, f"sub-{label}", reason))
        return [label for label in wanted if label in there], problems


def understand_dataset(bids_dir: str | Path, derivatives: str | Path | None = None) -> Dataset:
    """Find out which of the given folders holds the derivatives.

    Parameters
    ----------
    bids_dir
        fMRIPrep's output folder, or a raw BIDS dataset together with `derivatives`.
    derivatives
        fMRIPrep's output folder, `-d/--derivatives`.

    Raises
    ------
    UsageError
        A folder is missing, holds no participants, or is a raw dataset without derivatives.
    """
    bids_dir = _existing_folder(bids_dir, "bids_dir")
    if derivatives is not None:
        root = _existing_folder(derivatives, "--derivatives")
        understood = f"bids_dir {bids_dir} is the raw dataset, --derivatives {root} is read"
        raw = bids_dir
    else:
        root, raw = bids_dir, None
        understood = f"bids_dir {bids_dir} is read as fMRIPrep derivatives"
    description = read_description(root)
    if description and _is_raw(description):
        inside = sorted(root.glob("derivatives/*/dataset_description.json"))
        hint = f", for example -d {inside[0].parent}" if inside else ""
        raise UsageError(
            f"{root} is a raw BIDS dataset (DatasetType is not derivative); swift_bids reads "
            f"fMRIPrep's output: give that folder as bids_dir, or with -d PATH{hint}"
        )
    if made_by_this_app(description):
        raise UsageError(
            f"{root} is an output folder of swift_bids; give fMRIPrep's as bids_dir, and this one "
            f"as output_dir"
        )
    if raw is not None:  # fMRIPrep does not pass on who made the data, and under which licence
        description = read_description(raw) | {k: v for k, v in description.items() if v}
    dataset = Dataset(root, raw, description, understood)
    if not dataset.participants:
        inside = sorted({p.parent for p in root.glob("*/sub-*")})
        hint = f"; {inside[0]} does, give that" if inside else ""
        raise UsageError(f"{root} holds no sub-* folder{hint} ({understood})")
    return dataset


def made_by_this_app(description: dict[str, Any]) -> bool:
    """Whether a dataset's description says that swift_bids wrote it."""
    made_by = description.get("GeneratedBy")
    first = made_by[0] if isinstance(made_by, list) and made_by else {}
    return isinstance(first, dict) and first.get("Name") == "swift_bids"


def resolved(path: str | Path, what: str) -> Path:
    """The absolute path without links.

    Raises
    ------
    UsageError
        Its links form a circle, or its name is none that outputs can repeat.
    """
    try:
        str(path).encode()
        return Path(path).resolve()
    except UnicodeEncodeError as error:
        raise UsageError(f"{what} {path}: the name is not UTF-8; rename the folder") from error
    except (RuntimeError, ValueError, OSError) as error:
        raise UsageError(f"{what} {path}: leads nowhere ({error}); give another folder") from error


def _existing_folder(path: str | Path, what: str) -> Path:
    resolved(path, what)
    path = Path(path)
    if not path.is_dir():
        what_is = "is a file, not a folder" if path.exists() else "there is no such folder"
        raise UsageError(f"{what} {path}: {what_is}")
    return path.resolve()


def read_description(root: Path) -> dict[str, Any]:
    """Content of a folder's `dataset_description.json`, empty where there is none.

    Raises
    ------
    UsageError
        It cannot be read.
    """
    file = root / "dataset_description.json"
    if not file.exists():
        return {}
    try:
        description = read_json(file)
    except (OSError, ValueError) as error:
        raise UsageError(f"{file}: cannot be read as JSON ({error}); correct it") from error
    return description if isinstance(description, dict) else {}


def _is_raw(description: dict[str, Any]) -> bool:
    """fMRIPrep before 20.2 wrote no DatasetType but a PipelineDescription."""
    kind = description.get("DatasetType")
    made_by = "GeneratedBy" in description or "PipelineDescription" in description
    return kind == "raw" or (kind is None and not made_by)
