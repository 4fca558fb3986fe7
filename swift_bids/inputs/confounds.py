"""fMRIPrep's confounds table, or a motion file of a cohort -> dummy scans and motion."""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
import pandas as pd

from swift_bids.base.errors import InputError
from swift_bids.geometry.motion import PARAMETERS, framewise_displacement

_DUMMY_SCAN = re.compile(r"^non_steady_state_outlier_?\d+$")
#: Motion files of HCP's pipelines. The first contains mm, degrees, and their differences; the
#: second FSL's relative RMS displacement in mm.
HCP_MOTION, HCP_RMS = "Movement_Regressors.txt", "Movement_RelativeRMS.txt"


def read_confounds(confounds_file: str | Path, n_rows: int | None = None) -> pd.DataFrame:
    """Read the confounds of a run, or the first rows; one row per volume.

    Parameters
    ----------
    confounds_file
        fMRIPrep's table, in which `n/a` becomes NaN; or a motion file of FSL's MCFLIRT (`.par`) or
        of HCP's pipelines, whose columns get fMRIPrep's names and units.
    n_rows
        Number of rows to read at most.

    Raises
    ------
    InputError
        The file is not a table.
    """
    name = Path(confounds_file).name
    if name in (HCP_MOTION, HCP_RMS) or name.endswith(".par"):
        return _read_motion(confounds_file).iloc[:n_rows]
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


def _read_motion(file: str | Path) -> pd.DataFrame:
    """Read a motion file without a header line, of MCFLIRT or of HCP's pipelines."""
    try:
        text = Path(file).read_text()
        values = np.loadtxt(io.StringIO(text), ndmin=2, dtype=np.float64) if text.strip() else None
    except (OSError, ValueError) as error:
        raise InputError(
            f"{file}: cannot be read as motion parameters ({error}); copy it again"
        ) from error
    if values is None:
        raise InputError(f"{file}: is empty; copy it again")
    name = Path(file).name
    if name == HCP_RMS:
        displacement = np.concatenate([[np.nan], values[1:, 0]])  # nothing before the first volume
        return pd.DataFrame({"framewise_displacement": displacement})
    if values.shape[1] < len(PARAMETERS):
        raise InputError(
            f"{file}: has {values.shape[1]} columns instead of {len(PARAMETERS)} or more; copy it "
            f"again"
        )
    if name == HCP_MOTION:
        parameters = np.hstack([values[:, :3], np.deg2rad(values[:, 3:6])])
    else:  # MCFLIRT writes the rotations, in radians, before the translations
        parameters = np.hstack([values[:, 3:6], values[:, :3]])
    table = pd.DataFrame(parameters, columns=list(PARAMETERS))
    return table.assign(framewise_displacement=framewise_displacement(parameters))


def count_dummy_scans(confounds: pd.DataFrame) -> int:
    """Count the non-steady-state volumes that fMRIPrep detected.

    fMRIPrep writes one column `non_steady_state_outlierXX` for each of them.
    """
    return sum(bool(_DUMMY_SCAN.match(column)) for column in confounds.columns)


def check_rows(file: str | Path, n_volumes: int, motion_needed: bool) -> tuple[bool, str | None]:
    """Check that a confounds table or motion file has a row for each volume.

    A table of fMRIPrep may have one row more or less. If its first row has no framewise
    displacement, as that of a first volume, its rows are those of the volumes.

    Parameters
    ----------
    n_volumes
        Number of volumes of the run.
    motion_needed
        Whether the run cannot be embedded without its motion.

    Returns
    -------
    bool
        Whether the file can be used.
    str or None
        A sentence if the numbers differ.

    Raises
    ------
    InputError
        The file cannot be read, or cannot be used although motion is needed.
    """
    n_rows = _count_rows(file)
    if n_rows == n_volumes:
        return True, None
    first = read_confounds(file, n_rows=1)
    known = displacement_in(first, len(first), file)
    begins = known is not None and len(known) > 0 and bool(np.isnan(known[0]))
    if abs(n_rows - n_volumes) == 1 and begins:
        return True, (
            f"its confounds table has {n_rows} rows for {n_volumes} volumes, as some versions of "
            f"fMRIPrep write it; the rows are used from the first volume on"
        )
    if motion_needed:
        reason = _of_another_run(file, n_rows, n_volumes)
        raise InputError(f"{reason}, or leave out --max-censored")
    return False, (
        f"its confounds table has {n_rows} rows for {n_volumes} volumes and is not used, so its "
        f"motion is unknown; copy this run's file again"
    )


def _of_another_run(file: str | Path, n_rows: int, n_volumes: int) -> str:
    return (
        f"{file}: has {n_rows} rows but the run has {n_volumes} volumes; the file belongs to "
        f"another run, so copy this run's file again"
    )


def _count_rows(file: str | Path) -> int:
    if not str(file).endswith(".tsv"):
        return len(read_confounds(file))
    try:
        with open(file, "rb") as lines:
            return sum(1 for line in lines if line.strip()) - 1
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror}); check the file") from error


def fit_rows(confounds: pd.DataFrame, n_volumes: int, file: str | Path) -> pd.DataFrame:
    """Give a table one row for each volume, NaN for a last one that it lacks.

    Raises
    ------
    InputError
        It has two rows more or less than the run has volumes, or differs by even more.
    """
    if abs(len(confounds) - n_volumes) > 1:
        raise InputError(_of_another_run(file, len(confounds), n_volumes))
    return confounds.reindex(range(n_volumes))


def displacement_in(
    confounds: pd.DataFrame, n_volumes: int, confounds_file: str | Path
) -> np.ndarray | None:
    """Return the framewise displacement (volume,) in mm, or None if the table lacks the column.

    Raises
    ------
    InputError
        `fit_rows` refuses the table, or the column contains text.
    """
    confounds = fit_rows(confounds, n_volumes, confounds_file)
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
