"""Brain voxels of a run -> denoised mean signal of each parcel.

The group level computes functional connectivity from these signals, as a baseline for the
embeddings.
"""

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
from swift_bids.geometry.frames import FSL_SHAPE, MODEL_SHAPE, Frame
from swift_bids.geometry.grid import template_brain, to_fsl_grid
from swift_bids.inputs.bold_reader import UNREADABLE, check_image_size
from swift_bids.inputs.filenames import entities_in

#: Edge of the default parcels in voxels (24 mm), and the smallest share of one that must be brain.
CUBE_VOXELS, MIN_BRAIN_SHARE = 12, 0.5
#: At most one regressor per 3 volumes, so that short runs keep some signal.
VOLUMES_PER_REGRESSOR = 3
_AXES = ("trans_x", "trans_y", "trans_z", "rot_x", "rot_y", "rot_z")
#: Groups of regressors, the most important first: short runs omit the last ones. Together they are
#: 24 motion parameters (Friston et al. 1996), white matter and CSF, and fMRIPrep's cosines (a
#: high-pass filter).
_REGRESSORS = (
    rf"^({'|'.join(_AXES)})$",
    r"^(csf|white_matter)$",
    r"^cosine_?\d+$",
    rf"^({'|'.join(_AXES)})_(derivative1|power2|derivative1_power2)$",
)


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
        SHA-256 of the atlas file; None for the cubes.
    """

    label: str
    names: tuple[str, ...]
    numbers: np.ndarray
    descriptions: tuple[str, ...]
    sha256: str | None = None


def cubes(frame: Frame) -> Parcels:
    """Return the 24 mm cubes of the 96^3 input that are at least half brain in the template.

    A boundary between cubes lies at the midline, so no cube mixes left and right.
    """
    shape = tuple(n // CUBE_VOXELS for n in MODEL_SHAPE)
    inside, place = frame.place(np.indices(FSL_SHAPE).reshape(3, -1))
    cube = np.ravel_multi_index(tuple(place // CUBE_VOXELS), shape)  # cube of each voxel inside
    brain = template_brain().reshape(-1)[inside]
    n_brain = np.bincount(cube[brain], minlength=np.prod(shape))
    kept = np.flatnonzero(n_brain >= MIN_BRAIN_SHARE * CUBE_VOXELS**3)
    # Number all voxels of the cubes: each run's brain mask later selects among them.
    number_of = np.zeros(np.prod(shape), dtype=np.int32)
    number_of[kept] = np.arange(1, len(kept) + 1)
    numbers = np.zeros(inside.size, dtype=np.int32)
    numbers[inside] = number_of[cube]
    indices = np.stack(np.unravel_index(kept, shape), axis=-1)  # (cube, 3)
    centres = nib.affines.apply_affine(frame.affine, (indices + 0.5) * CUBE_VOXELS - 0.5)
    return Parcels(
        label="cubes24mm",
        names=tuple("x{}y{}z{}".format(*cube) for cube in indices),
        numbers=numbers,
        descriptions=tuple(
            "Brain in the 24 mm cube around MNI ({:.0f}, {:.0f}, {:.0f}) mm".format(*centre)
            for centre in centres
        ),
    )


def read_atlas(atlas_file: str | Path) -> Parcels:
    """Read the user's atlas: a 3D image of whole numbers in MNI space, 0 outside the parcels.

    The names come from the table beside the atlas that has the same name (`.tsv` with `index` and
    `name`, BIDS specification, segmentations). Without a table, the numbers are the names.

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


def denoise(
    means: np.ndarray, confounds: pd.DataFrame | None, faulty: np.ndarray | None = None
) -> tuple[np.ndarray, list[str]]:
    """Regress trend and confounds out of parcel means; scale each parcel's signal to unit variance.

    Regression is linear, so denoising the parcel's mean gives the same result as averaging its
    denoised voxels.

    Parameters
    ----------
    means
        (volume, parcel); a parcel with a NaN in a volume that is used becomes NaN throughout.
    confounds
        fMRIPrep's table, one row for each of these volumes; None to remove only the trend.
    faulty
        bool (volume,): volumes to leave out; None: none.

    Returns
    -------
    numpy.ndarray
        (volume, parcel) in standard deviations; NaN for a parcel without variation and for faulty
        volumes.
    list of str
        Columns that were regressed out, in addition to mean and linear trend.
    """
    kept = np.ones(len(means), dtype=bool) if faulty is None else ~faulty
    n_volumes = int(kept.sum())
    used: list[str] = []
    columns = [] if confounds is None else list(confounds.columns)
    for pattern in _REGRESSORS:
        group = [column for column in columns if re.match(pattern, column)]
        if len(used) + len(group) > n_volumes // VOLUMES_PER_REGRESSOR:
            break
        used += group
    design = np.stack([np.ones(len(means)), np.linspace(-1, 1, len(means))], axis=1)[kept]
    if confounds is not None and used:
        values = confounds[used].apply(pd.to_numeric, errors="coerce").to_numpy(np.float64)
        values = np.nan_to_num(values[kept])  # derivatives have no first value
        spread = values.std(axis=0)
        values = (values - values.mean(axis=0))[:, spread > 0] / spread[spread > 0]
        design = np.concatenate([design, values], axis=1)
    known = ~np.isnan(means[kept]).any(axis=0)
    signal = means[np.ix_(kept, known)].astype(np.float64)
    # If a parcel is constant or consists of regressors only, nothing but rounding errors remain.
    rounding_error = 1e-5 * signal.std(axis=0) + 1e-7 * np.abs(signal.mean(axis=0))
    signal -= design @ np.linalg.lstsq(design, signal, rcond=None)[0]
    spread = signal.std(axis=0)
    signal /= np.where(spread > rounding_error, spread, np.nan)
    denoised = np.full(means.shape, np.nan)
    denoised[np.ix_(kept, known)] = signal
    return denoised, used


def _parcel_names(atlas_file: Path, indices: np.ndarray) -> tuple[str, ...]:
    table = atlas_file.with_name(re.sub(r"\.nii(\.gz)?$", "", atlas_file.name) + ".tsv")
    if not table.exists():
        return tuple(map(str, indices))
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
