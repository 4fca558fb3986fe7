"""nipype's plugins -> plugins that survive a killed worker or job, and finish run after run."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing import get_context
from typing import Any

import numpy as np
from nipype import Node
from nipype.pipeline.plugins import MultiProcPlugin
from nipype.pipeline.plugins.base import DistributedPluginBase, PluginBase
from nipype.pipeline.plugins.multiproc import run_node

from swift_bids.execution.workers import start_worker

_LOG = logging.getLogger("swift_bids")
#: Unfinished runs per process: each of them keeps a matrix in the work folder.
RUNS_PER_PROCESS = 2


def crash_tolerant(plugin: type[PluginBase]) -> type[PluginBase]:
    """A nipype plugin that goes on with the other jobs when one ends without a result."""
    if not issubclass(plugin, DistributedPluginBase):
        return plugin

    class CrashTolerant(plugin):
        def _report_crash(self, node: Node, result: dict[str, Any] | None = None) -> str:
            # nipype expects a list of lines, but creates a single string for such a job
            if result is not None and isinstance(result["traceback"], str):
                result = result | {"traceback": result["traceback"].splitlines(keepends=True)}
            return super()._report_crash(node, result=result)

    return CrashTolerant


class RunByRun(MultiProcPlugin):
    """nipype's MultiProc plugin, changed to finish the runs it has started before it starts others.

    nipype's own order is the first step of all runs, then the second, and so on: the work folder
    would contain the matrices of the whole dataset, and no run would finish before all were read.

    When a worker is killed, usually because memory ran out, nipype waits for it forever. This
    plugin restarts the unfinished nodes, and from then on runs one node at a time. A node that is
    killed twice while it runs alone has failed; the others go on.

    Parameters
    ----------
    plugin_args
        As for nipype's plugin.
    n_waiting
        Nodes that may wait for a GPU in addition to the nodes that use a CPU.
    """

    _run_numbers: np.ndarray | None = None
    pool: ProcessPoolExecutor  # set by nipype, like processors
    processors: int

    def __init__(self, plugin_args: dict[str, Any], n_waiting: int = 0) -> None:
        super().__init__(plugin_args=plugin_args)
        if n_waiting > 0:
            self.pool = self._make_pool(self.processors + n_waiting)
        self._nodes: dict[int, tuple[Node, bool]] = {}  # task -> node, whether to update hashes
        self._killed_alone: set[int] = set()

    def _sort_jobs(self, jobids: np.ndarray, scheduler: str = "tsort") -> np.ndarray:
        """Choose among the jobs that could start: those of unfinished runs, then of a few more."""
        if self._run_numbers is None:  # (job,)
            hierarchies = [node._hierarchy for node in self.procs]
            self._run_numbers = np.unique(hierarchies, return_inverse=True)[1]
        per_run = partial(np.bincount, self._run_numbers)
        started, running = per_run(weights=self.proc_done), per_run(weights=self.proc_pending)
        unfinished = (started > 0) & ((started < per_run()) | (running > 0))
        runs = self._run_numbers[jobids]
        n_more = max(0, RUNS_PER_PROCESS * self.processors - int(unfinished.sum()))
        more = np.unique(runs[~unfinished[runs]])[:n_more]
        chosen = jobids[unfinished[runs] | np.isin(runs, more)]
        run_numbers = self._run_numbers[chosen]
        return chosen[np.lexsort((chosen, run_numbers, ~unfinished[run_numbers]))]

    def _submit_job(self, node: Node, updatehash: bool = False) -> int:
        self._taskid += 1
        self._nodes[self._taskid] = node, updatehash
        try:
            self._start(self._taskid)
        except BrokenProcessPool:  # broken since the last check of the results
            self._restart_after_kill()
        return self._taskid

    def _start(self, taskid: int) -> None:
        node, updatehash = self._nodes[taskid]
        future = self.pool.submit(run_node, node, updatehash, taskid)
        self._task_obj[taskid] = future
        future.add_done_callback(self._async_callback)

    def _async_callback(self, future: Future) -> None:
        if future.exception() is None:
            super()._async_callback(future)

    def _get_result(self, taskid: int) -> dict[str, Any] | None:
        future = self._task_obj.get(taskid)
        if future is not None and future.done() and taskid not in self._taskresult:
            error = future.exception()
            if isinstance(error, BrokenProcessPool):
                self._restart_after_kill()
            elif error is not None:  # for example a result that cannot be pickled
                self._fail(taskid, f"RuntimeError: {error!r}")
        return super()._get_result(taskid)

    def _clear_task(self, taskid: int) -> None:
        self._task_obj.pop(taskid, None)  # a node that was not restarted has none
        del self._nodes[taskid]
        del self._taskresult[taskid]  # nipype would keep all results until the end

    def _restart_after_kill(self) -> None:
        """Restart unfinished nodes with one worker.

        A node that was killed twice while it ran alone has failed. The first kill may have hit the
        idle worker before it received the node.
        """
        unfinished = [taskid for taskid in sorted(self._nodes) if taskid not in self._taskresult]
        self.pool.shutdown()
        if self.processors == 1 and unfinished[0] in self._killed_alone:
            node = self._nodes[unfinished[0]][0]
            self._fail(
                unfinished.pop(0),
                f"swift_bids.base.errors.InputError: {node.name} was killed, most likely because "
                f"memory ran out: it needs about {node.mem_gb:g} GB in addition to the app's "
                f"0.4 GB; give the job more memory",
            )
        elif self.processors == 1:
            self._killed_alone.add(unfinished[0])
        else:
            _LOG.warning(
                "a worker process was killed, most likely because memory ran out; continuing with "
                "one process (to avoid this, use --nprocs 1 or give the job more memory)"
            )
            self.processors = 1
        self.pool = self._make_pool(1)
        for taskid in unfinished:
            self._start(taskid)

    def _make_pool(self, n_workers: int) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(
            max_workers=n_workers,
            initializer=start_worker,
            initargs=(self._cwd,),
            mp_context=get_context(self.plugin_args.get("mp_context")),
        )

    def _fail(self, taskid: int, *traceback: str) -> None:
        lines: Sequence[str] = [f"{line}\n" for line in traceback]
        self._taskresult[taskid] = {"taskid": taskid, "result": None, "traceback": lines}
