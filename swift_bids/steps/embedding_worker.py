"""A process that owns a GPU and embeds the runs of other processes.

Starting CUDA takes seconds and half a gigabyte, so the nodes do not do it themselves: each sends
the paths of its matrix and index map, as JSON through a Unix socket, and gets the tokens back. All
workers accept from the same socket, so whichever has room takes the next run.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.connection import Client, Connection
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from swift_bids.base.errors import InputError
from swift_bids.steps.chunk_queue import ChunkQueue, QueuedRun
from swift_bids.steps.embed import MAX_BATCH, Embedder
from swift_bids.steps.normalise import MatrixFile

#: Answers to a node. After `_TOKENS` follow the shape and the values, after `_FAILED` the reason.
_CHUNK_DONE, _TOKENS, _FAILED = b"chunk", b"tokens", b"failed"


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
        Set when the network is loaded.
    """
    try:
        embedder, queue = Embedder(load_network(), batch_size, precision), ChunkQueue()
        threading.Thread(target=_accept, args=(listener, queue), daemon=True).start()
        ready.set()
        embedder.embed(queue)
    except Exception:
        # Nothing works after an error of the GPU: the other processes notice the end of this one,
        # and ask the worker that replaces it.
        traceback.print_exc()
    os._exit(1)


def embed_in_worker(
    address: str,
    matrix: str | Path,
    index: str | Path,
    starts: Sequence[int],
    background: float,
    on_chunk: Callable[[], object],
) -> np.ndarray:
    """Let a worker embed a run; the same as `swift_bids.steps.embed.embed_chunks`.

    Parameters
    ----------
    address
        Path of the workers' socket.
    matrix, index
        Files with the (volume, brain voxel) matrix and the index map.
    starts, background, on_chunk
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
    }
    # A worker that is killed may have embedded several runs: each of them tries again alone, so
    # that only the run that needs too much fails.
    for alone in (False, True):
        try:
            with Client(address, "AF_UNIX") as connection:
                connection.send_bytes(json.dumps(run | {"alone": alone}).encode())
                while (message := connection.recv_bytes()) == _CHUNK_DONE:
                    on_chunk()
                if message == _TOKENS:
                    shape = json.loads(connection.recv_bytes())
                    return np.frombuffer(connection.recv_bytes(), np.float32).reshape(shape)
                raise InputError(connection.recv_bytes().decode())
        except (EOFError, ConnectionResetError, BrokenPipeError):
            pass
        except (FileNotFoundError, ConnectionRefusedError) as error:
            raise InputError("no process is left that runs the network; see the log") from error
    raise InputError(
        "the process that runs the network ended twice while it embedded this run, most likely "
        "because memory ran out; give the job more memory, or use --batch-size 1"
    )


def _accept(listener: socket.socket, queue: ChunkQueue) -> None:
    """Put runs into the queue as long as it is short; other workers take the rest."""
    running: list[threading.Thread] = []
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

    with connection, suppress(BrokenPipeError, ConnectionResetError):
        try:
            matrix, index = MatrixFile(request["matrix"]), np.load(request["index"])
            run = QueuedRun(matrix, index, request["starts"], request["background"], report)
            queue.put(run)
            tokens = run.tokens()
        except (InputError, OSError, ValueError) as error:
            connection.send_bytes(_FAILED)
            connection.send_bytes(str(error).encode())
            return
        connection.send_bytes(_TOKENS)
        connection.send_bytes(json.dumps(tokens.shape).encode())
        connection.send_bytes(tokens.data)
