"""A raw run -> its volumes, corrected for the times at which their slices were acquired."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

import nibabel as nib
import numpy as np

from swift_bids.geometry.slice_timing import SMALLEST_SHIFT, shift_series
from swift_bids.inputs.bold_reader import scaling, stored_volumes
from swift_bids.steps.kept_rows import write_block

#: Volumes of a block.
_BLOCK_VOLUMES = 8


@contextmanager
def corrected_blocks(
    bold: nib.Nifti1Image,
    bold_file: str | Path,
    shifts: np.ndarray,
    first_volume: int,
    folder: Path,
) -> Iterator[Iterator[np.ndarray]]:
    """Correct the slice timing of a run; yields its blocks, float32 (volume, X * Y * Z).

    The correction needs all volumes of a slice. They wait in a temporary file, uncompressed.

    Parameters
    ----------
    bold, bold_file
        The image opened by `swift_bids.inputs.bold_reader.open_bold`, and its name for messages.
    shifts
        (slice,) how much later than it was acquired each slice is wanted, in volumes.
    first_volume
        Number of dummy scans; they stay as they are.
    folder
        Where to create the temporary file.

    Raises
    ------
    OutputError
        The disk is full.
    """
    scaled = scaling(bold)
    n_voxels = int(np.prod(bold.shape[:3]))
    # 3dTshift returns whole numbers if the file contains them
    header = bold.header
    whole = header.get_data_dtype().kind in "iu" and header.get_slope_inter()[0] in (None, 1)
    with TemporaryFile(dir=folder, buffering=0) as file:
        for block in stored_volumes(bold, bold_file):
            write_block(file, np.ascontiguousarray(scaled(block), dtype=np.float32), folder)
        shape = (bold.shape[3], n_voxels)
        per_slice = n_voxels // bold.shape[2]
        for number in np.flatnonzero(np.abs(shifts) >= SMALLEST_SHIFT):
            # mapped anew for each slice, so that the whole file does not count as memory
            stored = np.memmap(file, np.float32, "r+", shape=shape)
            of_slice = np.s_[first_volume:, number * per_slice : (number + 1) * per_slice]
            corrected = shift_series(stored[of_slice], shifts[number])
            stored[of_slice] = np.rint(corrected) if whole else corrected
            del stored
        yield _blocks(file, shape)


def _blocks(file: IO[bytes], shape: tuple[int, int]) -> Iterator[np.ndarray]:
    file.seek(0)
    for start in range(0, shape[0], _BLOCK_VOLUMES):
        n_volumes = min(_BLOCK_VOLUMES, shape[0] - start)
        content = file.read(4 * n_volumes * shape[1])
        yield np.frombuffer(content, np.float32).reshape(n_volumes, shape[1])
