"""A mask on one grid -> its value at points of another, as ANTs carries labels along."""

from __future__ import annotations

import numpy as np

#: Voxels within this distance along each axis have a weight: four standard deviations.
_RADIUS = 4
#: Standard deviation of a Gaussian of one voxel, integrated over a voxel.
_WIDTH = np.sqrt(1 + 1 / 12)
#: Order of the splines between its voxels -> what their error stays below (bounds: 0.08, 0.004).
_MAX_ERROR = {1: 0.12, 3: 0.02}
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
    from scipy.ndimage import gaussian_filter, map_coordinates, uniform_filter

    last = np.array(mask.shape) - 1
    nearest = np.rint(position).astype(np.int64)
    inside = ((position >= -0.5) & (position <= last + 0.5)).all(axis=1)
    padded = np.pad(mask, _RADIUS + 1).astype(np.int8)
    # Most points are surrounded by voxels of one kind only.
    size = 2 * (_RADIUS + 1) + 1
    share = uniform_filter(padded.astype(np.float32), size, mode="nearest")
    centers = tuple(np.clip(nearest, 0, last).T + _RADIUS + 1)
    near = share[centers]
    result = inside & (near > 1 - 1e-4)
    near_edge = inside & (near > 1e-4) & ~result
    # Of the others, a Gaussian of the same width decides most, first by linear interpolation.
    smooth, known = (
        gaussian_filter(values.astype(np.float32), _WIDTH, mode="constant")
        for values in (mask, np.ones_like(mask))
    )
    uncertain = np.flatnonzero(near_edge)
    for order, margin in ((1, 0), (3, 2)):
        places = position[uncertain]
        estimate = map_coordinates(smooth / known, places.T, order=order, mode="nearest")
        at_border = ((places < margin) | (places > last - margin)).any(axis=1)
        clear = (np.abs(estimate - 0.5) > _MAX_ERROR[order]) & ~at_border
        result[uncertain[clear]] = estimate[clear] > 0.5
        uncertain = uncertain[~clear]
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
