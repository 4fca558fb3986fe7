"""Atlas + brain voxels of a run -> mean signal of each parcel."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import nibabel as nib
import numpy as np
import pandas as pd
from nibabel.spatialimages import SpatialImage

from swift_bids.base.errors import InputError
from swift_bids.geometry.grid import to_fsl_grid
from swift_bids.inputs.bold_reader import UNREADABLE, check_image_size
from swift_bids.inputs.filenames import entities_in


@dataclass(frozen=True)
class Parcels:
    """Parcels of the brain on the FSL 2 mm grid.

    Attributes
    ----------
    label
        Value of the `seg` entity.
    names
        Names of the parcels, in the order of their numbers.
    numbers
        (91 * 109 * 91,) flat in C order: number of the parcel from 1 on, 0 outside all parcels.
    descriptions
        One phrase that describes each parcel.
    sha256
        SHA-256 of the atlas file.
    """

    label: str
    names: tuple[str, ...]
    numbers: np.ndarray
    descriptions: tuple[str, ...]
    sha256: str


def read_atlas(atlas_file: str | Path) -> Parcels:
    """Read an atlas: a 3D image of whole numbers in MNI space, 0 outside the parcels.

    The names come from the table beside the atlas that has the same name, with or without `res`
    (`.tsv` with `index` and `name`, BIDS specification, segmentations; TemplateFlow). Without a
    table, the numbers are the names.

    Raises
    ------
    InputError
        The file cannot be read, is not such an image, or its table does not fit it.
    """
    try:
        image = cast(SpatialImage, nib.load(atlas_file))
        if isinstance(image, nib.Nifti1Image):
            check_image_size(atlas_file, image.header)
        values = np.asarray(image.dataobj)
    except UNREADABLE as error:
        raise InputError(
            f"{atlas_file}: the atlas cannot be read ({error}); check the file"
        ) from error
    if not np.isfinite(image.affine).all() or np.linalg.det(image.affine[:3, :3]) == 0:
        raise InputError(f"{atlas_file}: its affine is not valid; create the atlas again")
    values = values.reshape(values.shape[:3]) if values.shape[3:] == (1,) else values
    is_atlas = values.ndim == 3 and values.dtype.kind in "biuf" and np.isfinite(values).all()
    is_atlas = is_atlas and (values == np.round(values)).all()
    if not is_atlas or np.abs(values).max(initial=0) > np.iinfo(np.int32).max:
        raise InputError(
            f"{atlas_file}: is not an atlas; give a 3D image of whole numbers, one per parcel"
        )
    on_grid = to_fsl_grid(values.astype(np.int32), image.affine, order=0).reshape(-1)
    indices, numbers = np.unique(np.append(on_grid, 0), return_inverse=True)
    if indices[0] < 0 or len(indices) < 3:
        raise InputError(
            f"{atlas_file}: has {len(indices) - 1} parcel(s) in MNI space and numbers from "
            f"{indices[0]} on; functional connectivity needs at least two parcels, numbered from 1"
        )
    names = _parcel_names(Path(atlas_file), indices[1:])
    return Parcels(
        label=_atlas_label(Path(atlas_file).name),
        names=names,
        numbers=numbers[:-1].astype(np.int32),
        descriptions=tuple(f"Parcel {i} of the atlas: {n}" for i, n in zip(indices[1:], names)),
        sha256=hashlib.sha256(Path(atlas_file).read_bytes()).hexdigest(),
    )


class ParcelMeans:
    """Mean signal of parcels, volume by volume, from blocks of brain voxels.

    Parameters
    ----------
    numbers
        (brain voxel,) number of the voxel's parcel from 1 on, 0 for none.
    n_parcels
        Number of parcels.
    """

    def __init__(self, numbers: np.ndarray, n_parcels: int) -> None:
        self._numbers = numbers
        self._size = np.bincount(numbers, minlength=n_parcels + 1)
        self._rows: list[np.ndarray] = []

    def add(self, block: np.ndarray) -> None:
        """Add a float32 (volume, brain voxel) block; NaN marks values without signal."""
        bins = len(self._size)
        for values in block:
            size = self._size
            total = np.bincount(self._numbers, weights=values, minlength=bins)
            if np.isnan(total).any():
                known = ~np.isnan(values)
                size = np.bincount(self._numbers, weights=known, minlength=bins)
                total = np.bincount(self._numbers, np.where(known, values, 0), bins)
            with np.errstate(invalid="ignore", divide="ignore"):
                self._rows.append((total / size)[1:].astype(np.float32))

    @property
    def values(self) -> np.ndarray:
        """Float32 (volume, parcel); NaN if no voxel of the parcel has signal."""
        return np.stack(self._rows)


def _parcel_names(atlas_file: Path, indices: np.ndarray) -> tuple[str, ...]:
    stem = re.sub(r"\.nii(\.gz)?$", "", atlas_file.name)
    stems = (stem, re.sub(r"_res-[^_]+", "", stem))  # one table for all resolutions
    tables = [file for s in stems if (file := atlas_file.with_name(f"{s}.tsv")).exists()]
    if not tables:
        return tuple(map(str, indices))
    table = tables[0]
    try:
        rows = pd.read_csv(table, sep="\t", encoding="utf-8-sig")
        names = dict(zip(rows["index"].astype(int), rows["name"].astype(str)))
        named = tuple(names[int(index)] for index in indices)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"{table}: needs the columns index and name, and a row for every number in "
            f"{atlas_file} ({error})"
        ) from error
    if len(set(named)) < len(named):
        raise InputError(f"{table}: two parcels have the same name; give each its own")
    return named


def _atlas_label(name: str) -> str:
    """Return the `seg` label: the file name's atlas, seg and desc labels joined, or the whole name
    if it has none."""
    stem = re.sub(r"\.nii(\.gz)?$", "", name)
    entities = entities_in(stem)
    parts = [entities[key] for key in ("atlas", "seg", "desc") if key in entities]
    return re.sub(r"[^A-Za-z0-9]", "", "".join(parts) or stem) or "atlas"
