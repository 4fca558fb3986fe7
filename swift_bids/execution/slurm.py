"""nipype's plugins SLURM and SLURMGraph -> plugins that survive SLURM's errors.

nipype's own plugins (1.11) treat an unanswered squeue as the end of the job, ignore a refused
sbatch, pass unquoted paths to a shell, and call squeue once for every job. Here nipype still
handles the jobs, their order and their results, but this module talks to SLURM.
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

from swift_bids.execution.multiprocess import crash_tolerant

_LOG = logging.getLogger("swift_bids")
#: Seconds between two queries of the queue and between two attempts to submit; attempts per job.
POLL_INTERVAL, RETRY_INTERVAL, MAX_TRIES = 5.0, 2.0, 3
#: Seconds to wait for a network file system to show the files of a finished job.
NFS_DELAY = 20.0
#: Mark -> numbers of the submitted jobs of a call that may still be in the queue.
_submitted: defaultdict[str, set[int]] = defaultdict(set)


class Refused(RuntimeError):
    """sbatch refused a job at every attempt."""


# Any: mypy cannot check a base class that a function returns
_CRASH_TOLERANT: Any = crash_tolerant(SLURMPlugin)


class Slurm(_CRASH_TOLERANT):
    """Submits a job for each node as soon as the inputs of the node exist."""

    PROGRAMS = ("sbatch", "squeue", "scancel")

    def __init__(self, arguments: dict[str, Any], mark: str) -> None:
        super().__init__(plugin_args=arguments)
        self._mark, self._last_query, self._sbatch = mark, 0.0, Sbatch(self._sbatch_args, mark)
        self._live = _submitted[mark]
        self._refused: dict[int, str] = {}

    def _submit_batchtask(self, scriptfile: str, node: Node) -> int:
        try:
            number = self._sbatch.submit(scriptfile, node)
        except Refused as error:  # only the run of this node fails
            number = -1 - len(self._refused)
            self._refused[number] = str(error)
        self._pending[number] = node.output_dir()
        return number

    def _is_pending(self, taskid: int) -> bool:
        if time.monotonic() - self._last_query > POLL_INTERVAL / 2:  # one query for all jobs
            with suppress(
                OSError, subprocess.SubprocessError
            ):  # without an answer, assume that they go on
                self._live &= {int(number) for number in jobs(self._mark)}
            self._last_query = time.monotonic()
        return taskid in self._live

    def _get_result(self, taskid: int) -> dict[str, Any] | None:
        if taskid in self._refused:
            line = f"swift_bids.base.errors.InputError: {self._refused[taskid]}\n"
            return {"result": None, "traceback": [line]}
        return super()._get_result(taskid)


class SlurmGraph(SLURMGraphPlugin):
    """Submits all jobs together; each waits for the jobs that it depends on.

    Attributes
    ----------
    refused
        Workflow of a run -> why sbatch refused one of its jobs; its later jobs are not submitted.
    """

    def __init__(self, arguments: dict[str, Any], mark: str) -> None:
        # nipype's plugin only sets the attributes that it needs if it gets an argument
        super().__init__(plugin_args={"dont_resubmit_completed_jobs": False} | arguments)
        self._mark = mark
        self.refused: dict[str, str] = {}

    def _submit_graph(
        self, pyfiles: Sequence[str], dependencies: dict[int, list[int]], nodes: Sequence[Node]
    ) -> None:
        sbatch, numbers = Sbatch(self._sbatch_args, self._mark), dict[int, int]()
        for index, (pyfile, node) in enumerate(zip(pyfiles, nodes)):
            run = node._hierarchy.rpartition(".")[2]
            if run in self.refused:
                continue
            script = Path(pyfile).with_suffix(".sh")
            script.write_text(f"{self._template}\n{shlex.join([sys.executable, pyfile])}\n")
            before = ":".join(str(numbers[job]) for job in dependencies[index])
            # jobs that depend on a failed one would wait forever
            wait = [f"--dependency=afterok:{before}", "--kill-on-invalid-dep=yes"] if before else []
            try:
                numbers[index] = sbatch.submit(str(script), node, *wait)
            except Refused as error:
                self.refused[run] = str(error)


class Sbatch:
    """Submits jobs with the user's options for all jobs.

    It tries each job `MAX_TRIES` times, but after a refused job only once until sbatch accepts one:
    SLURM may refuse thousands of jobs for the same reason.
    """

    def __init__(self, arguments: str | None, mark: str) -> None:
        self._arguments, self._tries = shlex.split(arguments or ""), MAX_TRIES
        self._numbers = _submitted[mark]

    def submit(self, script: str, node: Node, *options: str) -> int:
        """Submit a job and return its number.

        Parameters
        ----------
        node
            Its own requests (`request_resources`) come first, then the user's options, which
            override them, then the options for the network.

        Raises
        ------
        Refused
            sbatch refused the job; the message quotes sbatch.
        """
        call = ["sbatch", "--parsable", f"--job-name={node._id}", *node.plugin_args["requests"]]
        call += [*self._arguments, *node.plugin_args["network_options"], *options, script]
        for attempt in range(self._tries):
            done = subprocess.run(call, capture_output=True, text=True)
            if done.returncode == 0:
                self._tries = MAX_TRIES
                self._numbers.add(number := int(done.stdout.split(";")[0]))
                return number
            if attempt + 1 < self._tries:
                time.sleep(RETRY_INTERVAL)
        self._tries = 1
        reason = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
        raise Refused(f"SLURM refused the job of {node.name} ({reason}); check --sbatch-args")


def request_resources(
    node: Node, sbatch_args: str | None, network_args: str | None, mark: str, logs: Path
) -> None:
    """Set the resources that the job of a node requests, unless the user's options already do.

    Parameters
    ----------
    node
        `mem_gb`, `n_procs` and (for the network) the input `use_gpu` must be set before.
    sbatch_args, network_args
        Options of all jobs; options of the network's jobs only.
    mark
        Identifies the jobs of this call.
    logs
        Folder for the output of the jobs.
    """
    runs_network = hasattr(node.inputs, "use_gpu")
    network_options = shlex.split(network_args or "") if runs_network else []
    options = [*shlex.split(sbatch_args or ""), *network_options]
    names = {word.split("=")[0] if word.startswith("--") else word[:2] for word in options}
    log = f"{logs}/slurm-".replace("%", "%%") + "%j.log"  # a folder name may contain %
    requests = [f"--comment={mark}", f"--output={log}", f"--error={log}"]
    if not any(name == "--mem" or name.startswith("--mem-per-") for name in names):
        # twice the measured memory, since SLURM kills a job that exceeds it, and 0.5 GB for imports
        requests.append(f"--mem={math.ceil(2 * node.mem_gb + 0.5)}G")
    if not any(name == "-c" or name.startswith("--cpus-per-") for name in names):
        requests.append(f"--cpus-per-task={node.n_procs}")
    gpu = re.search(r"(^| )(-G|--gpus)|--(gres|tres-per-\w+)[= ]\S*gpu", " ".join(options))
    if runs_network and node.inputs.use_gpu and not gpu:
        requests.append("--gres=gpu:1")
    node.plugin_args = {"requests": requests, "network_options": network_options}


def wait_for_jobs(mark: str) -> None:
    """Wait until no job with this mark is left in SLURM's queue."""
    while True:
        try:
            if not jobs(mark):
                return
        except (OSError, subprocess.SubprocessError) as error:  # the jobs go on meanwhile
            _LOG.warning("SLURM does not answer (%s); asking again", error)
        time.sleep(POLL_INTERVAL)


def cancel_jobs(mark: str, seconds: float) -> None:
    """Cancel the jobs with this mark, if SLURM answers within `seconds`."""
    deadline = time.monotonic() + seconds
    known = [str(number) for number in sorted(_submitted[mark])]
    cancelled = not known or _scancel(known, seconds)  # first, since squeue may be slow
    n_empty = 0
    while (left := deadline - time.monotonic()) > 0:
        with suppress(OSError, subprocess.SubprocessError):
            remaining = jobs(mark, left, ended=("COMPLETING",))
            n_empty = 0 if remaining else n_empty + 1
            if n_empty > 1:  # by now squeue would show a job that was being submitted
                return
            cancelled = not remaining or _scancel(remaining, left)
        time.sleep(0.4)
    if not cancelled:
        _LOG.warning("SLURM may still have jobs of this call; check squeue and cancel them")


def _scancel(numbers: Sequence[str], timeout: float) -> bool:
    """Cancel jobs; return whether SLURM accepted this for all of them."""
    try:
        done = subprocess.run(["scancel", *numbers], capture_output=True, timeout=timeout)
    except (OSError, subprocess.SubprocessError):
        return False
    return done.returncode == 0


def jobs(mark: str, timeout: float = 120, ended: Sequence[str] = ()) -> list[str]:
    """Numbers of this user's jobs with a mark.

    Parameters
    ----------
    timeout
        Seconds to wait for SLURM's answer.
    ended
        States of jobs that are not listed.

    Raises
    ------
    OSError, subprocess.SubprocessError
        SLURM does not answer in time.
    """
    call = ["squeue", "--noheader", f"--user={os.getuid()}", "--format=%i %T %k"]
    done = subprocess.run(call, check=True, capture_output=True, text=True, timeout=timeout)
    lines = (line.split(maxsplit=2) for line in done.stdout.splitlines())
    return [
        number
        for number, state, *comment in lines
        if comment and comment[0].strip() == mark and state not in ended
    ]


def remove_empty_logs(logs: Sequence[Path]) -> None:
    """Remove the log files of jobs that printed nothing."""
    for folder in logs:
        for log in folder.glob("slurm-*.log"):
            if log.stat().st_size == 0:
                log.unlink()
