"""Blocks of brain voxels, kept until the statistics of the whole run are known."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryFile
from types import TracebackType
from typing import IO

import numpy as np

from swift_bids.base.errors import os_errors_as_output_errors

#: Memory for the brain voxels of a run as float32; 320 MB are enough for 350 volumes of a brain.
MAX_BYTES_IN_MEMORY = 320_000_000


def write_block(file: IO[bytes], block: np.ndarray, folder: Path) -> None:
    """Write an array to a temporary file in a folder.

    Raises
    ------
    OutputError
        The disk is full. An OSError would look like a damaged BOLD file to `open_bold`.
    """
    left = block.data.cast("B")
    with os_errors_as_output_errors(folder):
        while len(left):  # an unbuffered file may take a part only
            left = left[file.write(left) :]


class KeptRows:
    """Float32 (volume, voxel) blocks: the first ones in memory, the rest in a temporary file.

    Reading a long run twice instead takes longer, since decompressing it takes most of the time.

    Parameters
    ----------
    folder
        Where to create the file; it has no name and disappears with this process.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._blocks: list[np.ndarray] = []
        self._n_bytes = 0
        self._shapes_in_file: list[tuple[int, ...]] = []

    def __enter__(self) -> KeptRows:
        with os_errors_as_output_errors(self.folder):
            self._file = TemporaryFile(dir=self.folder)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def append(self, block: np.ndarray) -> None:
        """Keep a block; the caller must not change it afterwards.

        Raises
        ------
        OutputError
            The disk is full.
        """
        self._n_bytes += block.nbytes
        if self._n_bytes <= MAX_BYTES_IN_MEMORY:
            self._blocks.append(block)
            return
        write_block(self._file, block, self.folder)
        self._shapes_in_file.append(block.shape)

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yield the blocks in order, and keep them; the caller must not change them."""
        yield from self._blocks
        yield from self._blocks_in_file()

    def pop_all(self) -> Iterator[np.ndarray]:
        """Yield the blocks in order, and drop each, so that the caller may change it."""
        while self._blocks:
            yield self._blocks.pop(0)
        yield from self._blocks_in_file()

    def _blocks_in_file(self) -> Iterator[np.ndarray]:
        self._file.seek(0)
        for shape in self._shapes_in_file:
            block = np.empty(shape, np.float32)
            self._file.readinto(block.data)
            yield block
