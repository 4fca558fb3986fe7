"""Selected runs -> embeddings: skip runs that are done, send the others through the workflow."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tomli_w

from swift_bids.base.backbones import BACKBONES
from swift_bids.base.errors import OutputError, Problem
from swift_bids.base.files import write_text
from swift_bids.base.signals import defer_signals
from swift_bids.execution.resume import NOT_DONE, input_fingerprint, reason_to_rerun
from swift_bids.execution.work_folder import reserved_folder
from swift_bids.inputs.dataset import Dataset
from swift_bids.inputs.run import Run
from swift_bids.inputs.sidecars import refuse_unreadable
from swift_bids.network.weights import Weights
from swift_bids.outputs.dataset import write_dataset_files
from swift_bids.outputs.paths import output_path
from swift_bids.outputs.provenance import Provenance, described_runs
from swift_bids.settings import ParticipantSettings
from swift_bids.steps.chunk import count_chunks
from swift_bids.steps.parcels import read_atlas

if TYPE_CHECKING:  # importing nipype takes seconds
    from nipype import Workflow

    from swift_bids.execution.workflows import Execution
    from swift_bids.workflow import NetworkResources

_LOG = logging.getLogger("swift_bids")


@dataclass(frozen=True)
class Call:
    """Folders and log name of this call.

    Attributes
    ----------
    output_dir, work_dir
        Root of the outputs, and nipype's working folder; absolute paths.
    log_name
        Name of the call's folders of logs, `sub-XX/log/<log_name>`.
    """

    output_dir: Path
    work_dir: Path
    log_name: str

    def log_dir(self, participant: str) -> Path:
        """Folder for the settings and crash files of a participant."""
        return self.output_dir / f"sub-{participant}" / "log" / self.log_name


@dataclass(frozen=True)
class Outcome:
    """What happened to the runs of a call.

    Attributes
    ----------
    done, skipped
        Runs that were embedded by this call; by an earlier one.
    failed
        One problem for each run that failed.
    stopped
        The signal that ended the call, such as Ctrl-C, as an exception.
    """

    done: list[Run]
    skipped: list[Run]
    failed: list[Problem]
    stopped: BaseException | None = None


def embed_runs(
    settings: ParticipantSettings,
    runs: Sequence[Run],
    dataset: Dataset,
    weights: Weights,
    call: Call,
) -> Outcome:
    """Embed the runs that are not done yet, or all of them with `--force`.

    Raises
    ------
    UsageError
        The weights, the device or the plugin cannot be used. Nothing has been written then.
    """
    # placeholder: `reason_to_rerun` ignores the device
    provenance = Provenance.of_call(settings.embedding, weights, "cpu", dataset)
    fingerprints, failed = _fingerprints(runs, provenance)
    todo, skipped = _split_done(settings, call, runs, provenance, fingerprints)
    if not todo:
        return Outcome([], skipped, failed)
    # a call that has nothing to do need not wait for nipype
    from swift_bids.execution.plan import plan_execution
    from swift_bids.execution.worker_per_gpu import worker_per_gpu
    from swift_bids.reports.citations import write_citations
    from swift_bids.workflow import WORKFLOW_NAME

    # refuses wrong plugins, weights and devices before anything is written
    execution, network_resources = plan_execution(
        settings, len(runs), weights, call.work_dir, call.log_name
    )
    device = network_resources.devices[0].partition(":")[0]
    provenance = dataclasses.replace(provenance, device=device)
    names, steps = [run.name for run in todo], call.work_dir / WORKFLOW_NAME
    with ExitStack() as stack:
        try:
            write_dataset_files(
                call.output_dir, dataset, BACKBONES[settings.embedding.variant].network
            )
            write_citations(call.output_dir, described_runs(todo, provenance))
            for participant in {run.participant for run in todo}:
                text = tomli_w.dumps(settings.arguments)
                write_text(call.log_dir(participant) / "swift_bids.toml", text)
            folder = reserved_folder(call.work_dir, steps, names, call.log_name)
            work_dir = stack.enter_context(folder)
        except OutputError as error:
            return Outcome([], skipped, [*failed, *_problems(todo, str(error), call.output_dir)])
        call = dataclasses.replace(call, work_dir=work_dir)
        how = f"with {execution.processes} process(es)"
        if execution.plugin is not None and execution.remote:
            how = f"as jobs of nipype's plugin {execution.plugin.name}"
        _LOG.info("embedding %d run(s) on %s, %s", len(todo), network_resources.label, how)
        defer_signals()
        if execution.gpu_workers:
            workers = stack.enter_context(worker_per_gpu(settings, weights, network_resources))
            network_resources = dataclasses.replace(network_resources, workers=workers)
        outcome = _execute(
            settings, todo, provenance, network_resources, execution, call, fingerprints
        )
    return dataclasses.replace(outcome, skipped=skipped, failed=[*failed, *outcome.failed])


def _fingerprints(
    runs: Sequence[Run], provenance: Provenance
) -> tuple[dict[str, dict[str, str]], list[Problem]]:
    """Run -> fingerprints of its input files; and a problem for each run with an unreadable one."""
    fingerprints, failed = {}, []
    for run in runs:
        try:
            fingerprints[run.name] = input_fingerprint(run, provenance)
        except OSError as error:
            file = error.filename or run.bold  # a read that fails half-way does not name the file
            reason = f"{file}: cannot be read ({error.strerror}); check the file and its disk"
            failed.append(Problem(run.participant, run.name, reason))
    return fingerprints, failed


def _split_done(
    settings: ParticipantSettings,
    call: Call,
    runs: Sequence[Run],
    provenance: Provenance,
    fingerprints: Mapping[str, dict[str, str]],
) -> tuple[list[Run], list[Run]]:
    """Return the runs to embed and the runs that are already done."""
    parcels = read_atlas(settings.parcels.atlas).sha256, settings.parcels.confounds_strategy
    todo: list[Run] = []
    skipped: list[Run] = []
    for run in (run for run in runs if run.name in fingerprints):
        reason: str | None = "--force"
        if not settings.resources.force:
            reason = reason_to_rerun(
                call.output_dir,
                run,
                provenance,
                fingerprints[run.name],
                settings.optional,
                parcels,
            )
        if reason is None:
            skipped.append(run)
            _LOG.debug("%s: already done", run.name)
            continue
        todo.append(run)
        if reason != NOT_DONE:
            _LOG.info("%s: embedding again: %s", run.name, reason)
    if skipped:
        _LOG.info("skipped: %d run(s) already done (--force embeds them again)", len(skipped))
    return todo, skipped


def _execute(
    settings: ParticipantSettings,
    runs: Sequence[Run],
    provenance: Provenance,
    network_resources: NetworkResources,
    execution: Execution,
    call: Call,
    fingerprints: Mapping[str, dict[str, str]],
) -> Outcome:
    """Make the workflows of the runs, run them, and find out which runs are done."""
    from swift_bids.execution.progress import Progress, chunks_done
    from swift_bids.execution.workflows import remove_steps, run_workflows
    from swift_bids.workflow import workflow_name

    by_workflow = {workflow_name(run): run for run in runs}
    work_dir, output_dir = call.work_dir, call.output_dir
    clean = settings.resources.work_dir is None or settings.resources.clean_work_dir
    if clean:
        for run in runs:
            remove_steps(run, work_dir)
    before = {name: _written_at(run, output_dir) for name, run in by_workflow.items()}
    n_chunks = {n: count_chunks(run.series, settings.embedding) for n, run in by_workflow.items()}
    ended = set()  # workflows whose last node ended; nipype also "ends" nodes behind a failed one
    with Progress(by_workflow, n_chunks, lambda run: chunks_done(run, work_dir)) as progress:

        def on_node(workflow: str, node: str, status: str) -> None:
            progress.on_node(workflow, node, status)
            if node == "aggregate" and status == "end":
                ended.add(workflow)
                if clean:
                    remove_steps(by_workflow[workflow], work_dir)

        make_workflow = _workflow_maker(
            settings, provenance, network_resources, execution, call, fingerprints
        )
        executed = run_workflows(runs, make_workflow, execution, work_dir, output_dir, on_node)
    # A run is done if its last node ended or its last file is new, and none of its nodes crashed.
    done: list[Run] = []
    failed: list[Problem] = []
    for name, run in by_workflow.items():
        # When a call is interrupted, or submits a graph of jobs, nipype does not report everything
        # that was done: the files do.
        is_new = _written_at(run, output_dir) not in (None, before[name])
        if (name in ended or is_new) and name not in executed.crashed:
            done.append(run)
        else:
            reason, crash_file = executed.crashed.get(name, (executed.reason_for_others, None))
            failed += _problems([run], reason, output_dir, crash_file)
    return Outcome(done, [], failed, executed.stopped)


def _workflow_maker(
    settings: ParticipantSettings,
    provenance: Provenance,
    network_resources: NetworkResources,
    execution: Execution,
    call: Call,
    fingerprints: Mapping[str, dict[str, str]],
) -> Callable[[Run], Workflow]:
    """Return a function that makes the workflow of a run.

    The function raises InputError if the run's files have disappeared.
    """
    from swift_bids.execution.slurm import request_resources
    from swift_bids.workflow import workflow_of_run

    def make_workflow(run: Run) -> Workflow:
        for file in run.files:
            refuse_unreadable(file)
        log_dir, plugin = call.log_dir(run.participant), execution.plugin
        workflow = workflow_of_run(
            run,
            provenance,
            network_resources,
            call.output_dir,
            log_dir,
            fingerprints[run.name],
            settings.optional,
            settings.parcels,
        )
        if plugin is not None and plugin.slurm:
            options = plugin.arguments.get("sbatch_args"), plugin.network_args
            for step in workflow.list_node_names():
                request_resources(workflow.get_node(step), *options, call.log_name, log_dir)
        return workflow

    return make_workflow


def _written_at(run: Run, output_dir: Path) -> tuple[int, int] | None:
    """Modification time and inode of a run's last output; None if it does not exist."""
    try:
        about = output_path(output_dir, run.name, run.label, "embedding", ".json").stat()
    except OSError:
        return None
    return about.st_mtime_ns, about.st_ino


def _problems(
    runs: Sequence[Run], reason: str, output_dir: Path, crash_file: Path | None = None
) -> Iterator[Problem]:
    for run in runs:
        earlier = output_path(output_dir, run.name, run.label, "embedding", ".json").exists()
        kept = "; its embedding from an earlier call is still there" if earlier else ""
        yield Problem(run.participant, run.name, reason + kept, crash_file)
