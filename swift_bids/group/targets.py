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
from swift_bids.group.analysis import Analysis
from swift_bids.group.baselines import ACQUISITION_COLUMNS
from swift_bids.group.columns import MIN_PARTICIPANTS, Target, reason_unfit
from swift_bids.group.feature_sets import POSITIONS_AND_TOKENS, collect_features, harmonised
from swift_bids.group.mask_effects import VOLUME, associated_with_mask, volume_target
from swift_bids.group.probes.features import FeatureSet, Table
from swift_bids.group.probes.probe import fit_probe
from swift_bids.group.probes.saved import fit_to_all
from swift_bids.group.probes.scores import ACQUISITION, COMPARED, EMBEDDING, NOT_HARMONISED
from swift_bids.group.tables import GroupResults
from swift_bids.settings import GroupSettings

_LOG = logging.getLogger("swift_bids")


def probe_targets(
    output_dir: Path, results: GroupResults, analysis: Analysis, settings: GroupSettings
) -> None:
    """Probe each target and, on participants, the volume of the brain masks; add tables and reasons
    to the results."""
    tables = [results.probes] if len(results.probes) else []
    table = analysis.embedded.table
    own = Table(analysis.embedded.features.astype(np.float64))
    work: list[tuple[Target, Mapping[str, FeatureSet]]] = []
    if analysis.targets:
        features = collect_features(output_dir, results, analysis)
        results.not_done |= features.omitted
        for target in analysis.targets:
            values = np.where(features.usable, target.values, np.nan)
            # a target that belongs to a baseline would be its own feature
            unfair = ACQUISITION if target.name in ACQUISITION_COLUMNS else None
            fair = {name: f for name, f in features.sets.items() if name != unfair}
            work.append((Target(target.name, target.classes, values), fair))
    if not analysis.by_session and _examines_masks(analysis.targets, settings):
        volume = volume_target(table)
        # few participants, or the same mask for everybody
        if not volume.classes and not reason_unfit(volume, len(table)):
            work.append((volume, {EMBEDDING: harmonised(own, analysis)}))
    probed = set() if results.probes.empty else set(results.probes["target"])
    if analysis.sites is not None and analysis.sites.name not in probed:
        work.append((analysis.sites, {EMBEDDING: harmonised(own, analysis), NOT_HARMONISED: own}))
    # shown on a terminal only
    for target, sets in tqdm(work, "probes", unit="target", leave=False, disable=None):
        rows, reason = _fit(target, sets, analysis, settings)
        if reason:
            results.not_done[target.name] = reason
            continue
        tables.append(rows)
        if _can_be_saved(target, analysis) and results.n_kinds == 1:
            results.saved.append(fit_to_all(target, analysis.embedded.features, analysis.groups))
    if VOLUME not in settings.covariates:
        related = associated_with_mask(analysis.targets, table)
        results.mask_related |= related
        for name, how in related.items():
            _LOG.warning("%s is associated with the volume of the brain masks (%s)", name, how)
    if tables:
        results.probes = pd.concat(tables, ignore_index=True)


def report_not_done(results: GroupResults, settings: GroupSettings) -> None:
    """Make problems of the requested targets that were not probed, and log other reasons."""
    for column, reason in results.not_done.items():
        if settings.targets and column in settings.targets:
            results.problems.append(Problem("", f"--target {column}", reason))
        elif column.startswith("baseline ") or column == COMPARED:
            _LOG.warning("%s is omitted: %s", column, reason)
        elif column == POSITIONS_AND_TOKENS:
            _LOG.warning("%s are omitted: %s", column, reason)
        else:
            _LOG.debug("%s is not done: %s", column, reason)


def _can_be_saved(target: Target, analysis: Analysis) -> bool:
    """Whether a probe can be applied to other participants: it needs nothing but their embedding,
    neither covariates nor the effects of their site."""
    requested = target.name in {t.name for t in analysis.targets}
    return requested and not (
        analysis.by_session or analysis.covariates is not None or analysis.sites is not None
    )


def _examines_masks(targets: list[Target], settings: GroupSettings) -> bool:
    """Whether the volume of the masks is probed; not if the user predicts or removes it."""
    if settings.targets == ["none"] or VOLUME in settings.covariates:
        return False
    return all(target.name != VOLUME for target in targets)


def _fit(
    target: Target,
    features: Mapping[str, FeatureSet],
    analysis: Analysis,
    settings: GroupSettings,
) -> tuple[pd.DataFrame, str | None]:
    """Call `fit_probe`, if enough participants have a value."""
    start = time.monotonic()
    covariates, groups = analysis.covariates, analysis.groups
    kept = target.known & (True if covariates is None else ~np.isnan(covariates).any(axis=1))
    if analysis.sites is not None:
        kept &= analysis.sites.known
    n_people = analysis.embedded.table["participant_id"][kept].nunique()
    if analysis.by_session and n_people < MIN_PARTICIPANTS:
        return pd.DataFrame(), (
            f"the sessions with a value are those of {n_people} participants; a probe needs "
            f"{MIN_PARTICIPANTS}"
        )
    table, reason = fit_probe(
        target, features, covariates, groups, settings.permutations, analysis.site_codes
    )
    _LOG.debug("probe of %s took %.1f s", target.name, time.monotonic() - start)
    if analysis.by_session and len(table):
        table["n_sessions"], table["n_participants"] = table["n_participants"], n_people
    return table, reason
