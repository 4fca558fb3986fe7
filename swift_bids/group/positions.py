"""Participant outputs -> spatially pooled tokens of participants or sessions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from safetensors import SafetensorError
from safetensors.numpy import load_file

from swift_bids.outputs.paths import output_path


def collect_positions(
    output_dir: Path, runs: pd.DataFrame, units: pd.Series
) -> tuple[np.ndarray, str | None]:
    """Average the mean and standard deviation of the tokens at each position over runs.

    Parameters
    ----------
    runs
        Table of the runs.
    units
        (run,) participant or session, over whose runs to average, weighted by included chunks.

    Returns
    -------
    numpy.ndarray
        (unit, 2, feature and position) float32; empty if a run lacks its file.
    str or None
        Why it is empty.
    """
    codes, names = pd.factorize(units)
    weights = runs["n_included"].to_numpy(np.float64)
    share = weights / np.bincount(codes, weights)[codes]
    total = np.empty((0, 2, 0), dtype=np.float32)
    for row, name in enumerate(runs["name"]):
        file = output_path(output_dir, name, "positions", ".safetensors")
        try:
            values = load_file(file)["positions"].reshape(2, -1)
        except (OSError, KeyError, ValueError, SafetensorError) as error:
            return np.empty((0, 2, 0)), f"{file} cannot be read ({error}); embed the run again"
        if row == 0:
            total = np.zeros((len(names), *values.shape), dtype=np.float32)
        total[codes[row]] += share[row] * values
    return total, None
