"""Participant outputs -> what embeddings are compared with: motion, functional connectivity."""

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
#: An edge that fewer of the rows have is left out; a row that lacks more edges is of no use.
_EDGE_KNOWN, _ROW_KNOWN = 0.9, 0.5
#: Up to so many runs, participants are also told apart by functional connectivity.
MOST_RUNS = 2000
#: Correlations are kept this far from 1, where Fisher's z is infinite.
_LIMIT = 1 - 1e-6


@dataclass(frozen=True)
class Connectivity:
    """Functional connectivity, where runs have time series of the same parcels.

    Attributes
    ----------
    of_participants
        (participant, edge) float32, the mean over runs weighted by included chunks; a row is NaN
        where a participant's runs do not cover half of the brain. None where there is none.
    of_runs
        (run, edge) likewise, for up to 2,000 runs.
    note
        What it is, or why there is none.
    problems
        Tables that cannot be read.
    """

    of_participants: np.ndarray | None
    of_runs: np.ndarray | None
    note: str
    problems: tuple[Problem, ...] = ()


def motion(table: pd.DataFrame) -> np.ndarray:
    """(row, 2) mean framewise displacement (mm) and share of censored volumes; NaN where a row
    has none."""
    return table[list(MOTION)].to_numpy(np.float64)


def collect_connectivity(output_dir: Path, runs: pd.DataFrame) -> Connectivity:
    """Read the parcels' time series of all runs, one after the other."""
    codes, participants = pd.factorize(runs["participant_id"])
    weights = runs["n_included"].to_numpy(np.float32)
    atlas: tuple[str, str | None] | None = None
    parcels: list[str] | None = None
    with_file = 0
    problems = []
    for place, name in enumerate(runs["name"]):
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
            total = np.zeros((len(participants), len(edges)), dtype=np.float32)
            weight = np.zeros_like(total)
            few = len(runs) <= MOST_RUNS
            each = np.full((len(runs), len(edges)), np.nan, dtype=np.float32) if few else None
        elif (own_atlas, own_parcels) != (atlas, parcels):
            return Connectivity(
                None,
                None,
                f"{file} has other parcels than the runs before; embed all with one --atlas",
                tuple(problems),
            )
        with_file += 1
        known = ~np.isnan(edges)
        total[codes[place]] += weights[place] * np.where(known, edges, 0)
        weight[codes[place]] += weights[place] * known
        if each is not None:
            each[place] = edges
    if atlas is None or parcels is None:
        return Connectivity(None, None, "no run has time series of parcels", tuple(problems))
    with np.errstate(invalid="ignore"):
        total /= weight
    what = (
        f"Pearson correlations (Fisher's z) between the denoised mean signals of {len(parcels)} "
        f"parcels ({atlas[0]}), of {with_file} of {len(runs)} runs"
    )
    of_participants = _complete(total)
    if of_participants is None:
        what = f"no pair of the {len(parcels)} parcels is known for {_EDGE_KNOWN:.0%} of them"
    of_runs = None if each is None else _complete(each)
    return Connectivity(of_participants, of_runs, what, tuple(problems))


def _complete(edges: np.ndarray) -> np.ndarray | None:
    """Leave out edges that many rows lack, fill the others with their mean, and set rows that lack
    half of them to NaN; None where nothing is left."""
    known = ~np.isnan(edges)
    usable = known.mean(axis=1) >= _ROW_KNOWN
    if not usable.any():
        return None
    kept = known[usable].mean(axis=0) >= _EDGE_KNOWN
    if not kept.any():
        return None
    edges = edges[:, kept]
    mean = np.nanmean(edges[usable], axis=0)
    edges = np.where(np.isnan(edges), mean, edges)
    edges[~usable] = np.nan
    return edges


def connectivity(parcel_file: Path) -> tuple[np.ndarray, list[str]]:
    """Functional connectivity of a run.

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
        It is no such table.
    """
    table = pd.read_csv(parcel_file, sep="\t", na_values="n/a", dtype=np.float32)
    if table.shape[1] < 2 or len(table) < 2:
        raise ValueError("it takes two parcels and two volumes")
    with np.errstate(invalid="ignore", divide="ignore"):
        correlation = np.corrcoef(table.to_numpy(), rowvar=False)
    edges = correlation[np.triu_indices(table.shape[1], k=1)]
    return np.arctanh(np.clip(edges, -_LIMIT, _LIMIT)).astype(np.float32), list(table.columns)
