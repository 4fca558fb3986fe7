"""Targets of a call -> probes of the embeddings and of the baselines, for the same rows."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from swift_bids.base.errors import Problem
from swift_bids.group.analysis import Analysis, session_names
from swift_bids.group.baselines import MASK, collect_connectivity, mask_and_intensity, motion
from swift_bids.group.columns import MIN_PARTICIPANTS, Target, reason_unfit
from swift_bids.group.mask_effects import VOLUME, associated_with_mask, volume_target
from swift_bids.group.probes.probe import fit_probe
from swift_bids.group.probes.scores import EMBEDDING
from swift_bids.group.tables import GroupResults
from swift_bids.settings import GroupSettings

_LOG = logging.getLogger("swift_bids")
#: If at most this share of the participants lacks a baseline, the probes exclude these
#: participants; if more do, the probes omit the baseline.
_MAX_LACKING = 0.1


def probe_targets(
    output_dir: Path, results: GroupResults, analysis: Analysis, settings: GroupSettings
) -> None:
    """Probe each target and, on participants, the volume of the brain masks; add tables and reasons
    to the results."""
    features: dict[str, np.ndarray] = {}
    usable = np.empty(0, dtype=bool)
    if analysis.targets:
        features, usable = _feature_sets(output_dir, results, analysis)
    tables = [results.probes] if len(results.probes) else []
    # shown on a terminal only
    for target in tqdm(analysis.targets, "probes", unit="target", leave=False, disable=None):
        values = np.where(usable, target.values, np.nan)
        chosen = Target(target.name, target.classes, values)
        # a target that belongs to a baseline would be its own feature
        fair = {k: v for k, v in features.items() if not (k == "mask" and target.name in MASK)}
        table, reason = _fit(chosen, fair, analysis, settings)
        if reason:
            results.not_done[target.name] = reason
        else:
            tables.append(table)
    table = analysis.embedded.table
    if VOLUME not in settings.covariates:
        related = associated_with_mask(analysis.targets, table)
        results.mask_related |= related
        for name, how in related.items():
            _LOG.warning("%s is associated with the volume of the brain masks (%s)", name, how)
    if not analysis.by_session and _examines_masks(analysis.targets, settings):
        volume = volume_target(table)
        # few participants, or the same mask for everybody
        if not volume.classes and not reason_unfit(volume, len(table)):
            own = {EMBEDDING: analysis.embedded.features.astype(np.float64)}
            table, reason = _fit(volume, own, analysis, settings)
            if reason:
                results.not_done[VOLUME] = reason
            else:
                tables.append(table)
    if tables:
        results.probes = pd.concat(tables, ignore_index=True)


def report_not_done(results: GroupResults, settings: GroupSettings) -> None:
    """Make problems of the requested targets that were not probed, and log other reasons."""
    for column, reason in results.not_done.items():
        if settings.targets and column in settings.targets:
            results.problems.append(Problem("", f"--target {column}", reason))
        elif column.startswith("baseline"):
            _LOG.warning("%s is omitted: %s", column, reason)
        else:
            _LOG.debug("%s is not done: %s", column, reason)


def _examines_masks(targets: list[Target], settings: GroupSettings) -> bool:
    """Whether the volume of the masks is probed; not if the user predicts or removes it."""
    if settings.targets == ["none"] or VOLUME in settings.covariates:
        return False
    return all(target.name != VOLUME for target in targets)


def _fit(
    target: Target,
    features: Mapping[str, np.ndarray],
    analysis: Analysis,
    settings: GroupSettings,
) -> tuple[pd.DataFrame, str | None]:
    """Call `fit_probe`, if enough participants have a value."""
    start = time.monotonic()
    covariates, groups = analysis.covariates, analysis.groups
    kept = target.known & (True if covariates is None else ~np.isnan(covariates).any(axis=1))
    n_people = analysis.embedded.table["participant_id"][kept].nunique()
    if analysis.by_session and n_people < MIN_PARTICIPANTS:
        return pd.DataFrame(), (
            f"the sessions with a value are those of {n_people} participants; a probe needs "
            f"{MIN_PARTICIPANTS}"
        )
    table, reason = fit_probe(target, features, covariates, groups, settings.permutations)
    _LOG.debug("probe of %s took %.1f s", target.name, time.monotonic() - start)
    if analysis.by_session and len(table):
        table["n_sessions"], table["n_participants"] = table["n_participants"], n_people
    return table, reason


def _feature_sets(
    output_dir: Path, results: GroupResults, analysis: Analysis
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Sets of features, name -> (row, feature), and which rows have all of them."""
    table, connectivity = analysis.embedded.table, results.connectivity
    if analysis.by_session and connectivity is not None:
        runs = results.runs.table
        connectivity = collect_connectivity(output_dir, runs, session_names(runs))
    sets = {EMBEDDING: analysis.embedded.features.astype(np.float64)}
    usable = np.ones(len(table), dtype=bool)
    baselines = {"motion": motion(table), "mask": mask_and_intensity(table)}
    if connectivity is not None and connectivity.by_unit is not None:
        baselines["connectivity"] = connectivity.by_unit.astype(np.float64)
    elif connectivity is not None:
        results.not_done["baseline connectivity"] = connectivity.note
    for name, values in baselines.items():
        known = ~np.isnan(values).any(axis=1)
        if (~known).mean() <= _MAX_LACKING:
            sets[name], usable = values, usable & known
        else:
            rows = "sessions" if analysis.by_session else "participants"
            results.not_done[f"baseline {name}"] = (
                f"{(~known).sum()} of {len(known)} {rows} lack it"
            )
    return sets, usable
