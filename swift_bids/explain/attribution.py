"""A probe of the embedding + a chunk -> how much each voxel and each parcel adds to the score."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from captum.attr import FeatureAblation, IntegratedGradients
from torch import Tensor, nn

from swift_bids.geometry.frames import MODEL_SHAPE
from swift_bids.group.probes.saved import SavedProbe
from swift_bids.network.skeleton import Skeleton

#: Numbers of steps of Integrated Gradients, which are tried until the sum is this exact.
STEPS, TOLERANCE = (8, 16, 32, 64, 128, 256), 0.01


class Score(nn.Module):
    """(B, volume, brain voxel) z-scores of chunks -> (B,) scores.

    The score of a number is its prediction. That of a class is its output minus the mean output of
    the other classes.

    Parameters
    ----------
    network
        In evaluation mode, on its device.
    probe
        Probe of its mean embedding.
    output
        Number of the class; 0 for numbers.
    index, background
        (brain voxel,) flat positions in 96^3, and the value of all other voxels.
    """

    def __init__(
        self,
        network: Skeleton,
        probe: SavedProbe,
        output: int,
        index: np.ndarray,
        background: float,
    ) -> None:
        super().__init__()
        device = next(network.parameters()).device
        contrast = -np.ones(len(probe.coefficients)) / max(1, len(probe.coefficients) - 1)
        contrast[output] = 1.0
        weights = contrast @ probe.coefficients / probe.scale
        self._offset = float(contrast @ probe.intercept - weights @ probe.mean)
        self._weights = torch.from_numpy(weights).float().to(device)
        self._index = torch.from_numpy(np.asarray(index, dtype=np.int64)).to(device)
        self._background = background
        self._network = [network]  # not registered: its parameters are not those of the score

    def forward(self, rows: Tensor) -> Tensor:
        """Scores, (B,) float64: differences between them are small."""
        shape = (len(rows), math.prod(MODEL_SHAPE), rows.shape[1])
        volumes = rows.new_full(shape, self._background)
        volumes.index_copy_(1, self._index, rows.transpose(1, 2))
        tokens = self._network[0](volumes.view(len(rows), 1, *MODEL_SHAPE, rows.shape[1]))
        embedding = tokens.float().mean(dim=(2, 3, 4, 5))
        return embedding.double() @ self._weights.double() + self._offset


@dataclass(frozen=True)
class Attribution:
    """What voxels add to the score of a chunk, compared with the baseline.

    Attributes
    ----------
    voxels
        (brain voxel,) float64, sums over the volumes.
    difference
        Score of the chunk minus that of the baseline.
    n_steps
        Steps of the integral.
    """

    voxels: np.ndarray
    difference: float
    n_steps: int

    @property
    def error(self) -> float:
        """By how much the sum over voxels misses the difference, as a share of it."""
        return abs(float(self.voxels.sum()) - self.difference) / max(abs(self.difference), 1e-12)


def integrated_gradients(score: Score, rows: Tensor, baseline: Tensor) -> Attribution:
    """Integrated Gradients (Sundararajan et al. 2017) of a chunk.

    The sum over all voxels is the difference between the scores of chunk and baseline. The number
    of steps is doubled until that holds within 1 %.

    Parameters
    ----------
    rows, baseline
        (volume, brain voxel) float32 z-scores, on the device of the score.
    """
    method = IntegratedGradients(score)
    with torch.no_grad():
        difference = float(score(rows[None]) - score(baseline[None]))
    for n_steps in STEPS:
        found = method.attribute(
            rows[None],
            baselines=baseline[None],
            n_steps=n_steps,
            method="gausslegendre",
            internal_batch_size=1,
        )
        voxels = found[0].double().sum(dim=0).cpu().numpy()
        attribution = Attribution(voxels, difference, n_steps)
        if attribution.error <= TOLERANCE:
            break
    return attribution


def occlusion(score: Score, rows: Tensor, baseline: Tensor, parcels: np.ndarray) -> np.ndarray:
    """How much the score of a chunk falls if a parcel is replaced by the baseline.

    Parameters
    ----------
    rows, baseline
        As for `integrated_gradients`.
    parcels
        (brain voxel,) number of the parcel from 1 on; 0 outside all parcels.

    Returns
    -------
    numpy.ndarray
        (1 + largest number,) float64, from number 0 on; NaN for numbers without a voxel.
    """
    mask = torch.from_numpy(parcels.astype(np.int64)).to(rows.device)[None, None]
    with torch.no_grad():
        found = FeatureAblation(score).attribute(
            rows[None], baselines=baseline[None], feature_mask=mask
        )
    changes = found[0, 0].double().cpu().numpy()  # the same in all volumes and voxels of a parcel
    values = np.full(parcels.max(initial=0) + 1, np.nan)
    values[parcels] = changes
    return values


def randomised(probe: SavedProbe, seed: int = 0) -> SavedProbe:
    """The probe with its coefficients, of standardised features, in random order."""
    rng = np.random.default_rng(seed)
    shuffled = rng.permuted(probe.coefficients, axis=1)
    return SavedProbe(
        probe.target,
        probe.classes,
        probe.n_participants,
        probe.mean,
        probe.scale,
        shuffled,
        probe.intercept,
    )
