"""fMRIPrep's confounds table -> dummy scans and framewise displacement."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd

from swift_bids.base.errors import InputError

_DUMMY_SCAN = re.compile(r"^non_steady_state_outlier_?\d+$")


def read_confounds(confounds_file: str | Path, n_rows: int | None = None) -> pd.DataFrame:
    """Read fMRIPrep's confounds table, or its first rows; `n/a` becomes NaN.

    Raises
    ------
    InputError
        The file is not a table.
    """
    try:
        table = pd.read_csv(
            confounds_file, sep="\t", na_values="n/a", encoding="utf-8-sig", nrows=n_rows
        )
    except (OSError, ValueError) as error:
        raise InputError(
            f"{confounds_file}: cannot be read as a confounds table ({error}); fetch it or create "
            f"it again"
        ) from error
    if len(table.columns) == 1 and re.search("[,; ]", str(table.columns[0])):
        raise InputError(
            f"{confounds_file}: its columns are not separated by tabs; fetch it or create it again"
        )
    return table


def count_dummy_scans(confounds: pd.DataFrame) -> int:
    """Count the non-steady-state volumes that fMRIPrep detected.

    fMRIPrep writes one column `non_steady_state_outlierXX` for each of them.
    """
    return sum(bool(_DUMMY_SCAN.match(column)) for column in confounds.columns)


def displacement_in(
    confounds: pd.DataFrame, n_volumes: int, confounds_file: str | Path
) -> np.ndarray | None:
    """Return the framewise displacement (volume,) in mm, or None if the table lacks the column.

    Raises
    ------
    InputError
        The table has fewer or more rows than the run has volumes, or the column contains text.
    """
    if len(confounds) != n_volumes:
        raise InputError(
            f"{confounds_file}: has {len(confounds)} rows but the run has {n_volumes} volumes; "
            f"the table belongs to another run, so copy this run's table from fMRIPrep's output"
        )
    for column in ("framewise_displacement", "FramewiseDisplacement"):
        if column in confounds:
            try:
                return confounds[column].to_numpy(dtype=np.float64)
            except ValueError as error:
                raise InputError(
                    f"{confounds_file}: {column} contains text instead of numbers ({error}); "
                    f"correct it"
                ) from error
    return None
