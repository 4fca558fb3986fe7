"""Matrix + index map + chunk table -> tokens (chunk, 288, 2, 2, 2, 20).

Brain voxels travel to the device as they lie in the matrix (9 MB a chunk) and are scattered into
the 96^3 input there. While the network works on one batch, the next is read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from swift_bids.chunk import CHUNK_VOLUMES
from swift_bids.errors import UsageError
from swift_bids.grid import MODEL_SHAPE
from swift_bids.model import SwiFT


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
        What the user should know, when `auto` had to take the CPU although a GPU seems to be there.

    Raises
    ------
    UsageError
        A GPU was asked for and cannot be used.
    """
    remedy = (
        "in a container add --gpus all (docker) or --nv (apptainer), else install a CUDA build of "
        "torch, or use --device cpu"
    )
    if device == "cpu":
        return "cpu", None
    if not torch.cuda.is_available():
        if device == "auto":
            built = torch.backends.cuda.is_built()
            return "cpu", f"no usable GPU was found, the CPU is used; {remedy}" if built else None
        raise UsageError(f"--device {device}: torch sees no GPU; {remedy}")
    wanted = torch.device("cuda" if device == "auto" else device)
    if wanted.index is not None and wanted.index >= torch.cuda.device_count():
        raise UsageError(
            f"--device {device}: there are only {torch.cuda.device_count()} GPUs, counted from 0"
        )
    return str(wanted), None


def scatter_to_grid(rows: Tensor, index: Tensor, background: float) -> Tensor:
    """Put brain voxels in their places in the model's input.

    Parameters
    ----------
    rows
        (B, T, brain voxel), z-scores.
    index
        (brain voxel,) flat C-order positions in 96^3, on the device of `rows`.
    background
        Value everywhere else.

    Returns
    -------
    Tensor
        (B, 1, 96, 96, 96, T) float32, a view whose memory runs volume by volume.
    """
    b, t, _ = rows.shape
    volumes = rows.new_full((b, t, math.prod(MODEL_SHAPE)), background, dtype=torch.float32)
    volumes[:, :, index] = rows.float()
    return volumes.view(b, 1, t, *MODEL_SHAPE).permute(0, 1, 3, 4, 5, 2)


def embed(
    matrix: np.ndarray,
    index: np.ndarray,
    starts: Sequence[int],
    background: float,
    network: SwiFT,
    batch_size: int = 1,
    on_chunks: Callable[[int], None] = lambda n: None,
) -> np.ndarray:
    """Run the network over the chunks of one run.

    Parameters
    ----------
    matrix
        (volume, brain voxel) float16 z-scores, in memory or memory-mapped.
    index
        (brain voxel,) flat C-order positions in 96^3.
    starts
        First volume of every chunk of 20.
    background
        z-score outside the brain.
    network
        On the device that is to do the work, in evaluation mode.
    batch_size
        Chunks that go through the network together.
    on_chunks
        Called with the number of chunks after each batch (progress).

    Returns
    -------
    numpy.ndarray
        (chunk, C, x, y, z, t) float32 tokens; (chunk, 288, 2, 2, 2, 20) for the released network.
    """
    device = next(network.parameters()).device
    positions = torch.from_numpy(np.asarray(index)).to(device)
    batches = [starts[i : i + batch_size] for i in range(0, len(starts), batch_size)]

    def read(batch: Sequence[int]) -> Tensor:
        rows = torch.from_numpy(np.stack([matrix[s : s + CHUNK_VOLUMES] for s in batch]))
        return rows.pin_memory() if device.type == "cuda" else rows

    tokens = []
    with torch.inference_mode(), ThreadPoolExecutor(max_workers=1) as reader:
        ahead = reader.submit(read, batches[0])
        for i, batch in enumerate(batches):
            rows = ahead.result().to(device, non_blocking=True)
            if i + 1 < len(batches):
                ahead = reader.submit(read, batches[i + 1])
            tokens.append(network(scatter_to_grid(rows, positions, background)).cpu().numpy())
            on_chunks(len(batch))
    return np.concatenate(tokens)
