"""Runs -> their embeddings: what is done already is skipped, the rest goes through the workflow."""

from __future__ import annotations

import argparse
import dataclasses
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tomli_w

from swift_bids import __version__
from swift_bids.atomic import undisturbed_folder
from swift_bids.dataset import Dataset
from swift_bids.derivative import write_dataset_files
from swift_bids.dry_run import count_chunks
from swift_bids.errors import OutputError, Problem
from swift_bids.outputs import Provenance, output_path, settings_metadata, write_text
from swift_bids.parcels import read_atlas
from swift_bids.preflight import check_network
from swift_bids.resume import NOT_DONE, input_fingerprint, why_again
from swift_bids.runs import Run, refuse_unreadable
from swift_bids.stopping import hold_back
from swift_bids.weights import Weights
from swift_bids.workers import in_worker

if TYPE_CHECKING:  # it brings nipype
    from nipype import Workflow

    from swift_bids.workflow import Execution

_LOG = logging.getLogger("swift_bids")


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of the runs of a call.

    Attributes
    ----------
    done, skipped
        Runs that were embedded; that an earlier call had done.
    failed
        Runs that could not be done.
    stopped
        What asked the call to end meanwhile, such as Ctrl-C.
    """

    done: list[Run]
    skipped: list[Run]
    failed: list[Problem]
    stopped: BaseException | None = None


def embed_runs(
    args: argparse.Namespace,
    runs: Sequence[Run],
    dataset: Dataset,
    weights: Weights,
    frame: str,
    output_dir: Path,
    work_dir: Path,
    log_name: str,
) -> Outcome:
    """Embed the runs that are not done yet, or, with `--force`, all.

    Parameters
    ----------
    frame
        Place of the brain in the network's input.
    work_dir, log_name
        Of this call: nipype's working folder, and the name of its folders of logs.

    Raises
    ------
    UsageError
        Wrong weights, device or plugin; nothing has been written then.
    """
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
        device="cpu",  # until it is chosen
    )
    inputs, failed = _fingerprints(runs, provenance)
    todo, skipped = _what_is_left(args, runs, provenance, inputs, output_dir)
    if not todo:
        return Outcome([], skipped, failed)
    # nipype takes seconds to import, which a call with nothing to do need not wait for
    from swift_bids.citations import write_citations
    from swift_bids.cluster import NETWORK_CPUS, check_scripts_folder, chosen_plugin
    from swift_bids.workflow import WORKFLOW_NAME, Execution, log_dir

    # refuses wrong plugins, weights and devices before anything is written
    plugin = chosen_plugin(args)
    elsewhere = plugin is not None and plugin.elsewhere
    if plugin is not None and plugin.elsewhere:
        check_scripts_folder(plugin, work_dir)
    # A cluster's GPUs are not this machine's: the network's jobs find out.
    asked = ("cpu", "float32") if elsewhere else (args.device, args.precision)
    device, notes = in_worker(args.nprocs, check_network, weights.file, *asked)
    if elsewhere and args.device.startswith("cuda"):
        device = args.device
    for note in notes:
        _LOG.warning("%s", note)
    # of all runs, so that a call that ends what another began computes in the same way
    usual = NETWORK_CPUS if elsewhere else _threads_of_run(args.nprocs, len(runs))
    threads = args.omp_nthreads or usual
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
        stop_on_first_crash=args.stop_on_first_crash,
    )
    provenance = dataclasses.replace(provenance, device="cpu" if device == "cpu" else "cuda")
    names, steps = [run.name for run in todo], work_dir / WORKFLOW_NAME
    with ExitStack() as held:
        try:
            write_dataset_files(output_dir, dataset)
            write_citations(output_dir, settings_metadata(provenance))
            for participant in {run.participant for run in todo}:
                settings = log_dir(output_dir, participant, execution) / "swift_bids.toml"
                write_text(settings, tomli_w.dumps(_settings(args)))
            folder = held.enter_context(undisturbed_folder(work_dir, steps, names, log_name))
        except OutputError as error:
            return Outcome([], skipped, [*failed, *_not_done(todo, str(error), output_dir)])
        where = f"on {device}, at most {args.nprocs} at a time"
        if plugin is not None and plugin.elsewhere:
            where = f"on {device}, as jobs of nipype's plugin {plugin.name}"
        _LOG.info("%d run(s) %s", len(todo), where)
        execution = dataclasses.replace(execution, work_dir=folder)
        hold_back()
        now = _execute(args, todo, provenance, weights, execution, output_dir, inputs)
    return dataclasses.replace(now, skipped=skipped, failed=[*failed, *now.failed])


def _fingerprints(
    runs: Sequence[Run], provenance: Provenance
) -> tuple[dict[str, dict[str, str]], list[Problem]]:
    """Run -> fingerprints of its input files; and the runs of which one cannot be read."""
    inputs, failed = {}, []
    for run in runs:
        try:
            inputs[run.name] = input_fingerprint(run, provenance)
        except OSError as error:
            file = error.filename or run.bold  # of a read that failed half-way nothing is said
            reason = f"{file} cannot be read ({error.strerror}); mend it"
            failed.append(Problem(run.participant, run.name, reason))
    return inputs, failed


def _what_is_left(
    args: argparse.Namespace,
    runs: Sequence[Run],
    provenance: Provenance,
    inputs: Mapping[str, dict[str, str]],
    output_dir: Path,
) -> tuple[list[Run], list[Run]]:
    """Runs that are to be embedded, and runs that an earlier call has done."""
    atlas_sha256 = read_atlas(args.atlas).sha256 if args.atlas else None
    todo: list[Run] = []
    skipped: list[Run] = []
    for run in (run for run in runs if run.name in inputs):
        reason: str | None = "--force"
        if not args.force:
            keep_tokens = not args.no_tokens
            reason = why_again(
                output_dir, run, provenance, inputs[run.name], keep_tokens, atlas_sha256
            )
        if reason is None:
            skipped.append(run)
            _LOG.debug("%s: done before", run.name)
            continue
        todo.append(run)
        if reason != NOT_DONE:
            _LOG.info("%s: again, since %s", run.name, reason)
    if skipped:
        _LOG.info("skipped: %d run(s), done before (--force does them again)", len(skipped))
    return todo, skipped


def _execute(
    args: argparse.Namespace,
    runs: Sequence[Run],
    provenance: Provenance,
    weights: Weights,
    execution: Execution,
    output_dir: Path,
    inputs: Mapping[str, dict[str, str]],
) -> Outcome:
    """Build the workflows of the runs and execute them."""
    from swift_bids.execution import run_workflows
    from swift_bids.progress import Progress
    from swift_bids.workflow import chunks_done, remove_intermediate, workflow_name, workflow_of_run

    by_workflow = {workflow_name(run): run for run in runs}

    def workflow_of(run: Run) -> Workflow:
        for file in run.files:
            refuse_unreadable(file)
        return workflow_of_run(
            run,
            provenance,
            weights,
            execution,
            output_dir,
            inputs[run.name],
            not args.no_tokens,
            args.atlas,
        )

    clean = args.work_dir is None or args.clean_workdir
    if clean:
        for run in runs:
            remove_intermediate(run, execution)
    before = {name: _when_done(run, output_dir) for name, run in by_workflow.items()}
    n_chunks = {name: count_chunks(run, args) for name, run in by_workflow.items()}
    ended = set()  # workflows whose last step has; nipype says so behind a failed step, too
    with Progress(by_workflow, n_chunks, lambda run: chunks_done(run, execution)) as progress:

        def on_node(workflow: str, node: str, status: str) -> None:
            progress.on_node(workflow, node, status)
            if node == "aggregate" and status == "end":
                ended.add(workflow)
                if clean:
                    remove_intermediate(by_workflow[workflow], execution)

        crashed, why, stopped = run_workflows(runs, workflow_of, execution, output_dir, on_node)
    done: list[Run] = []
    failed: list[Problem] = []
    for name, run in by_workflow.items():
        # of a call that was interrupted, or a graph of jobs, nipype does not tell all that was done
        is_new = _when_done(run, output_dir) not in (None, before[name])
        if (name in ended or is_new) and name not in crashed:
            done.append(run)
        else:
            reason, crash_file = crashed.get(name, (why, None))
            failed += _not_done([run], reason, output_dir, crash_file)
    return Outcome(done, [], failed, stopped)


def _when_done(run: Run, output_dir: Path) -> tuple[int, int] | None:
    """What tells the last file of a run from another call's; None: it is not there."""
    try:
        about = output_path(output_dir, run.name, "embedding", ".json").stat()
    except OSError:
        return None
    return about.st_mtime_ns, about.st_ino


def _not_done(
    runs: Sequence[Run], reason: str, output_dir: Path, crash_file: Path | None = None
) -> Iterator[Problem]:
    for run in runs:
        earlier = output_path(output_dir, run.name, "embedding", ".json").exists()
        still = "; its embedding of an earlier call is still there" if earlier else ""
        yield Problem(run.participant, run.name, reason + still, crash_file)


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
