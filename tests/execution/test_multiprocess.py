"""Worker processes that are killed, and runs in batches."""

import os
import signal
import subprocess

import pytest
from app import PATIENCE, start_job
from nipype import Node, Workflow
from nipype.interfaces.utility import Function

from swift_bids.execution.crashes import read_crashes
from swift_bids.execution.multiprocess import RunByRun
from swift_bids.execution.workflows import Execution, run_workflows
from swift_bids.workflow import WORKFLOW_NAME


def die():
    import os

    os.kill(os.getpid(), 9)


def live(number):
    import time  # nipype sends the function's text alone

    time.sleep(0.2)
    return 2 * number


def test_a_node_that_is_always_killed_does_not_stop_others(tmp_path):
    """nipype alone would wait for its result forever."""
    whole = Workflow(name=WORKFLOW_NAME, base_dir=str(tmp_path))
    whole.config["execution"] = {"crashfile_format": "txt", "poll_sleep_duration": "0.05"}
    ended = []
    for number in range(4):
        if number == 1:
            node = Node(Function(output_names=["out"], function=die), name="embed")
        else:
            node = Node(
                Function(input_names=["number"], output_names=["out"], function=live), name="embed"
            )
            node.inputs.number = number
        node.config = {"execution": {"crashdump_dir": str(tmp_path / "crashes")}}
        of_run = Workflow(name=f"run{number}_wf")
        of_run.add_nodes([node])
        whole.add_nodes([of_run])
    plugin = RunByRun(
        {
            "n_procs": 2,
            "memory_gb": 8,
            "raise_insufficient": False,
            "status_callback": lambda node, status: ended.append((node._hierarchy[-7:], status)),
        }
    )
    with pytest.raises(RuntimeError, match="embed was killed"):
        whole.run(plugin=plugin)
    assert plugin._taskresult == {}  # nipype kept all of them
    done = {name for name, status in ended if status == "end"}
    assert done == {"run0_wf", "run2_wf", "run3_wf"}
    crashed = read_crashes((tmp_path / "crashes").glob("crash-*.txt"))
    assert list(crashed) == ["run1_wf"]
    assert "memory ran out: it needs about" in crashed["run1_wf"][0]


def test_nodes_still_run_after_an_idle_worker_is_killed(tmp_path):
    """The remaining nodes still run."""
    plugin = RunByRun({"n_procs": 1, "memory_gb": 8})
    plugin._config = {"execution": {"crashfile_format": "txt"}}
    for number in (1, 2):
        node = Node(Function(["number"], ["out"], function=live), name=f"n{number}")
        node.base_dir, node.inputs.number = str(tmp_path), number
        taskid = plugin._submit_job(node)
        result = None
        while result is None:
            result = plugin._get_result(taskid)
        assert result["traceback"] is None
        assert result["result"].outputs.out == 2 * number
        plugin._clear_task(taskid)
        (worker,) = plugin.pool._processes.values()
        worker.kill()
        worker.join()
    again = plugin._submit_job(node)  # which begins with an end
    while plugin._get_result(again) is None:
        pass
    plugin._clear_task(again)
    assert (plugin._nodes, plugin._task_obj) == ({}, {})
    plugin.pool.shutdown()


def workflow_of(number):
    node = Node(Function(["number"], ["out"], function=live), name="aggregate")
    node.inputs.number = number
    workflow = Workflow(name=f"run{number}_wf")
    workflow.add_nodes([node])
    return workflow


def test_many_runs_are_given_to_nipype_in_groups(tmp_path, monkeypatch):
    """nipype's memory, and its time for each step, grow with the number of runs."""
    monkeypatch.setattr(
        "swift_bids.execution.workflows._runs_per_workflow", lambda execution, n_runs: 2
    )
    events = []

    def make(number):
        events.append(f"made {number}")
        return workflow_of(number)

    on_node = lambda run, node, status: events.append(f"{status} {run[3]}")  # noqa: E731
    execution = Execution(processes=2, log_name="log")
    executed = run_workflows(range(5), make, execution, tmp_path, tmp_path, on_node)
    assert (executed.crashed, executed.stopped) == ({}, None)
    assert [event for event in events if event[:4] == "made"] == [f"made {n}" for n in range(5)]
    for number in (2, 4):  # a pair begins when the one before has ended
        before = events[: events.index(f"made {number}")]
        assert {f"end {n}" for n in range(number)} <= set(before)
    assert {f"end {n}" for n in range(5)} <= set(events)


def test_a_call_goes_on_after_a_worker_is_killed(tmp_path, small_bundle):
    job = start_job(tmp_path, small_bundle, (200, 200))
    os.kill(_busiest_below(job.pid), signal.SIGKILL)
    said, _ = job.communicate(timeout=PATIENCE)
    assert job.returncode == 0, said
    assert "a worker process was killed" in said
    assert said.splitlines()[-1] == "done: 2 run(s)"
    assert "Traceback" not in said
    assert len(list((tmp_path / "out").rglob("*_desc-swift_embedding.json"))) == 2


def _busiest_below(pid: int) -> int:
    """The descendant of a process, at least two levels down, with the most CPU time."""
    table = subprocess.run(["ps", "-eo", "pid=,ppid=,times="], capture_output=True, text=True)
    rows = [tuple(map(int, line.split())) for line in table.stdout.splitlines()]
    parents = {child: parent for child, parent, _ in rows}
    below = [(used, child) for child, _, used in rows if parents.get(parents.get(child)) == pid]
    return max(below)[1]
