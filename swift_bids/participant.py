"""The participant level, step by step: weights, runs, embeddings, reports, summary."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Sequence
from pathlib import Path

from swift_bids.base.backbones import BACKBONES, DEFAULT_VARIANT
from swift_bids.base.errors import Problem, UsageError, report_problems
from swift_bids.base.files import remove_parts
from swift_bids.base.locks import exclusive
from swift_bids.base.signals import defer_signals, interruptible, raise_pending_signal
from swift_bids.execution.dry_run import print_runs
from swift_bids.execution.embed_runs import Call, Outcome, embed_runs
from swift_bids.execution.preflight import check_atlas, without_confounds
from swift_bids.execution.work_folder import check_work_dir, work_folder
from swift_bids.geometry.frames import TRAINING_SPACE, space_note
from swift_bids.inputs.dataset import Dataset
from swift_bids.inputs.query import find_runs
from swift_bids.inputs.run import Run
from swift_bids.network.weights import Weights, find_weights
from swift_bids.outputs.dataset import (
    check_output_dir,
    participants_of,
    refuse_other_network,
    write_participants,
)
from swift_bids.outputs.status_table import STATUS_FILE, write_status
from swift_bids.reports.write import record_problem, remake_reports, write_reports
from swift_bids.settings import ParticipantSettings

_LOG = logging.getLogger("swift_bids")


def run_participant_level(settings: ParticipantSettings, dataset: Dataset) -> int:
    """Embed the selected runs and return the exit code.

    Raises
    ------
    UsageError
        The command cannot run at all.
    """
    participants = settings.participants
    if not settings.reports_only:
        refuse_other_network(settings.output_dir, BACKBONES[settings.embedding.variant].network)
    labels, problems = dataset.choose(
        participants.labels, participants.excluded, participants.batch
    )
    if not labels and not problems:
        number, of = participants.batch
        in_batch = f" in batch {number}/{of}" if of > 1 else ""
        raise UsageError(f"nothing to do: no participant is left{in_batch}")
    if settings.dry_run:
        runs, unusable = find_runs(dataset, labels, settings.selection)
        problems += unusable
        print_runs(runs, problems, dataset, settings)
        code = report_problems(problems, dataset.interpretation)
        return 2 if _nothing_to_do(runs, problems) else code

    output_dir = check_output_dir(settings.output_dir, dataset)
    if settings.reports_only:
        problems = remake_reports(output_dir, labels, problems)
        return report_problems(problems, dataset.interpretation)
    work_dir = settings.resources.work_dir
    check_work_dir(work_dir, output_dir)
    check_atlas(settings.parcels.atlas)
    log_name = f"{time.strftime('%Y%m%d-%H%M%S')}_{uuid.uuid4()}"
    with work_folder(work_dir, output_dir, log_name) as folder:
        weights = weights_of(settings, folder)
        runs, unusable = find_runs(dataset, labels, settings.selection)
        lacking = without_confounds(runs, settings.parcels.confounds_strategy)
        problems += [*unusable, *lacking]
        left_out = {problem.name for problem in lacking}
        runs = [run for run in runs if run.name not in left_out]
        _log_runs(runs)
        outcome = Outcome([], [], [])
        if runs:
            call = Call(output_dir, folder, log_name)
            outcome = embed_runs(settings, runs, dataset, weights, call)
        if outcome.stopped is not None:  # the summary first, then gigabytes of files to remove
            return _finish(output_dir, dataset, runs, outcome, problems, log_name)
    return _finish(output_dir, dataset, runs, outcome, problems, log_name)


def weights_of(settings: ParticipantSettings, work_dir: Path) -> Weights:
    """Find the weights of a call, or make random ones in the work folder; log which they are.

    Raises
    ------
    UsageError
        They cannot be used.
    """
    source, random = settings.weights.source, settings.weights.random
    variant = settings.embedding.variant
    if random and source is None:
        from swift_bids.network.bundles import write_random_bundle

        # each network in its own folder, since calls may share a work folder
        label = BACKBONES[variant].network.label
        other = "" if label == BACKBONES[DEFAULT_VARIANT].network.label else f"_{label}"
        source = str(write_random_bundle(work_dir / f"random_weights{other}", variant))
    weights = find_weights(source, variant, random, work_dir)
    _LOG.info("weights: %s (SHA-256 %s)", weights.file, weights.sha256)
    if weights.random:
        _LOG.warning("RANDOM WEIGHTS: the embeddings of this call mean nothing")
    return weights


def _log_runs(runs: Sequence[Run]) -> None:
    for run in runs:
        for warning in run.warnings:
            _LOG.warning("%s: %s", run.name, warning)
        if run.others:
            _LOG.debug("%s: chosen; not chosen: %s", run.name, ", ".join(run.others))
    unwarped = [run.name for run in runs if space_note(run.space_of_input)]
    n_warped = sum(run.space_of_input != run.space for run in runs)
    if unwarped and n_warped:
        _LOG.warning(
            "%d run(s) are warped to %s, but these have no transforms, so do not compare them with "
            "the others: %s",
            n_warped,
            TRAINING_SPACE,
            ", ".join(unwarped),
        )


def _finish(
    output_dir: Path,
    dataset: Dataset,
    runs: Sequence[Run],
    outcome: Outcome,
    problems: list[Problem],
    log_name: str,
) -> int:
    """Write pages and tables, print the summary in any case, and return the exit code."""
    defer_signals()
    problems += outcome.failed
    if _nothing_to_do(runs, problems):
        report_problems(problems, dataset.interpretation)
        return 2
    stopped = outcome.stopped
    if runs and stopped is None:
        try:
            with interruptible():
                write_reports(output_dir, outcome.done, outcome.skipped, problems, log_name)
                # Concurrent jobs take turns to read the folders and write the table, so that it
                # lists the participants of all jobs.
                with record_problem(problems, "participants.tsv"), exclusive(output_dir):
                    write_participants(output_dir, *participants_of(output_dir, dataset))
        except (KeyboardInterrupt, SystemExit) as signal:  # the summary is still to come
            stopped = signal
    with record_problem(problems, STATUS_FILE.as_posix()):
        write_status(output_dir, outcome.done, outcome.skipped, problems, log_name)
    n_done, n_skipped = len(outcome.done), len(outcome.skipped)
    if n_done or n_skipped:
        skipped = f", skipped: {n_skipped} run(s) already done" if n_skipped else ""
        _LOG.info("done: %d run(s)%s", n_done, skipped)
    code = report_problems(problems, dataset.interpretation)
    _remove_parts(output_dir, {run.participant for run in runs})
    if stopped is not None:
        raise stopped
    raise_pending_signal()
    return code


def _nothing_to_do(runs: Sequence[Run], problems: Sequence[Problem]) -> bool:
    """Whether no participant has a run that the user selected."""
    return not runs and all(problem.name == f"sub-{problem.participant}" for problem in problems)


def _remove_parts(output_dir: Path, participants: set[str]) -> None:
    """Remove temporary files of killed calls."""
    for folder in (output_dir, output_dir / "logs"):
        remove_parts(folder)
    for participant in participants:
        remove_parts(output_dir / f"sub-{participant}", recursive=True)
