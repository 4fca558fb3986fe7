"""fMRIPrep's minimal level + the raw dataset -> runs to resample once, from the raw BOLD."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from swift_bids.base.errors import InputError, Problem
from swift_bids.geometry.frames import TRAINING_SPACE
from swift_bids.inputs.dataset import Dataset
from swift_bids.inputs.filenames import FoundFile, is_in_space, plain
from swift_bids.inputs.find_transforms import (
    RawBold,
    find_raw_bold,
    find_transforms,
    fmriprep_settings,
    list_files,
    stem_of_transforms,
)
from swift_bids.inputs.index import (
    UnreadableFolderError,
    inherited_sidecars,
    moved,
    open_layout,
)
from swift_bids.inputs.raw_header import load_header, slice_shifts
from swift_bids.inputs.run import Run, complete_run, refuse_unreadable, sidecar_metadata
from swift_bids.inputs.selection import Selection

#: What the app makes of a run: it resamples to the grid that the network was trained on.
_SPATIAL = {"space": TRAINING_SPACE, "res": "2"}
_SUFFIX = "".join(f"_{entity}-{label}" for entity, label in _SPATIAL.items())


def add_minimal_runs(
    dataset: Dataset,
    participant: str,
    runs: list[Run],
    problems: list[Problem],
    selection: Selection,
) -> tuple[list[Run], list[Problem]]:
    """Add the runs that exist only at the minimal level; with `--from-raw`, they replace others.

    Parameters
    ----------
    runs, problems
        What the query for preprocessed BOLD files has found for this participant.

    Returns
    -------
    runs, problems
        With those of the minimal level.
    """
    if dataset.raw is None or not _is_wanted(selection):
        return runs, problems
    tree = _Tree(dataset, participant, list_files(dataset.root, participant), selection)
    head_motion = {stem: file for file in tree.files if (stem := stem_of_transforms(file.name))}
    # a preprocessed run that is damaged or not fetched is the user's to repair, not ours to replace
    names = [run.name for run in runs] + [problem.name for problem in problems]
    at_full_level = {_without_space(name) for name in names if "_space-" in name}
    wanted = [
        stem
        for stem, file in sorted(head_motion.items())
        if selection.has(_found(file)) and (selection.from_raw or stem not in at_full_level)
    ]
    if not wanted:
        return runs, problems
    # what the query for preprocessed files said of these runs no longer holds
    runs = [run for run in runs if _without_space(run.name) not in wanted]
    problems = [p for p in problems if p.name not in (f"sub-{participant}", *wanted)]
    try:
        raw_files = _raw_files(dataset.raw, participant)
    except UnreadableFolderError:
        folder = dataset.raw / f"sub-{participant}"
        reason = f"{folder}, or a folder in it, cannot be read; check its permissions"
        return runs, [*problems, Problem(participant, f"sub-{participant}", reason)]
    for stem in wanted:
        try:
            raw = find_raw_bold(raw_files, stem, dataset.raw)
            runs.append(tree.complete(stem, head_motion[stem], raw))
        except InputError as error:
            problems.append(Problem(participant, stem + _SUFFIX, str(error)))
    return sorted(runs, key=lambda run: run.name), problems


def _raw_files(raw: Path, participant: str) -> dict[str, RawBold]:
    """Name of each raw run of a participant -> its BOLD file and the sidecars that apply to it."""
    found = {}
    with open_layout(raw, [participant]) as layout:
        for file in layout.get(suffix="bold", extension=[".nii", ".nii.gz"], datatype="func"):
            path = moved(file.path, layout.root, raw)
            bold = FoundFile(path, file.filename, file.entities)
            name = file.filename.split(".")[0].removesuffix("_bold")
            found[name] = RawBold(path, tuple(inherited_sidecars(raw, layout, bold)))
    return found


@dataclass(frozen=True)
class _Tree:
    """What the minimal level contains of one participant."""

    dataset: Dataset
    participant: str
    files: Sequence[Path]
    selection: Selection

    def complete(self, stem: str, head_motion: Path, raw: RawBold) -> Run:
        """The run with all of its files; InputError if it cannot be embedded."""
        selection = self.selection
        refuse_unreadable(raw.file)
        metadata = sidecar_metadata(raw.file, raw.sidecars)
        transforms, mask, warnings = find_transforms(head_motion, self.files, metadata, raw.file)
        shifts, doubts = self._slice_shifts(metadata, raw.file)
        fieldmap = transforms.fieldmap
        fields: dict[str, Any] = {
            "name": stem + _SUFFIX,
            "participant": self.participant,
            "bold": raw.file,
            "mask": mask,
            "confounds": None,
            "space": TRAINING_SPACE,
            "others": (),
            "transforms": replace(
                transforms,
                slice_shifts=shifts,
                interpolation=selection.interpolation,
                fieldmap=fieldmap and replace(fieldmap, jacobian=selection.jacobian),
            ),
            "warnings": (*warnings, *doubts),
        }
        return complete_run(
            fields,
            lambda: raw.sidecars,
            selection.dummy_scans,
            selection.target_tr,
            selection.short_runs,
        )

    def _slice_shifts(
        self, metadata: Mapping[str, Any], bold: str
    ) -> tuple[tuple[float, ...], list[str]]:
        """The shifts that correct the slice timing, if requested, and why if they are unknown.

        fMRIPrep corrects slice timing unless `--ignore slicetiming` is given or the metadata do not
        contain it; the transforms do not show which.
        """
        settings = fmriprep_settings(self.dataset.root, self.participant)
        reference = settings.get("slice_time_ref", 0.5)
        by_fmriprep = (
            bool(settings)
            and "slicetiming" not in (settings.get("ignore") or [])
            and "SliceTiming" in metadata
            and isinstance(reference, (int, float))
        )
        wanted = self.selection.slice_timing
        if wanted == "off" or (wanted == "auto" and not by_fmriprep):
            return (), []
        shape = load_header(bold).get_data_shape()
        repetition_time = metadata.get("RepetitionTime")
        try:
            if not isinstance(repetition_time, (int, float)):
                raise ValueError("RepetitionTime is missing")
            return slice_shifts(metadata, shape[2], repetition_time, reference or 0), []
        except ValueError as error:
            return (), [f"its slice timing is not corrected, because in the raw sidecars {error}"]


def _is_wanted(selection: Selection) -> bool:
    """Whether the selected spaces and resolutions contain the training grid."""
    resolutions = selection.resolutions
    if resolutions is not None and "2" not in map(plain, resolutions):
        return False
    return any(is_in_space(_SPATIAL, space) for space in selection.spaces)


def _without_space(name: str) -> str:
    return name.split("_space-")[0]


def _found(file: Path) -> FoundFile:
    from bids.layout import parse_file_entities

    return FoundFile(str(file), file.name, parse_file_entities(f"/{file.name}"))
