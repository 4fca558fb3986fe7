"""A run -> its confounds: a table or motion file, or motion from a raw run's transforms."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from swift_bids.geometry.itk import read_affines
from swift_bids.geometry.motion import PARAMETERS, framewise_displacement, motion_parameters
from swift_bids.inputs.confounds import fit_rows, read_confounds
from swift_bids.inputs.mask import load_image
from swift_bids.inputs.run import Run


def confounds_of(run: Run) -> pd.DataFrame | None:
    """Return the confounds of a run, one row per volume; None if it has none.

    Raises
    ------
    InputError
        A file cannot be read.
    """
    if run.confounds:
        return fit_rows(read_confounds(run.confounds), run.n_volumes, run.confounds)
    if raw := run.raw_transforms:
        return motion_confounds(raw.head_motion, raw.reference)
    return None


def motion_confounds(head_motion: str | Path, reference: str | Path) -> pd.DataFrame:
    """Return motion parameters and framewise displacement, with the columns of fMRIPrep's table.

    Parameters
    ----------
    head_motion, reference
        Head-motion transforms of a run, and the BOLD reference that they belong to.

    Raises
    ------
    InputError
        A file cannot be read.
    """
    parameters = motion_parameters(read_affines(head_motion), load_image(reference))
    table = pd.DataFrame(parameters, columns=list(PARAMETERS))
    return table.assign(framewise_displacement=framewise_displacement(parameters))
