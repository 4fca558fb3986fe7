"""What a notebook gives as an image -> a file for the steps, and its name for messages."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from swift_bids.base.errors import UsageError


@dataclass(frozen=True)
class GivenImage:
    """An image as the steps read it.

    Attributes
    ----------
    file
        The user's file, or a temporary one.
    name
        How messages call it.
    """

    file: Path
    name: str


def given_image(given: Any, argument: str, temporary: Path, affine: Any = None) -> GivenImage:
    """Return the file of an image; images and arrays are first written to a temporary one.

    Parameters
    ----------
    given
        Path, image of nibabel, or array.
    argument
        Name of the argument, for messages.
    temporary
        Where to write.
    affine
        Voxel-to-world affine (4, 4) in mm of an array.

    Raises
    ------
    UsageError
        It is something else, or an array without affine.
    """
    if isinstance(given, (str, Path)):
        return GivenImage(Path(given), str(given))
    if isinstance(given, nib.spatialimages.SpatialImage):
        name = given.get_filename() or argument
        data, affine = given.dataobj, given.affine
    elif hasattr(given, "__array__"):
        if affine is None:
            raise UsageError(
                f"{argument} is an array without a position in space; add affine= (the 4 x 4 "
                f"voxel-to-world affine in mm, such as that of its file), or give the file"
            )
        name, data = argument, np.asarray(given)
    else:
        raise UsageError(
            f"{argument} is {type(given).__name__}; give a file, an image of nibabel, or an array "
            f"with affine="
        )
    if affine is None or np.shape(affine) != (4, 4):
        raise UsageError(f"{argument}: its affine has the shape {np.shape(affine)}, not (4, 4)")
    if isinstance(given, nib.Nifti1Pair):
        # a copy, because an image remembers the file to which it is saved
        image = nib.Nifti1Image(given.dataobj, given.affine, given.header)
    else:
        values = np.asarray(data)
        # NIfTI has no booleans, and few programs read its 64-bit integers
        kind = np.uint8 if values.dtype == bool else np.float32
        image = nib.Nifti1Image(values.astype(kind), np.asarray(affine, dtype=np.float64))
    image.to_filename(temporary)
    return GivenImage(temporary, name)
