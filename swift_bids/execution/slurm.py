"""nipype's plugins SLURM and SLURMGraph, with what they lack for jobs that matter.

nipype's own (1.11) takes a squeue that did not answer for the end of a job and a refused sbatch for
nothing at all, gives both to a shell with paths as they are, and asks for every job by a call of
its own. Here jobs, their order and their results are nipype's business, talking to SLURM is ours.
"""

from __future__ import annotations

import logging
import math
import os
import re
import shlex
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from nipype import Node
from nipype.pipeline.plugins import SLURMGraphPlugin, SLURMPlugin

from swift_bids.execution.multiprocess import outliving

_LOG = logging.getLogger("swift_bids")
#: Between looks at the jobs, before another try to submit (s), and how many.
POLL_INTERVAL, RETRY_INTERVAL, MAX_TRIES = 5.0, 2.0, 3
#: Until a network file system shows what a job has written (s).
NFS_DELAY = 20.0
#: Mark -> numbers of jobs that a call has submitted and that may not have ended.
_submitted: defaultdict[str, set[int]] = defaultdict(set)


class Refused(RuntimeError):
    """sbatch took a job not even after some tries."""


# Any: a base class that is computed is none that can be checked
_OUTLIVING: Any = outliving(SLURMPlugin)


class Slurm(_OUTLIVING):
    """A job for each node, submitted when its inputs are there."""

    PROGRAMS = ("sbatch", "squeue", "scancel")

    def __init__(self, arguments: dict[str, Any], mark: str) -> None:
        super().__init__(plugin_args=arguments)
        self._mark, self._looked, self._sbatch = mark, 0.0, Sbatch(self._sbatch_args, mark)
        self._live = _submitted[mark]
        self._refused: dict[int, str] = {}

    def _submit_batchtask(self, scriptfile: str, node: Node) -> int:
        try:
            number = self._sbatch.submit(scriptfile, node)
        except Refused as error:  # costs this node's run, and no other
            number = -1 - len(self._refused)
            self._refused[number] = str(error)
        self._pending[number] = node.output_dir()
        return number

    def _is_pending(self, taskid: int) -> bool:
        if time.monotonic() - self._looked > POLL_INTERVAL / 2:  # once for all jobs
            with suppress(OSError, subprocess.SubprocessError):  # no answer: they go on
                self._live &= {int(number) for number in jobs(self._mark)}
            self._looked = time.monotonic()
        return taskid in self._live

    def _get_result(self, taskid: int) -> dict[str, Any] | None:
        if taskid in self._refused:
            said = f"swift_bids.base.errors.InputError: {self._refused[taskid]}\n"
            return {"result": None, "traceback": [said]}
        return super()._get_result(taskid)


class SlurmGraph(SLURMGraphPlugin):
    """All jobs at once, each waiting for those before it.

    Attributes
    ----------
    refused
        Workflow of a run -> why sbatch did not take one of its jobs; it is not asked for the next.
    """

    def __init__(self, arguments: dict[str, Any], mark: str) -> None:
        # nipype's sets what it needs only where it is given something
        super().__init__(plugin_args={"dont_resubmit_completed_jobs": False} | arguments)
        self._mark = mark
        self.refused: dict[str, str] = {}

    def _submit_graph(
        self, pyfiles: Sequence[str], dependencies: dict[int, list[int]], nodes: Sequence[Node]
    ) -> None:
        sbatch, numbers = Sbatch(self._sbatch_args, self._mark), dict[int, int]()
        for place, (pyfile, node) in enumerate(zip(pyfiles, nodes)):
            run = node._hierarchy.rpartition(".")[2]
            if run in self.refused:
                continue
            script = Path(pyfile).with_suffix(".sh")
            script.write_text(f"{self._template}\n{shlex.join([sys.executable, pyfile])}\n")
            before = ":".join(str(numbers[job]) for job in dependencies[place])
            # jobs behind a failed one would wait for ever
            wait = [f"--dependency=afterok:{before}", "--kill-on-invalid-dep=yes"] if before else []
            try:
                numbers[place] = sbatch.submit(str(script), node, *wait)
            except Refused as error:
                self.refused[run] = str(error)


class Sbatch:
    """Submits jobs with the user's options of all of them.

    It tries several times, but once only while it takes none: thousands of jobs may be refused for
    the same reason.
    """

    def __init__(self, arguments: str | None, mark: str) -> None:
        self._arguments, self._tries = shlex.split(arguments or ""), MAX_TRIES
        self._numbers = _submitted[mark]

    def submit(self, script: str, node: Node, *more: str) -> int:
        """Submit a job and return its number.

        Parameters
        ----------
        node
            Its own requests (`request_resources`) come first, then the user's options, which
            override them, then those for the network.

        Raises
        ------
        Refused
            With sbatch's own words.
        """
        call = ["sbatch", "--parsable", f"--job-name={node._id}", *node.plugin_args["asked"]]
        call += [*self._arguments, *node.plugin_args["of_network"], *more, script]
        for tried in range(self._tries):
            done = subprocess.run(call, capture_output=True, text=True)
            if done.returncode == 0:
                self._tries = MAX_TRIES
                self._numbers.add(number := int(done.stdout.split(";")[0]))
                return number
            if tried + 1 < self._tries:
                time.sleep(RETRY_INTERVAL)
        self._tries = 1
        said = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
        raise Refused(f"SLURM does not take the job of {node.name} ({said}); see --sbatch-args")


def request_resources(
    node: Node, sbatch_args: str | None, network_args: str | None, mark: str, logs: Path
) -> None:
    """Set what the job of a node asks SLURM for, where the user's options do not say so already.

    Parameters
    ----------
    node
        With its `mem_gb` and `n_procs` set, and the input `use_gpu`, if it has that.
    sbatch_args, network_args
        Options of all jobs; of those of the network alone.
    mark
        By which this call finds its jobs again.
    logs
        Where the jobs' own output goes.
    """
    of_network = hasattr(node.inputs, "use_gpu")
    more = shlex.split(network_args or "") if of_network else []
    given = [*shlex.split(sbatch_args or ""), *more]
    names = {word.split("=")[0] if word.startswith("--") else word[:2] for word in given}
    log = f"{logs}/slurm-".replace("%", "%%") + "%j.log"  # of the folder's own name
    asked = [f"--comment={mark}", f"--output={log}", f"--error={log}"]
    if not any(name == "--mem" or name.startswith("--mem-per-") for name in names):
        # twice what was measured, since SLURM kills a job that takes more, and 0.5 GB of imports
        asked.append(f"--mem={math.ceil(2 * node.mem_gb + 0.5)}G")
    if not any(name == "-c" or name.startswith("--cpus-per-") for name in names):
        asked.append(f"--cpus-per-task={node.n_procs}")
    gpu = re.search(r"(^| )(-G|--gpus)|--(gres|tres-per-\w+)[= ]\S*gpu", " ".join(given))
    if of_network and node.inputs.use_gpu and not gpu:
        asked.append("--gres=gpu:1")
    node.plugin_args = {"asked": asked, "of_network": more}


def wait_for_jobs(mark: str) -> None:
    """Wait until SLURM knows no job with this mark any more."""
    while True:
        try:
            if not jobs(mark):
                return
        except (OSError, subprocess.SubprocessError) as error:  # the jobs go on
            _LOG.warning("SLURM does not answer (%s); asking again", error)
        time.sleep(POLL_INTERVAL)


def cancel_jobs(mark: str, seconds: float) -> None:
    """Cancel the jobs with this mark, if SLURM answers within so many seconds."""
    deadline = time.monotonic() + seconds
    known = [str(number) for number in sorted(_submitted[mark])]
    cancelled = not known or _scancel(known, seconds)  # before squeue, which may be slow
    quiet = 0
    while (left := deadline - time.monotonic()) > 0:
        with suppress(OSError, subprocess.SubprocessError):
            found = jobs(mark, left, ended=("COMPLETING",))
            quiet = 0 if found else quiet + 1
            if quiet > 1:  # a job that was being submitted has arrived by now
                return
            cancelled = not found or _scancel(found, left)
        time.sleep(0.4)
    if not cancelled:
        _LOG.warning("SLURM may still have jobs of this call: look at squeue and cancel them")


def _scancel(numbers: Sequence[str], timeout: float) -> bool:
    """Cancel jobs; return whether SLURM took that of all of them."""
    try:
        done = subprocess.run(["scancel", *numbers], capture_output=True, timeout=timeout)
    except (OSError, subprocess.SubprocessError):
        return False
    return done.returncode == 0


def jobs(mark: str, timeout: float = 120, ended: Sequence[str] = ()) -> list[str]:
    """Numbers of this user's jobs with a mark, but for those in a state in which they count as
    `ended`; raises where SLURM does not answer in time (s)."""
    call = ["squeue", "--noheader", f"--user={os.getuid()}", "--format=%i %T %k"]
    done = subprocess.run(call, check=True, capture_output=True, text=True, timeout=timeout)
    lines = (line.split(maxsplit=2) for line in done.stdout.splitlines())
    return [
        number
        for number, state, *comment in lines
        if comment and comment[0].strip() == mark and state not in ended
    ]


def remove_empty_logs(logs: Sequence[Path]) -> None:
    """Remove what jobs without a word left behind."""
    for folder in logs:
        for log in folder.glob("slurm-*.log"):
            if log.stat().st_size == 0:
                log.unlink()
