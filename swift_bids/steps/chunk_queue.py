"""Runs whose chunks wait for the network, and the tokens of those that have been through it."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from swift_bids.base.backbones import CHUNK_VOLUMES
from swift_bids.steps.chunk import chunk_rows
from swift_bids.steps.normalise import Matrix


class QueuedRun:
    """The chunks of one run, and their tokens.

    Parameters
    ----------
    matrix
        (volume, brain voxel) z-scores, float16 or float32.
    index
        (brain voxel,) flat C-order positions in 96^3.
    starts
        First volume (row of the matrix) of every chunk. If the matrix ends before the chunk
        does, `swift_bids.steps.chunk.chunk_rows` fills the chunk up.
    background
        z-score outside the brain.
    on_chunk
        Called after each chunk (progress).
    chunk_volumes
        Volumes of a chunk.

    Attributes
    ----------
    error
        Why the run failed, if it did.
    """

    def __init__(
        self,
        matrix: Matrix,
        index: np.ndarray,
        starts: Sequence[int],
        background: float,
        on_chunk: Callable[[], object] = lambda: None,
        chunk_volumes: int = CHUNK_VOLUMES,
    ):
        self.starts, self.background, self.chunk_volumes = starts, background, chunk_volumes
        self.error: Exception | None = None
        self._matrix, self._on_chunk = matrix, on_chunk
        self._index = torch.from_numpy(np.asarray(index, dtype=np.int64))
        self._index_on_device: Tensor | None = None
        self._tokens: dict[int, np.ndarray] = {}
        self._finished = threading.Event()

    def index_on(self, device: torch.device) -> Tensor:
        """Return the positions of the brain voxels on a device, and keep them there."""
        if self._index_on_device is None:
            self._index_on_device = self._index.to(device, non_blocking=True)
        return self._index_on_device

    def read_rows(self, chunk: int, pinned: bool = False) -> Tensor:
        """Read the rows of a chunk, (volume, brain voxel) in the type of the matrix.

        Copies from pinned memory to a GPU overlap with its work; the index map is pinned, too.
        """
        if pinned and not self._index.is_pinned():
            self._index = self._index.pin_memory()
        n_volumes, n_voxels = self._matrix.shape
        numbers = chunk_rows(self.starts[chunk], n_volumes, self.chunk_volumes)
        first = numbers.min()
        values = self._matrix[first : numbers.max() + 1]
        kind = torch.float32 if values.dtype == np.float32 else torch.float16
        rows = torch.empty((len(numbers), n_voxels), dtype=kind, pin_memory=pinned)
        rows.numpy()[:] = values[numbers - first]
        return rows

    def add(self, chunk: int, tokens: np.ndarray) -> None:
        """Add the tokens of a chunk."""
        self._tokens[chunk] = tokens
        self._on_chunk()
        if len(self._tokens) == len(self.starts):
            self._finished.set()

    def fail(self, error: Exception) -> None:
        """Give the run up; `tokens` raises this error."""
        self.error = error
        self._finished.set()

    def tokens(self) -> np.ndarray:
        """Wait for the tokens of all chunks, (chunk, C, x, y, z, t) float32."""
        self._finished.wait()
        if self.error is not None:
            raise self.error
        return np.stack([self._tokens[chunk] for chunk in range(len(self.starts))])


class ChunkQueue:
    """Chunks that wait for the network, in the order in which their runs came."""

    def __init__(self) -> None:
        self._chunks: deque[tuple[QueuedRun, int]] = deque()
        self._changed = threading.Condition()
        self._closed = False

    def put(self, run: QueuedRun) -> None:
        """Add all chunks of a run."""
        with self._changed:
            self._chunks.extend((run, chunk) for chunk in range(len(run.starts)))
            self._changed.notify_all()

    def close(self) -> None:
        """Say that no more runs will come."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def take(self, n: int) -> list[tuple[QueuedRun, int]]:
        """Wait for chunks and take up to `n` of them, as (run, number of the chunk); an empty list
        marks the end of the queue."""
        with self._changed:
            self._changed.wait_for(lambda: self._chunks or self._closed)
            taken = [self._chunks.popleft() for _ in range(min(n, len(self._chunks)))]
            self._changed.notify_all()
            return taken

    def wait_until_shorter(self, than: int) -> None:
        """Wait until fewer chunks than this are in the queue."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._chunks) < than)
