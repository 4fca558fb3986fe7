"""Run the workflows of all runs, in processes on this machine or as jobs on a cluster."""

from __future__ import annotations

import gc
import logging
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from nipype import Node, Workflow

from swift_bids.base.errors import InputError
from swift_bids.base.signals import interruptible, raise_pending_signal, signal_received
from swift_bids.execution.crashes import JOB_ENDED, Crashes, full_disk_hint, read_crashes
from swift_bids.execution.multiprocess import RunByRun
from swift_bids.execution.plugins import SLURM_GRAPH, Plugin, create_plugin
from swift_bids.execution.slurm import (
    NFS_DELAY,
    POLL_INTERVAL,
    SlurmGraph,
    cancel_jobs,
    remove_empty_logs,
    wait_for_jobs,
)
from swift_bids.execution.workers import kill_workers, start_method
from swift_bids.inputs.run import Run
from swift_bids.workflow import WORKFLOW_NAME, workflow_name

#: Nodes that may wait for each GPU at a time, so that it always has a run.
NODES_PER_GPU = 4
#: Called with (workflow name, node name, `start`, `end` or `exception`).
OnNode = Callable[[str, str, str], None]


@dataclass(frozen=True)
class Execution:
    """How the nodes run: in processes on this machine or as jobs on a cluster.

    Attributes
    ----------
    processes, memory_gb
        CPUs and memory that nipype may use together; None: all memory.
    gpu_workers
        Processes that run the network for the nodes, one for each GPU; 0: the nodes run it.
    log_name
        Folder of this call's logs, `sub-XX/log/<log_name>`.
    plugin
        nipype's plugin that runs the nodes; None: processes on this machine.
    stop_on_first_crash
        Whether the first run that fails ends the call.
    """

    processes: int
    log_name: str
    memory_gb: float | None = None
    gpu_workers: int = 0
    plugin: Plugin | None = None
    stop_on_first_crash: bool = False

    @property
    def remote(self) -> bool:
        """Whether the nodes run on other machines."""
        return self.plugin is not None and self.plugin.remote


@dataclass
class Executed:
    """What happened to the workflows.

    Attributes
    ----------
    crashed
        Workflow name -> (reason, crash file), for the runs that failed.
    reason_for_others
        Why the runs that neither finished nor crashed were not processed.
    stopped
        The signal that ended the call, as an exception.
    """

    crashed: Crashes
    reason_for_others: str = "not processed: the call ended before this run started"
    stopped: BaseException | None = None


def run_workflows(
    runs: Sequence[Run],
    make_workflow: Callable[[Run], Workflow],
    execution: Execution,
    work_dir: Path,
    output_dir: Path,
    on_node: OnNode,
) -> Executed:
    """Run the workflows of all runs; a run that fails does not stop the others.

    Parameters
    ----------
    make_workflow
        Makes the workflow of a run, and raises InputError if the run's files have disappeared.
    work_dir
        nipype's working folder.
    on_node
        Called whenever a node starts or ends.
    """
    # nipype calls the garbage collector on every poll. Freezing the objects that the imports
    # created saves most of the 50 ms of each call.
    gc.freeze()
    logging.getLogger("nipype").propagate = False  # it has its own handler
    done = Executed({})
    processes, hint = execution.processes, ""
    runs_per_workflow = _runs_per_workflow(execution, len(runs))
    for first in range(0, len(runs), runs_per_workflow):
        workers = None
        if execution.processes > 1 and not execution.remote:
            workers = _make_local_plugin(execution, processes, on_node)
        some = runs[first : first + runs_per_workflow]
        error = _run(some, make_workflow, execution, work_dir, on_node, workers, done.crashed)
        if workers is not None:
            processes = workers.processors  # fewer, if one was killed
        if error is None:
            continue
        hint = hint or full_disk_hint(work_dir, output_dir)
        cause = f"nipype ended with {type(error).__name__}: {error}{hint}"
        done.reason_for_others = f"not processed: {cause}"
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            done.reason_for_others = "not processed: the call was interrupted or terminated"
            done.stopped = error
        elif execution.stop_on_first_crash:
            done.reason_for_others = "not processed: --stop-on-first-crash ended the call"
        _stop_jobs_and_workers(execution)
        if done.stopped is not None or execution.stop_on_first_crash:
            break
    logs = list(output_dir.glob(f"sub-*/log/{execution.log_name}"))
    crash_files = [file for folder in logs for file in folder.glob("crash-*.txt")]
    done.crashed = read_crashes(crash_files, hint) | done.crashed
    if execution.remote:
        remove_empty_logs(logs)
    return done


def remove_steps(run: Run, work_dir: Path) -> None:
    """Remove the steps of one run from the work folder, those of other versions too."""
    for folder in work_dir.glob(f"swift_bids_*_wf/{workflow_name(run)}"):
        shutil.rmtree(folder, ignore_errors=True)


def _runs_per_workflow(execution: Execution, n_runs: int) -> int:
    """Runs to give nipype at a time.

    nipype polls all unfinished nodes in turn. That is fast for as many runs as keep the processes
    busy, but takes seconds per run for thousands of runs.
    """
    if execution.plugin is not None and execution.plugin.runs_per_workflow is not None:
        return execution.plugin.runs_per_workflow
    if execution.remote:
        return n_runs
    return max(100, 10 * execution.processes) if execution.processes > 1 else 1


def _run(
    runs: Sequence[Run],
    make_workflow: Callable[[Run], Workflow],
    execution: Execution,
    work_dir: Path,
    on_node: OnNode,
    workers: RunByRun | None,
    crashed: Crashes,
) -> BaseException | None:
    """Run some workflows as one; return what nipype raises at the end when nodes failed, or the
    signal that ended the call."""
    whole = Workflow(name=WORKFLOW_NAME, base_dir=str(work_dir))
    whole.config["execution"] = {
        "crashfile_format": "txt",
        "stop_on_first_crash": str(execution.stop_on_first_crash).lower(),
        # nipype's default, 2 s, is longer than most nodes take and too short for a cluster's
        # scheduler
        "poll_sleep_duration": str(POLL_INTERVAL) if execution.remote else "0.05",
        "job_finished_timeout": str(NFS_DELAY),
        "create_report": "false",  # it would write the environment, with secrets, to the disk
    }
    on_status = _on_status(on_node)
    try:
        with interruptible():
            workflows = []
            for run in runs:
                try:
                    workflows.append(make_workflow(run))  # calls embed_runs._workflow_maker
                except InputError as disappeared:
                    crashed[workflow_name(run)] = str(disappeared), None
            whole.add_nodes(workflows)
            if execution.plugin is not None and execution.plugin.remote:
                if execution.plugin.name == SLURM_GRAPH:
                    _run_graph(whole, workflows, execution, execution.plugin, on_node)
                else:
                    plugin = create_plugin(execution.plugin, on_status, execution.log_name)
                    whole.run(plugin=plugin)
            elif workers is not None:
                whole.run(plugin=workers)
            else:
                whole.run(plugin="Linear", plugin_args={"status_callback": on_status})
    except (KeyboardInterrupt, SystemExit, Exception) as error:
        return error
    return None


def _on_status(on_node: OnNode) -> Callable[[Node, str], None]:
    """`on_node` in the form that nipype calls."""

    def on_status(node: Node, status: str) -> None:
        raise_pending_signal()
        on_node(node._hierarchy.rpartition(".")[2], node.name, status)

    return on_status


def _stop_jobs_and_workers(execution: Execution) -> None:
    """Stop jobs and workers: nipype leaves them running when it fails."""
    if execution.remote:
        cancel_jobs(execution.log_name, 2.5 if signal_received() else 60)
    kill_workers()


def _run_graph(
    whole: Workflow,
    workflows: Sequence[Workflow],
    execution: Execution,
    plugin: Plugin,
    on_node: OnNode,
) -> None:
    """Submit all jobs, wait for them, report every run as done or failed, and write a crash file
    for failed runs that have none."""
    folder = Path(whole.base_dir) / whole.name
    results = {
        run.name: folder / run.name / "aggregate" / "result_aggregate.pklz" for run in workflows
    }
    for name, result in results.items():
        result.unlink(missing_ok=True)  # of an earlier call
        on_node(name, "normalise", "start")
    graph = SlurmGraph(plugin.arguments, execution.log_name)
    whole.run(plugin=graph)
    wait_for_jobs(execution.log_name)
    submitted = [result for name, result in results.items() if name not in graph.refused]
    deadline = time.monotonic() + NFS_DELAY
    while time.monotonic() < deadline and not all(map(_is_visible, submitted)):
        time.sleep(1)
    for run in workflows:
        done = _is_visible(results[run.name])
        on_node(run.name, "aggregate", "end" if done else "exception")
        logs = Path(run.get_node("aggregate").config["execution"]["crashdump_dir"])
        if not done and run.name not in read_crashes(logs.glob("crash-*.txt")):
            (logs / f"crash-{run.name}.txt").write_text(
                f"Node: {whole.name}.{run.name}.aggregate\n\n"
                f"swift_bids.base.errors.InputError: {graph.refused.get(run.name, JOB_ENDED)}\n"
            )


def _is_visible(file: Path) -> bool:
    """Whether a file exists; listing its folder makes a network file system look again."""
    return file.parent.is_dir() and file.name in os.listdir(file.parent)


def _make_local_plugin(execution: Execution, processes: int, on_node: OnNode) -> RunByRun:
    arguments = {
        "status_callback": _on_status(on_node),
        "raise_insufficient": False,
        **(execution.plugin.arguments if execution.plugin is not None else {}),
    }
    arguments["mp_context"] = start_method()
    arguments["n_procs"] = min(processes, arguments.get("n_procs", processes))
    if execution.memory_gb is not None:
        arguments["memory_gb"] = execution.memory_gb
    return RunByRun(arguments, NODES_PER_GPU * execution.gpu_workers)
