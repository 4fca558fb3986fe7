"""Participant level, step by step: data, weights, runs, workflow, reports, recap."""

from __future__ import annotations

import argparse
import logging
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from swift_bids.atomic import exclusive, remove_parts, work_folder
from swift_bids.dataset import Dataset
from swift_bids.derivative import check_output_dir, participants_of, write_participants
from swift_bids.dry_run import print_runs
from swift_bids.embedding import Outcome, embed_runs
from swift_bids.errors import OutputError, Problem, UsageError, refusals, report_problems
from swift_bids.filters import read_filter_file
from swift_bids.grid import FRAME_OF_VARIANT
from swift_bids.index import check_database_dir
from swift_bids.outputs import output_path
from swift_bids.preflight import check_atlas, check_work_dir
from swift_bids.query import find_runs
from swift_bids.runs import Run
from swift_bids.selection import SPACES, Selection
from swift_bids.status import STATUS_FILE, write_status
from swift_bids.stopping import hold_back, interruptible, raise_if_asked
from swift_bids.weights import find_weights

_LOG = logging.getLogger("swift_bids")


def run_participant_level(args: argparse.Namespace, dataset: Dataset) -> int:
    """Embed every run that the arguments ask for; return the exit code.

    Raises
    ------
    UsageError
        The call cannot be carried out at all.
    """
    labels, problems = dataset.choose(
        args.participant_label, args.exclude_participant_label, args.batch or (1, 1)
    )
    if not labels and not problems:
        slice_of = f" in slice {args.batch[0]} of {args.batch[1]}" if args.batch else ""
        raise UsageError(f"nothing to do: no participant is left{slice_of}")
    selection = _selection(args, dataset)
    frame = FRAME_OF_VARIANT[args.variant] if args.frame == "auto" else args.frame
    if args.dry_run:
        runs, unusable = find_runs(dataset, labels, selection)
        problems += unusable
        print_runs(runs, problems, dataset, frame, args)
        code = _recap([], problems, dataset.understood)
        return 2 if _is_nothing_to_do(runs, problems) else code

    output_dir = check_output_dir(args.output_dir, dataset)
    if args.reports_only:
        return _remake_reports(output_dir, labels, problems, dataset.understood)
    check_work_dir(args.work_dir, output_dir)
    if args.atlas is not None:
        check_atlas(args.atlas)
    log_name = f"{time.strftime('%Y%m%d-%H%M%S')}_{uuid.uuid4()}"
    with work_folder(args.work_dir, output_dir, log_name) as work_dir:
        weights = find_weights(args.weights, args.variant, args.random_weights, work_dir)
        _LOG.info("weights: %s (SHA-256 %s)", weights.file, weights.sha256)
        runs, unusable = find_runs(dataset, labels, selection)
        if weights.random:
            _LOG.warning("RANDOM WEIGHTS: the embeddings of this call mean nothing")
        problems += unusable
        for run in runs:
            for warning in run.warnings:
                _LOG.warning("%s: %s", run.name, warning)
            if run.others:
                _LOG.debug("%s: taken; not taken: %s", run.name, ", ".join(run.others))
        outcome = Outcome([], [], [])
        if runs:
            outcome = embed_runs(
                args, runs, dataset, weights, frame, output_dir, work_dir, log_name
            )
        if outcome.stopped is not None:  # removing gigabytes of matrices is less urgent
            return _finish(output_dir, dataset, runs, outcome, problems, log_name)
    return _finish(output_dir, dataset, runs, outcome, problems, log_name)


def _finish(
    output_dir: Path,
    dataset: Dataset,
    runs: Sequence[Run],
    outcome: Outcome,
    problems: list[Problem],
    log_name: str,
) -> int:
    """Write pages and tables, print the recap, whatever happens, and return the exit code."""
    hold_back()
    problems += outcome.failed
    if _is_nothing_to_do(runs, problems):
        _recap([], problems, dataset.understood)
        return 2
    stopped = outcome.stopped
    if runs and stopped is None:
        try:
            with interruptible():
                _write_reports(output_dir, outcome, problems, log_name)
                # of jobs that run at once one looks and writes after the other: all are in it
                with _or_problem(problems, "participants.tsv"), exclusive(output_dir):
                    write_participants(output_dir, *participants_of(output_dir, dataset))
        except (KeyboardInterrupt, SystemExit) as asked:  # the recap is still due
            stopped = asked
    with _or_problem(problems, STATUS_FILE.as_posix()):
        write_status(output_dir, outcome.done, outcome.skipped, problems, log_name)
    code = _recap(outcome.done, problems, dataset.understood, len(outcome.skipped))
    _remove_parts(output_dir, {run.participant for run in runs})
    if stopped is not None:
        raise stopped
    raise_if_asked()
    return code


def _is_nothing_to_do(runs: Sequence[Run], problems: Sequence[Problem]) -> bool:
    """Whether nobody has a run that is asked for."""
    return not runs and all(problem.name == f"sub-{problem.participant}" for problem in problems)


def _remove_parts(output_dir: Path, participants: Iterable[str]) -> None:
    """Remove temporary files that killed calls left."""
    for folder in (output_dir, output_dir / "logs"):
        remove_parts(folder)
    for participant in participants:
        remove_parts(output_dir / f"sub-{participant}", everywhere=True)


def _with_a_page_to_write(
    output_dir: Path, outcome: Outcome, problems: Sequence[Problem]
) -> set[str]:
    """Participants of whom something is new, or whose page is not there or older than a run."""
    without = {run.participant for run in outcome.skipped if _is_page_old(output_dir, run)}
    failed = {p.participant for p in problems if (output_dir / f"sub-{p.participant}").is_dir()}
    return {run.participant for run in outcome.done} | failed | without


def _is_page_old(output_dir: Path, run: Run) -> bool:
    """Whether the call that did a run was ended before it wrote the page."""
    page = output_dir / f"sub-{run.participant}.html"
    last = output_path(output_dir, run.name, "embedding", ".json")
    return not page.exists() or page.stat().st_mtime_ns < last.stat().st_mtime_ns


def _write_reports(
    output_dir: Path, outcome: Outcome, problems: list[Problem], log_name: str
) -> None:
    """Write the pages; one that cannot be written is a problem, too."""
    from swift_bids.report import keep_problems

    for participant in sorted(_with_a_page_to_write(output_dir, outcome, problems)):
        own = [p for p in problems if p.participant == participant]
        with _or_problem(problems, f"sub-{participant}.html", participant):
            if own:
                keep_problems(output_dir / f"sub-{participant}" / "log" / log_name, own)
            _write_report(output_dir, participant, own)


@contextmanager
def _or_problem(problems: list[Problem], name: str, participant: str = "") -> Iterator[None]:
    """Note a file that cannot be written; the call goes on to its recap."""
    try:
        with refusals(name):
            yield
    except OutputError as error:
        problems.append(Problem(participant, name, str(error)))


def _remake_reports(
    output_dir: Path, labels: Sequence[str], problems: Sequence[Problem], understood: str
) -> int:
    """`--reports-only`: the pages of participants who have outputs, from these alone."""
    from swift_bids.report import last_problems

    there = [label for label in labels if (output_dir / f"sub-{label}").is_dir()]
    if not there:
        raise UsageError(f"{output_dir} holds no outputs of the asked-for participants")
    problems = list(problems)
    for participant in there:
        with _or_problem(problems, f"sub-{participant}.html", participant):
            _write_report(output_dir, participant, last_problems(output_dir, participant))
    return report_problems(problems, understood)


def _write_report(output_dir: Path, participant: str, problems: Sequence[Problem]) -> None:
    from swift_bids.report import write_participant_report

    page, n_marked = write_participant_report(output_dir, participant, problems)
    look = f" ({n_marked} run(s) with something to look at)" if n_marked else ""
    _LOG.info("report: %s%s", page, look)


def _recap(
    done: Sequence[Run], problems: Sequence[Problem], understood: str, n_skipped: int = 0
) -> int:
    """Print what was done and what not; return the exit code."""
    before = f", skipped: {n_skipped} run(s) done before" if n_skipped else ""
    if done or n_skipped:
        _LOG.info("done: %d run(s)%s", len(done), before)
    return report_problems(problems, understood)


def _selection(args: argparse.Namespace, dataset: Dataset) -> Selection:
    return Selection(
        sessions=args.session_label,
        tasks=args.task_id,
        runs=args.run_id,
        echoes=args.echo_idx,
        resolutions=args.res,
        spaces=args.space or SPACES,
        dummy_scans=None if args.dummy_scans == "auto" else int(args.dummy_scans),
        target_tr=args.target_tr,
        short_runs=args.short_runs,
        filters=read_filter_file(args.bids_filter_file) if args.bids_filter_file else {},
        database_dir=check_database_dir(args.bids_database_dir, dataset),
    )
