"""bids_dir (and -d) -> the folder with the derivatives, its layout and its participants."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from swift_bids.base.errors import Problem, UsageError
from swift_bids.base.files import read_json
from swift_bids.inputs.layouts import COHORTS, LAYOUTS, Layout, recognise


@dataclass(frozen=True)
class Dataset:
    """The derivatives to read.

    Attributes
    ----------
    root
        Folder of the derivatives.
    raw
        The raw dataset that they were made from, if the app knows it.
    description
        Content of `dataset_description.json`, with missing entries from the raw dataset's file;
        empty if neither exists.
    interpretation
        One sentence for the log and for errors: how the app interpreted the folders in the command.
    input_type
        Layout of the derivatives, a key of `swift_bids.inputs.layouts.LAYOUTS`.
    """

    root: Path
    raw: Path | None
    description: dict[str, Any]
    interpretation: str
    input_type: str = "fmriprep"

    @cached_property
    def folders(self) -> dict[str, list[Path]]:
        """Label of each participant, without `sub-` -> folders, or zip files."""
        return LAYOUTS[self.input_type].participants(self.root)

    @property
    def participants(self) -> list[str]:
        """Labels of all participants, without `sub-`."""
        return sorted(self.folders)

    def choose(
        self,
        labels: Sequence[str] | None = None,
        excluded: Sequence[str] | None = None,
        batch: tuple[int, int] = (1, 1),
    ) -> tuple[list[str], list[Problem]]:
        """Return the requested participants, and a problem for each label that does not exist.

        Parameters
        ----------
        labels, excluded
            With or without `sub-`; None requests all participants and excludes none.
        batch
            (i, n): every nth of the remaining participants, starting with the ith, counted from 1.
        """
        existing = self.participants
        wanted, problems = self._split_labels(existing, labels)
        unwanted, unknown = self._split_labels(existing, excluded or [])
        remaining = [label for label in wanted if label not in set(unwanted)]
        number, of = batch
        # only the first of several jobs reports unknown labels
        return remaining[number - 1 :: of], [*problems, *unknown] if number == 1 else []

    def _split_labels(
        self, existing: Sequence[str], labels: Sequence[str] | None
    ) -> tuple[list[str], list[Problem]]:
        """Split labels into those that exist and a problem for each that does not."""
        if labels is None:
            return list(existing), []
        wanted = list(dict.fromkeys(map(LAYOUTS[self.input_type].label, labels)))
        problems = []
        for label in wanted:
            if label not in existing:
                near = difflib.get_close_matches(label, existing, n=3) or existing[:5]
                listed = ", ".join(near) + (", ..." if len(existing) > len(near) else "")
                reason = (
                    f"there is no such participant among the {len(existing)} in {self.root} "
                    f"({listed})"
                )
                problems.append(Problem(label, f"sub-{label}", reason))
        return [label for label in wanted if label in existing], problems


def find_derivatives(
    bids_dir: str | Path,
    derivatives: str | Path | None = None,
    raw: str | Path | None = None,
    input_type: str = "auto",
) -> Dataset:
    """Find out which of the given folders contains the derivatives, and where the raw dataset is.

    Parameters
    ----------
    bids_dir
        fMRIPrep's output folder or a cohort's data, or a raw BIDS dataset together with
        `derivatives`.
    derivatives
        fMRIPrep's output folder or a cohort's data, `-d/--derivatives`.
    raw
        The raw dataset, `--raw`. By default it is `bids_dir` if `derivatives` is given, else
        `sourcedata/raw` in the derivatives or a folder that their SourceDatasets name.
    input_type
        `--input-type`; `auto` recognises the layout.

    Raises
    ------
    UsageError
        A folder is missing, contains no participants, or is a raw dataset without derivatives.
    """
    bids_dir = _existing_folder(bids_dir, "bids_dir")
    root = bids_dir
    if derivatives is not None:
        root = _existing_folder(derivatives, "--derivatives")
    raw_dir: Path | None = bids_dir if derivatives is not None else None
    description = read_description(root)
    if input_type == "auto":
        input_type = recognise(root, description)
    layout = LAYOUTS[input_type]
    interpretation = f"bids_dir {bids_dir} is read as {layout.title}"
    if raw_dir is not None:
        interpretation = (
            f"bids_dir {bids_dir} is the raw dataset, and --derivatives {root} is read as "
            f"{layout.title}"
        )
    if input_type not in COHORTS and description and _is_raw(description):
        inside = sorted(root.glob("derivatives/*/dataset_description.json"))
        hint = f", for example -d {inside[0].parent}" if inside else ""
        raise UsageError(
            f"{root} is a raw BIDS dataset (DatasetType is not derivative); swift_bids reads "
            f"fMRIPrep's output, so give that folder as bids_dir or with -d PATH{hint}"
        )
    if made_by_this_app(description):
        raise UsageError(
            f"{root} is an output folder of swift_bids; give fMRIPrep's output as bids_dir, and "
            f"this folder as output_dir"
        )
    if raw is not None:
        raw_dir = _existing_folder(raw, "--raw")
        if not any(raw_dir.glob("sub-*")):
            raise UsageError(f"--raw {raw_dir}: contains no sub-* folder; give the raw dataset")
    elif raw_dir is None:
        raw_dir = _raw_of(root, description)
    if raw_dir not in (None, bids_dir):
        interpretation += f", made from the raw dataset {raw_dir}"
    if raw_dir is not None:  # fMRIPrep does not copy the authors and the licence of the data
        description = read_description(raw_dir) | {k: v for k, v in description.items() if v}
    dataset = Dataset(root, raw_dir, description, interpretation, input_type)
    if not dataset.participants:
        raise UsageError(
            f"{root} contains no {layout.folders} folder{_hint(root, layout)} ({interpretation})"
        )
    return dataset


def _hint(root: Path, layout: Layout) -> str:
    """What to give instead of a folder without participants, as the end of a sentence."""
    if layout.is_one(root):
        return f"; it is the folder of one participant, so give {root.parent}"
    recognised = LAYOUTS[recognise(root, {})]
    if recognised.participants(root):
        return f"; it looks like {recognised.title}, so leave out --input-type"
    for folder in sorted(p for p in root.iterdir() if p.is_dir()):
        below = LAYOUTS[recognise(folder, {})]
        if below.participants(folder):
            return f"; {folder} does, so give that folder"
    return ""


def _raw_of(root: Path, description: dict[str, Any]) -> Path | None:
    """The raw dataset of derivatives, in their own folder or named by their SourceDatasets."""
    sources = description.get("SourceDatasets")
    sources = sources if isinstance(sources, list) else []
    urls = [str(source.get("URL") or "") for source in sources if isinstance(source, dict)]
    named = [url.removeprefix("file://") for url in urls if url and not url.startswith("http")]
    for folder in (root / "sourcedata" / "raw", *(root / path for path in named)):
        if any(folder.glob("sub-*")) and _is_raw(read_description(folder)):
            return folder.resolve()
    return None


def made_by_this_app(description: dict[str, Any]) -> bool:
    """Whether a dataset's description says that swift_bids wrote it."""
    made_by = description.get("GeneratedBy")
    first = made_by[0] if isinstance(made_by, list) and made_by else {}
    return isinstance(first, dict) and first.get("Name") == "swift_bids"


def resolved(path: str | Path, what: str) -> Path:
    """Return the absolute path without links.

    Raises
    ------
    UsageError
        Its links form a loop, or its name cannot be written to the outputs.
    """
    try:
        str(path).encode()
        return Path(path).resolve()
    except UnicodeEncodeError as error:
        raise UsageError(f"{what} {path}: its name is not valid UTF-8; rename it") from error
    except (RuntimeError, ValueError, OSError) as error:
        raise UsageError(
            f"{what} {path}: cannot be resolved ({error}); give another folder"
        ) from error


def _existing_folder(path: str | Path, what: str) -> Path:
    resolved(path, what)
    path = Path(path)
    if not path.is_dir():
        reason = "is a file; give a folder" if path.exists() else "does not exist; check the path"
        raise UsageError(f"{what} {path}: {reason}")
    return path.resolve()


def read_description(root: Path) -> dict[str, Any]:
    """Return the content of a folder's `dataset_description.json`, empty if the file is missing.

    Raises
    ------
    UsageError
        The file cannot be read.
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
    """Whether a description is that of a raw dataset.

    fMRIPrep before 20.2 did not write DatasetType, but PipelineDescription.
    """
    kind = description.get("DatasetType")
    made_by = "GeneratedBy" in description or "PipelineDescription" in description
    return kind == "raw" or (kind is None and not made_by)
