"""fMRIPrep's minimal level + the raw dataset -> runs to resample once, from the raw BOLD."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swift_bids.base.errors import InputError, Problem
from swift_bids.geometry.frames import TRAINING_SPACE
from swift_bids.inputs.brain_mask import NEAREST, functional_mask
from swift_bids.inputs.dataset import Dataset
from swift_bids.inputs.filenames import FoundFile, entities_in, stem_of
from swift_bids.inputs.filters import entities_of, io_spec
from swift_bids.inputs.find_mask import explain_no_mask, find_anatomical_mask, find_mask
from swift_bids.inputs.find_transforms import (
    find_raw_bold,
    find_transforms,
    list_files,
    stem_of_transforms,
)
from swift_bids.inputs.fmriprep_settings import FmriprepSettings, find_settings
from swift_bids.inputs.index import (
    UnreadableFolderError,
    inherited_sidecars,
    moved,
    open_layout,
)
from swift_bids.inputs.missing import NO_BOLD
from swift_bids.inputs.raw_header import load_header, slice_shifts
from swift_bids.inputs.run import Run, complete_run
from swift_bids.inputs.selection import TRAINING_SUFFIX, Selection
from swift_bids.inputs.sidecars import sidecar_metadata

if TYPE_CHECKING:
    from bids.layout import BIDSLayout


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
    if dataset.raw is None:
        return runs, problems
    tree = _Tree(dataset, participant, list_files(dataset.root, participant), selection)
    head_motion = {stem: file for file in tree.files if (stem := stem_of_transforms(file.name))}
    # a preprocessed run that is damaged or not fetched is the user's to repair, not ours to replace
    names = [run.name for run in runs] + [problem.name for problem in problems]
    at_full_level = {stem_of(name, "_space-") for name in names if "_space-" in name}
    resampled = {
        s: f for s, f in head_motion.items() if selection.from_raw or s not in at_full_level
    }
    if not resampled:
        return runs, problems
    of_echoes = replace(selection, echoes=None)  # find_raw_bold refuses several echoes
    wanted = [stem for stem, file in sorted(resampled.items()) if of_echoes.has(_found(file))]
    nothing = f"sub-{participant}"  # the name of the problem that there is no preprocessed run
    if wanted and not selection.wants_training_grid:
        return runs, _explained(
            problems,
            f"raw BOLD is resampled only to {TRAINING_SPACE} at 2 mm; leave out --space and --res",
        )
    if not wanted:
        existing = ", ".join(sorted(resampled))
        return runs, _explained(
            problems, f"no run matches your selection; this participant has {existing}"
        )
    # what the query for preprocessed files said of these runs holds only if this fails, too
    runs = [run for run in runs if stem_of(run.name, "_space-") not in wanted]
    before = {problem.name: problem for problem in problems if problem.name in wanted}
    problems = [p for p in problems if p.name not in (nothing, *wanted)]
    with ExitStack() as stack:
        try:
            layout = stack.enter_context(open_layout(dataset.raw, [participant]))
        except UnreadableFolderError:
            folder = dataset.raw / f"sub-{participant}"
            reason = f"{folder}, or a folder in it, cannot be read; check its permissions"
            return runs, [*problems, Problem(participant, nothing, reason)]
        raw_files, selected = _raw_files(dataset.raw, layout, selection)
        for stem in wanted:
            try:
                raw = find_raw_bold(raw_files, stem, dataset.raw)
                if raw.path in selected:
                    sidecars = inherited_sidecars(dataset.raw, layout, raw)
                    runs.append(tree.complete(stem, head_motion[stem], raw.path, sidecars))
            except InputError as error:
                reason = str(error)
                problems.append(
                    before.get(stem) or Problem(participant, stem + TRAINING_SUFFIX, reason)
                )
    if not runs and not problems:
        problems = [Problem(participant, nothing, "no raw run matches --bids-filter-file")]
    return sorted(runs, key=lambda run: run.name), problems


def _explained(problems: Sequence[Problem], reason: str) -> list[Problem]:
    """Problems in which a better reason replaces that there is no preprocessed file."""
    return [
        replace(problem, reason=reason) if problem.reason.startswith(NO_BOLD) else problem
        for problem in problems
    ]


def _raw_files(
    raw: Path, layout: BIDSLayout, selection: Selection
) -> tuple[dict[str, FoundFile], set[str]]:
    """Name of each raw run -> its BOLD file; and the paths that `--bids-filter-file` selects."""
    of_preprocessed = ("desc", "space", "resolution", "echo")
    entities = {k: v for k, v in io_spec()["bold"].items() if k not in of_preprocessed}
    files = {
        file.filename.split(".")[0].removesuffix("_bold"): FoundFile(
            moved(file.path, layout.root, raw), file.filename, file.entities
        )
        for file in layout.get(**entities)
    }
    filters = selection.filters.get("bold")
    if not filters:
        return files, {file.path for file in files.values()}
    chosen = {k: v for k, v in entities_of("bold", {"bold": filters}).items() if k in filters}
    found = layout.get(**entities | chosen)
    return files, {moved(file.path, layout.root, raw) for file in found}


@dataclass(frozen=True)
class _Tree:
    """What the minimal level contains of one participant."""

    dataset: Dataset
    participant: str
    files: Sequence[Path]
    selection: Selection

    def complete(self, stem: str, head_motion: Path, bold: str, sidecars: Sequence[str]) -> Run:
        """The run with all of its files; InputError if it cannot be embedded."""
        selection = self.selection
        metadata = sidecar_metadata(bold, sidecars)
        session = entities_in(stem).get("ses")
        settings = find_settings(self.dataset.root, self.participant, session)
        transforms, functional, warnings = find_transforms(
            head_motion, self.files, metadata, bold, settings.fallback_readout_time
        )
        mask = find_mask(
            selection.masks,
            stem,
            functional_mask(functional) if functional else None,
            lambda: find_anatomical_mask(stem, TRAINING_SPACE, self.files),
        )
        if mask is None:
            raise InputError(
                f"has no {explain_no_mask(selection.masks)} ({stem}_desc-brain_mask.nii.gz, or the "
                f"anatomical one next to {Path(transforms.template).name}); run fMRIPrep --level "
                f"minimal again, or choose another --mask"
            )
        if mask.kind == "anatomical" and selection.masks[0] == "bold":
            # fMRIPrep 23.2.0 wrote no functional mask. The reference for this case in the tests
            # carries the anatomical one by nearest neighbour.
            mask = replace(mask, rule=NEAREST)
        fieldmap = transforms.fieldmap
        transforms = replace(
            transforms,
            interpolation=selection.interpolation,
            fieldmap=fieldmap and replace(fieldmap, jacobian=selection.jacobian),
        )
        fields: dict[str, Any] = {
            "name": stem + TRAINING_SUFFIX,
            "participant": self.participant,
            "bold": bold,
            "mask": mask,
            "confounds": None,
            "space": TRAINING_SPACE,
            "others": (),
            "transforms": transforms,
            "warnings": tuple(warnings),
        }
        if selection.dummy_scans is None:
            selection = replace(selection, dummy_scans=settings.dummy_scans)
        run = complete_run(fields, lambda: sidecars, selection)
        shifts, doubts = self._slice_shifts(metadata, run, settings)
        return replace(
            run,
            transforms=replace(transforms, slice_shifts=shifts),
            warnings=(*run.warnings, *doubts),
        )

    def _slice_shifts(
        self, metadata: Mapping[str, Any], run: Run, settings: FmriprepSettings
    ) -> tuple[tuple[float, ...], list[str]]:
        """The shifts that correct the slice timing, and a sentence if that is in doubt.

        fMRIPrep corrects slice timing unless `--ignore slicetiming` is given or the metadata do not
        contain it; the transforms do not show which.
        """
        wanted = self.selection.slice_timing
        reference = settings.slice_time_reference
        if wanted == "auto" and "SliceTiming" in metadata and not settings.workflow:
            unknown = (
                f"the content of {settings.file} is missing (datalad get {settings.file})"
                if settings.file
                else "there is no fmriprep.toml in its log folder"
            )
            return (), [
                f"its slice timing is not corrected, since {unknown} to tell whether fMRIPrep "
                f"would correct it; choose with --slice-timing on or off"
            ]
        if wanted == "off" or (
            wanted == "auto" and (reference is None or "SliceTiming" not in metadata)
        ):
            return (), []
        n_slices = load_header(run.bold).get_data_shape()[2]
        reference = 0.5 if reference is None else reference
        try:
            return slice_shifts(metadata, n_slices, run.repetition_time, reference), []
        except ValueError as error:
            return (), [f"its slice timing is not corrected: {error}"]


def _found(file: Path) -> FoundFile:
    from bids.layout import parse_file_entities

    return FoundFile(str(file), file.name, parse_file_entities(f"/{file.name}"))
