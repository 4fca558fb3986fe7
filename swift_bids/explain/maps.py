"""Attributions of runs -> their mean, as a map in template space and as a table of parcels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import nibabel as nib
import numpy as np
import pandas as pd

from swift_bids.geometry.frames import FSL_AFFINE, FSL_SHAPE, MODEL_SHAPE, Frame
from swift_bids.group.kept_runs import KeptRun

#: Name of the row of all voxels that are in no parcel.
OUTSIDE = "outside the parcels"


@dataclass
class MeanMap:
    """Mean over runs of values in the 96^3 input; a run without a voxel adds 0 there.

    Attributes
    ----------
    total, n_runs
        Sum of the runs, flat, and their number.
    known
        bool (voxel,): voxels that a run has.
    """

    total: np.ndarray = field(default_factory=lambda: np.zeros(math.prod(MODEL_SHAPE)))
    known: np.ndarray = field(default_factory=lambda: np.zeros(math.prod(MODEL_SHAPE), bool))
    n_runs: int = 0

    def add(self, index: np.ndarray, values: np.ndarray) -> None:
        """Add the brain voxels of a run."""
        self.total[index] += values
        self.known[index] = True
        self.n_runs += 1

    @property
    def values(self) -> np.ndarray:
        """The mean, flat float64."""
        return self.total / max(1, self.n_runs)


def mean_run(runs: Sequence[KeptRun]) -> np.ndarray:
    """Mean over runs and volumes of each voxel, among the runs that have it, flat (96^3,).

    Other voxels are NaN.
    """
    total, count = np.zeros(math.prod(MODEL_SHAPE)), np.zeros(math.prod(MODEL_SHAPE))
    for run in runs:
        total[run.matrix.index] += run.matrix.mean()
        count[run.matrix.index] += 1
    return np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)


def to_template(values: np.ndarray, frame: Frame) -> nib.Nifti1Image:
    """Put values of the 96^3 input on the FSL 2 mm grid, 0 where the frame does not reach.

    Parameters
    ----------
    values
        Flat, in C order.
    """
    inside, places = frame.place(np.indices(FSL_SHAPE).reshape(3, -1))
    on_grid = np.zeros(math.prod(FSL_SHAPE), np.float32)
    on_grid[inside] = values.reshape(MODEL_SHAPE)[tuple(places)]
    image = nib.Nifti1Image(on_grid.reshape(FSL_SHAPE), FSL_AFFINE)
    image.header.set_xyzt_units("mm")
    for code in (image.set_sform, image.set_qform):
        code(FSL_AFFINE, code=4)  # MNI152
    return image


def parcel_numbers(numbers: np.ndarray, frame: Frame) -> np.ndarray:
    """Numbers of the parcels, flat on the FSL grid, at the voxels of the 96^3 input, flat."""
    inside, places = frame.place(np.indices(FSL_SHAPE).reshape(3, -1))
    in_input = np.zeros(MODEL_SHAPE, dtype=np.int64)
    in_input[tuple(places)] = numbers[inside]
    return in_input.reshape(-1)


def parcel_table(
    names: Sequence[str], attributed: np.ndarray, occluded: np.ndarray | None
) -> pd.DataFrame:
    """Mean over runs and its standard error, for each parcel, the largest share first; then for all
    voxels outside the parcels.

    Parameters
    ----------
    attributed, occluded
        (run, 1 + parcel), 0 outside all parcels: sum of the attribution; fall of the score without
        the parcel, or None.
    """
    table = pd.DataFrame({"parcel": [OUTSIDE, *names]})
    for name, values in (("attribution", attributed), ("occlusion", occluded)):
        if values is not None:
            columns = pd.DataFrame(values)
            table[name] = columns.mean()
            table[f"{name}_se"] = columns.std() / np.sqrt(columns.notna().sum())
    order = table["attribution"].iloc[1:].abs().sort_values(ascending=False, kind="stable").index
    return table.loc[[*order, 0]].reset_index(drop=True)
