"""The workflows of all runs, executed by processes of this machine or jobs of a cluster -> which
runs failed, and why."""

from __future__ import annotations

import gc
import logging
import multiprocessing
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from nipype import Node, Workflow

from swift_bids.cluster import (
    SLURM_GRAPH,
    cancel_jobs,
    instance,
    remove_empty_logs,
    wait_for_jobs,
)
from swift_bids.plugin import RunByRun
from swift_bids.stopping import raise_if_asked
from swift_bids.workers import start_method
from swift_bids.workflow import WORKFLOW_NAME, Execution

#: Why a job left no result and no error.
_ENDED = (
    "the cluster ended a job before it was done, most likely because of its memory or time limit "
    "(--sbatch-args '--mem=... --time=...'); slurm-*.log in this folder may say more"
)


def run_workflows(
    workflows: Sequence[Workflow],
    execution: Execution,
    output_dir: Path,
    on_node: Callable[[str, str, str], None],
) -> dict[str, tuple[str, Path]]:
    """Execute the workflows of all runs; one that fails does not stop the others.

    Parameters
    ----------
    on_node
        Called with (workflow name, node name, `start`, `end` or `exception`) as nodes go.

    Returns
    -------
    dict
        Workflow name -> (reason, crash file), for the runs that failed.
    """
    # While it waits, nipype collects garbage again and again, 50 ms of a CPU a time, most of them
    # spent on what was imported.
    gc.freeze()
    logging.getLogger("nipype").propagate = False  # it has a handler of its own
    at_once = len(workflows) if execution.processes > 1 else 1
    if execution.plugin is not None:
        at_once = execution.plugin.runs_at_once or len(workflows)
    portions = [workflows[i : i + at_once] for i in range(0, len(workflows), at_once)]
    failures = [error for some in portions if (error := _run(some, execution, on_node))]
    logs = list(output_dir.glob(f"sub-*/log/{execution.log_name}"))
    crashed = read_crashes(file for folder in logs for file in folder.glob("crash-*.txt"))
    if execution.elsewhere:
        remove_empty_logs(logs)
    if failures and not crashed:  # nipype itself failed, no node did
        raise failures[0]
    return crashed


def _run(
    workflows: Sequence[Workflow], execution: Execution, on_node: Callable[[str, str, str], None]
) -> Exception | None:
    """Execute workflows as one; return what nipype raises at the end when nodes failed."""
    whole = Workflow(name=WORKFLOW_NAME, base_dir=str(execution.work_dir))
    whole.config["execution"] = {
        "crashfile_format": "txt",
        "stop_on_first_crash": "false",
        # nipype's 2 s is longer than most nodes, and too often for a cluster's scheduler
        "poll_sleep_duration": "5" if execution.elsewhere else "0.05",
        "job_finished_timeout": "20",  # until a network file system shows a job's result
        "create_report": "false",  # it would write the environment, secrets included, to the disk
    }
    whole.add_nodes(list(workflows))

    def on_status(node: Node, status: str) -> None:
        raise_if_asked()
        on_node(node._hierarchy.rpartition(".")[2], node.name, status)

    try:
        if execution.elsewhere:
            if execution.plugin.name == SLURM_GRAPH:
                _run_graph(whole, workflows, execution, on_node)
            else:
                whole.run(plugin=instance(execution.plugin, on_status))
        elif execution.processes > 1:
            whole.run(plugin=_processes(execution, on_status))
        else:
            whole.run(plugin="Linear", plugin_args={"status_callback": on_status})
    except (KeyboardInterrupt, SystemExit):
        if execution.elsewhere:
            cancel_jobs(execution.log_name)
        logging.getLogger("concurrent.futures").setLevel(logging.CRITICAL)  # of its broken pool
        for worker in multiprocessing.active_children():  # else they go on, and write, without us
            worker.kill()
            worker.join()
        raise
    except Exception as error:
        return error
    return None


def _run_graph(
    whole: Workflow,
    workflows: Sequence[Workflow],
    execution: Execution,
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
    whole.run(plugin=instance(execution.plugin))
    wait_for_jobs(execution.log_name)
    for run in workflows:
        done = results[run.name].exists()
        on_node(run.name, "aggregate", "end" if done else "exception")
        logs = Path(run.get_node("aggregate").config["execution"]["crashdump_dir"])
        if not done and run.name not in read_crashes(logs.glob("crash-*.txt")):
            (logs / f"crash-{run.name}.txt").write_text(
                f"Node: {whole.name}.{run.name}.aggregate\n\n"
                f"swift_bids.errors.InputError: {_ENDED}\n"
            )


def _processes(execution: Execution, on_status: Callable[[Node, str], None]) -> RunByRun:
    arguments = {
        "status_callback": on_status,
        "n_procs": execution.processes,
        "mp_context": start_method(),
        **({"n_gpu_procs": 1} if execution.device.startswith("cuda") else {}),
        "raise_insufficient": False,
        **(execution.plugin.arguments if execution.plugin is not None else {}),
    }
    if execution.memory_gb is not None:
        arguments["memory_gb"] = execution.memory_gb
    return RunByRun(arguments)


def read_crashes(crash_files: Iterable[Path]) -> dict[str, tuple[str, Path]]:
    """Find in nipype's crash files which run failed, and the error's own sentence."""
    crashed = {}
    for file in sorted(crash_files):
        text = file.read_text(encoding="utf-8", errors="replace")
        node = re.search(rf"^Node: {WORKFLOW_NAME}\.(\w+)\.(\w+)$", text, re.MULTILINE)
        errors = re.findall(r"^\s*([\w.]+(?:Error|Exception|Interrupt)): (.*)$", text, re.MULTILINE)
        own = [message for kind, message in errors if kind.startswith("swift_bids.errors.")]
        if "but results file does not exist" in text:  # nipype of a job that left none
            own = [_ENDED]
        unexpected = ": ".join(errors[-1]) if errors else "it ended without an error message"
        workflow, step = node.groups() if node else ("", "")
        if own or workflow not in crashed:
            crashed[workflow] = (own[-1] if own else f"{step} failed ({unexpected})", file)
    return crashed
