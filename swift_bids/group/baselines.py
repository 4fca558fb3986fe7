"""Participant outputs -> baselines for the embeddings: head motion, brain mask, connectivity."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from swift_bids.base.errors import Problem
from swift_bids.inputs.filenames import entities_in
from swift_bids.outputs.parcels import atlas_of, find_parcels
from swift_bids.outputs.paths import run_folder

#: Columns of head motion.
MOTION = ("mean_fd", "censored")
#: Columns of what the brain mask lets the network see.
MASK = ("mask_volume", "template_dice", "mean_intensity")
#: An edge is used if at least this share of rows has it; a row is used if it has at least this
#: share of edges.
_MIN_EDGE_KNOWN, _MIN_ROW_KNOWN = 0.9, 0.5
#: Most runs for which identification also uses functional connectivity.
MAX_RUNS = 2000
#: Correlations are clipped to this limit, because Fisher's z is infinite at 1.
_LIMIT = 1 - 1e-6


@dataclass(frozen=True)
class Connectivity:
    """Functional connectivity of runs that have time series of the same parcels.

    Attributes
    ----------
    by_unit
        (unit, edge) float32, the mean over the runs of a participant (or session), weighted by
        included chunks; a row is NaN if they have fewer than half of the edges. None without
        connectivity.
    by_run
        (run, edge) likewise; None for more than 2,000 runs.
    note
        How it was computed, or why there is none.
    problems
        Tables that could not be read.
    """

    by_unit: np.ndarray | None
    by_run: np.ndarray | None
    note: str
    problems: tuple[Problem, ...] = ()


def motion(table: pd.DataFrame) -> np.ndarray:
    """Mean framewise displacement (mm) and share of censored volumes, (row, 2); NaN if unknown."""
    return table[list(MOTION)].to_numpy(np.float64)


def mask_and_intensity(table: pd.DataFrame) -> np.ndarray:
    """Mask volume (mL), overlap with the template and mean intensity, (row, 3); NaN if unknown."""
    return table[list(MASK)].to_numpy(np.float64)


def collect_connectivity(output_dir: Path, runs: pd.DataFrame, units: pd.Series) -> Connectivity:
    """Compute functional connectivity from the parcels' time series of all runs.

    Parameters
    ----------
    runs
        Table of the runs.
    units
        (run,) participant or session, over whose runs to average.
    """
    codes, names = pd.factorize(units)
    weights = runs["n_included"].to_numpy(np.float32)
    atlas: tuple[str, str | None] | None = None
    parcels: list[str] | None = None
    with_file = 0
    problems = []
    for row, name in enumerate(runs["name"]):
        file = find_parcels(run_folder(output_dir, name), name)
        if file is None:
            continue
        try:
            own_atlas = atlas_of(file)
            edges, own_parcels = connectivity(file)
        except (OSError, ValueError, KeyError, TypeError) as error:
            reason = f"{file} or its sidecar cannot be read ({error}); embed the run again"
            problems.append(Problem(entities_in(name)["sub"], name, reason))
            continue
        if parcels is None:
            atlas, parcels = own_atlas, own_parcels
            total = np.zeros((len(names), len(edges)), dtype=np.float32)
            weight = np.zeros_like(total)
            per_run = None
            if len(runs) <= MAX_RUNS:
                per_run = np.full((len(runs), len(edges)), np.nan, dtype=np.float32)
        elif (own_atlas, own_parcels) != (atlas, parcels):
            return Connectivity(
                None,
                None,
                f"{file} has other parcels than the runs before it; embed all runs with the same "
                f"--atlas",
                tuple(problems),
            )
        with_file += 1
        known = ~np.isnan(edges)
        total[codes[row]] += weights[row] * np.where(known, edges, 0)
        weight[codes[row]] += weights[row] * known
        if per_run is not None:
            per_run[row] = edges
    if atlas is None or parcels is None:
        return Connectivity(None, None, "no run has time series of parcels", tuple(problems))
    with np.errstate(invalid="ignore"):
        total /= weight
    note = (
        f"Pearson correlations (Fisher's z) between the denoised mean signals of {len(parcels)} "
        f"parcels ({atlas[0]}), of {with_file} of {len(runs)} runs"
    )
    by_unit = _complete(total)
    if by_unit is None:
        share = f"{_MIN_EDGE_KNOWN:.0%} of the participants"
        note = f"no pair of the {len(parcels)} parcels is known for {share}"
    by_run = None if per_run is None else _complete(per_run)
    return Connectivity(by_unit, by_run, note, tuple(problems))


def _complete(edges: np.ndarray) -> np.ndarray | None:
    """Drop edges that many rows lack, fill gaps in the others with the edge's mean, and set rows
    without half of the edges to NaN; None if no edge or row remains."""
    known = ~np.isnan(edges)
    usable = known.mean(axis=1) >= _MIN_ROW_KNOWN
    if not usable.any():
        return None
    kept = known[usable].mean(axis=0) >= _MIN_EDGE_KNOWN
    if not kept.any():
        return None
    edges = edges[:, kept]
    mean = np.nanmean(edges[usable], axis=0)
    edges = np.where(np.isnan(edges), mean, edges)
    edges[~usable] = np.nan
    return edges


def connectivity(parcel_file: Path) -> tuple[np.ndarray, list[str]]:
    """Compute the functional connectivity of a run.

    Returns
    -------
    numpy.ndarray
        (edge,) float32: Fisher's z of the Pearson correlation of each pair of parcels, upper
        triangle row by row; NaN where a parcel has no signal.
    list of str
        Names of the parcels.

    Raises
    ------
    ValueError
        The table has fewer than two parcels or two volumes.
    """
    table = pd.read_csv(parcel_file, sep="\t", na_values="n/a", dtype=np.float32)
    table = table.dropna(how="all")  # faulty volumes
    if table.shape[1] < 2 or len(table) < 2:
        raise ValueError("it has fewer than two parcels or two volumes")
    with np.errstate(invalid="ignore", divide="ignore"):
        correlation = np.corrcoef(table.to_numpy(), rowvar=False)
    edges = correlation[np.triu_indices(table.shape[1], k=1)]
    return np.arctanh(np.clip(edges, -_LIMIT, _LIMIT)).astype(np.float32), list(table.columns)
