"""A mask on one grid -> its value at points of another, as ANTs carries labels along."""

from __future__ import annotations

import numpy as np

#: Voxels within this distance along each axis have a weight: four standard deviations.
_RADIUS = 4
#: Points that are computed together, to limit memory.
_BATCH = 20_000


def carry_mask(mask: np.ndarray, position: np.ndarray) -> np.ndarray:
    """Evaluate a mask at points as `antsApplyTransforms -n MultiLabel` does.

    Around a point, each voxel has the weight of a Gaussian of one voxel, integrated over the voxel.
    The point belongs to the mask if the voxels of the mask have more than half of the weight.

    Parameters
    ----------
    mask
        bool (X, Y, Z).
    position
        (point, 3) in voxels of the mask.

    Returns
    -------
    numpy.ndarray
        bool (point,); false outside the grid.
    """
    last = np.array(mask.shape) - 1
    nearest = np.rint(position).astype(np.int64)
    inside = ((position >= -0.5) & (position <= last + 0.5)).all(axis=1)
    padded = np.pad(mask, _RADIUS + 1).astype(np.int8)
    # Most points are surrounded by voxels of one kind only.
    from scipy.ndimage import uniform_filter

    size = 2 * (_RADIUS + 1) + 1
    share = uniform_filter(padded.astype(np.float32), size, mode="nearest")
    centers = tuple(np.clip(nearest, 0, last).T + _RADIUS + 1)
    near = share[centers]
    result = inside & (near > 1 - 1e-4)
    uncertain = np.flatnonzero(inside & (near > 1e-4) & ~result)
    for start in range(0, len(uncertain), _BATCH):
        batch = uncertain[start : start + _BATCH]
        result[batch] = _weigh(mask, position[batch])
    return result


def _weigh(mask: np.ndarray, position: np.ndarray) -> np.ndarray:
    from scipy.special import erf

    weights, indices = [], []
    for axis, n in enumerate(mask.shape):
        x = position[:, axis, None]
        # ITK's window: all voxels that reach into the radius around the point
        index = np.floor(x + 0.5 - _RADIUS).astype(np.int64) + np.arange(2 * _RADIUS + 1)
        known = (index >= 0) & (index < n) & (index < np.ceil(x + 0.5 + _RADIUS))
        edges = erf((np.stack([index - 0.5, index + 0.5]) - x) / np.sqrt(2))
        weights.append(np.where(known, edges[1] - edges[0], 0))
        indices.append(np.clip(index, 0, n - 1))
    i, j, k = indices
    around = mask[i[:, :, None, None], j[:, None, :, None], k[:, None, None, :]].astype(np.float32)
    inside = np.einsum("pijk,pi,pj,pk->p", around, *weights, optimize=True)
    return inside > 0.5 * np.prod([weight.sum(axis=1) for weight in weights], axis=0)
