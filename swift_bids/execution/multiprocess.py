"""nipype's plugins, alive after a worker or a job was killed; that for several processes, run by
run."""

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
from nipype.pipeline.plugins.multiproc import process_initializer, run_node

_LOG = logging.getLogger("swift_bids")
#: Runs that are under way at once, for each process: a matrix of each lies in the work folder.
RUNS_PER_PROCESS = 2


def outliving(kind: type[PluginBase]) -> type[PluginBase]:
    """A nipype plugin that does not fail as a whole over a job that ended without a result."""
    if not issubclass(kind, DistributedPluginBase):
        return kind

    class Outlives(kind):
        def _report_crash(self, node: Node, result: dict[str, Any] | None = None) -> str:
            # nipype's own fails on a traceback that is one text, as it makes it for such a job
            if result is not None and isinstance(result["traceback"], str):
                result = result | {"traceback": result["traceback"].splitlines(keepends=True)}
            return super()._report_crash(node, result=result)

    return Outlives


class RunByRun(MultiProcPlugin):
    """nipype's plugin, which ends runs it has begun before it begins more.

    nipype's own order is one step of all runs after the other: the matrices of the whole dataset
    would lie in the work folder, and no run would be done before the last one was read.

    When a worker is killed, most often because memory ran out, nipype waits for it for ever. Here
    the nodes that were under way begin again, one at a time, as do all after them; one that is
    killed even so has failed, and the others go on.
    """

    _run_of: np.ndarray | None = None
    pool: ProcessPoolExecutor  # nipype's, as is the next
    processors: int

    def __init__(self, plugin_args: dict[str, Any]) -> None:
        super().__init__(plugin_args=plugin_args)
        #: Texts of crash files that could not be written; the disk is full, most often.
        self.unwritten: list[str] = []
        self._nodes: dict[int, tuple[Node, bool]] = {}  # task -> node, whether to update hashes

    def _sort_jobs(self, jobids: np.ndarray, scheduler: str = "tsort") -> np.ndarray:
        """Of the jobs that could start, those of runs under way and of a few more, run by run."""
        if self._run_of is None:  # (job,) number of its run
            self._run_of = np.unique([n._hierarchy for n in self.procs], return_inverse=True)[1]
        of_run = partial(np.bincount, self._run_of)
        begun, running = of_run(weights=self.proc_done), of_run(weights=self.proc_pending)
        under_way = (begun > 0) & ((begun < of_run()) | (running > 0))
        runs = self._run_of[jobids]
        room = max(0, RUNS_PER_PROCESS * self.processors - int(under_way.sum()))
        more = np.unique(runs[~under_way[runs]])[:room]
        chosen = jobids[under_way[runs] | np.isin(runs, more)]
        return chosen[np.lexsort((chosen, self._run_of[chosen], ~under_way[self._run_of[chosen]]))]

    def _submit_job(self, node: Node, updatehash: bool = False) -> int:
        self._taskid += 1
        self._nodes[self._taskid] = node, updatehash
        try:
            self._begin(self._taskid)
        except BrokenProcessPool:  # since the last look
            self._after_a_kill()
        return self._taskid

    def _begin(self, taskid: int) -> None:
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
                self._after_a_kill()
            elif error is not None:  # such as a result that cannot be sent back
                self._fail(taskid, f"RuntimeError: {error!r}")
        return super()._get_result(taskid)

    def _report_crash(self, node: Node, result: dict[str, Any] | None = None) -> str:
        try:
            return super()._report_crash(node, result=result)
        except OSError:
            traceback = "".join(result["traceback"]) if result else ""
            self.unwritten.append(f"Node: {node.fullname}\n\n{traceback}")
            return ""

    def _clear_task(self, taskid: int) -> None:
        self._task_obj.pop(taskid, None)  # of one that was not begun again there is none
        del self._nodes[taskid]
        del self._taskresult[taskid]  # nipype keeps the results of all nodes to the end

    def _after_a_kill(self) -> None:
        """Begin again what was under way, with one worker; what ran alone then has failed."""
        again = [taskid for taskid in sorted(self._nodes) if taskid not in self._taskresult]
        self.pool.shutdown()
        idle = again[0] not in self._task_obj  # the worker, which had yet to be given the node
        if self.processors == 1 and not idle:
            node = self._nodes[again[0]][0]
            self._fail(
                again.pop(0),
                f"swift_bids.base.errors.InputError: {node.name} was killed, most likely because "
                f"memory ran out: it needs about {node.mem_gb:g} GB beside the app's 0.4 GB; give "
                f"the job more memory",
            )
        elif self.processors > 1:
            _LOG.warning(
                "a worker was killed, most likely because memory ran out; going on with one at a "
                "time (--nprocs 1, or more memory, avoids that)"
            )
            self.processors = 1
        self.pool = ProcessPoolExecutor(
            max_workers=1,
            initializer=process_initializer,
            initargs=(self._cwd,),
            mp_context=get_context(self.plugin_args.get("mp_context")),
        )
        for taskid in again:
            self._begin(taskid)

    def _fail(self, taskid: int, *traceback: str) -> None:
        lines: Sequence[str] = [f"{line}\n" for line in traceback]
        self._taskresult[taskid] = {"taskid": taskid, "result": None, "traceback": lines}
