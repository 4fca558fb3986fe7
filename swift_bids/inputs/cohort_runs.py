"""A cohort's own layout -> the runs to embed, and a sentence for each unusable run."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from swift_bids.base.errors import InputError, Problem, UsageError
from swift_bids.inputs.cohort_files import (
    MASK_OF,
    RUNS_OF,
    CohortRun,
    describe_unreadable,
    explain_no_mask,
    explain_no_runs,
    other_runs,
)
from swift_bids.inputs.dataset import Dataset
from swift_bids.inputs.filenames import FoundFile, entities_in
from swift_bids.inputs.find_mask import find_mask
from swift_bids.inputs.layouts import LAYOUTS
from swift_bids.inputs.missing import explain_selection
from swift_bids.inputs.run import Run, complete_run
from swift_bids.inputs.selection import TRAINING_ENTITIES, TRAINING_SUFFIX, Selection
from swift_bids.inputs.sidecars import read_sidecar

_LOG = logging.getLogger("swift_bids")


def find_cohort_runs(
    dataset: Dataset, participants: Sequence[str], selection: Selection
) -> tuple[list[Run], list[Problem]]:
    """Find the runs of a dataset in the layout of HCP, ABCD or UK Biobank.

    Returns
    -------
    runs : list of Run
        In the order of participants and names.
    problems : list of Problem
        One for each run or participant that cannot be embedded.

    Raises
    ------
    UsageError
        A flag is for fMRIPrep's layout only.
    """
    title = LAYOUTS[dataset.input_type].title
    if selection.from_raw:
        raise UsageError(f"--from-raw does not work for {title}; leave it out")
    if selection.filters:
        raise UsageError(
            f"--bids-filter-file does not work for {title}; choose runs with --session-label, "
            f"--task-id and --run-id"
        )
    if not selection.wants_training_grid:
        raise UsageError(
            f"{title} can be embedded only in {TRAINING_ENTITIES['space']} at 2 mm; leave out "
            f"--space and --res"
        )
    own_mask = MASK_OF[dataset.input_type]
    if {*selection.masks} in ({"bold"}, {"anat"}) and own_mask not in selection.masks:
        raise UsageError(
            f"--mask {selection.masks[0]} does not work for {title}, which has no such masks; "
            f"choose {own_mask}, template or a file"
        )
    folders = dataset.folders
    runs: list[Run] = []
    problems: list[Problem] = []
    left_out: list[str] = []
    for label in participants:
        try:
            listed = [run for f in folders[label] for run in RUNS_OF[dataset.input_type](label, f)]
            left_out += [name for f in folders[label] for name in other_runs(f)]
            found, unusable = _participant_runs(
                dataset.input_type, label, listed, folders[label], selection
            )
        except OSError as error:
            found, unusable = [], [Problem(label, f"sub-{label}", describe_unreadable(error))]
        runs += found
        problems += unusable
    if left_out:
        names = ", ".join(sorted(set(left_out)))
        _LOG.info("left out: %d run(s) at 7 T or with unknown names: %s", len(left_out), names)
    return runs, problems


def _participant_runs(
    cohort: str,
    label: str,
    listed: Sequence[CohortRun],
    folders: Sequence[Path],
    selection: Selection,
) -> tuple[list[Run], list[Problem]]:
    if not listed:
        return [], [Problem(label, f"sub-{label}", explain_no_runs(folders))]
    files = {run.name: _found(run.name) for run in listed}
    of_name: dict[str, list[CohortRun]] = defaultdict(list)
    for run in listed:
        if selection.has(files[run.name]):
            of_name[run.name].append(run)
    if not of_name:
        reason = explain_selection(list(files.values()))
        return [], [Problem(label, f"sub-{label}", reason)]
    runs, problems = [], []
    for name, same in sorted(of_name.items()):
        try:
            if len(same) > 1:
                places = ", ".join(str(run.folder) for run in same)
                raise InputError(f"there are {len(same)} folders of this run ({places}); keep one")
            runs.append(_complete(cohort, label, same[0], selection))
        except InputError as error:
            problems.append(Problem(label, name + TRAINING_SUFFIX, str(error)))
        except OSError as error:
            problems.append(Problem(label, name + TRAINING_SUFFIX, describe_unreadable(error)))
    return runs, problems


def _complete(cohort: str, label: str, found: CohortRun, selection: Selection) -> Run:
    fields = {
        "name": found.name + TRAINING_SUFFIX,
        "participant": label,
        "space": TRAINING_ENTITIES["space"],
        "dummy_scans_from": "training",
        **found.files(selection.ica_fix),
    }
    own = fields["mask"]
    functional, anatomical = (own, None) if MASK_OF[cohort] == "bold" else (None, own)
    fields["mask"] = find_mask(selection.masks, found.name, functional, lambda: anatomical)
    if fields["mask"] is None:
        raise InputError(explain_no_mask(cohort, found.folder))
    if "transforms" in fields:
        fields["transforms"] = replace(fields["transforms"], interpolation=selection.interpolation)
    sidecar = found.sidecar
    if sidecar is None or not sidecar.exists() or "RepetitionTime" not in read_sidecar(sidecar):
        return complete_run(fields, None, selection)
    return complete_run(fields, lambda: [str(sidecar)], selection)


def _found(name: str) -> FoundFile:
    """A run as `Selection.has` expects it, with pybids' names of entities."""
    entities = entities_in(name)
    of_pybids = {"ses": "session", "task": "task", "run": "run"}
    return FoundFile("", name, {of_pybids[e]: v for e, v in entities.items() if e in of_pybids})
