"""Participant level, step by step: data, weights, runs, workflow, reports, recap."""

from __future__ import annotations

import argparse
import contextlib
import logging
import shutil
import time
import uuid
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import tomli_w

from swift_bids import __version__
from swift_bids.dataset import Dataset
from swift_bids.derivative import (
    check_output_dir,
    participants_of,
    write_dataset_files,
    write_participants,
)
from swift_bids.dry_run import count_chunks, print_runs
from swift_bids.errors import Problem, UsageError, report_problems
from swift_bids.filters import read_filter_file
from swift_bids.grid import FRAME_OF_VARIANT
from swift_bids.index import check_database_dir
from swift_bids.outputs import Provenance, output_path, settings_metadata, write_text
from swift_bids.preflight import check_atlas, check_network
from swift_bids.query import SPACES, Selection, find_runs
from swift_bids.runs import Run
from swift_bids.weights import Weights, find_weights
from swift_bids.workers import in_worker

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
        _LOG.warning("nothing to do: no participant is left%s", slice_of)
        return 0
    selection = _selection(args, dataset)
    frame = FRAME_OF_VARIANT[args.variant] if args.frame == "auto" else args.frame
    if args.dry_run:
        runs, unusable = find_runs(dataset, labels, selection)
        print_runs(runs, [*problems, *unusable], dataset, frame, args)
        return _recap([], [*problems, *unusable], dataset.understood)

    output_dir = check_output_dir(args.output_dir, dataset)
    if args.reports_only:
        return _remake_reports(output_dir, labels, problems, dataset.understood)
    if args.work_dir is not None and args.work_dir.exists() and not args.work_dir.is_dir():
        raise UsageError(f"--work-dir {args.work_dir}: is a file, not a folder")
    if odd := set("[]*?") & set(str((args.work_dir or output_dir).resolve())):
        raise UsageError(
            f"{'--work-dir' if args.work_dir else 'output_dir'} {args.work_dir or output_dir}: "
            f"nipype cannot work in a folder with {' '.join(sorted(odd))} in its path; give "
            f"another folder with -w"
        )
    if args.atlas is not None:
        check_atlas(args.atlas)
    log_name = f"{time.strftime('%Y%m%d-%H%M%S')}_{uuid.uuid4()}"
    work_dir = (args.work_dir or output_dir / ".swift_bids_work" / log_name).resolve()
    try:
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
        if not runs:
            return _recap([], problems, dataset.understood)
        failed = _embed_runs(args, runs, dataset, weights, frame, output_dir, work_dir, log_name)
    finally:
        if args.work_dir is None:
            shutil.rmtree(work_dir, ignore_errors=True)
            with contextlib.suppress(OSError):  # another job's folder is in it, or it is not there
                work_dir.parent.rmdir()
    problems += failed
    there = {run.participant for run in runs} | {
        p.participant for p in problems if (output_dir / f"sub-{p.participant}").is_dir()
    }
    _write_reports(output_dir, there, problems, log_name)
    write_participants(output_dir, *participants_of(output_dir, dataset))
    unfinished = {problem.name for problem in failed}
    return _recap([run for run in runs if run.name not in unfinished], problems, dataset.understood)


def _embed_runs(
    args: argparse.Namespace,
    runs: Sequence[Run],
    dataset: Dataset,
    weights: Weights,
    frame: str,
    output_dir: Path,
    work_dir: Path,
    log_name: str,
) -> list[Problem]:
    """Build and execute the workflow; return the runs that failed."""
    # nipype takes seconds to import, which an empty query need not wait for
    from swift_bids.citations import write_citations
    from swift_bids.cluster import chosen_plugin
    from swift_bids.execution import run_workflows
    from swift_bids.progress import Progress
    from swift_bids.workflow import (
        Execution,
        chunks_done,
        log_dir,
        remove_intermediate,
        workflow_name,
        workflow_of_run,
    )

    # refuses wrong plugins, weights and devices before anything is written
    plugin = chosen_plugin(args)
    elsewhere = plugin is not None and plugin.elsewhere
    # A cluster's GPUs are not this machine's: the network's jobs find out.
    asked = ("cpu", "float32") if elsewhere else (args.device, args.precision)
    device, notes = in_worker(args.nprocs, check_network, weights.file, *asked)
    if elsewhere and args.device.startswith("cuda"):
        device = args.device
    for note in notes:
        _LOG.warning("%s", note)
    threads = args.omp_nthreads or _threads_of_run(args.nprocs, 1 if elsewhere else len(runs))
    write_dataset_files(output_dir, dataset)
    execution = Execution(
        work_dir=work_dir,
        device=device,
        batch_size=args.batch_size,
        threads=threads if elsewhere else min(threads, args.nprocs),
        processes=1 if plugin is not None and plugin.name == "Linear" else args.nprocs,
        log_name=log_name,
        memory_gb=args.mem,
        compiled=args.compile,
        plugin=plugin,
    )
    provenance = Provenance.of(
        weights,
        dataset,
        variant=args.variant,
        frame=frame,
        normalisation=args.normalisation,
        dummy_scans=args.dummy_scans,
        target_tr=args.target_tr,
        chunk_stride=args.chunk_stride,
        tail=args.tail,
        short_runs=args.short_runs,
        fd_threshold=args.fd_threshold,
        max_censored=args.max_censored,
        precision=args.precision,
        device="cpu" if device == "cpu" else "cuda",
    )
    write_citations(output_dir, settings_metadata(provenance))
    for participant in {run.participant for run in runs}:
        settings = log_dir(output_dir, participant, execution) / "swift_bids.toml"
        write_text(settings, tomli_w.dumps(_settings(args)))
    if elsewhere:
        _LOG.info("%d run(s) on %s, as jobs of nipype's plugin %s", len(runs), device, plugin.name)
    else:
        _LOG.info("%d run(s) on %s, at most %d at a time", len(runs), device, args.nprocs)
    by_workflow = {workflow_name(run): run for run in runs}
    workflows = [
        workflow_of_run(
            run, provenance, weights, execution, output_dir, not args.no_tokens, args.atlas
        )
        for run in runs
    ]
    clean = args.work_dir is None or args.clean_workdir
    if clean:
        for run in runs:
            remove_intermediate(run, execution)
    n_chunks = {name: count_chunks(run, args) for name, run in by_workflow.items()}
    with Progress(by_workflow, n_chunks, lambda run: chunks_done(run, execution)) as progress:

        def on_node(workflow: str, node: str, status: str) -> None:
            progress.on_node(workflow, node, status)
            if clean and node == "aggregate" and status == "end":
                remove_intermediate(by_workflow[workflow], execution)

        crashed = run_workflows(workflows, execution, output_dir, on_node)
    failed = []
    for name, (reason, crash_file) in crashed.items():
        run = by_workflow[name]
        if output_path(output_dir, run.name, "embedding", ".json").exists():
            reason += "; its embedding of an earlier call is still there"
        failed.append(Problem(run.participant, run.name, reason, crash_file))
    return failed


def _write_reports(
    output_dir: Path, participants: Iterable[str], problems: Sequence[Problem], log_name: str
) -> None:
    from swift_bids.report import keep_problems

    for participant in sorted(participants):
        own = [p for p in problems if p.participant == participant]
        if own:
            keep_problems(output_dir / f"sub-{participant}" / "log" / log_name, own)
        _write_report(output_dir, participant, own)


def _remake_reports(
    output_dir: Path, labels: Sequence[str], problems: Sequence[Problem], understood: str
) -> int:
    """`--reports-only`: the pages of participants who have outputs, from these alone."""
    from swift_bids.report import last_problems

    there = [label for label in labels if (output_dir / f"sub-{label}").is_dir()]
    if not there:
        raise UsageError(f"{output_dir} holds no outputs of the asked-for participants")
    for participant in there:
        _write_report(output_dir, participant, last_problems(output_dir, participant))
    return report_problems(problems, understood)


def _write_report(output_dir: Path, participant: str, problems: Sequence[Problem]) -> None:
    from swift_bids.report import write_participant_report

    page, n_marked = write_participant_report(output_dir, participant, problems)
    look = f" ({n_marked} run(s) with something to look at)" if n_marked else ""
    _LOG.info("report: %s%s", page, look)


def _recap(done: Sequence[Run], problems: Sequence[Problem], understood: str) -> int:
    """Print what was done and what not; return the exit code."""
    if done:
        _LOG.info("done: %d run(s)", len(done))
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


def _threads_of_run(processes: int, n_runs: int) -> int:
    """Several runs side by side use the CPUs better than several threads of one network."""
    return max(1, min(8, processes // n_runs))


def _settings(args: argparse.Namespace) -> dict[str, Any]:
    """The call's arguments as TOML can hold them; what was not given is left out.

    Paths are absolute, so that `--config-file` finds the same files from anywhere.
    """
    given = {name: value for name, value in vars(args).items() if value is not None}
    for name, value in given.items():
        if isinstance(value, Path) or (name == "weights" and Path(value).exists()):
            given[name] = str(Path(value).absolute())
    return {"version": __version__, "arguments": given}
