"""Statistics of a run -> its z-scores and the value of its background.

In training, all brain voxels of a run decided its mean, its standard deviation and, by the smallest
of their values, the background of the whole input. The dim voxels at the edge of the mask therefore
count most. `--statistics core` derives all three from the inner voxels, which every mask contains.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from swift_bids.base.backbones import BACKBONES
from swift_bids.base.errors import UsageError
from swift_bids.geometry.grid import template_brain
from swift_bids.steps.voxel_statistics import VoxelMoments

#: Choices of `--normalisation`, and of `--statistics`.
METHODS = ("global", "voxel+global")
STATISTICS = ("mask", "core")
#: How far the core is from the edge of the template's brain, in voxels of 2 mm.
_CORE_DEPTH = 4
#: Mean and standard deviation of all brain voxels, divided by those of the core. In two made runs
#: and a real one, they are 0.96, 0.96 and 0.98, and 1.14, 1.13 and 1.11 (docs/method.md).
_MEAN_OF_CORE, _STD_OF_CORE = 0.96, 1.13
#: Background with the core's statistics: between those of these runs with anatomical masks (-3.7)
#: and with functional ones (-4.9 to -5.9).
_BACKGROUND = -4.0


def check_statistics(statistics: str, method: str) -> None:
    """Raise UsageError if these choices of `STATISTICS` and `METHODS` contradict each other."""
    if statistics == "core" and method != "global":
        raise UsageError(
            f"--statistics core works only with --normalisation global, because with {method} each "
            f"voxel has its own mean; leave out one of them"
        )


def check_quantisation(quantisation: str, variant: str) -> str:
    """Return the quantisation to use; raise UsageError if the variant was not trained with it.

    Parameters
    ----------
    quantisation
        `--quantisation`: `auto`, `none` or `int8`.
    """
    choices = BACKBONES[variant].quantisations
    if quantisation not in ("auto", *choices):
        raise UsageError(
            f"--quantisation {quantisation}: {BACKBONES[variant].network.title} ({variant}) was "
            f"trained without it; leave it out, or choose another --variant"
        )
    return choices[0] if quantisation == "auto" else quantisation


@lru_cache(maxsize=1)
def core_voxels() -> np.ndarray:
    """Return the inner part of the template's brain, bool (voxel of the FSL grid,) in C order."""
    from scipy.ndimage import binary_erosion  # slow to import

    return binary_erosion(template_brain(), iterations=_CORE_DEPTH).reshape(-1)


class ZScores:
    """Turns the brain voxels of a run into z-scores.

    Parameters
    ----------
    moments
        Of the whole run.
    method
        One of `METHODS`.
    core
        bool (brain voxel,): the voxels that decide, with `--statistics core`; None: all of them.
    limits
        Of the whole run: z-scores are rounded to multiples of the largest one / 127, as in int8;
        None: to float16.

    Attributes
    ----------
    mean, std
        In the units of the data. With `voxel+global`, those of all voxels, which only inform.
    background
        z-score of everything outside the brain: the smallest z-score inside it, or a constant with
        `--statistics core`.
    kind
        Type of the z-scores: float16, or float32 if they are quantised.
    """

    def __init__(
        self,
        moments: VoxelMoments,
        method: str,
        core: np.ndarray | None = None,
        limits: VoxelMoments | None = None,
    ):
        self.mean, self.std = moments.overall(core)
        if core is not None:
            self.mean, self.std = _MEAN_OF_CORE * self.mean, _STD_OF_CORE * self.std
        if method == "global":
            lowest = _BACKGROUND
            if core is None:
                lowest = (moments.low[moments.count > 0].min() - self.mean) / self.std
            self._center, self._spread = np.float32(self.mean), np.float32(self.std)
        else:
            # Each voxel then has mean 0 and sum of squares count - 1, so the global standard
            # deviation follows without reading the data again.
            varies = (moments.count > 0) & ~moments.constant
            count = moments.count[varies]
            std = moments.std * np.sqrt((count - 1).sum() / (count.sum() - 1))
            centers, spreads = moments.mean, np.where(varies, std, np.nan)
            lowest = ((moments.low - centers)[varies] / spreads[varies]).min()
            self._center, self._spread = np.float32(centers), np.float32(spreads)
        self._unit = None
        if limits is not None:
            self._unit = np.float32(max(abs(lowest), self._largest(limits)) / 127)
        self.kind = np.dtype("<f2" if limits is None else "<f4")
        self.background = self._stored(np.array([lowest], np.float32))[0]

    def apply(self, rows: np.ndarray) -> np.ndarray:
        """Return the z-scores of a float32 (volume, voxel) block, which is overwritten; NaN becomes
        background."""
        rows -= self._center
        rows /= self._spread
        rows[np.isnan(rows)] = self.background
        return self._stored(rows)

    def _largest(self, limits: VoxelMoments) -> float:
        """The largest absolute z-score of a run."""
        known = limits.count > 0
        low, high = ((x - self._center) / self._spread for x in (limits.low, limits.high))
        return float(np.nanmax(np.abs([low[known], high[known]])))

    def _stored(self, z_scores: np.ndarray) -> np.ndarray:
        if self._unit is None:
            return z_scores.astype(self.kind)
        return (z_scores / self._unit).round().clip(-127, 127) * self._unit
