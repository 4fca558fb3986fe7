"""Matrix + index map + chunk table -> tokens (chunk, feature, x, y, z, t).

The rows of the matrix are copied to the device as they are (float16, 9 MB per chunk). The device
scatters them into the 96^3 input. While the network processes one batch, a thread reads the next
one, and the tokens of the one before return to the CPU. A batch may have chunks of several runs.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from swift_bids.base.backbones import CHUNK_VOLUMES
from swift_bids.base.errors import InputError
from swift_bids.geometry.frames import MODEL_SHAPE
from swift_bids.network.precision import at_precision
from swift_bids.steps.chunk_queue import ChunkQueue, QueuedRun
from swift_bids.steps.normalise import MatrixFile

_LOG = logging.getLogger("swift_bids")
#: Share of a GPU's free memory that a batch may fill.
_MEMORY_SHARE = 0.8
#: What errors of torch, of CUDA and of cuBLAS say when the memory is full.
_OUT_OF_MEMORY = ("out of memory", "ALLOC_FAILED")
#: Larger batches are not faster.
MAX_BATCH = 16


def embed_chunks(
    matrix: np.ndarray | MatrixFile,
    index: np.ndarray,
    starts: Sequence[int],
    background: float,
    network: nn.Module,
    batch_size: int | None = None,
    precision: str = "float32",
    on_chunk: Callable[[], object] = lambda: None,
    chunk_volumes: int = CHUNK_VOLUMES,
) -> np.ndarray:
    """Run the network over the chunks of one run.

    Parameters
    ----------
    matrix, index, starts, background, on_chunk, chunk_volumes
        As for `swift_bids.steps.chunk_queue.QueuedRun`.
    network, batch_size, precision
        As for `Embedder`.

    Returns
    -------
    numpy.ndarray
        (chunk, C, x, y, z, t) float32 tokens; (chunk, 288, 2, 2, 2, 20) for the released networks.

    Raises
    ------
    InputError
        The memory of the device is too small for even one chunk.
    UsageError
        The device does not support this precision.
    """
    run = QueuedRun(matrix, index, starts, background, on_chunk, chunk_volumes)
    queue = ChunkQueue()
    queue.put(run)
    queue.close()
    Embedder(network, batch_size, precision).embed(queue)
    return run.tokens()


class ModelInput:
    """The network's input for a batch of chunks, reused for every batch.

    Parameters
    ----------
    batch_size
        Largest number of chunks in a batch.
    device
        Device of the network.
    n_volumes
        Volumes of a chunk.

    Notes
    -----
    Time is the innermost axis in memory, as the network reads it.
    """

    def __init__(
        self, batch_size: int, device: torch.device | str = "cpu", n_volumes: int = CHUNK_VOLUMES
    ):
        self.batch_size = batch_size
        shape = (batch_size, math.prod(MODEL_SHAPE), n_volumes)  # (B, X * Y * Z, T)
        self._voxels = torch.empty(shape, dtype=torch.float32, device=device)
        self._runs: list[QueuedRun | None] = [None] * batch_size

    def fill(self, runs: Sequence[QueuedRun], rows: Sequence[Tensor]) -> Tensor:
        """Scatter the brain voxels (T, brain voxel) of a chunk of each run into (B, 1, 96, 96, 96,
        T) float32.

        The background is written only where the batch before had a chunk of another run.
        """
        device = self._voxels.device
        for volumes, run, before, values in zip(self._voxels, runs, self._runs, rows):
            if before is not run:
                volumes.fill_(run.background)
            values = values.to(device, non_blocking=True).T.to(torch.float32)
            volumes.index_copy_(0, run.index_on(device), values)
        self._runs[: len(runs)] = runs
        return self._voxels[: len(runs)].view(len(runs), 1, *MODEL_SHAPE, self._voxels.shape[2])


#: A run, the number of one of its chunks, and the rows of that chunk.
_Read = tuple[QueuedRun, int, Tensor]


@dataclass(frozen=True)
class _Launched:
    """A batch in the network, and its tokens on their way to the CPU.

    On the CPU, `copied` is None, and the tokens are there already.
    """

    runs: Sequence[QueuedRun]
    chunks: Sequence[int]
    tokens: Tensor
    copied: torch.cuda.Event | None = None

    def deliver(self) -> None:
        """Wait for the tokens and give them to the runs."""
        if self.copied is not None:
            self.copied.synchronize()
        for run, chunk, tokens in zip(self.runs, self.chunks, self.tokens.numpy()):
            run.add(chunk, tokens)


class Embedder:
    """Sends the chunks of a queue through the network.

    Parameters
    ----------
    network
        The network, in evaluation mode, on the device that does the work.
    batch_size
        Chunks that go through the network together; None: one on the CPU, and on a GPU as many as
        fit in its free memory. The number is halved whenever the GPU runs out of memory.
    precision
        One of `swift_bids.network.precision.PRECISIONS`.
    """

    def __init__(
        self, network: nn.Module, batch_size: int | None = None, precision: str = "float32"
    ):
        self._network, self._precision = network, precision
        self._device = next(network.parameters()).device
        self._is_gpu = self._device.type == "cuda"
        self._batch_size = batch_size or 1
        # The first chunk goes alone, to measure its memory.
        self._measured = batch_size is not None or not self._is_gpu
        self._input: ModelInput | None = None

    def embed(self, queue: ChunkQueue) -> None:
        """Embed the chunks of a queue until it is closed and empty.

        Raises
        ------
        UsageError
            The device does not support the precision.
        """
        use_device(self._device)
        if not self._measured:
            # An earlier run in this process may have used more memory.
            torch.cuda.reset_peak_memory_stats(self._device)
        with (
            torch.inference_mode(),
            at_precision(self._precision, self._device),
            ThreadPoolExecutor(1, initializer=use_device, initargs=(self._device,)) as reader,
        ):
            try:
                self._embed_batches(queue, reader)
            finally:
                queue.close()  # otherwise the reader would wait forever after an error

    def _embed_batches(self, queue: ChunkQueue, reader: ThreadPoolExecutor) -> None:
        launched: _Launched | None = None
        ahead = reader.submit(self._read, queue, self._batch_size)
        while True:
            if launched is not None and not ahead.done():
                launched.deliver()
                launched = None
            batch = ahead.result()
            if not batch:
                break
            ahead, before = reader.submit(self._read, queue, self._batch_size), launched
            launched = self._launch(batch)
            if before is not None:
                before.deliver()
        if launched is not None:
            launched.deliver()

    def _read(self, queue: ChunkQueue, n: int) -> list[_Read]:
        """Read the next batch of up to `n` chunks; an empty list marks the end of the queue.

        A file that cannot be read fails its run alone.
        """
        while chunks := queue.take(n):
            batch: list[_Read] = []
            for run, chunk in chunks:
                try:
                    if run.error is None:
                        batch.append((run, chunk, run.read_rows(chunk, self._is_gpu)))
                except (OSError, ValueError) as error:
                    run.fail(error)
            if batch:
                return batch
        return []

    def _launch(self, batch: Sequence[_Read]) -> _Launched | None:
        """Start a batch. If it does not fit in memory, embed it in smaller ones and return None; a
        run of which not even one chunk fits has failed."""
        try:
            launched = self._start(batch)
        except RuntimeError as error:
            if not any(text in str(error) for text in _OUT_OF_MEMORY):
                raise
            launched = None
        # Not in the except block: there, the traceback still holds references to the tensors.
        if launched is not None:
            if not self._measured:
                n_volumes = batch[0][0].chunk_volumes
                self._batch_size = batch_that_fits(self._device, n_volumes)
                self._measured = True
            return launched
        self._input = None
        if self._is_gpu:
            torch.cuda.empty_cache()
        if len(batch) == 1:
            batch[0][0].fail(
                InputError(
                    f"{self._device} has no memory left for even one chunk; end other programs "
                    f"that use it, or choose another --device"
                )
            )
            return None
        self._batch_size = len(batch) // 2
        _LOG.warning(
            "%s has no memory left: continuing with %d chunk(s) per batch",
            self._device,
            self._batch_size,
        )
        while batch:
            part, batch = batch[: self._batch_size], batch[self._batch_size :]
            if (launched_part := self._launch(part)) is not None:
                launched_part.deliver()
        return None

    def _start(self, batch: Sequence[_Read]) -> _Launched:
        runs, chunks, rows = zip(*batch)
        if self._input is None or self._input.batch_size < len(batch):
            self._input = None  # its memory is free before the larger one is allocated
            self._input = ModelInput(len(batch), self._device, len(rows[0]))
        tokens = self._network(self._input.fill(runs, rows)).float()
        if not self._is_gpu:
            return _Launched(runs, chunks, tokens)
        pinned = torch.empty(tokens.shape, dtype=tokens.dtype, pin_memory=True)
        pinned.copy_(tokens, non_blocking=True)
        copied = torch.cuda.Event(blocking=True)  # waiting for it leaves the CPU to the readers
        copied.record()
        return _Launched(runs, chunks, pinned, copied)


def use_device(device: torch.device) -> None:
    """Make this thread pin memory for the device of the network, not for the first GPU."""
    if device.type == "cuda":
        torch.cuda.set_device(device)
        # cuDNN's attention plans each new batch size for seconds
        torch.backends.cuda.enable_cudnn_sdp(False)


def batch_that_fits(device: torch.device, n_volumes: int) -> int:
    """Return how many chunks fit in a GPU's free memory, once one has been through the network."""
    free, _ = torch.cuda.mem_get_info(device)
    per_chunk = torch.cuda.max_memory_allocated(device) - torch.cuda.memory_allocated(device)
    per_chunk += math.prod(MODEL_SHAPE) * n_volumes * 4  # its input stays allocated
    reserved = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return max(1, min(MAX_BATCH, int(_MEMORY_SHARE * (free + reserved) / per_chunk)))
