"""Number of volumes, TR and confounds -> the table of chunks (20 volumes each) of a run."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd

from swift_bids.errors import InputError

#: Volumes of one chunk, the network's T.
CHUNK_VOLUMES = 20
_DUMMY_SCAN = re.compile(r"^non_steady_state_outlier_?\d+$")


def read_confounds(confounds_file: str | Path) -> pd.DataFrame:
    """Read fMRIPrep's confounds table; `n/a` becomes NaN.

    Raises
    ------
    InputError
        The file is no table.
    """
    try:
        return pd.read_csv(confounds_file, sep="\t", na_values="n/a", encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise InputError(f"{confounds_file}: is no confounds table ({error})") from error


def count_dummy_scans(confounds: pd.DataFrame) -> int:
    """First volumes before the steady state, as fMRIPrep found them.

    fMRIPrep writes one column `non_steady_state_outlierXX` for each of them.
    """
    return sum(bool(_DUMMY_SCAN.match(column)) for column in confounds.columns)


def framewise_displacement(
    confounds: pd.DataFrame, n_volumes: int, confounds_file: str | Path
) -> np.ndarray | None:
    """Framewise displacement (volume,) in mm, or None where the table has no such column.

    Raises
    ------
    InputError
        The table has another number of rows than the run has volumes, or text in the column.
    """
    if len(confounds) != n_volumes:
        raise InputError(
            f"{confounds_file}: has {len(confounds)} rows but the run has {n_volumes} volumes; "
            f"the table belongs to another run"
        )
    for column in ("framewise_displacement", "FramewiseDisplacement"):
        if column in confounds:
            try:
                return confounds[column].to_numpy(dtype=np.float64)
            except ValueError as error:
                raise InputError(f"{confounds_file}: {column} is no number ({error})") from error
    return None


def plan_chunks(
    n_volumes: int,
    repetition_time: float,
    first_volume: int = 0,
    displacement: np.ndarray | None = None,
    fd_threshold: float = 0.5,
    max_censored: float = 1.0,
) -> pd.DataFrame:
    """Cut a run into chunks of 20 volumes, from the first used volume on; the tail is dropped.

    That is how the network was trained (stride 20 in the original data loader).

    Parameters
    ----------
    n_volumes, repetition_time
        Volumes of the run and its TR in s.
    first_volume
        Index of the first volume that is used (the number of dummy scans).
    displacement
        Framewise displacement (volume,) in mm; NaN (the first volume's) does not count.
    fd_threshold
        A volume that moved more than this (mm) is censored.
    max_censored
        A chunk with a larger share of censored volumes is not included in the run's mean.

    Returns
    -------
    pandas.DataFrame
        One row a chunk: `start`, `stop` (volumes of the BOLD file, from 0, stop
        exclusive), `onset`, `duration` (s), `mean_fd` (mm), `censored` (share), `included`.
        Without `displacement`, `mean_fd` and `censored` are NaN and every chunk is included.

    Raises
    ------
    InputError
        Fewer than 20 volumes are left, or no chunk may be included.
    """
    starts = np.arange(first_volume, n_volumes - CHUNK_VOLUMES + 1, CHUNK_VOLUMES)
    if len(starts) == 0:
        raise InputError(
            f"the run has {n_volumes} volumes, {first_volume} of them dummy scans, and the network "
            f"needs {CHUNK_VOLUMES}: too short for an embedding"
        )
    moved = np.full((len(starts), CHUNK_VOLUMES), np.nan)  # (chunk, volume) mm
    if displacement is not None:
        moved = displacement[starts[:, None] + np.arange(CHUNK_VOLUMES)]
    known = ~np.isnan(moved)
    mean_fd = np.nansum(moved, axis=1) / np.where(known.any(1), known.sum(1), np.nan)
    # The first volume of a run has no displacement and is not censored.
    censored = np.where(known, moved > fd_threshold, False).mean(axis=1)
    if displacement is None:
        censored[:] = np.nan
    included = ~(censored > max_censored)
    if not included.any():
        raise InputError(
            f"every chunk has more than {max_censored:.0%} of its volumes above {fd_threshold} mm "
            f"framewise displacement; raise --max-censored or --fd-threshold to embed it"
        )
    return pd.DataFrame(
        {
            "start": starts,
            "stop": starts + CHUNK_VOLUMES,
            "onset": starts * repetition_time,
            "duration": CHUNK_VOLUMES * repetition_time,
            "mean_fd": mean_fd,
            "censored": censored,
            "included": included,
        }
    )
