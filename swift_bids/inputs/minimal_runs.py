"""fMRIPrep's minimal level + the raw dataset -> runs to resample once, from the raw BOLD."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from swift_bids.base.errors import InputError, Problem
from swift_bids.geometry.frames import TRAINING_SPACE
from swift_bids.inputs.dataset import Dataset
from swift_bids.inputs.filenames import FoundFile, is_in_space, plain
from swift_bids.inputs.find_transforms import (
    find_raw_bold,
    find_transforms,
    fmriprep_settings,
    list_files,
    stem_of_transforms,
)
from swift_bids.inputs.index import inherited_sidecars, moved, open_layout
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
    files = list_files(dataset.root, participant)
    transforms = {stem: file for file in files if (stem := stem_of_transforms(file.name))}
    at_full_level = {_without_space(run.name): run for run in runs}
    wanted = [
        stem
        for stem, file in sorted(transforms.items())
        if selection.has(_found(file)) and (selection.from_raw or stem not in at_full_level)
    ]
    if not wanted:
        return runs, problems
    found: list[Run] = []
    unusable: list[Problem] = []
    with open_layout(dataset.raw, [participant]) as layout:
        bold_files = {
            file.filename.split(".")[0].removesuffix("_bold"): FoundFile(
                moved(file.path, layout.root, dataset.raw), file.filename, file.entities
            )
            for file in layout.get(suffix="bold", extension=[".nii", ".nii.gz"], datatype="func")
        }
        paths = {stem: file.path for stem, file in bold_files.items()}
        for stem in wanted:
            try:
                bold = find_raw_bold(paths, stem, dataset.raw)
                inherited = inherited_sidecars(dataset.raw, layout, bold_files[stem])
                found.append(
                    _complete(
                        participant,
                        stem,
                        bold,
                        transforms[stem],
                        files,
                        dataset.root,
                        inherited,
                        selection,
                    )
                )
            except InputError as error:
                unusable.append(Problem(participant, stem + _SUFFIX, str(error)))
    # what the query for preprocessed files said of these runs no longer holds
    kept = [p for p in problems if p.name not in (f"sub-{participant}", *wanted)]
    others = [run for run in runs if _without_space(run.name) not in wanted]
    return sorted([*others, *found], key=lambda run: run.name), [*kept, *unusable]


def _complete(
    participant: str,
    stem: str,
    bold: str,
    head_motion: Path,
    files: Sequence[Path],
    dataset_root: Path,
    inherited: Iterable[str],
    selection: Selection,
) -> Run:
    refuse_unreadable(bold)
    sidecars = list(inherited)
    metadata = sidecar_metadata(bold, sidecars)
    transforms, mask, warnings = find_transforms(head_motion, files, metadata, bold)
    shifts, doubts = _slice_shifts(selection, dataset_root, participant, metadata, bold)
    fieldmap = transforms.fieldmap
    transforms = replace(
        transforms,
        slice_shifts=shifts,
        interpolation=selection.interpolation,
        fieldmap=fieldmap and replace(fieldmap, jacobian=selection.jacobian),
    )
    warnings += doubts
    fields: dict[str, Any] = {
        "name": stem + _SUFFIX,
        "participant": participant,
        "bold": bold,
        "mask": mask,
        "confounds": None,
        "space": TRAINING_SPACE,
        "others": (),
        "transforms": transforms,
        "warnings": tuple(warnings),
    }
    again: Callable[[], Iterable[str]] = lambda: sidecars  # noqa: E731
    return complete_run(
        fields, again, selection.dummy_scans, selection.target_tr, selection.short_runs
    )


def _slice_shifts(
    selection: Selection, root: Path, participant: str, metadata: Mapping[str, Any], bold: str
) -> tuple[tuple[float, ...], list[str]]:
    """The shifts that correct the slice timing, if requested, and the reason if they are unknown.

    fMRIPrep corrects slice timing unless `--ignore slicetiming` is given or the metadata do not
    contain it; the minimal level does not show which.
    """
    settings = fmriprep_settings(root, participant)
    reference = settings.get("slice_time_ref", 0.5)
    by_fmriprep = (
        bool(settings)
        and "slicetiming" not in (settings.get("ignore") or [])
        and "SliceTiming" in metadata
        and isinstance(reference, (int, float))
    )
    if selection.slice_timing == "off" or (selection.slice_timing == "auto" and not by_fmriprep):
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
