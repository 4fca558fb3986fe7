"""Mean signals of parcels + confounds -> denoised signals.

The strategies are those of `nilearn.interfaces.fmriprep.load_confounds_strategy`, which needs the
file names of fMRIPrep; this module takes the table of any source.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from swift_bids.base.errors import InputError
from swift_bids.base.files import read_json
from swift_bids.inputs.parcel_defaults import COMPCOR, GSR, NONE, SCRUBBING, SIMPLE

#: At most one regressor per 3 volumes, so that short runs keep some signal.
VOLUMES_PER_REGRESSOR = 3
#: Scrubbing leaves out volumes above these limits (mm; standard deviations), and segments between
#: them of fewer volumes than this.
FD_LIMIT, DVARS_LIMIT, MIN_SEGMENT = 0.5, 1.5, 5

_AXES = "(trans|rot)_[xyz]"
_DERIVED = "_(derivative1|power2|derivative1_power2)"
_MOTION, _MOTION_DERIVED = rf"^{_AXES}$", rf"^{_AXES}{_DERIVED}$"
_TISSUE, _TISSUE_DERIVED = "^(csf|white_matter)$", f"^(csf|white_matter){_DERIVED}$"
_HIGH_PASS, _COMPCOR, _GLOBAL = r"^cosine_?\d+$", r"^a_comp_cor_\d+$", "^global_signal$"
#: Strategy -> groups of regressors, the most important first: short runs omit the last ones. With
#: their derivatives and squares, there are 24 motion parameters (Friston et al. 1996).
_GROUPS = {
    SIMPLE: (_MOTION, _TISSUE, _HIGH_PASS, _MOTION_DERIVED),
    SCRUBBING: (_MOTION, _TISSUE, _HIGH_PASS, _MOTION_DERIVED, _TISSUE_DERIVED),
    COMPCOR: (_MOTION, _HIGH_PASS, _COMPCOR, _MOTION_DERIVED),
    NONE: (),
}


@dataclass(frozen=True)
class Denoised:
    """Denoised signals of a run.

    Attributes
    ----------
    signals
        (volume, parcel) in standard deviations; NaN for a parcel without variation and for volumes
        that are left out.
    regressors
        Columns that were regressed out, in addition to mean and linear trend.
    omitted
        Columns of the strategy for which the run is too short.
    scrubbed
        bool (volume,): left out because of motion.
    """

    signals: np.ndarray
    regressors: list[str]
    omitted: list[str]
    scrubbed: np.ndarray


def denoise(
    means: np.ndarray,
    confounds: pd.DataFrame | None,
    faulty: np.ndarray | None = None,
    strategy: str = SIMPLE,
) -> Denoised:
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
    strategy
        One of `swift_bids.inputs.parcel_defaults.STRATEGIES`.
    """
    kept = np.ones(len(means), dtype=bool) if faulty is None else ~faulty
    scrubbed = np.zeros(len(means), dtype=bool)
    if confounds is not None and strategy.startswith(SCRUBBING):
        scrubbed = scrub(confounds)
        kept &= ~scrubbed
    used, omitted = _choose_regressors(confounds, strategy, int(kept.sum()))
    denoised = np.full(means.shape, np.nan)
    if kept.sum() < VOLUMES_PER_REGRESSOR:
        return Denoised(denoised, [], omitted, scrubbed)
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
    denoised[np.ix_(kept, known)] = signal
    return Denoised(denoised, used, omitted, scrubbed)


def _choose_regressors(
    confounds: pd.DataFrame | None, strategy: str, n_volumes: int
) -> tuple[list[str], list[str]]:
    """Columns of the strategy's groups for which the run is long enough, and the others.

    A group is used as a whole, and none after it, except CompCor components: their order is that of
    the variance that they explain, so the first ones are used.
    """
    used: list[str] = []
    omitted: list[str] = []
    columns = [] if confounds is None else list(confounds.columns)
    groups = list(_GROUPS[strategy.removesuffix(GSR)])
    if strategy.endswith(GSR):
        groups.insert(1, _GLOBAL)
    for pattern in groups:
        group = [column for column in columns if re.match(pattern, column)]
        n = n_volumes // VOLUMES_PER_REGRESSOR - len(used)
        if omitted or (len(group) > n and pattern != _COMPCOR):
            n = 0
        used += group[:n]
        omitted += group[n:]
    return used, omitted


def scrub(confounds: pd.DataFrame) -> np.ndarray:
    """Find volumes with motion, and short segments between them: bool (volume,).

    A volume is left out if its framewise displacement is above 0.5 mm or its standardised DVARS
    above 1.5, and so are fewer than five volumes in a row between such volumes (Power et al. 2014).
    """
    moved = np.zeros(len(confounds), dtype=bool)
    for column, limit in (("framewise_displacement", FD_LIMIT), ("std_dvars", DVARS_LIMIT)):
        if column in confounds:
            values = pd.to_numeric(confounds[column], errors="coerce").to_numpy(np.float64)
            moved |= values > limit  # False for NaN
    if moved.any():
        edges = np.flatnonzero(np.diff(moved, prepend=True, append=True))
        for start, end in zip(edges[::2], edges[1::2]):
            if end - start < MIN_SEGMENT:
                moved[start:end] = True
    return moved


def used_confounds(
    confounds: pd.DataFrame, confounds_file: str | Path, strategy: str
) -> pd.DataFrame:
    """Leave out the CompCor components that the strategy `compcor` does not use: those of single
    tissues, and those that fMRIPrep did not retain.

    The sidecar of the confounds says which mask a component comes from. Without a sidecar, all
    components stay.

    Raises
    ------
    InputError
        The sidecar cannot be read.
    """
    sidecar = Path(confounds_file).with_suffix(".json")
    if strategy != COMPCOR or not sidecar.exists():
        return confounds
    try:
        about = read_json(sidecar)
        dropped = [
            column
            for column in confounds.columns
            if re.match(_COMPCOR, column)
            and (entry := about.get(column))
            and not (entry.get("Mask") == "combined" and entry.get("Retained", True))
        ]
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(
            f"{sidecar}: cannot be read as the description of the confounds ({error}); fetch it or "
            f"create it again"
        ) from error
    return confounds.drop(columns=dropped)


def lacking(columns: list[str], strategy: str) -> str | None:
    """Name the column that a strategy needs and that a confounds table lacks; None if it has all.

    The default uses what there is, as motion files of cohorts have motion parameters only.
    """
    needed = []
    if strategy.startswith(SCRUBBING):
        needed.append(("^framewise_displacement$", "framewise_displacement"))
    if strategy == COMPCOR:
        needed.append((_COMPCOR, "a_comp_cor_00"))
    if strategy.endswith(GSR):
        needed.append((_GLOBAL, "global_signal"))
    for pattern, name in needed:
        if not any(re.match(pattern, column) for column in columns):
            return name
    return None
