"""4D BOLD image + positions of the brain voxels -> blocks of their values, volume by volume.

The image is read once, in blocks of volumes, and is never in memory as a whole. While the caller
works on one block, a thread reads and decompresses the next.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from io import BufferedIOBase
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
from swift_bids.geometry.grid import flat_storage_index

#: Limits of one block: 8 volumes of 902,629 float32 voxels are 29 MB.
_MAX_BLOCK_VOLUMES, _MAX_BLOCK_BYTES = 8, 32_000_000
#: Voxels of one volume; a header that gives more is wrong.
MAX_VOXELS = 512**3
#: The most bytes into which deflate, gzip's method, can expand one byte.
MAX_DEFLATE_RATIO = 1032
#: The remedy for a file whose content does not match its name.
COPY_AGAIN = "copy it again from the original"
#: First bytes of a NIfTI-2 file: the size of its header, in either byte order.
_NIFTI2_START = ((540).to_bytes(4, "little"), (540).to_bytes(4, "big"))
#: Exceptions that gzip or nibabel raise for a damaged or truncated image.
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
    """Open a NIfTI file for sequential reading, as `stored_image` does.

    On exit, the rest of the file is read too, so that gzip checks the checksum and detects a
    damaged end.

    Raises
    ------
    InputError
        The file cannot be read, here or while the image is in use, or is too small for the size
        that its header gives.
    """
    try:
        with stored_image(file) as (image, stream):
            check_image_size(file, image.header)
            yield image
            while stream.read(_MAX_BLOCK_BYTES):
                pass
    except (FileNotFoundError, PermissionError) as error:
        raise InputError(
            f"{file}: cannot be read ({error.strerror}); check the path and its permissions"
        ) from error
    except UNREADABLE as error:
        raise InputError(
            f"{file}: cannot be read ({error or type(error).__name__}) because it is damaged or "
            f"incomplete; fetch it or create it again"
        ) from error


@contextmanager
def stored_image(file: str | Path) -> Iterator[tuple[nib.Nifti1Image, BufferedIOBase]]:
    """Open a NIfTI file, with isal for gzip (twice as fast as zlib); yield the image and the stream
    of its bytes.

    Whether the file is compressed follows from its content. Axes of length 1 after the third are
    dropped from an image of more than four dimensions.

    Raises
    ------
    UNREADABLE
        It is no NIfTI file.
    """
    with _stream(file) as (stream, kind):
        image = kind.from_file_map({"image": FileHolder(fileobj=stream)})
        yield _squeezed(image), stream


@contextmanager
def _stream(file: str | Path) -> Iterator[tuple[BufferedIOBase, type[nib.Nifti1Image]]]:
    """Open a NIfTI file, and tell by its first bytes which of nibabel's classes reads it."""
    opener = igzip.open if is_gzip(file) else open
    with opener(file, "rb") as stream:
        start = stream.read(4)
        stream.seek(0)
        yield stream, nib.Nifti2Image if start in _NIFTI2_START else nib.Nifti1Image


def storage_doubts(file: str | Path) -> list[str]:
    """Return a sentence for each fault in how a BOLD file is stored that does not stop the app."""
    doubts = []
    if str(file).endswith(".gz") and not is_gzip(file):
        doubts.append(
            "the BOLD file is not compressed, although its name ends in .gz; rename it to .nii, "
            "because other programs may refuse it"
        )
    with _stream(file) as (stream, kind):
        header = kind.header_class.from_fileobj(stream)
    if header.get_data_offset() == 0:
        doubts.append(
            f"the header of the BOLD file does not say where the data begin (vox_offset is 0); "
            f"the app reads them from byte {header.single_vox_offset} on, where the NIfTI standard "
            f"puts them"
        )
    return doubts


def is_gzip(file: str | Path) -> bool:
    """Whether the content of a file is compressed by gzip, whatever its name."""
    with open(file, "rb") as content:
        return content.read(2) == b"\x1f\x8b"


def _squeezed(image: nib.Nifti1Image) -> nib.Nifti1Image:
    """The image with at most one axis after the third, if the others have length 1, and with the
    place of the data that the NIfTI standard gives."""
    stored, header = _stored(image), image.header.copy()
    shape, zooms = stored.shape, header.get_zooms()
    kept = [axis for axis, n in enumerate(shape) if axis < 3 or n > 1]
    # nibabel accepts an offset of 0, which means "not set", and reads the header as data
    offset = max(stored.offset, header.single_vox_offset)
    if len(shape) <= 4 or len(kept) > 4:
        kept = list(range(len(shape)))
    if len(kept) == len(shape) and offset == stored.offset:
        return image
    header.set_data_shape([shape[axis] for axis in kept])
    # some programs leave the TR where it is in an image of four dimensions
    header.set_zooms([zooms[axis] or zooms[3] for axis in kept])
    spec = (header.get_data_shape(), stored.dtype, offset, stored.slope, stored.inter)
    return type(image)(ArrayProxy(stored.file_like, spec), image.affine, header)


@contextmanager
def open_bold(bold_file: str | Path) -> Iterator[nib.Nifti1Image]:
    """Open a 4D image as `open_image` does; raise InputError if it is not 4D."""
    with open_image(bold_file) as image:
        if image.ndim != 4:
            raise InputError(f"{bold_file}: has {image.ndim} dimensions, not 4; {COPY_AGAIN}")
        yield image


def check_image_size(file: str | Path, header: nib.Nifti1Header) -> None:
    """Check that the size in a header is plausible, before the app allocates memory for it.

    Raises
    ------
    InputError
        The header gives more voxels than a brain image can have, or than its file can contain.
    """
    shape = tuple(int(n) for n in header.get_data_shape())  # Python integers cannot overflow
    size = " x ".join(map(str, shape))
    if min(shape, default=0) < 1 or math.prod(shape[:3]) > MAX_VOXELS:
        raise InputError(
            f"{file}: its header gives {size} voxels, which cannot be a brain image; {COPY_AGAIN}"
        )
    needed = math.prod(shape) * header.get_data_dtype().itemsize
    available = Path(file).stat().st_size
    if needed > available * (MAX_DEFLATE_RATIO if is_gzip(file) else 1):
        raise InputError(
            f"{file}: its header gives {size} voxels, but a file of {available:,} bytes cannot "
            f"contain them; the file is incomplete or damaged, so fetch it or create it again"
        )


def brain_rows(
    bold: nib.Nifti1Image, bold_file: str | Path, fsl_index: np.ndarray
) -> Iterator[np.ndarray]:
    """Yield the brain voxels of a run on the FSL grid in blocks, float32 (volume, brain voxel).

    Parameters
    ----------
    bold, bold_file
        The image opened by `open_bold`, and its name for messages.
    fsl_index
        (brain voxel,) flat C-order positions in the FSL grid.
    """
    scaled, storage = scaling(bold), flat_storage_index(bold.shape[:3], bold.affine, fsl_index)
    blocks = stored_volumes(bold, bold_file)
    return volume_rows(blocks, len(fsl_index), lambda _, volume: scaled(volume[storage]))


def volume_rows(
    blocks: Iterator[np.ndarray],
    n_values: int,
    values_at: Callable[[int, np.ndarray], np.ndarray],
) -> Iterator[np.ndarray]:
    """Yield some values of each volume of a run in blocks, float32 (volume, value), in order.

    Parameters
    ----------
    blocks
        (volume, X * Y * Z), x fastest, as `stored_volumes` yields them.
    n_values, values_at
        Number of values, and a function that takes the number of a volume and its voxels, and
        returns the values.
    """
    number = 0
    for block in _read_ahead(blocks):
        rows = np.empty((len(block), n_values), dtype=np.float32)
        for row, volume in zip(rows, block):
            with np.errstate(over="ignore"):  # values too large for float32 become infinite
                row[:] = values_at(number, volume)
            number += 1
        yield rows


def scaling(bold: nib.Nifti1Image) -> Callable[[np.ndarray], np.ndarray]:
    """Return the function that turns stored values of an image into real ones."""
    stored = _stored(bold)
    slope, inter = np.float64(stored.slope), np.float64(stored.inter)
    return lambda values: values if (slope, inter) == (1, 0) else values * slope + inter


def _stored(bold: nib.Nifti1Image) -> ArrayProxy:
    """The data of an image that was opened from a file, as stored in this file."""
    return cast(ArrayProxy, bold.dataobj)


def stored_volumes(bold: nib.Nifti1Image, bold_file: str | Path) -> Iterator[np.ndarray]:
    """Yield blocks (volume, X * Y * Z) of unscaled values, in NIfTI's voxel order (x fastest)."""
    stored = _stored(bold)
    if stored.dtype.kind not in "iuf":
        raise InputError(
            f"{bold_file}: contains {stored.dtype} values, but BOLD values must be real numbers; "
            f"{COPY_AGAIN}"
        )
    unscaled = ArrayProxy(stored.file_like, (stored.shape, stored.dtype, stored.offset))
    n_voxels = int(np.prod(stored.shape[:3]))
    block_volumes = _MAX_BLOCK_BYTES // max(1, n_voxels * stored.dtype.itemsize)
    block_volumes = max(1, min(_MAX_BLOCK_VOLUMES, block_volumes))
    for start in range(0, stored.shape[3], block_volumes):
        try:
            block = np.asarray(unscaled[..., start : start + block_volumes])  # (X, Y, Z, volume)
        except ValueError as error:  # nibabel raises it for data that end early
            raise InputError(
                f"{bold_file}: contains fewer than the {stored.shape[3]} volumes that its header "
                f"gives; the file is incomplete, so fetch it or create it again"
            ) from error
        yield block.reshape(n_voxels, -1, order="F").T


def _read_ahead(blocks: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """Yield the blocks while a thread reads the next one."""
    with ThreadPoolExecutor(max_workers=1) as reader:
        next_block = reader.submit(next, blocks, None)
        while (block := next_block.result()) is not None:
            next_block = reader.submit(next, blocks, None)
            yield block
