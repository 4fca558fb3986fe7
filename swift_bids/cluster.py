"""--use-plugin, --slurm, --slurm-graph: nipype's plugins for the machines of a cluster.

Jobs, their order and their results are nipype's and SLURM's business. Here is what nipype does not
know: which step needs a GPU and how much memory, how many runs to begin at once, when all jobs of a
graph have ended, and that an interrupted call must take its jobs with it.
"""

from __future__ import annotations

import argparse
import getpass
import logging
import math
import os
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from nipype import Node
from nipype.pipeline import plugins
from nipype.pipeline.plugins.base import DistributedPluginBase, PluginBase

from swift_bids.errors import UsageError

_LOG = logging.getLogger("swift_bids")
#: nipype's plugins that work on this machine; any other sends its jobs elsewhere.
LOCAL = ("MultiProc", "LegacyMultiProc", "Linear")
SLURM, SLURM_GRAPH = "SLURM", "SLURMGraph"
#: They return when all is submitted, and nobody could tell when it is done.
_NOT_AWAITED = ("CondorDAGMan", "Debug", "PBSGraph", "SGEGraph")
#: Of `--slurm`. nipype asks for every job by a call of squeue of its own.
MOST_JOBS = 100
_SECONDS_BETWEEN_LOOKS = 5.0


@dataclass(frozen=True)
class Plugin:
    """A nipype plugin that runs the nodes.

    Attributes
    ----------
    name
        As nipype calls it, such as `SLURM`.
    arguments
        Its plugin_args.
    """

    name: str
    arguments: dict[str, Any] = field(default_factory=dict)

    @property
    def elsewhere(self) -> bool:
        """Whether the nodes run on other machines."""
        return self.name not in LOCAL

    @property
    def runs_at_once(self) -> int | None:
        """Runs to begin at once, so that not the matrices of all lie in the work folder; None: all.

        A graph is submitted as a whole.
        """
        most = self.arguments.get("max_jobs")
        return None if self.name == SLURM_GRAPH or most is None else max(1, int(most) // 2)


def chosen_plugin(args: argparse.Namespace) -> Plugin | None:
    """The plugin that a call asks for; None: this machine's processes, as usual.

    Raises
    ------
    UsageError
        A file that is no plugin file, a plugin that nipype does not have, folders whose names SLURM
        would take apart.
    """
    if args.use_plugin is not None:
        plugin = _read_plugin_file(args.use_plugin)
    elif args.slurm or args.slurm_graph:
        name = SLURM_GRAPH if args.slurm_graph else SLURM
        plugin = Plugin(name, {"max_jobs": MOST_JOBS} if args.slurm else {})
    elif args.sbatch_args:
        raise UsageError("--sbatch-args is for the jobs of --slurm or --slurm-graph; add one")
    else:
        return None
    if args.sbatch_args:
        given = [plugin.arguments.get("sbatch_args"), args.sbatch_args]
        plugin.arguments["sbatch_args"] = " ".join(filter(None, given))
    if plugin.name in (SLURM, SLURM_GRAPH):
        for folder in filter(None, (args.output_dir, args.work_dir)):
            if any(character.isspace() for character in str(folder.absolute())):
                raise UsageError(
                    f"{folder.absolute()}: nipype's SLURM plugins cannot work with spaces in the "
                    f"paths of output_dir and --work-dir; give folders without"
                )
        os.environ.setdefault("LOGNAME", getpass.getuser())  # nipype's plugin wants it
    return plugin


def _read_plugin_file(file: Path) -> Plugin:
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"--use-plugin {file}: cannot be read ({reason})") from error
    if not isinstance(content, dict) or not isinstance(content.get("plugin"), str):
        raise UsageError(
            f"--use-plugin {file}: holds no plugin; write, for example, 'plugin: SLURM' and below "
            f"it 'plugin_args: {{sbatch_args: --partition=long}}'"
        )
    arguments = content.get("plugin_args") or {}
    if not isinstance(arguments, dict):
        raise UsageError(f"--use-plugin {file}: plugin_args is no table of names and values")
    if not hasattr(plugins, f"{content['plugin']}Plugin"):
        have = sorted(n.removesuffix("Plugin") for n in dir(plugins) if n.endswith("Plugin"))
        raise UsageError(
            f"--use-plugin {file}: nipype has no plugin {content['plugin']}; it has "
            f"{', '.join(have)}"
        )
    if content["plugin"] in _NOT_AWAITED:
        raise UsageError(
            f"--use-plugin {file}: {content['plugin']} submits its jobs and does not wait for "
            f"them; take another"
        )
    return Plugin(content["plugin"], arguments)


def instance(plugin: Plugin, on_status: Callable[[Node, str], None] | None = None) -> PluginBase:
    """nipype's plugin, which outlives jobs that ended without a result.

    `on_status` is called with a node and `start`, `end` or `exception`; graphs do not tell.
    """
    kind = getattr(plugins, f"{plugin.name}Plugin")
    if not issubclass(kind, DistributedPluginBase):
        # nipype's graph plugin sets what it needs only where it is given something
        return kind(plugin_args={"dont_resubmit_completed_jobs": False} | plugin.arguments)

    class Outlives(kind):
        def _report_crash(self, node: Node, result: dict[str, Any] | None = None) -> str:
            # nipype fails on a traceback that is one text, as it makes it for a job that was killed
            if result is not None and isinstance(result["traceback"], str):
                result = result | {"traceback": result["traceback"].splitlines(keepends=True)}
            return super()._report_crash(node, result=result)

    return Outlives(plugin_args=plugin.arguments | {"status_callback": on_status})


def ask_slurm(node: Node, plugin: Plugin, mark: str, logs: Path) -> None:
    """Set what the job of a node asks SLURM for, where `sbatch_args` does not say so already.

    Parameters
    ----------
    node
        With its `mem_gb` and `n_procs` set, and the input `use_gpu` if it may use a GPU.
    mark
        By which this call finds its jobs again.
    logs
        Where the jobs' own output goes.
    """
    if plugin.name not in (SLURM, SLURM_GRAPH):
        return
    given = plugin.arguments.get("sbatch_args") or ""
    # twice what was measured, since SLURM kills a job that takes more, and 0.5 GB of imports
    memory = math.ceil(2 * node.mem_gb + 0.5)
    asked = [f"--comment={mark}", f"--output={logs}/slurm-%j.log", f"--error={logs}/slurm-%j.log"]
    if "--mem" not in given:
        asked.append(f"--mem={memory}G")
    if "--cpus-per-task" not in given and not given.startswith("-c"):
        asked.append(f"--cpus-per-task={node.n_procs}")
    if getattr(node.inputs, "use_gpu", False) and "--gres" not in given and "--gpus" not in given:
        asked.append("--gres=gpu:1")
    if plugin.name == SLURM_GRAPH:  # else jobs behind a failed one wait for ever
        asked.append("--kill-on-invalid-dep=yes")
    # nipype joins them to its own without a space
    node.plugin_args = {"sbatch_args": " " + " ".join(asked)}


def wait_for_jobs(mark: str) -> None:
    """Wait until SLURM knows no job with this mark any more."""
    while True:
        try:
            if not _jobs(mark):
                return
        except subprocess.SubprocessError as error:  # too busy to answer: the jobs go on
            _LOG.warning("SLURM does not answer (%s); asking again", error)
        time.sleep(_SECONDS_BETWEEN_LOOKS)


def cancel_jobs(mark: str) -> None:
    """Cancel the jobs with this mark, as far as SLURM can be reached."""
    with suppress(OSError, subprocess.SubprocessError):
        for _ in range(10):  # some may just be on their way
            if not (jobs := _jobs(mark)):
                return
            subprocess.run(["scancel", *jobs], check=False, capture_output=True, timeout=60)
            time.sleep(1)


def _jobs(mark: str) -> Sequence[str]:
    """Numbers of this user's jobs with a mark."""
    call = ["squeue", "--noheader", f"--user={getpass.getuser()}", "--format=%i %k"]
    listed = subprocess.run(call, check=True, capture_output=True, text=True, timeout=600).stdout
    lines = (line.partition(" ") for line in listed.splitlines())
    return [number for number, _, comment in lines if comment.strip() == mark]


def remove_empty_logs(logs: Sequence[Path]) -> None:
    """Remove what jobs without a word left behind."""
    for folder in logs:
        for log in folder.glob("slurm-*.log"):
            if log.stat().st_size == 0:
                log.unlink()
