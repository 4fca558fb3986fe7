"""--use-plugin, --slurm, --slurm-graph: which of nipype's plugins runs the nodes, and how."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from nipype import Node
from nipype.pipeline import plugins
from nipype.pipeline.plugins.base import PluginBase

from swift_bids.base.errors import UsageError
from swift_bids.execution.multiprocess import outliving
from swift_bids.execution.slurm import Slurm
from swift_bids.settings import ClusterSettings

#: nipype's plugins that work on this machine; any other sends its jobs elsewhere.
LOCAL = ("MultiProc", "LegacyMultiProc", "Linear")
SLURM, SLURM_GRAPH = "SLURM", "SLURMGraph"
#: They return when all is submitted, and nobody could tell when it is done.
_NOT_AWAITED = ("CondorDAGMan", "Debug", "PBSGraph", "SGEGraph")
#: Arguments of plugins that are looked at, and what they must be.
_KINDS: tuple[tuple[str, type | tuple[type, ...], str], ...] = (
    ("sbatch_args", str, "text"),
    ("max_jobs", int, "a number from 1 on"),
    ("n_procs", int, "a number from 1 on"),
    ("n_gpu_procs", int, "a number from 1 on"),
    ("memory_gb", (int, float), "a number of GB"),
)
#: Jobs at once, and CPUs of the network's, where nothing else is said.
MOST_JOBS, NETWORK_CPUS = 100, 4


@dataclass(frozen=True)
class Plugin:
    """A nipype plugin that runs the nodes.

    Attributes
    ----------
    name
        As nipype calls it, such as `SLURM`.
    arguments
        Its plugin_args.
    network_args
        Options of sbatch for the network's jobs alone; None: a GPU where `--device` asks for one.
    """

    name: str
    arguments: dict[str, Any] = field(default_factory=dict)
    network_args: str | None = None

    @property
    def remote(self) -> bool:
        """Whether the nodes run on other machines."""
        return self.name not in LOCAL

    @property
    def slurm(self) -> bool:
        """Whether SLURM runs them."""
        return self.name in (SLURM, SLURM_GRAPH)

    @property
    def batch_size(self) -> int | None:
        """Runs to begin at once, so that not the matrices of all lie in the work folder; None: all.

        A graph is submitted as a whole.
        """
        most = self.arguments.get("max_jobs")
        return None if self.name == SLURM_GRAPH or most is None else max(1, most // 2)


def choose_plugin(settings: ClusterSettings) -> Plugin | None:
    """The plugin that a call asks for; None: this machine's processes, as usual.

    Raises
    ------
    UsageError
        A file that is no plugin file, a plugin that nipype does not have, no SLURM here, or options
        that nobody would take.
    """
    network_args = settings.sbatch_network_args
    if settings.plugin_file is not None:
        plugin = _read_plugin_file(settings.plugin_file, network_args)
    elif settings.slurm or settings.slurm_graph:
        name = SLURM_GRAPH if settings.slurm_graph else SLURM
        arguments = {"max_jobs": MOST_JOBS} if settings.slurm else {}
        plugin = Plugin(name, arguments, network_args)
    elif settings.sbatch_args or network_args:
        raise UsageError("--sbatch-args is for the jobs of --slurm or --slurm-graph; add one")
    else:
        return None
    if settings.sbatch_args:
        given = [plugin.arguments.get("sbatch_args"), settings.sbatch_args]
        plugin.arguments["sbatch_args"] = " ".join(filter(None, given))
    for text in filter(None, (plugin.arguments.get("sbatch_args"), network_args)):
        try:
            shlex.split(text)
        except ValueError as error:
            raise UsageError(f"options of sbatch, {text}: {error}") from error
    if plugin.slurm and (absent := [p for p in Slurm.PROGRAMS if shutil.which(p) is None]):
        raise UsageError(
            f"SLURM's {', '.join(absent)} cannot be found; jobs are submitted from a machine of "
            f"the cluster, by an installation and not from within a container (for that, use an "
            f"array job: --batch)"
        )
    return plugin


def check_scripts_folder(plugin: Plugin, work_dir: Path) -> None:
    """Refuse a work folder whose path nipype cannot write into the scripts of jobs, or would not
    keep from the shell.

    Raises
    ------
    UsageError
        As said.
    """
    path = str(work_dir)
    odd = {c for c in path if c in "'\\" or not c.isprintable()}
    if not plugin.slurm:  # whose jobs nipype submits with a line for the shell
        odd |= {c for c in path if shlex.quote(c) != c}
    if odd:
        raise UsageError(
            f"{work_dir}: jobs of the plugin {plugin.name} cannot work in a folder with "
            f"{' '.join(map(repr, sorted(odd)))} in its path; give another with -w"
        )


def _read_plugin_file(file: Path, network_args: str | None) -> Plugin:
    def refuse(what: str) -> UsageError:
        return UsageError(f"--use-plugin {file}: {what}")

    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise refuse(f"cannot be read ({' '.join(str(error).split())})") from error
    if not isinstance(content, dict) or not isinstance(content.get("plugin"), str):
        raise refuse(
            "holds no plugin; write, for example, 'plugin: SLURM' and below it 'plugin_args: "
            "{sbatch_args: --partition=long}'"
        )
    name, arguments = content["plugin"], content.get("plugin_args") or {}
    if not isinstance(arguments, dict):
        raise refuse("plugin_args is no table of names and values")
    arguments = {key: value for key, value in arguments.items() if value is not None}
    for key, kinds, what in _KINDS:
        value = arguments.get(key)
        if value is None:
            continue
        if not isinstance(value, kinds) or (isinstance(value, (int, float)) and not value > 0):
            raise refuse(f"{key} is {value!r}, not {what}")
    if name in _NOT_AWAITED:
        raise refuse(f"{name} submits its jobs and does not wait for them; take another")
    if not hasattr(plugins, f"{name}Plugin"):
        have = sorted(n.removesuffix("Plugin") for n in dir(plugins) if n.endswith("Plugin"))
        raise refuse(f"nipype has no plugin {name}; it has {', '.join(have)}")
    plugin = Plugin(name, arguments, network_args)
    if plugin.remote and not plugin.slurm:
        try:
            instance(plugin)
        except Exception as error:  # whatever a plugin says to its arguments, or of what it needs
            raise refuse(f"nipype's plugin {name} cannot be used ({error})") from error
    return plugin


def instance(
    plugin: Plugin, on_status: Callable[[Node, str], None] | None = None, mark: str = ""
) -> PluginBase:
    """nipype's plugin; for SLURM the one of `swift_bids.execution.slurm`, but for graphs.

    Parameters
    ----------
    on_status
        Called with a node and `start`, `end` or `exception`.
    mark
        By which SLURM's jobs of this call are found again.
    """
    arguments = plugin.arguments | ({"status_callback": on_status} if on_status else {})
    if plugin.name == SLURM:
        return Slurm(arguments, mark)
    kind = getattr(plugins, f"{plugin.name}Plugin")
    return outliving(kind)(plugin_args=arguments)
