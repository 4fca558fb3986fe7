"""Brain voxels of a run -> one value per volume of its global signal, DVARS and faults, and the
rows of its carpet plot. All of it comes from the blocks that `normalise` reads anyway."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from swift_bids.geometry.brain_parts import describe_part
from swift_bids.inputs.raw_header import count_unsteady
from swift_bids.steps.volume_faults import Faults, find_faults
from swift_bids.steps.voxel_statistics import median_and_spread

#: Values of the brain voxels that are kept to look at them over time (12 MB): all of a run of 13
#: volumes, every 80th voxel of one of 1,000.
_MAX_KEPT = 3_000_000
#: Rows of the carpet plot. More would only make the picture larger: it has as many lines.
_MAX_CARPET_ROWS = 300
#: DVARS is computed from data whose median is scaled to this value, as fMRIPrep does.
_SCALED_MEDIAN = 1000


@dataclass(frozen=True)
class Volumes:
    """What is known of every volume of a BOLD file, dummy scans included.

    Attributes
    ----------
    global_signal
        (volume,) mean of the brain voxels, in the units of the BOLD file; NaN without signal.
    dvars, std_dvars
        (volume,) DVARS, and DVARS divided by its value in data without artefacts, as fMRIPrep's
        table has them; NaN for the first volume, and next to one without signal.
    faults
        What is wrong with which volumes.
    lost_part
        In words, where volumes have lost a part of the brain; empty if none has.
    n_unsteady
        Volumes before the signal is steady, by fMRIPrep's rule.
    carpet, carpet_columns
        Float32 (volume, row) values of some brain voxels; their columns in the matrix.
    """

    global_signal: np.ndarray
    dvars: np.ndarray
    std_dvars: np.ndarray
    faults: Faults
    lost_part: str
    n_unsteady: int
    carpet: np.ndarray
    carpet_columns: np.ndarray

    def save(self, file: str | Path) -> None:
        """Write everything as `.npz`."""
        content = asdict(self)
        np.savez(file, **content.pop("faults"), **content)

    @classmethod
    def load(cls, file: str | Path) -> Volumes:
        """Read what `save` wrote."""
        with np.load(file) as content:
            values = {name: content[name] for name in content.files}
        faults = Faults(**{name: values.pop(name) for name in Faults.__dataclass_fields__})
        lost_part, n_unsteady = str(values.pop("lost_part")), int(values.pop("n_unsteady"))
        return cls(faults=faults, lost_part=lost_part, n_unsteady=n_unsteady, **values)


class VolumeSignals:
    """Collects the signals of the volumes while a run is read.

    Parameters
    ----------
    fsl_index
        (brain voxel,) flat positions in the FSL grid.
    n_volumes, first_volume
        Volumes of the BOLD file, and the first that is not a dummy scan.
    """

    def __init__(self, fsl_index: np.ndarray, n_volumes: int, first_volume: int) -> None:
        self._fsl_index, self._first_volume = fsl_index, first_volume
        step = max(1, -(-len(fsl_index) * n_volumes // _MAX_KEPT))
        self._columns = np.arange(0, len(fsl_index), step)
        self._kept: list[np.ndarray] = []
        self._means: list[np.ndarray] = []
        self._changes: list[np.ndarray] = []
        self._last = np.full((1, len(fsl_index)), np.nan, np.float32)

    def add(self, block: np.ndarray) -> None:
        """Add a float32 (volume, brain voxel) block; NaN marks values without signal."""
        self._kept.append(block[:, self._columns])
        self._means.append(_mean(block))
        change = np.diff(block, axis=0, prepend=self._last)
        self._changes.append(np.sqrt(_mean(np.square(change, out=change))))
        self._last = block[-1:].copy()

    def finish(self) -> Volumes:
        """Return what the blocks show, once all of them have been added."""
        kept = np.concatenate(self._kept)
        means, changes = np.concatenate(self._means), np.concatenate(self._changes)
        faults, lost = find_faults(kept, means, changes, self._first_volume)
        looked_at = self._fsl_index[self._columns]
        scale, predicted = _dvars_without_artefacts(kept[self._first_volume :])
        every = -(-kept.shape[1] // _MAX_CARPET_ROWS)
        return Volumes(
            global_signal=means,
            dvars=changes * scale,
            std_dvars=changes / predicted,
            faults=faults,
            lost_part=describe_part(looked_at[lost], looked_at),
            n_unsteady=count_unsteady(np.nan_to_num(means)),
            carpet=kept[:, ::every].copy(),
            carpet_columns=self._columns[::every],
        )


def _mean(rows: np.ndarray) -> np.ndarray:
    """Mean of each row without its NaN, (row,) float64; NaN for a row of NaN."""
    means = rows.mean(axis=1, dtype=np.float64)
    for row in np.flatnonzero(np.isnan(means)):
        known = rows[row][~np.isnan(rows[row])]
        means[row] = known.mean(dtype=np.float64) if len(known) else np.nan
    return means


def _dvars_without_artefacts(values: np.ndarray) -> tuple[float, float]:
    """Factor that scales the median of a run to 1,000, and the root mean square difference of
    volumes that its autocorrelation and robust standard deviation predict.

    The prediction standardises DVARS (Nichols 2013; Afyouni and Nichols 2018), here as nipype's
    `compute_dvars` does. Voxels without signal in a volume, and volumes in which most voxels have
    none, are left out.

    Parameters
    ----------
    values
        (volume, voxel).
    """
    values = values[np.isnan(values).mean(axis=1) < 0.5]
    series = values[:, ~np.isnan(values).any(axis=0)].T
    if series.size == 0:
        return np.nan, np.nan
    _, spread = median_and_spread(series, axis=1)
    varies = spread > 0
    deviations = series[varies] - series[varies].mean(axis=1, keepdims=True)
    lag = (deviations[:, 1:] * deviations[:, :-1]).sum(axis=1) / np.square(deviations).sum(axis=1)
    predicted = (np.sqrt(2 * (1 - lag)) * spread[varies]).mean() if varies.any() else np.nan
    median = np.median(series)
    return float(_SCALED_MEDIAN / median) if median > 0 else np.nan, float(predicted)
