"""Settings -> how the nodes run, and where and how the network runs."""

from __future__ import annotations

import logging
from pathlib import Path

from swift_bids.execution.plugins import NETWORK_CPUS, check_scripts_folder, choose_plugin
from swift_bids.execution.preflight import check_network
from swift_bids.execution.workers import in_worker
from swift_bids.execution.workflows import Execution
from swift_bids.network.weights import Weights
from swift_bids.settings import ParticipantSettings
from swift_bids.workflow import NetworkResources

_LOG = logging.getLogger("swift_bids")


def plan_execution(
    settings: ParticipantSettings, n_runs: int, weights: Weights, work_dir: Path, log_name: str
) -> tuple[Execution, NetworkResources]:
    """Choose how the nodes run, and where and how the network runs.

    Parameters
    ----------
    n_runs
        Number of all runs of the call, including those already done.
    work_dir, log_name
        nipype's working folder, and the name of the call's folders of logs.

    Raises
    ------
    UsageError
        The weights, the device or the plugin cannot be used.
    """
    resources, precision = settings.resources, settings.embedding.precision
    plugin = choose_plugin(settings.cluster)
    remote = plugin is not None and plugin.remote
    if plugin is not None and plugin.remote:
        check_scripts_folder(plugin, work_dir)
    # This machine need not have a GPU: the network's jobs look for one on theirs.
    requested = ("cpu", "float32") if remote else (resources.device, precision)
    devices, kernel, notes = in_worker(
        resources.processes,
        check_network,
        weights.file,
        settings.embedding.variant,
        *requested,
        resources.compiled,
    )
    if remote and resources.device.startswith("cuda"):
        devices = [resources.device]
    for note in notes:
        _LOG.warning("%s", note)
    # Computed from all runs, not only the remaining ones, so that a call that continues an
    # interrupted one computes in the same way. Runs side by side use CPUs better than threads of
    # one network.
    side_by_side = max(1, min(8, resources.processes // n_runs))
    threads = resources.threads or (NETWORK_CPUS if remote else side_by_side)
    # one process alone reads and embeds in turn
    use_workers = devices[0] != "cpu" and resources.processes > 1 and not remote
    network = NetworkResources(
        devices=devices,
        batch_size=resources.batch_size,
        threads=threads if remote else min(threads, resources.processes),
        compiled=resources.compiled,
        label=", ".join(devices) if remote or devices != ["cpu"] else f"cpu ({kernel})",
    )
    execution = Execution(
        processes=1 if plugin is not None and plugin.name == "Linear" else resources.processes,
        log_name=log_name,
        memory_gb=resources.memory_gb,
        plugin=plugin,
        gpu_workers=len(devices) if use_workers else 0,
        stop_on_first_crash=resources.stop_on_first_crash,
    )
    return execution, network
