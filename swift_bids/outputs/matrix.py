"""The conformed matrix of a run (`--keep-matrix`): the network's input without its background."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from swift_bids.base.errors import InputError
from swift_bids.base.files import write_atomically
from swift_bids.steps.normalise import Matrix

MATRIX = (
    "Input of the network: z-scores of the brain voxels (dataset matrix), their flat C-order "
    "positions in 96 x 96 x 96 (index), and the value of all other voxels (attribute background)"
)
#: Volumes that are copied at a time.
_BLOCK = 64


@dataclass(frozen=True)
class Conformed:
    """A run as the network reads it.

    Attributes
    ----------
    matrix
        (volume, brain voxel) z-scores.
    index
        (brain voxel,) flat C-order positions in 96^3.
    background
        z-score outside the brain.
    affine
        Voxel-to-world affine (4, 4) of the 96^3 input, in mm.
    """

    matrix: Matrix
    index: np.ndarray
    background: float
    affine: np.ndarray


def write_matrix(file: Path, run: Conformed) -> None:
    """Write a run as HDF5."""

    import h5py  # only with --keep-matrix

    def write(temporary: Path) -> None:
        # the app holds a lock on the file already
        with h5py.File(temporary, "w", locking=False) as content:
            shape = run.matrix.shape
            stored = content.create_dataset("matrix", shape, run.matrix[0:1].dtype)
            for start in range(0, shape[0], _BLOCK):
                stored[start : start + _BLOCK] = run.matrix[start : start + _BLOCK]
            content["index"] = run.index.astype(np.int32)
            content.attrs["background"] = run.background
            content.attrs["affine"] = run.affine

    write_atomically(file, write)


class KeptMatrix:
    """A matrix that `write_matrix` wrote, read a few volumes at a time.

    Attributes
    ----------
    file, shape
        The file, and (volume, brain voxel).
    index, background, affine
        As in `Conformed`.

    Raises
    ------
    InputError
        The file cannot be read.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self.shape: tuple[int, ...]
        try:
            # Closed again: hundreds of runs would be too many open files.
            with self._open() as content:
                self.shape = content["matrix"].shape
                self.index: np.ndarray = content["index"][:]
                self.background = float(content.attrs["background"])
                self.affine: np.ndarray = content.attrs["affine"][:]
        except (OSError, KeyError) as error:
            raise InputError(
                f"{file}: is not a matrix of --keep-matrix ({error}); embed the run again"
            ) from error

    def _open(self) -> Any:
        import h5py

        # file systems of clusters may not have locks
        return h5py.File(self.file, locking=False)

    def __getitem__(self, volumes: slice) -> np.ndarray:
        """Read some volumes, (volume, brain voxel)."""
        with self._open() as content:
            return content["matrix"][volumes]

    def mean(self) -> np.ndarray:
        """Mean over the volumes, (brain voxel,) float64."""
        total = np.zeros(self.shape[1])
        for start in range(0, self.shape[0], _BLOCK):
            total += self[start : start + _BLOCK].sum(axis=0, dtype=np.float64)
        return total / self.shape[0]
