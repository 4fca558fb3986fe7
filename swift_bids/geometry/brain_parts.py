"""Voxels of a brain -> a phrase that says in which part of it they are."""

from __future__ import annotations

import nibabel as nib
import numpy as np

from swift_bids.geometry.frames import FSL_AFFINE, FSL_SHAPE

#: Names of both sides of each axis, for a part; for a whole half.
_SIDES = (("left", "right"), ("back", "front"), ("lower", "upper"))
_HALVES = (
    ("the left hemisphere", "the right hemisphere"),
    ("the back half of the brain", "the front half of the brain"),
    ("the lower half of the brain", "the upper half of the brain"),
)
#: Share of the voxels that are on one side if that side is named; and the shares of voxels and of
#: the side that make it the whole half.
_ON_SIDE, _WHOLE_HALF = 0.8, 0.9
#: Voxels are a slab if, along one axis, they span less than this share of the brain, and more along
#: the others.
_SLAB = 0.4


def describe_part(part: np.ndarray, brain: np.ndarray) -> str:
    """Say where some voxels of a brain are: `the left hemisphere`, `the lower front part of the
    brain`, `slices from z = -60 to -42 mm`, or `many places`; an empty text without voxels.

    Parameters
    ----------
    part, brain
        (voxel,) flat C-order positions in the FSL grid: of the voxels, and of the whole brain.
    """
    if not len(part):
        return ""
    inside, whole = _millimetres(part), _millimetres(brain)
    centre = (whole.min(axis=0) + whole.max(axis=0)) / 2
    centre[0] = 0  # the midline
    names = []
    for axis, (sides, halves) in enumerate(zip(_SIDES, _HALVES)):
        upper = (inside[:, axis] > centre[axis]).mean()
        for side, share in enumerate((1 - upper, upper)):
            of_half = (whole[:, axis] > centre[axis]) == bool(side)
            in_half = (inside[:, axis] > centre[axis]) == bool(side)
            if min(share, in_half.sum() / max(1, of_half.sum())) >= _WHOLE_HALF:
                return halves[side]
            if share >= _ON_SIDE:
                names.append(sides[side])
    low, high = np.percentile(inside, [2, 98], axis=0)
    spans = (high - low) / np.ptp(whole, axis=0)
    (thin, *_), (_, *wide) = [np.argsort(spans)] * 2
    if spans[thin] < _SLAB <= spans[wide].min():
        return f"slices from {'xyz'[thin]} = {low[thin]:.0f} to {high[thin]:.0f} mm"
    if names:
        return f"the {' '.join(reversed(names))} part of the brain"
    return "many places"


def _millimetres(index: np.ndarray) -> np.ndarray:
    """MNI coordinates (voxel, 3) of positions in the FSL grid."""
    voxels = np.stack(np.unravel_index(index, FSL_SHAPE), axis=-1)
    return nib.affines.apply_affine(FSL_AFFINE, voxels)
