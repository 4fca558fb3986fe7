"""What an explanation consists of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from swift_bids.group.probes.saved import SavedProbe

#: Columns of the tables.
COLUMNS = {
    "parcel": {"Description": "Name of the parcel in the atlas; last, all voxels outside parcels"},
    "attribution": {
        "Description": "Integrated Gradients, sum over the voxels of the parcel, mean over runs"
    },
    "attribution_se": {"Description": "Standard error of the mean over runs"},
    "occlusion": {
        "Description": "Fall of the score when the baseline replaces the parcel, mean over runs"
    },
    "occlusion_se": {"Description": "Standard error of the mean over runs"},
    "name": {"Description": "Name of the run"},
    "explained": {"Description": "The predicted class, whose score is explained, or the target"},
    "n_chunks": {"Description": "Number of chunks that were explained"},
    "difference": {"Description": "Score minus that of the baseline, mean over chunks"},
    "completeness_error": {
        "Description": "By how much the sum of the attributions misses the difference, as a share "
        "of it; the largest of the chunks"
    },
    "n_steps": {"Description": "Steps of the integral; the largest number of the chunks"},
}


@dataclass
class Explanation:
    """Where the predictions of a probe come from.

    Attributes
    ----------
    probe
        The probe.
    values, known
        Mean attribution of each voxel of the 96^3 input, flat, and whether any run has it.
    parcels, runs
        Tables, see `COLUMNS`.
    similarity
        Spearman correlation over voxels with the map of the same probe with its coefficients in
        random order (the sanity check of Adebayo et al. 2018).
    random_weights
        Whether the network has random weights.
    """

    probe: SavedProbe
    values: np.ndarray
    known: np.ndarray
    parcels: pd.DataFrame
    runs: pd.DataFrame
    similarity: float
    random_weights: bool = False

    @property
    def completeness_error(self) -> float:
        """Largest error of a run, as a share of its difference."""
        return float(self.runs["completeness_error"].max())
