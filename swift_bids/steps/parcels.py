"""Brain voxels of a run -> mean signal of each parcel, denoised: the input of the functional
connectivity that embeddings are compared with."""

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
from swift_bids.inputs.bold_reader import UNREADABLE, refuse_impossible
from swift_bids.inputs.filenames import entities_in

#: Edge of the default parcels in voxels (24 mm), and how much of one must be brain.
CUBE_VOXELS, CUBE_BRAIN = 12, 0.5
#: A run of few volumes bears few regressors: at most one for so many volumes.
VOLUMES_PER_REGRESSOR = 3
_AXES = ("trans_x", "trans_y", "trans_z", "rot_x", "rot_y", "rot_z")
#: What is regressed out, in the order in which it is left out again when volumes are few: 24 motion
#: parameters (Friston et al. 1996), white matter and CSF, high-pass filter (fMRIPrep's cosines).
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
        Of the parcels, in the order of their numbers.
    numbers
        (91 * 109 * 91,) flat in C order: parcel from 1 on, 0 where there is none.
    descriptions
        What each parcel is, a sentence.
    sha256
        Of the atlas file; None for the cubes.
    """

    label: str
    names: tuple[str, ...]
    numbers: np.ndarray
    descriptions: tuple[str, ...]
    sha256: str | None = None


def cubes(frame: Frame) -> Parcels:
    """Cubes of 24 mm of the 96^3 input, those at least half of which is brain of the template.

    The boundary between two of them lies at the midline, so that left and right do not mix.
    """
    shape = tuple(n // CUBE_VOXELS for n in MODEL_SHAPE)
    inside, place = frame.place(np.indices(FSL_SHAPE).reshape(3, -1))
    cube = np.ravel_multi_index(tuple(place // CUBE_VOXELS), shape)  # of each voxel inside
    brain = template_brain().reshape(-1)[inside]
    of_brain = np.bincount(cube[brain], minlength=np.prod(shape))
    kept = np.flatnonzero(of_brain >= CUBE_BRAIN * CUBE_VOXELS**3)
    # All voxels of the cubes: a run's own brain mask says which of them count.
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
            "Brain in the cube of 24 mm around MNI ({:.0f}, {:.0f}, {:.0f}) mm".format(*centre)
            for centre in centres
        ),
    )


def read_atlas(atlas_file: str | Path) -> Parcels:
    """Parcels of one's own: a 3D image of whole numbers in MNI space, 0 outside.

    Names are taken from the table of the same name beside it (`.tsv` with `index` and `name`, BIDS
    specification, segmentations), where there is one, else the numbers are.

    Raises
    ------
    InputError
        The file cannot be read, is no such image, or its table does not fit it.
    """
    try:
        image = cast(SpatialImage, nib.load(atlas_file))
        if isinstance(image, nib.Nifti1Image):
            refuse_impossible(atlas_file, image.header)
        values = np.asarray(image.dataobj)
    except UNREADABLE as error:
        raise InputError(f"{atlas_file}: the atlas cannot be read ({error})") from error
    if not np.isfinite(image.affine).all() or np.linalg.det(image.affine[:3, :3]) == 0:
        raise InputError(f"{atlas_file}: its affine places no voxel; make the atlas again")
    values = values.reshape(values.shape[:3]) if values.shape[3:] == (1,) else values
    whole = values.ndim == 3 and values.dtype.kind in "biuf" and np.isfinite(values).all()
    whole = whole and (values == np.round(values)).all()
    if not whole or np.abs(values).max(initial=0) > np.iinfo(np.int32).max:
        raise InputError(f"{atlas_file}: an atlas is a 3D image of whole numbers, one a parcel")
    on_grid = to_fsl_grid(values.astype(np.int32), image.affine, order=0).reshape(-1)
    indices, numbers = np.unique(np.append(on_grid, 0), return_inverse=True)
    if indices[0] < 0 or len(indices) < 3:
        raise InputError(
            f"{atlas_file}: has {len(indices) - 1} parcel(s) in MNI space and numbers from "
            f"{indices[0]} on; functional connectivity needs two or more, numbered from 1"
        )
    names = _names_of(Path(atlas_file), indices[1:])
    return Parcels(
        label=_label_of(Path(atlas_file).name),
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
        (brain voxel,) parcel from 1 on, 0 for none.
    n_parcels
        How many there are.
    """

    def __init__(self, numbers: np.ndarray, n_parcels: int) -> None:
        self._numbers = numbers
        self._size = np.bincount(numbers, minlength=n_parcels + 1)
        self._rows: list[np.ndarray] = []

    def add(self, block: np.ndarray) -> None:
        """Take in float32 (volume, brain voxel), NaN where there is no signal."""
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
        """Float32 (volume, parcel); NaN where no voxel of a parcel has signal."""
        return np.stack(self._rows)


def denoise(means: np.ndarray, confounds: pd.DataFrame | None) -> tuple[np.ndarray, list[str]]:
    """Regress trend and confounds out of parcel means, and scale each to standard deviation 1.

    What is regressed out of a mean of voxels is what would have been regressed out of each voxel.

    Parameters
    ----------
    means
        (volume, parcel); a parcel with a NaN becomes NaN throughout.
    confounds
        fMRIPrep's table, rows of the same volumes; None for trend only.

    Returns
    -------
    numpy.ndarray
        (volume, parcel) in standard deviations; NaN for a parcel without variation.
    list of str
        Columns that were regressed out, beside mean and linear trend.
    """
    n_volumes = len(means)
    used: list[str] = []
    columns = [] if confounds is None else list(confounds.columns)
    for pattern in _REGRESSORS:
        more = [column for column in columns if re.match(pattern, column)]
        if len(used) + len(more) > n_volumes // VOLUMES_PER_REGRESSOR:
            break
        used += more
    design = np.stack([np.ones(n_volumes), np.linspace(-1, 1, n_volumes)], axis=1)
    if confounds is not None and used:
        values = confounds[used].apply(pd.to_numeric, errors="coerce").to_numpy(np.float64)
        values = np.nan_to_num(values)  # derivatives have no first value
        spread = values.std(axis=0)
        values = (values - values.mean(axis=0))[:, spread > 0] / spread[spread > 0]
        design = np.concatenate([design, values], axis=1)
    known = ~np.isnan(means).any(axis=0)
    signal = means[:, known].astype(np.float64)
    # What remains of a parcel that is nothing but regressors, or constant, is rounding.
    rounding = 1e-5 * signal.std(axis=0) + 1e-7 * np.abs(signal.mean(axis=0))
    signal -= design @ np.linalg.lstsq(design, signal, rcond=None)[0]
    spread = signal.std(axis=0)
    signal /= np.where(spread > rounding, spread, np.nan)
    denoised = np.full(means.shape, np.nan)
    denoised[:, known] = signal
    return denoised, used


def _names_of(atlas_file: Path, indices: np.ndarray) -> tuple[str, ...]:
    table = atlas_file.with_name(re.sub(r"\.nii(\.gz)?$", "", atlas_file.name) + ".tsv")
    if not table.exists():
        return tuple(map(str, indices))
    try:
        rows = pd.read_csv(table, sep="\t", encoding="utf-8-sig")
        names = dict(zip(rows["index"].astype(int), rows["name"].astype(str)))
        named = tuple(names[int(index)] for index in indices)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"{table}: needs columns index and name with a row for every number in {atlas_file} "
            f"({error})"
        ) from error
    if len(set(named)) < len(named):
        raise InputError(f"{table}: two parcels have the same name")
    return named


def _label_of(name: str) -> str:
    """`seg` label from an atlas' file name: its seg or atlas entity, else the name itself."""
    stem = re.sub(r"\.nii(\.gz)?$", "", name)
    entities = entities_in(stem)
    parts = [entities[key] for key in ("atlas", "seg", "desc") if key in entities]
    return re.sub(r"[^A-Za-z0-9]", "", "".join(parts) or stem) or "atlas"
