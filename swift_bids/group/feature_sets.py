"""Rows of an analysis -> sets of features to predict from: embeddings, and their baselines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from swift_bids.group.analysis import Analysis, session_names
from swift_bids.group.average import average_runs
from swift_bids.group.baselines import acquisition, motion
from swift_bids.group.connectivity import collect_connectivity
from swift_bids.group.positions import collect_positions
from swift_bids.group.probes.features import Components, ConnectivityMatrices, FeatureSet, Table
from swift_bids.group.probes.harmonise import Harmonised
from swift_bids.group.probes.scores import (
    ACQUISITION,
    COMPARED,
    CONNECTIVITY,
    EMBEDDING,
    MOTION,
    POSITIONS,
    TOKENS,
)
from swift_bids.group.tables import GroupResults

#: If at most this share of the participants lacks a baseline, the probes exclude these
#: participants; if more do, the probes omit the baseline.
_MAX_LACKING = 0.1
#: Key of `omitted` for outputs without tokens by position.
POSITIONS_AND_TOKENS = "positions and tokens"


@dataclass(frozen=True)
class FeatureSets:
    """Features of the rows of an analysis.

    Attributes
    ----------
    sets
        Name -> features.
    usable
        bool (row,): whether the row has all of them.
    omitted
        `baseline NAME` -> why the set is omitted.
    """

    sets: Mapping[str, FeatureSet]
    usable: np.ndarray
    omitted: Mapping[str, str]


def collect_features(output_dir: Path, results: GroupResults, analysis: Analysis) -> FeatureSets:
    """Collect the representations of the embeddings, and the baselines, of an analysis."""
    table, runs = analysis.embedded.table, results.runs.table
    rows = "sessions" if analysis.by_session else "participants"
    units = session_names(runs) if analysis.by_session else runs["participant_id"]
    sets: dict[str, FeatureSet] = {EMBEDDING: Table(analysis.embedded.features.astype(np.float64))}
    omitted: dict[str, str] = {}
    usable = np.ones(len(table), dtype=bool)

    def add(values: np.ndarray, made: Mapping[str, FeatureSet], key: str, lack: str) -> None:
        """Add the sets made from values, or say under a key how many rows lack them."""
        lacking = np.isnan(values).any(axis=tuple(range(1, values.ndim)))
        if lacking.mean() <= _MAX_LACKING:
            sets.update(made)
            usable[lacking] = False
        else:
            omitted[key] = lack.format(f"{lacking.sum()} of {len(lacking)} {rows}")

    if results.compared is not None:
        others = average_runs(results.compared.beside(results.runs), units).features
        add(others, {COMPARED: Table(others.astype(np.float64))}, COMPARED, "{} lack it")
    over_time, problems = collect_positions(output_dir, runs, units, results.runs.label)
    results.problems += [p for p in problems if p not in results.problems]
    by_position = {
        POSITIONS: Table(over_time[:, 0].astype(np.float64)),
        TOKENS: Components(over_time.reshape(len(over_time), -1).astype(np.float64)),
    }
    add(over_time, by_position, POSITIONS_AND_TOKENS, "the outputs of {} lack them")
    connectivity = results.connectivity
    if analysis.by_session and connectivity is not None:
        connectivity = collect_connectivity(output_dir, runs, units)
    baselines = {MOTION: motion(table), ACQUISITION: acquisition(table)}
    if connectivity is not None and connectivity.by_unit is not None:
        baselines[CONNECTIVITY] = connectivity.by_unit
    elif connectivity is not None:
        omitted[f"baseline {CONNECTIVITY}"] = connectivity.note
    for name, values in baselines.items():
        made = (ConnectivityMatrices if values.ndim == 3 else Table)(values)
        add(values, {name: made}, f"baseline {name}", "{} lack it")
    if analysis.sites is not None:
        sets = {name: harmonised(features, analysis) for name, features in sets.items()}
    return FeatureSets(sets, usable, omitted)


def harmonised(features: FeatureSet, analysis: Analysis) -> FeatureSet:
    """Features without the effects of the sites of `--harmonise`; as they are without it."""
    sites = analysis.site_codes
    return features if sites is None else Harmonised(features, sites)
