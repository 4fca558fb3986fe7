"""4D BOLD image + positions of the brain voxels -> blocks of their values, from front to back.

The image is read once, in blocks of volumes, and is never in memory as a whole. While one block is
worked on, the next is read and decompressed by a thread.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import nibabel as nib
import numpy as np
from isal import igzip, isal_zlib
from nibabel.arrayproxy import ArrayProxy
from nibabel.filebasedimages import ImageFileError
from nibabel.fileholders import FileHolder
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError

from swift_bids.base.errors import InputError
from swift_bids.geometry.grid import flat_storage_index, interpolation_weights, is_fsl_grid

#: A block holds at most so many volumes and bytes: 8 volumes of 902,629 float32 voxels are 29 MB.
VOLUMES_AT_ONCE, BYTES_AT_ONCE = 8, 32_000_000
#: Voxels of a volume: more than 512 along each axis are not believed.
MOST_VOXELS = 512**3
#: Bytes that deflate, gzip's method, makes of one at most.
DEFLATE_AT_MOST = 1032
#: What to do about a file that is not what its name says.
AGAIN = "take it over from fMRIPrep's output again"
#: First bytes of a NIfTI-2 file, the size of its header in either byte order.
_NIFTI2_START = ((540).to_bytes(4, "little"), (540).to_bytes(4, "big"))
#: What a damaged or truncated image raises, in the gzip layer or in nibabel.
UNREADABLE: tuple[type[Exception], ...] = (
    OSError,
    EOFError,
    zlib.error,
    cast(type[Exception], isal_zlib.error),  # isal's stub has an instance for the class
    ImageFileError,
    HeaderDataError,
    WrapStructError,
)


@contextmanager
def open_image(file: str | Path) -> Iterator[nib.Nifti1Image]:
    """Open a NIfTI for reading from front to back, gzip through isal (twice zlib's speed).

    At the end the rest of the file is read, too, so that a checksum that is wrong, or what does not
    belong behind the image, is found.

    Raises
    ------
    InputError
        The file cannot be read, here or while the image is in use, or cannot hold what its header
        promises.
    """
    opener = igzip.open if str(file).endswith(".gz") else open
    try:
        with opener(file, "rb") as stream:
            start = stream.read(4)
            stream.seek(0)
            kind = nib.Nifti2Image if start in _NIFTI2_START else nib.Nifti1Image
            image = kind.from_file_map({"image": FileHolder(fileobj=stream)})
            refuse_impossible(file, image.header)
            yield image
            while stream.read(BYTES_AT_ONCE):
                pass
    except UNREADABLE as error:
        raise InputError(
            f"{file}: cannot be read ({error or type(error).__name__}); the file is damaged "
            f"or incomplete, fetch or make it again"
        ) from error


@contextmanager
def open_bold(bold_file: str | Path) -> Iterator[nib.Nifti1Image]:
    """Open a 4D image as `open_image` does; InputError where it is none."""
    with open_image(bold_file) as image:
        if image.ndim != 4:
            raise InputError(f"{bold_file}: has {image.ndim} dimensions, a BOLD run has 4; {AGAIN}")
        yield image


def refuse_impossible(file: str | Path, header: nib.Nifti1Header) -> None:
    """Refuse a header that promises more than any scanner makes or its file can hold, before memory
    is taken for it.

    Raises
    ------
    InputError
        As said.
    """
    shape = tuple(int(n) for n in header.get_data_shape())  # Python's, which cannot overflow
    size = " x ".join(map(str, shape))
    if min(shape, default=0) < 1 or math.prod(shape[:3]) > MOST_VOXELS:
        raise InputError(
            f"{file}: its header promises {size} voxels, which is no image of a brain; {AGAIN}"
        )
    promised = math.prod(shape) * header.get_data_dtype().itemsize
    there = Path(file).stat().st_size
    if promised > there * (DEFLATE_AT_MOST if str(file).endswith(".gz") else 1):
        raise InputError(
            f"{file}: its header promises {size} voxels, more than a file of {there:,} bytes can "
            f"hold; the file is incomplete or damaged, fetch or make it again"
        )


def brain_rows(
    bold: nib.Nifti1Image, bold_file: str | Path, fsl: np.ndarray
) -> Iterator[np.ndarray]:
    """Yield the brain voxels of a run in blocks, float32 (volume, brain voxel), in order.

    Parameters
    ----------
    bold, bold_file
        Opened by `open_bold`, and the name for messages.
    fsl
        (brain voxel,) flat C-order positions in the FSL grid. A run on another grid is interpolated
        linearly at these places; beyond its field of view is 0.
    """
    values_at = _reader_of(bold, fsl)
    for block in _ahead(_volumes(bold, bold_file)):
        rows = np.empty((len(block), len(fsl)), dtype=np.float32)
        for row, volume in zip(rows, block):
            with np.errstate(over="ignore"):  # beyond float32 is infinite, and counted as that
                row[:] = values_at(volume)
        yield rows


def _stored(bold: nib.Nifti1Image) -> ArrayProxy:
    """The data of an image that was opened from a file, as they lie there."""
    return cast(ArrayProxy, bold.dataobj)


def _reader_of(bold: nib.Nifti1Image, fsl: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """A function from a flat volume as it is stored to the values of its brain voxels."""
    shape, affine = bold.shape[:3], bold.affine
    stored = _stored(bold)
    slope, inter = np.float64(stored.slope), np.float64(stored.inter)

    def scaled(values: np.ndarray) -> np.ndarray:
        return values if (slope, inter) == (1, 0) else values * slope + inter

    if is_fsl_grid(shape, affine):
        storage = flat_storage_index(shape, affine, fsl)
        return lambda volume: scaled(volume[storage])
    weights = interpolation_weights(shape, affine, fsl)
    return lambda volume: weights @ scaled(volume).astype(np.float32, copy=False)


def _volumes(bold: nib.Nifti1Image, bold_file: str | Path) -> Iterator[np.ndarray]:
    """Yield blocks (volume, X * Y * Z) of unscaled numbers, voxels in NIfTI's order (x fastest)."""
    stored = _stored(bold)
    if stored.dtype.kind not in "iuf":
        raise InputError(
            f"{bold_file}: holds {stored.dtype} values, BOLD must be real numbers; {AGAIN}"
        )
    unscaled = ArrayProxy(stored.file_like, (stored.shape, stored.dtype, stored.offset))
    n_voxels = int(np.prod(stored.shape[:3]))
    at_once = BYTES_AT_ONCE // max(1, n_voxels * stored.dtype.itemsize)
    at_once = max(1, min(VOLUMES_AT_ONCE, at_once))
    for start in range(0, stored.shape[3], at_once):
        try:
            block = np.asarray(unscaled[..., start : start + at_once])  # (X, Y, Z, volume)
        except ValueError as error:  # nibabel's for data that end early
            raise InputError(
                f"{bold_file}: holds fewer than the {stored.shape[3]} volumes of its header; the "
                f"file is incomplete, fetch or make it again"
            ) from error
        yield block.reshape(n_voxels, -1, order="F").T


def _ahead(blocks: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """Yield what `blocks` yields, while a thread gets the next."""
    with ThreadPoolExecutor(max_workers=1) as reader:
        coming = reader.submit(next, blocks, None)
        while (block := coming.result()) is not None:
            coming = reader.submit(next, blocks, None)
            yield block
