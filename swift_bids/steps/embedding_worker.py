"""A process that owns a GPU and embeds the runs of other processes.

Starting CUDA takes seconds and half a gigabyte, so the nodes do not do it themselves: each sends
the paths of its matrix and index map, as JSON through a Unix socket, and gets the tokens back. All
workers accept from the same socket, so whichever has room takes the next run.
"""

from __future__ import annotations

import io
import json
import logging
import os
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Client, Connection
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from swift_bids.base.backbones import CHUNK_VOLUMES
from swift_bids.base.errors import InputError
from swift_bids.steps.chunk_queue import ChunkQueue, QueuedRun
from swift_bids.steps.embed import MAX_BATCH, Embedder
from swift_bids.steps.normalise import MatrixFile

_LOG = logging.getLogger("swift_bids")
#: First byte of an answer to a node. Tokens are followed by an .npy file, a failure by its reason.
_STARTED, _CHUNK_DONE, _TOKENS, _FAILED = b"S", b"C", b"T", b"F"


def serve(
    listener: socket.socket,
    load_network: Callable[[], nn.Module],
    batch_size: int | None,
    precision: str,
    ready: Event,
) -> None:
    """Embed runs until the process is killed.

    Parameters
    ----------
    listener
        Socket that all workers listen on.
    load_network
        Loads the network onto the device of this worker.
    batch_size, precision
        As for `swift_bids.steps.embed.Embedder`.
    ready
        Set when a first chunk has been through the network, which shows that the device works.
    """
    with _exit_after_error():
        embedder, queue = Embedder(load_network(), batch_size, precision), ChunkQueue()
        first = QueuedRun(np.zeros((1, 1), np.float16), np.zeros(1), [0], 0.0)
        queue.put(first)
        queue.close()
        embedder.embed(queue)
        first.tokens()
        ready.set()
        queue = ChunkQueue()
        threading.Thread(target=_accept, args=(listener, queue), daemon=True).start()
        embedder.embed(queue)


@contextmanager
def _exit_after_error() -> Iterator[None]:
    """End the process after an error, in whichever thread: nothing works after an error of the GPU.
    The nodes notice its end, and ask the worker that replaces it."""
    try:
        yield
    except Exception as error:
        _LOG.error("%s: %s", type(error).__name__, error)
        os._exit(1)


def embed_in_worker(
    address: str,
    matrix: str | Path,
    index: str | Path,
    starts: Sequence[int],
    background: float,
    on_chunk: Callable[[], object],
    chunk_volumes: int = CHUNK_VOLUMES,
) -> np.ndarray:
    """Let a worker embed a run; the same as `swift_bids.steps.embed.embed_chunks`.

    Parameters
    ----------
    address
        Path of the workers' socket.
    matrix, index
        Files with the (volume, brain voxel) matrix and the index map.
    starts, background, on_chunk, chunk_volumes
        As for `swift_bids.steps.chunk_queue.QueuedRun`.

    Raises
    ------
    InputError
        The worker was killed, and once more while it embedded only this run; or the GPU has no
        memory left.
    """
    run = {
        "matrix": str(matrix),
        "index": str(index),
        "starts": list(starts),
        "background": background,
        "chunk_volumes": chunk_volumes,
    }
    # A worker that is killed may have embedded several runs: each of them tries again alone, so
    # that only the run that needs too much fails.
    alone = False
    while True:
        started = False
        for answer in _ask(address, run | {"alone": alone}):
            kind, content = answer[:1], answer[1:]
            if kind == _TOKENS:
                return np.load(io.BytesIO(content))
            if kind == _FAILED:
                raise InputError(content.decode())
            started = True
            if kind == _CHUNK_DONE:
                on_chunk()
        if alone and started:
            raise InputError(
                "the process that runs the network ended twice while it embedded this run, most "
                "likely because memory ran out; give the job more memory, or use --batch-size 1"
            )
        alone = True


def _ask(address: str, request: dict[str, Any]) -> Iterator[bytes]:
    """Yield the answers of a worker until it closes the connection or ends."""
    try:
        with Client(address, "AF_UNIX") as connection:
            connection.send_bytes(json.dumps(request).encode())
            while True:
                yield connection.recv_bytes()
    except (FileNotFoundError, ConnectionRefusedError) as error:
        raise InputError("no process is left that runs the network; see the log") from error
    except (EOFError, OSError):
        return


def _accept(listener: socket.socket, queue: ChunkQueue) -> None:
    """Put runs into the queue as long as it is short; other workers take the rest."""
    running: list[threading.Thread] = []
    with _exit_after_error():
        while True:
            queue.wait_until_shorter(than=2 * MAX_BATCH)
            connection = Connection(listener.accept()[0].detach())
            try:
                request = json.loads(connection.recv_bytes())
            except (EOFError, OSError):  # its node was killed
                continue
            running = [thread for thread in running if thread.is_alive()]
            if request["alone"]:
                for thread in running:
                    thread.join()
            thread = threading.Thread(target=_embed, args=(connection, queue, request), daemon=True)
            thread.start()
            running.append(thread)
            if request["alone"]:
                thread.join()


def _embed(connection: Connection, queue: ChunkQueue, request: dict[str, Any]) -> None:
    """Embed one run and answer its node."""

    def report() -> None:
        try:
            connection.send_bytes(_CHUNK_DONE)
        except OSError as error:  # its node was killed
            run.fail(error)

    with _exit_after_error(), connection, suppress(BrokenPipeError, ConnectionResetError):
        connection.send_bytes(_STARTED)
        try:
            matrix, index = MatrixFile(request["matrix"]), np.load(request["index"])
            run = QueuedRun(
                matrix,
                index,
                request["starts"],
                request["background"],
                report,
                request["chunk_volumes"],
            )
            queue.put(run)
            tokens = run.tokens()
        except (InputError, OSError, ValueError) as error:
            connection.send_bytes(_FAILED + str(error).encode())
            return
        content = io.BytesIO()
        np.save(content, tokens)
        connection.send_bytes(_TOKENS + content.getvalue())
