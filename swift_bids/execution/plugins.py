"""--use-plugin, --slurm, --slurm-graph -> the nipype plugin that runs the nodes."""

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
from swift_bids.execution.multiprocess import crash_tolerant
from swift_bids.execution.slurm import Slurm
from swift_bids.settings import ClusterSettings

#: nipype's plugins that run nodes on this machine; all others submit jobs to other machines.
LOCAL = ("MultiProc", "LegacyMultiProc", "Linear")
SLURM, SLURM_GRAPH = "SLURM", "SLURMGraph"
#: Plugins that return once they have submitted their jobs: the app could not tell when they end.
_SUBMIT_ONLY = ("CondorDAGMan", "Debug", "PBSGraph", "SGEGraph")
#: Plugin arguments that the app checks: name, type, and the type in words.
_ARGUMENT_TYPES: tuple[tuple[str, type | tuple[type, ...], str], ...] = (
    ("sbatch_args", str, "text"),
    ("max_jobs", int, "a whole number of at least 1"),
    ("n_procs", int, "a whole number of at least 1"),
    ("n_gpu_procs", int, "a whole number of at least 1"),
    ("memory_gb", (int, float), "a positive number of GB"),
)
#: Defaults: jobs in the queue at the same time, and CPUs of a job that runs the network.
MAX_JOBS, NETWORK_CPUS = 100, 4


@dataclass(frozen=True)
class Plugin:
    """A nipype plugin that runs the nodes.

    Attributes
    ----------
    name
        nipype's name for it, such as `SLURM`.
    arguments
        Its plugin_args.
    network_args
        sbatch options for the network's jobs only. If `--device` is `cuda`, a GPU is requested
        unless these options or `sbatch_args` already do.
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
        """Whether SLURM runs the nodes."""
        return self.name in (SLURM, SLURM_GRAPH)

    @property
    def runs_per_workflow(self) -> int | None:
        """Runs to start together, which limits the matrices in the work folder; None for all runs.

        A graph of jobs is always submitted as a whole.
        """
        max_jobs = self.arguments.get("max_jobs")
        return None if self.name == SLURM_GRAPH or max_jobs is None else max(1, max_jobs // 2)


def choose_plugin(settings: ClusterSettings) -> Plugin | None:
    """Choose the plugin for the flags of a call; None for the default, processes of this machine.

    Raises
    ------
    UsageError
        The plugin file is not valid, nipype does not have the plugin, this machine has no SLURM, or
        no plugin would use the options.
    """
    network_args = settings.sbatch_network_args
    if settings.plugin_file is not None:
        plugin = _read_plugin_file(settings.plugin_file, network_args)
    elif settings.slurm or settings.slurm_graph:
        name = SLURM_GRAPH if settings.slurm_graph else SLURM
        arguments = {"max_jobs": MAX_JOBS} if settings.slurm else {}
        plugin = Plugin(name, arguments, network_args)
    elif settings.sbatch_args or network_args:
        raise UsageError(
            "--sbatch-args and --sbatch-network-args need --slurm or --slurm-graph; add one of them"
        )
    else:
        return None
    if settings.sbatch_args:
        given = [plugin.arguments.get("sbatch_args"), settings.sbatch_args]
        plugin.arguments["sbatch_args"] = " ".join(filter(None, given))
    for text in filter(None, (plugin.arguments.get("sbatch_args"), network_args)):
        try:
            shlex.split(text)
        except ValueError as error:
            raise UsageError(
                f"sbatch options {text}: {error}; check the quotation marks"
            ) from error
    if plugin.slurm and (missing := [p for p in Slurm.PROGRAMS if shutil.which(p) is None]):
        raise UsageError(
            f"SLURM's {', '.join(missing)} cannot be found; run an installed app, not a container, "
            f"on a machine of the cluster (for a container, use an array job with --batch)"
        )
    return plugin


def check_scripts_folder(plugin: Plugin, work_dir: Path) -> None:
    """Refuse a work folder whose path would break the job scripts that nipype writes.

    Raises
    ------
    UsageError
        The path contains characters that nipype does not quote for Python or for the shell.
    """
    path = str(work_dir)
    unquoted = {c for c in path if c in "'\\" or not c.isprintable()}
    if not plugin.slurm:  # nipype submits their jobs through a shell
        unquoted |= {c for c in path if shlex.quote(c) != c}
    if unquoted:
        raise UsageError(
            f"{work_dir}: jobs of the plugin {plugin.name} cannot work in a folder with "
            f"{' '.join(map(repr, sorted(unquoted)))} in its path; choose another folder with -w"
        )


def _read_plugin_file(file: Path, network_args: str | None) -> Plugin:
    def error_about(problem: str) -> UsageError:
        return UsageError(f"--use-plugin {file}: {problem}")

    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise error_about(f"cannot be read ({' '.join(str(error).split())})") from error
    if not isinstance(content, dict) or not isinstance(content.get("plugin"), str):
        raise error_about(
            "names no plugin; write, for example, 'plugin: SLURM' and below it 'plugin_args: "
            "{sbatch_args: --partition=long}'"
        )
    name, arguments = content["plugin"], content.get("plugin_args") or {}
    if not isinstance(arguments, dict):
        raise error_about("plugin_args is not a table of names and values")
    arguments = {key: value for key, value in arguments.items() if value is not None}
    for key, types, description in _ARGUMENT_TYPES:
        value = arguments.get(key)
        if value is None:
            continue
        if not isinstance(value, types) or (isinstance(value, (int, float)) and not value > 0):
            raise error_about(f"{key} is {value!r}, not {description}")
    if name in _SUBMIT_ONLY:
        raise error_about(
            f"{name} submits its jobs and does not wait for them; choose another plugin"
        )
    if not hasattr(plugins, f"{name}Plugin"):
        names = sorted(n.removesuffix("Plugin") for n in dir(plugins) if n.endswith("Plugin"))
        raise error_about(f"nipype has no plugin {name}; it has {', '.join(names)}")
    plugin = Plugin(name, arguments, network_args)
    if plugin.remote and not plugin.slurm:
        try:
            create_plugin(plugin)
        except Exception as error:  # any error, since plugins check their arguments themselves
            raise error_about(f"nipype's plugin {name} cannot be used ({error})") from error
    return plugin


def create_plugin(
    plugin: Plugin, on_status: Callable[[Node, str], None] | None = None, mark: str = ""
) -> PluginBase:
    """Create nipype's plugin; for `SLURM`, the plugin of `swift_bids.execution.slurm`.

    Parameters
    ----------
    on_status
        Called with a node and `start`, `end` or `exception`.
    mark
        Identifies the SLURM jobs of this call.
    """
    arguments = plugin.arguments | ({"status_callback": on_status} if on_status else {})
    if plugin.name == SLURM:
        return Slurm(arguments, mark)
    plugin_class = getattr(plugins, f"{plugin.name}Plugin")
    return crash_tolerant(plugin_class)(plugin_args=arguments)
