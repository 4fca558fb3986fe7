"""Start an embedding worker for each GPU, and replace those that are killed."""

from __future__ import annotations

import logging
import multiprocessing
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swift_bids.base.errors import UsageError
from swift_bids.execution.workers import start_method, start_worker
from swift_bids.interfaces import load_network
from swift_bids.network.weights import Weights
from swift_bids.settings import ParticipantSettings
from swift_bids.workflow import NetworkResources

if TYPE_CHECKING:  # this process does not import torch
    from torch import nn

_LOG = logging.getLogger("swift_bids")
#: Nodes that may wait for a worker to accept them.
_BACKLOG = 1024


def worker_per_gpu(
    settings: ParticipantSettings, weights: Weights, resources: NetworkResources
) -> AbstractContextManager[str]:
    """Run an embedding worker for each device of the network; see `embedding_workers`."""
    load = partial(load_network, weights.file, weights.sha256, compiled=resources.compiled)
    return embedding_workers(
        {device: partial(load, device=device) for device in resources.devices},
        resources.batch_size,
        settings.embedding.precision,
    )


@contextmanager
def embedding_workers(
    networks: Mapping[str, Callable[[], nn.Module]],
    batch_size: int | None = None,
    precision: str = "float32",
) -> Iterator[str]:
    """Run one embedding worker per device.

    Parameters
    ----------
    networks
        Name of a device -> function that loads the network onto it, in the worker.
    batch_size, precision
        As for `swift_bids.steps.embed.Embedder`.

    Yields
    ------
    address : str
        Socket for `swift_bids.steps.embedding_worker.embed_in_worker`.

    Raises
    ------
    UsageError
        The path of the temporary folder is too long for a socket.
    """
    with tempfile.TemporaryDirectory(prefix="swift_bids_") as folder:
        address = Path(folder, "network")
        listener = socket.socket(socket.AF_UNIX)
        try:
            listener.bind(str(address))
        except OSError as error:
            raise UsageError(
                f"{address}: cannot be used as a socket ({error}); set TMPDIR to a short path of a "
                f"local disk"
            ) from error
        listener.listen(_BACKLOG)
        workers = _Workers(networks, (listener, batch_size, precision))
        try:
            yield str(address)
        finally:
            workers.stop()


class _Workers:
    """The processes, and a thread for each that replaces it when it is killed."""

    def __init__(self, networks: Mapping[str, Callable[[], nn.Module]], options: tuple):
        self._listener = options[0]
        self._options = options
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._processes: dict[str, BaseProcess] = {}
        self._threads = [
            threading.Thread(target=self._keep_running, args=item, daemon=True)
            for item in networks.items()
        ]
        self._n_kept = len(self._threads)
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End all workers."""
        with self._lock:
            self._stopping.set()
            for process in self._processes.values():
                process.kill()
        for thread in self._threads:
            thread.join()

    def _keep_running(self, device: str, load_network: Callable[[], nn.Module]) -> None:
        context: Any = multiprocessing.get_context(start_method())
        while True:
            ready = context.Event()
            arguments = (load_network, ready, *self._options)
            process = context.Process(target=_serve, args=arguments, daemon=True)
            with self._lock:
                if self._stopping.is_set():
                    break
                process.start()
                self._processes[device] = process
            process.join()
            if self._stopping.is_set():
                break
            ended = f"the process that runs the network on {device} ended"
            if not ready.is_set():
                remedy = (
                    "see the error above" if process.exitcode == 1 else "give the job more memory"
                )
                _LOG.error("%s while it started; %s", ended, remedy)
                break
            _LOG.warning("%s, most likely because memory ran out; starting it again", ended)
        with self._lock:
            self._n_kept -= 1
            if self._n_kept == 0:
                self._listener.close()  # nodes that wait for a worker would wait forever


def _serve(
    load_network: Callable[[], nn.Module],
    ready: Event,
    listener: socket.socket,
    batch_size: int | None,
    precision: str,
) -> None:
    start_worker()
    from swift_bids.steps.embedding_worker import serve

    serve(listener, load_network, batch_size, precision, ready)
