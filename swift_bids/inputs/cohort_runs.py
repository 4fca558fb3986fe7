"""A cohort's own layout -> the runs to embed, and a sentence for each unusable run."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from swift_bids.base.errors import InputError, Problem, UsageError
from swift_bids.inputs.cohort_files import RUNS_OF, CohortRun, left_out
from swift_bids.inputs.dataset import Dataset
from swift_bids.inputs.filenames import FoundFile, entities_in
from swift_bids.inputs.layouts import LAYOUTS
from swift_bids.inputs.missing import explain_selection
from swift_bids.inputs.run import Run, complete_run
from swift_bids.inputs.selection import TRAINING_ENTITIES, TRAINING_SUFFIX, Selection

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
    folders = dataset.folders
    runs: list[Run] = []
    problems: list[Problem] = []
    n_at_7t = 0
    for label in participants:
        try:
            listed = [run for f in folders[label] for run in RUNS_OF[dataset.input_type](label, f)]
            found, unusable = _participant_runs(label, listed, folders[label], selection)
        except OSError as error:
            reason = f"{error.filename}: cannot be read ({error.strerror}); check its permissions"
            found, unusable = [], [Problem(label, f"sub-{label}", reason)]
        if dataset.input_type == "hcp":
            n_at_7t += sum(len(left_out(folder)) for folder in folders[label])
        runs += found
        problems += unusable
    if n_at_7t:
        _LOG.info("left out: %d run(s) at 7 T; the network was trained on runs at 3 T", n_at_7t)
    return runs, problems


def _participant_runs(
    label: str, listed: Sequence[CohortRun], folders: Sequence[Path], selection: Selection
) -> tuple[list[Run], list[Problem]]:
    if not listed:
        reason = f"{', '.join(map(str, folders))}: contains no run; copy the participant again"
        return [], [Problem(label, f"sub-{label}", reason)]
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
            runs.append(_complete(label, same[0], selection))
        except InputError as error:
            problems.append(Problem(label, name + TRAINING_SUFFIX, str(error)))
    return runs, problems


def _complete(label: str, found: CohortRun, selection: Selection) -> Run:
    fields = {
        "name": found.name + TRAINING_SUFFIX,
        "participant": label,
        "space": TRAINING_ENTITIES["space"],
        **found.files(selection.ica_fix),
    }
    if "transforms" in fields:
        fields["transforms"] = replace(fields["transforms"], interpolation=selection.interpolation)
    sidecar = found.sidecar
    return complete_run(
        fields,
        None if sidecar is None else lambda: [str(sidecar)],
        selection,
    )


def _found(name: str) -> FoundFile:
    """A run as `Selection.has` expects it, with pybids' names of entities."""
    entities = entities_in(name)
    of_pybids = {"ses": "session", "task": "task", "run": "run"}
    return FoundFile("", name, {of_pybids[e]: v for e, v in entities.items() if e in of_pybids})
