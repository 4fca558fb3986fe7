"""Voxels of a run -> how far each change of its preprocessing moves tokens and embedding."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy.ndimage import binary_dilation, binary_erosion

from swift_bids.geometry.frames import FSL_SHAPE, MODEL_SHAPE
from swift_bids.sensitivity.read import RunVoxels, smoothed
from swift_bids.steps.voxel_statistics import VoxelMoments
from swift_bids.steps.z_scores import STATISTICS, ZScores, core_voxels

#: Changes of the mask whose effect is divided into parts.
_DIVIDED = ("mask eroded by one voxel", "mask dilated by one voxel", "template mask")
#: Network for the z-scores (volume, brain voxel) of a run, positions in 96^3, starts of chunks and
#: the background: returns tokens (chunk, feature, x, y, z, t).
Network = Callable[[np.ndarray, np.ndarray, list[int], float], np.ndarray]


@dataclass(frozen=True)
class _Input:
    """One way to prepare a run.

    Attributes
    ----------
    values
        float32 (volume, voxel), as in `RunVoxels.readings`.
    mask
        bool (91, 109, 91).
    shift
        By how many voxels the run is moved along x.
    """

    values: np.ndarray
    mask: np.ndarray
    shift: int = 0


def measure(voxels: RunVoxels, network: Network) -> Iterator[pd.DataFrame]:
    """Compare each changed input with that of the run.

    Yields
    ------
    pandas.DataFrame
        For one change: `change`, `effect` (what of the change is applied), `statistics`
        (`--statistics`), `tokens` and `embedding` (relative distance, root mean square).
    """
    chosen = _Input(voxels.readings["chosen"], voxels.masks["chosen"])
    base = {kind: _embed(voxels, chosen, network, kind) for kind in STATISTICS}
    for name, changed in _changes(voxels, chosen):
        rows = [
            _row(name, "all", kind, _embed(voxels, changed, network, kind), base[kind])
            for kind in STATISTICS
        ]
        if name in _DIVIDED:
            for part, tokens in _parts(voxels, chosen, changed, network):
                rows.append(_row(name, part, "mask", tokens, base["mask"]))
        yield pd.DataFrame(rows)


def distance(tokens: np.ndarray, others: np.ndarray) -> float:
    """Root mean square of the difference, relative to that of the others."""
    return float(np.sqrt(np.mean((tokens - others) ** 2) / np.mean(others**2)))


def _changes(voxels: RunVoxels, chosen: _Input) -> Iterator[tuple[str, _Input]]:
    mask = chosen.mask
    yield "mask eroded by two voxels", replace(chosen, mask=binary_erosion(mask, iterations=2))
    yield "mask eroded by one voxel", replace(chosen, mask=binary_erosion(mask))
    yield "mask dilated by one voxel", replace(chosen, mask=binary_dilation(mask))
    for name, other in voxels.masks.items():
        if name != "chosen" and name not in voxels.readings:
            yield name, replace(chosen, mask=other)
    for name, values in voxels.readings.items():
        if name != "chosen":
            yield name, _Input(values, voxels.masks.get(name, mask))
    yield "moved by one voxel", replace(chosen, shift=1)
    smooth = smoothed(chosen.values, voxels.index, fwhm=4)
    yield "smoothed, 4 mm FWHM", replace(chosen, values=smooth)


def _parts(
    voxels: RunVoxels, chosen: _Input, changed: _Input, network: Network
) -> Iterator[tuple[str, np.ndarray]]:
    """Apply only a part of what a changed mask does."""
    before, after = _z_scores(voxels, chosen, "mask"), _z_scores(voxels, changed, "mask")
    for part, input_, z_scores, background in (
        ("statistics and background", chosen, after, after.background),
        ("background", chosen, before, after.background),
        ("voxels", changed, before, before.background),
    ):
        yield part, _tokens(voxels, input_, network, z_scores, float(background))


def _row(
    change: str, part: str, statistics: str, tokens: np.ndarray, base: np.ndarray
) -> dict[str, object]:
    return {
        "change": change,
        "effect": part,
        "statistics": statistics,
        "tokens": distance(tokens, base),
        "embedding": distance(pooled(tokens), pooled(base)),
    }


def pooled(tokens: np.ndarray) -> np.ndarray:
    """The embedding (feature,) of tokens (chunk, feature, x, y, z, t)."""
    return tokens.mean(axis=(0, 2, 3, 4, 5))


def _z_scores(voxels: RunVoxels, input_: _Input, statistics: str) -> ZScores:
    columns = input_.mask.reshape(-1)[voxels.index]
    moments = VoxelMoments(int(columns.sum()))
    moments.add(input_.values[:, columns])
    core = core_voxels()[voxels.index[columns]] if statistics == "core" else None
    return ZScores(moments, "global", core)


def _embed(voxels: RunVoxels, input_: _Input, network: Network, statistics: str) -> np.ndarray:
    z_scores = _z_scores(voxels, input_, statistics)
    return _tokens(voxels, input_, network, z_scores, float(z_scores.background))


def _tokens(
    voxels: RunVoxels, input_: _Input, network: Network, z_scores: ZScores, background: float
) -> np.ndarray:
    columns = input_.mask.reshape(-1)[voxels.index]
    position = np.stack(np.unravel_index(voxels.index[columns], FSL_SHAPE))
    position[0] += input_.shift
    inside, places = voxels.frame.place(position)
    columns = np.flatnonzero(columns)[inside]
    matrix = z_scores.apply(input_.values[:, columns])
    index = np.ravel_multi_index(tuple(places), MODEL_SHAPE)
    n_volumes = voxels.chunk_volumes
    starts = list(range(0, len(matrix) - n_volumes + 1, n_volumes))
    return network(matrix, index, starts, background)
