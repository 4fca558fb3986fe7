"""Participant outputs -> tokens of participants or sessions, averaged over time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from safetensors import SafetensorError
from safetensors.numpy import load_file

from swift_bids.base.errors import Problem
from swift_bids.inputs.filenames import entities_in
from swift_bids.outputs.paths import output_path


def collect_positions(
    output_dir: Path, runs: pd.DataFrame, units: pd.Series, label: str
) -> tuple[np.ndarray, list[Problem]]:
    """Average the mean and standard deviation of the tokens at each position over runs.

    Parameters
    ----------
    runs
        Table of the runs.
    label
        Label of the network.
    units
        (run,) participant or session, over whose runs to average, weighted by included chunks.

    Returns
    -------
    numpy.ndarray
        (unit, 2, feature and position) float32; NaN for a unit that has no such file.
    list of Problem
        Files that cannot be read.
    """
    codes, names = pd.factorize(units)
    weight = np.zeros(len(names))
    total = np.zeros((len(names), 2, 0), dtype=np.float32)
    problems = []
    for code, name, n_chunks in zip(codes, runs["name"], runs["n_included"]):
        file = output_path(output_dir, name, label, "positions", ".safetensors")
        if not file.exists():  # made by an earlier version
            continue
        try:
            values = load_file(file)["positions"].reshape(2, -1)
            if total.shape[2] == 0:
                total = np.zeros((len(names), *values.shape), dtype=np.float32)
            total[code] += n_chunks * values
        except (OSError, KeyError, ValueError, SafetensorError) as error:
            reason = f"{file} cannot be read ({error}); embed the run again"
            problems.append(Problem(entities_in(name)["sub"], name, reason))
            continue
        weight[code] += n_chunks
    with np.errstate(invalid="ignore"):
        total /= weight[:, None, None].astype(np.float32)
    if total.shape[2] == 0:
        total = np.full((len(names), 2, 1), np.nan, dtype=np.float32)
    return total, problems
