"""Matrix + index map + chunk table -> tokens (chunk, 288, 2, 2, 2, 20).

The rows of the matrix are copied to the device as they are (9 MB per chunk). The device scatters
them into the 96^3 input, whose background is written only once. While the network processes one
batch, a thread reads the next one into memory.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor, nn

from swift_bids.base.errors import UsageError
from swift_bids.geometry.frames import MODEL_SHAPE
from swift_bids.geometry.resample_time import CHUNK_VOLUMES
from swift_bids.network.precision import at_precision
from swift_bids.steps.chunk import chunk_rows
from swift_bids.steps.normalise import MatrixFile

_LOG = logging.getLogger("swift_bids")
#: Share of a GPU's free memory that a batch may fill.
_MEMORY_SHARE = 0.8
#: Larger batches are not faster.
_MAX_CHUNKS = 16


def choose_device(device: str) -> tuple[str, str | None]:
    """Turn `--device` into a torch device.

    Parameters
    ----------
    device
        `auto`, `cpu`, `cuda` or `cuda:N`.

    Returns
    -------
    device : str
        `cpu`, `cuda` or `cuda:N`.
    warning : str or None
        Message for the user if `auto` falls back to the CPU although torch was built for GPUs.

    Raises
    ------
    UsageError
        The requested GPU cannot be used.
    """
    remedy = (
        "in a container, add --gpus all (docker) or --nv (apptainer); otherwise install a CUDA "
        "build of torch, or use --device cpu"
    )
    if device == "cpu":
        return "cpu", None
    if not torch.cuda.is_available():
        if device == "auto":
            built = torch.backends.cuda.is_built()
            return "cpu", f"found no usable GPU, using the CPU; {remedy}" if built else None
        raise UsageError(f"--device {device}: torch sees no GPU; {remedy}")
    wanted = torch.device("cuda" if device == "auto" else device)
    if wanted.index is not None and wanted.index >= torch.cuda.device_count():
        raise UsageError(
            f"--device {device}: torch sees {torch.cuda.device_count()} GPU(s), numbered from 0; "
            f"choose one of these"
        )
    return str(wanted), None


class ModelInput:
    """The network's input for a batch of chunks of one run, reused for every batch.

    Parameters
    ----------
    index
        (brain voxel,) flat C-order positions in 96^3, on the device of the network.
    background
        z-score of all other voxels.
    batch_size
        Largest number of chunks in a batch.

    Notes
    -----
    Time is the innermost axis in memory, as the network reads it.
    """

    def __init__(self, index: Tensor, background: float, batch_size: int):
        shape = (batch_size, math.prod(MODEL_SHAPE), CHUNK_VOLUMES)  # (B, X * Y * Z, T)
        self._index = index
        self._voxels = torch.full(shape, background, dtype=torch.float32, device=index.device)

    def fill(self, rows: Tensor) -> Tensor:
        """Scatter brain voxels (B, T, brain voxel) into (B, 1, 96, 96, 96, T) float32."""
        voxels = self._voxels[: len(rows)]
        voxels.index_copy_(1, self._index, rows.transpose(1, 2).to(torch.float32))
        return voxels.view(len(rows), 1, *MODEL_SHAPE, CHUNK_VOLUMES)


def embed_chunks(
    matrix: np.ndarray | MatrixFile,
    index: np.ndarray,
    starts: Sequence[int],
    background: float,
    network: nn.Module,
    batch_size: int | None = None,
    precision: str = "float32",
    on_chunks: Callable[[int], object] = lambda n: None,
) -> np.ndarray:
    """Run the network over the chunks of one run.

    Parameters
    ----------
    matrix
        (volume, brain voxel) float16 z-scores, in memory or in a file.
    index
        (brain voxel,) flat C-order positions in 96^3.
    starts
        First volume (row of the matrix) of every chunk of 20. If the matrix ends before the chunk
        does, `swift_bids.steps.chunk.chunk_rows` fills the chunk up.
    background
        z-score outside the brain.
    network
        The network, in evaluation mode, on the device that does the work.
    batch_size
        Chunks that go through the network together; None: one on the CPU, and on a GPU as many as
        fit in its free memory. The number is halved whenever the GPU runs out of memory.
    precision
        One of `swift_bids.network.precision.PRECISIONS`.
    on_chunks
        Called after each batch with the number of its chunks (progress).

    Returns
    -------
    numpy.ndarray
        (chunk, C, x, y, z, t) float32 tokens; (chunk, 288, 2, 2, 2, 20) for the released network.

    Raises
    ------
    torch.OutOfMemoryError
        Not even one chunk fits.
    UsageError
        The device does not support this precision.
    """
    device = next(network.parameters()).device
    positions = torch.from_numpy(np.asarray(index, dtype=np.int64)).to(device)
    tokens: list[np.ndarray] = []
    remaining = list(starts)
    size = 1 if batch_size is None else min(batch_size, len(remaining))
    first_alone = batch_size is None and device.type == "cuda"  # to measure its memory
    if first_alone:
        torch.cuda.reset_peak_memory_stats(device)
    while remaining:
        batches = [remaining[i : i + size] for i in range(0, len(remaining), size)]
        batches = batches[:1] if first_alone else batches
        full = False
        try:
            for output in _outputs(matrix, positions, batches, background, network, precision):
                tokens.append(output)
                remaining = remaining[len(output) :]
                on_chunks(len(output))
        except torch.OutOfMemoryError:
            if size == 1:
                raise
            size, full = size // 2, True
            _LOG.warning(
                "%s has no memory left: continuing with %d chunk(s) per batch", device, size
            )
        # Not in the except block: there, the traceback still holds references to the tensors.
        if full:
            torch.cuda.empty_cache()
        elif first_alone and remaining:
            size, first_alone = min(len(remaining), batch_that_fits(device)), False
    return np.concatenate(tokens)


def batch_that_fits(device: torch.device) -> int:
    """Return how many chunks fit in a GPU's free memory, once one has been through the network."""
    free, _ = torch.cuda.mem_get_info(device)
    per_chunk = torch.cuda.max_memory_allocated(device) - torch.cuda.memory_allocated(device)
    reserved = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return max(1, min(_MAX_CHUNKS, int(_MEMORY_SHARE * (free + reserved) / max(per_chunk, 1))))


def _outputs(
    matrix: np.ndarray | MatrixFile,
    positions: Tensor,
    batches: Sequence[Sequence[int]],
    background: float,
    network: nn.Module,
    precision: str,
) -> Iterator[np.ndarray]:
    """Yield the tokens of each batch; a thread reads the next batch meanwhile."""
    device = positions.device
    model_input = ModelInput(positions, background, len(batches[0]))
    # Two alternating buffers, pinned because only copies from pinned memory overlap with GPU work.
    shape = (2, len(batches[0]), CHUNK_VOLUMES, matrix.shape[1])
    buffers = torch.empty(shape, dtype=torch.float16, pin_memory=device.type == "cuda")

    def read(number: int) -> Tensor:
        rows = buffers[number % 2][: len(batches[number])]
        for row, start in zip(rows.numpy(), batches[number]):
            row_numbers = chunk_rows(start, matrix.shape[0])
            first = row_numbers.min()
            row[:] = matrix[first : row_numbers.max() + 1][row_numbers - first]
        return rows

    with (
        torch.inference_mode(),
        at_precision(precision, device),
        ThreadPoolExecutor(max_workers=1) as reader,
    ):
        ahead = reader.submit(read, 0)
        for number in range(len(batches)):
            rows = ahead.result().to(device, non_blocking=True)
            if number + 1 < len(batches):
                ahead = reader.submit(read, number + 1)
            # .cpu() waits for the network, so the copy out of this buffer has finished, too
            yield network(model_input.fill(rows)).float().cpu().numpy()
