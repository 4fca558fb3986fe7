"""fMRIPrep derivatives -> the runs to embed, and a sentence for each unusable run."""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swift_bids.base.errors import InputError, Problem, UsageError
from swift_bids.geometry.frames import TRAINING_SPACE
from swift_bids.inputs.brain_mask import BrainMask, functional_mask
from swift_bids.inputs.cohort_runs import find_cohort_runs
from swift_bids.inputs.dataset import Dataset
from swift_bids.inputs.filenames import (
    FoundFile,
    check_name,
    entities_in,
    plain,
    stem_of,
)
from swift_bids.inputs.filters import check_entities, entities_of, io_spec
from swift_bids.inputs.find_mask import explain_no_mask, find_anatomical_mask, find_mask
from swift_bids.inputs.find_transforms import list_files
from swift_bids.inputs.index import UnreadableFolderError, inherited_sidecars, moved, open_layout
from swift_bids.inputs.layouts import COHORTS
from swift_bids.inputs.minimal_runs import add_minimal_runs
from swift_bids.inputs.missing import (
    explain_missing_bold,
    explain_missing_space,
    explain_selection,
)
from swift_bids.inputs.run import Run, complete_run
from swift_bids.inputs.selection import Selection
from swift_bids.inputs.template_warp import find_template_warp
from swift_bids.inputs.transforms import GridWarp

if TYPE_CHECKING:
    from bids.layout import BIDSLayout

_LOG = logging.getLogger("swift_bids")
#: The spatial entities of a file name; the rest of the name identifies the run.
_SPATIAL = re.compile(r"_(?:space|cohort|res|den)-[^_]+")
#: Participants in one index, which needs 0.2 MB of memory per run.
PARTICIPANTS_PER_INDEX = 250


def find_runs(
    dataset: Dataset, participants: Sequence[str], selection: Selection
) -> tuple[list[Run], list[Problem]]:
    """Find the runs of these participants, in the layout of fMRIPrep or of a cohort.

    Returns
    -------
    runs : list of Run
        Each run in one space, in the order of participants and file names.
    problems : list of Problem
        One for each run or participant that cannot be embedded, which says what exists instead.

    Raises
    ------
    UsageError
        `--from-raw` without a raw dataset, a wrong `--bids-filter-file`, or a flag that does not
        fit the layout.
    """
    if selection.from_raw and dataset.raw is None:
        raise UsageError("--from-raw: the raw dataset is unknown; give it with --raw PATH")
    find = find_cohort_runs if dataset.input_type in COHORTS else _query
    runs, problems = find(dataset, participants, selection)
    _warn_unmatched(runs, problems, selection)
    return runs, problems


def _query(
    dataset: Dataset, participants: Sequence[str], selection: Selection
) -> tuple[list[Run], list[Problem]]:
    """Query the derivatives with pybids, which reads only the folders of the participants."""
    filters = dict(selection.filters)
    if selection.echoes is not None:
        echoes = [int(echo) if echo.isdecimal() else echo for echo in selection.echoes]
        filters["bold"] = {"echo": echoes} | filters.get("bold", {})
    runs: list[Run] = []
    problems: list[Problem] = []
    for start in range(0, len(participants), PARTICIPANTS_PER_INDEX):
        labels = participants[start : start + PARTICIPANTS_PER_INDEX]
        with contextlib.ExitStack() as stack:
            layout, labels, unreadable = _readable_layout(dataset, labels, selection, stack)
            problems += unreadable
            # one query for all participants, because each query costs some 10 ms
            files = {kind: _by_participant(dataset, layout, kind, filters) for kind in io_spec()}
            for participant in labels:
                own = {kind: found[participant] for kind, found in files.items()}
                found, unusable = _participant_runs(dataset, layout, participant, own, selection)
                found, unusable = add_minimal_runs(dataset, participant, found, unusable, selection)
                runs += found
                problems += unusable
    return runs, problems


def _readable_layout(
    dataset: Dataset,
    participants: Sequence[str],
    selection: Selection,
    stack: contextlib.ExitStack,
) -> tuple[BIDSLayout, list[str], list[Problem]]:
    """Return the layout, the participants in it, and a problem for each unreadable one."""
    readable = list(participants)
    problems: list[Problem] = []
    while True:
        try:
            layout = open_layout(dataset.root, readable, selection.database_dir)
            return stack.enter_context(layout), readable, problems
        except UnreadableFolderError as error:
            label = error.participant
            readable.remove(label)
            folder = dataset.root / f"sub-{label}"
            reason = f"{folder}, or a folder in it, cannot be read; check its permissions"
            problems.append(Problem(label, f"sub-{label}", reason))


def _participant_runs(
    dataset: Dataset,
    layout: BIDSLayout,
    participant: str,
    files: dict[str, list[FoundFile]],
    selection: Selection,
) -> tuple[list[Run], list[Problem]]:
    if not files["bold"]:
        reason = explain_missing_bold(dataset.root / f"sub-{participant}", selection)
        return [], [Problem(participant, f"sub-{participant}", reason)]
    chosen = [bold for bold in files["bold"] if selection.has(bold)]
    if not chosen:
        reason = explain_selection(files["bold"])
        return [], [Problem(participant, f"sub-{participant}", reason)]

    # A run's mask and confounds are in its own folder; files in other folders are not used.
    masks, confounds = _by_folder(files["mask"]), _by_folder(files["confounds"])
    # run -> its files in several spaces and resolutions
    candidates_of_run: dict[str, list[FoundFile]] = defaultdict(list)
    for bold in chosen:
        candidates_of_run[_SPATIAL.sub("", stem_of(bold.filename, "_desc-"))].append(bold)

    runs, problems = [], []
    own_files = cache(partial(list_files, dataset.root, participant))
    for name, candidates in sorted(candidates_of_run.items()):
        usable = [b for b in candidates if selection.rank(b) is not None]
        if not usable:
            problems.append(
                Problem(participant, name, explain_missing_space(candidates, selection))
            )
            continue
        best = min(usable, key=lambda b: (selection.rank(b), b.filename))
        stem = stem_of(best.filename, "_desc-")
        others = sorted(stem_of(b.filename, "_desc-") for b in candidates if b is not best)
        try:
            check_name(best, candidates)
            folder = os.path.dirname(best.path)
            run = {
                "name": stem,
                "participant": participant,
                "bold": best.path,
                "confounds": _file_of_run(name, confounds[folder]),
                "space": best.entities["space"],
                "others": tuple(others),
            }
            if run["space"] != TRAINING_SPACE and selection.template_warp == "auto":
                run["transforms"], run["warnings"] = find_template_warp(
                    stem, run["space"], own_files(), selection.template_xfm, selection.interpolation
                )
            run["mask"] = find_mask(
                selection.masks,
                stem,
                _functional_mask(stem, masks[folder]),
                partial(_anatomical_mask, stem, run["space"], own_files, run.get("transforms")),
            )
            if run["mask"] is None:
                raise InputError(_explain_no_mask(stem, masks[folder], selection))
            if selection.masks[0] == "bold" and run["mask"].kind == "anatomical":
                run["warnings"] = [
                    *run.get("warnings", ()),
                    "it has no functional brain mask in its space, so the anatomical one is used",
                ]
            runs.append(
                complete_run(
                    run,
                    partial(inherited_sidecars, dataset.root, layout, best),
                    selection,
                )
            )
        except InputError as error:
            problems.append(Problem(participant, stem, str(error)))
    return runs, problems


def _by_folder(files: Iterable[FoundFile]) -> dict[str, dict[str, str]]:
    """Return the paths by folder and by the part of the name before `_desc-`."""
    found: dict[str, dict[str, str]] = defaultdict(dict)
    for file in files:
        found[os.path.dirname(file.path)][stem_of(file.filename, "_desc-")] = file.path
    return found


def _warn_unmatched(runs: Sequence[Run], problems: Sequence[Problem], selection: Selection) -> None:
    """Warn about requested labels that no run has, since they may be typing errors."""
    found: list[Run | Problem] = [*runs, *problems]
    names = [entities_in(item.name) for item in found]
    for entity, labels in (
        ("ses", selection.sessions),
        ("task", selection.tasks),
        ("run", selection.runs),
    ):
        existing = {plain(entities[entity]) for entities in names if entity in entities}
        missing = [label for label in labels or () if plain(label) not in existing]
        if runs and missing:
            _LOG.warning(
                "no run matches %s; check for typing errors",
                ", ".join(f"{entity}-{label}" for label in missing),
            )


def _functional_mask(stem: str, masks: dict[str, str]) -> BrainMask | None:
    """Return the mask in a run's own space."""
    file = _file_of_run(stem, masks)
    return functional_mask(file) if file else None


def _anatomical_mask(
    stem: str, space: str, own_files: Callable[[], list[Path]], warp: GridWarp | None
) -> BrainMask | None:
    return find_anatomical_mask(stem, space, own_files(), warp)


def _explain_no_mask(stem: str, masks: dict[str, str], selection: Selection) -> str:
    """Say which mask a run lacks, and in which spaces it has others."""
    if selection.masks == ("anat",):
        return (
            "has no anatomical brain mask, neither in its space nor with a transform to it; copy "
            "the folder anat from fMRIPrep's output, or choose another --mask"
        )
    others = sorted(m for m in masks if _SPATIAL.sub("", m) == _SPATIAL.sub("", stem))
    spaces = [re.search(r"_space-([^_]+)", m) for m in others]
    listed = ", ".join(s.group(1) if s else "native space" for s in spaces)
    instead = f" (available: {listed})" if listed else " or in any other space"
    return (
        f"has no {explain_no_mask(selection.masks)} in its space{instead}; copy "
        f"{stem}_desc-brain_mask.nii.gz again from fMRIPrep's output, or run fMRIPrep again"
    )


def _file_of_run(stem: str, paths: dict[str, str]) -> str | None:
    """Return the file of the run itself, or else the one that all its echoes share."""
    return paths.get(stem) or paths.get(re.sub(r"_echo-[^_]+", "", stem))


def _by_participant(
    dataset: Dataset, layout: BIDSLayout, kind: str, filters: dict[str, dict[str, Any]]
) -> dict[str, list[FoundFile]]:
    """Return the files of one kind, by the participant in their names."""
    from sqlalchemy.exc import SQLAlchemyError

    check_entities(kind, filters, layout.entities)
    try:
        found = layout.get(**entities_of(kind, filters))
    # an unknown Query, an invalid regular expression, a number too large for SQLite
    except (ValueError, KeyError, TypeError, OverflowError, SQLAlchemyError) as error:
        raise UsageError(f"--bids-filter-file: {kind}: {str(error).splitlines()[0]}") from error
    files: dict[str, list[FoundFile]] = defaultdict(list)
    for file in found:
        path = moved(file.path, layout.root, dataset.root)
        participant = file.filename.split("_")[0].removeprefix("sub-")
        files[participant].append(FoundFile(path, file.filename, file.entities))
    return files
