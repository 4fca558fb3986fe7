"""Table of runs or participants -> baselines for the embeddings: head motion, acquisition."""

from __future__ import annotations

import numpy as np
import pandas as pd

#: Columns of head motion.
MOTION = ("mean_fd", "censored")
#: Columns of what the brain mask lets the network see.
MASK = ("mask_volume", "template_dice", "mean_intensity")
#: Columns by which a network could tell acquisitions apart.
ACQUISITION_COLUMNS = (*MASK, "tsnr")


def motion(table: pd.DataFrame) -> np.ndarray:
    """Mean framewise displacement (mm) and share of censored volumes, (row, 2); NaN if unknown."""
    return table[list(MOTION)].to_numpy(np.float64)


def acquisition(table: pd.DataFrame) -> np.ndarray:
    """Mask volume (mL), overlap with the template, mean intensity and temporal SNR, (row, 4); NaN
    if unknown."""
    return table[list(ACQUISITION_COLUMNS)].to_numpy(np.float64)
