"""The workflows of all runs, executed by processes of this machine or jobs of a cluster -> which
runs failed, and why."""

from __future__ import annotations

import gc
import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

from nipype import Node, Workflow

from swift_bids.cluster import SLURM_GRAPH, Plugin, instance
from swift_bids.errors import InputError, OutputError
from swift_bids.plugin import RunByRun
from swift_bids.runs import Run
from swift_bids.slurm import (
    LOOK,
    SHOWN,
    SlurmGraph,
    cancel_jobs,
    remove_empty_logs,
    wait_for_jobs,
)
from swift_bids.stopping import interruptible, raise_if_asked, was_asked
from swift_bids.workers import kill_workers, start_method
from swift_bids.workflow import STEPS, WORKFLOW_NAME, Execution, workflow_name

#: Why a job left no result and no error.
_ENDED = (
    "the cluster ended a job before it was done, most likely because of its memory or time limit "
    "(--sbatch-args '--mem=... --time=...'); slurm-*.log in this folder may say more"
)

#: Bytes on a disk below which it is full: each step needs some kB for nipype's own files.
_LEAST_ROOM = 100_000


def run_workflows(
    runs: Sequence[Run],
    workflow_of: Callable[[Run], Workflow],
    execution: Execution,
    output_dir: Path,
    on_node: Callable[[str, str, str], None],
) -> tuple[dict[str, tuple[str, Path | None]], str, BaseException | None]:
    """Execute the workflows of all runs; one that fails does not stop the others.

    Parameters
    ----------
    workflow_of
        Makes the workflow of a run.
    on_node
        Called with (workflow name, node name, `start`, `end` or `exception`) as nodes go.

    Returns
    -------
    crashed : dict
        Workflow name -> (reason, crash file), for the runs that failed.
    why : str
        Why the others that were not ended were not.
    stopped : KeyboardInterrupt, SystemExit or None
        What asked the call to end meanwhile.
    """
    # While it waits, nipype collects garbage again and again, 50 ms of a CPU a time, most of them
    # spent on what was imported.
    gc.freeze()
    logging.getLogger("nipype").propagate = False  # it has a handler of its own
    at_once = _runs_at_once(execution, len(runs))
    processes = execution.processes
    why, stopped = "it was not begun", None
    unwritten: list[str] = []
    unmade: dict[str, tuple[str, Path | None]] = {}
    full = ""
    for first in range(0, len(runs), at_once):
        workers = None
        if execution.processes > 1 and not execution.elsewhere:
            workers = _workers(execution, processes, on_node)
        make = partial(_make, runs[first : first + at_once], workflow_of, unmade)
        error = _run(make, execution, on_node, workers)
        if workers is not None:
            unwritten += workers.unwritten
            processes = workers.processors  # fewer where one was killed
        if error is not None:
            full = full or _full(execution.work_dir, output_dir)
            why = f"it was not done, since {_cause(error)}{full}"
            if isinstance(error, (KeyboardInterrupt, SystemExit)):
                why, stopped = "it was not done, since the call was interrupted", error
            elif execution.stop_on_first_crash:
                why = "it was not done, since --stop-on-first-crash ended the call"
            _end(execution)  # nipype leaves what is under way, or submitted, where it fails itself
            if stopped is not None or execution.stop_on_first_crash:
                break
    logs = list(output_dir.glob(f"sub-*/log/{execution.log_name}"))
    files = [file for folder in logs for file in folder.glob("crash-*.txt")]
    crashed = read_crashes(files, unwritten, full)
    if execution.elsewhere:
        remove_empty_logs(logs)
    return crashed | unmade, why, stopped


def _runs_at_once(execution: Execution, n_runs: int) -> int:
    """nipype looks through all that is not done yet, and holds it, again and again: for as many
    runs as keep the processes busy it costs nothing, for thousands seconds a run."""
    if execution.plugin is not None and execution.plugin.runs_at_once is not None:
        return execution.plugin.runs_at_once
    if execution.elsewhere:
        return n_runs
    return max(100, 10 * execution.processes) if execution.processes > 1 else 1


def _make(
    runs: Sequence[Run],
    workflow_of: Callable[[Run], Workflow],
    unmade: dict[str, tuple[str, Path | None]],
) -> list[Workflow]:
    """Make the workflows of some runs; note why that of a run cannot be made."""
    made = []
    for run in runs:
        try:
            made.append(workflow_of(run))
        except InputError as gone:  # since the call began
            unmade[workflow_name(run)] = str(gone), None
    return made


def _run(
    make: Callable[[], list[Workflow]],
    execution: Execution,
    on_node: Callable[[str, str, str], None],
    workers: RunByRun | None,
) -> BaseException | None:
    """Make workflows and execute them as one; return what nipype raises at the end when nodes
    failed, or what asked the call to end."""
    whole = Workflow(name=WORKFLOW_NAME, base_dir=str(execution.work_dir))
    whole.config["execution"] = {
        "crashfile_format": "txt",
        "stop_on_first_crash": str(execution.stop_on_first_crash).lower(),
        # nipype's 2 s is longer than most nodes, and too often for a cluster's scheduler
        "poll_sleep_duration": str(LOOK) if execution.elsewhere else "0.05",
        "job_finished_timeout": str(SHOWN),
        "create_report": "false",  # it would write the environment, secrets included, to the disk
    }
    on_status = _on_status(on_node)
    try:
        with interruptible():
            workflows = make()
            whole.add_nodes(workflows)
            if execution.plugin is not None and execution.plugin.elsewhere:
                if execution.plugin.name == SLURM_GRAPH:
                    _run_graph(whole, workflows, execution, execution.plugin, on_node)
                else:
                    whole.run(plugin=instance(execution.plugin, on_status, execution.log_name))
            elif workers is not None:
                whole.run(plugin=workers)
            else:
                whole.run(plugin="Linear", plugin_args={"status_callback": on_status})
    except (KeyboardInterrupt, SystemExit, Exception) as error:
        return error
    return None


def _on_status(on_node: Callable[[str, str, str], None]) -> Callable[[Node, str], None]:
    """`on_node` as nipype calls it."""

    def on_status(node: Node, status: str) -> None:
        raise_if_asked()
        on_node(node._hierarchy.rpartition(".")[2], node.name, status)

    return on_status


def _cause(error: BaseException) -> str:
    """What ended nipype; that it could not write a crash file is the smaller part of it."""
    first = error.__context__
    if isinstance(error, OSError) and isinstance(first, (InputError, OutputError)):
        return str(first)
    return f"nipype ended with {type(error).__name__}: {error}"


def _full(*folders: Path) -> str:
    """Of a full disk nipype tells as little as that a result is not there."""
    for folder in folders:
        if folder.exists() and shutil.disk_usage(folder).free < _LEAST_ROOM:
            return f"; the disk of {folder} is full, make room there and call again"
    return ""


def _end(execution: Execution) -> None:
    """End jobs and workers, which would go on, and write, without us."""
    if execution.elsewhere:
        cancel_jobs(execution.log_name, 2.5 if was_asked() else 60)
    kill_workers()


def _run_graph(
    whole: Workflow,
    workflows: Sequence[Workflow],
    execution: Execution,
    plugin: Plugin,
    on_node: Callable[[str, str, str], None],
) -> None:
    """Submit all jobs, wait for them, and report the runs whose last step was done."""
    results = {
        run.name: execution.work_dir / whole.name / run.name / "aggregate" / "result_aggregate.pklz"
        for run in workflows
    }
    for name, result in results.items():
        result.unlink(missing_ok=True)  # of an earlier call
        on_node(name, "normalise", "start")
    graph = SlurmGraph(plugin.arguments, execution.log_name)
    whole.run(plugin=graph)
    wait_for_jobs(execution.log_name)
    submitted = [result for name, result in results.items() if name not in graph.refused]
    until = time.monotonic() + SHOWN
    while time.monotonic() < until and not all(map(_is_shown, submitted)):
        time.sleep(1)
    for run in workflows:
        done = _is_shown(results[run.name])
        on_node(run.name, "aggregate", "end" if done else "exception")
        logs = Path(run.get_node("aggregate").config["execution"]["crashdump_dir"])
        if not done and run.name not in read_crashes(logs.glob("crash-*.txt")):
            (logs / f"crash-{run.name}.txt").write_text(
                f"Node: {whole.name}.{run.name}.aggregate\n\n"
                f"swift_bids.errors.InputError: {graph.refused.get(run.name, _ENDED)}\n"
            )


def _is_shown(file: Path) -> bool:
    """Whether a file is there, asking a network file system anew."""
    return file.parent.is_dir() and file.name in os.listdir(file.parent)


def _workers(
    execution: Execution, processes: int, on_node: Callable[[str, str, str], None]
) -> RunByRun:
    arguments = {
        "status_callback": _on_status(on_node),
        **({"n_gpu_procs": 1} if execution.device.startswith("cuda") else {}),
        "raise_insufficient": False,
        **(execution.plugin.arguments if execution.plugin is not None else {}),
    }
    arguments["mp_context"] = start_method()
    arguments["n_procs"] = min(processes, arguments.get("n_procs", processes))
    if execution.memory_gb is not None:
        arguments["memory_gb"] = execution.memory_gb
    return RunByRun(arguments)


def _step_in(crash: str) -> int:
    """Place in the workflow of the step that a crash file is of."""
    node = re.search(r"^Node: .*\.(\w+)$", crash, re.MULTILINE)
    return STEPS.index(node.group(1)) if node and node.group(1) in STEPS else len(STEPS)


def read_crashes(
    crash_files: Iterable[Path], unwritten: Iterable[str] = (), hint: str = ""
) -> dict[str, tuple[str, Path | None]]:
    """Find in nipype's crash files, and in what would have been some, which run failed, and the
    error's own sentence, or what happened and a hint."""
    crashed: dict[str, tuple[str, Path | None]] = {}
    texts: list[tuple[Path | None, str]] = [
        (file, file.read_text(encoding="utf-8", errors="replace")) for file in sorted(crash_files)
    ]
    texts += [(None, text) for text in unwritten]
    # Of the steps of a run that failed the first has the cause.
    texts.sort(key=lambda of_file: _step_in(of_file[1]), reverse=True)
    for file, text in texts:
        if re.search(r"^\s*(KeyboardInterrupt|SystemExit)\b", text, re.MULTILINE):
            continue  # nipype takes the end of the call for the node's failure
        node = re.search(rf"^Node: {WORKFLOW_NAME}\.(\w+)\.(\w+)$", text, re.MULTILINE)
        errors = re.findall(r"^\s*([\w.]+(?:Error|Exception|Interrupt)): (.*)$", text, re.MULTILINE)
        own = [message for kind, message in errors if kind.startswith("swift_bids.errors.")]
        if "but results file does not exist" in text:  # nipype of a job that left none
            own = [_ENDED]
        unexpected = ": ".join(errors[-1]) if errors else "it ended without an error message"
        workflow, step = node.groups() if node else ("", "")
        if own or workflow not in crashed:
            crashed[workflow] = (own[-1] if own else f"{step} failed ({unexpected}){hint}", file)
    return crashed
