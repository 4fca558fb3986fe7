"""Targets of a call -> probes of the embeddings and of the baselines, for the same participants."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from concurrent.futures.process import BrokenProcessPool

import numpy as np
import pandas as pd

from swift_bids.base.errors import Problem
from swift_bids.group.baselines import MASK, mask_and_intensity, motion
from swift_bids.group.columns import Target, reason_unfit
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
    results: GroupResults,
    targets: list[Target],
    covariates: np.ndarray | None,
    groups: np.ndarray | None,
    settings: GroupSettings,
) -> None:
    """Probe each target and the volume of the brain masks; add tables and reasons to the results.

    Parameters
    ----------
    targets, covariates, groups
        From `swift_bids.group.columns`.
    """
    features, usable = _feature_sets(results) if targets else ({}, np.empty(0, dtype=bool))
    tables = []
    for target in targets:
        values = np.where(usable, target.values, np.nan)
        chosen = Target(target.name, target.classes, values)
        # a target that belongs to a baseline would be its own feature
        fair = {k: v for k, v in features.items() if not (k == "mask" and target.name in MASK)}
        table, reason = _fit(results, chosen, fair, covariates, groups, settings)
        if reason:
            results.not_done[target.name] = reason
        else:
            tables.append(table)
    table = results.participants.table
    if VOLUME not in settings.covariates:
        results.mask_related = associated_with_mask(targets, table)
        for name, how in results.mask_related.items():
            _LOG.warning("%s is associated with the volume of the brain masks (%s)", name, how)
    if _examines_masks(targets, settings):
        volume = volume_target(table)
        # few participants, or the same mask for everybody
        if not volume.classes and not reason_unfit(volume, len(table)):
            own = {EMBEDDING: results.participants.features.astype(np.float64)}
            table, reason = _fit(results, volume, own, covariates, groups, settings)
            if reason:
                results.not_done[VOLUME] = reason
            else:
                tables.append(table)
    if tables:
        results.probes = pd.concat(tables, ignore_index=True)
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
    results: GroupResults,
    target: Target,
    features: Mapping[str, np.ndarray],
    covariates: np.ndarray | None,
    groups: np.ndarray | None,
    settings: GroupSettings,
) -> tuple[pd.DataFrame, str | None]:
    """Call `fit_probe`; if a worker is killed, that is a reason, and a problem of the call."""
    start = time.monotonic()
    try:
        return fit_probe(
            target, features, covariates, groups, settings.permutations, settings.processes
        )
    except BrokenProcessPool:
        reason = "a worker process was killed, probably for lack of memory; lower --nprocs"
        # requested targets are reported with all reasons
        if target.name not in (settings.targets or ()):
            results.problems.append(Problem("", f"probe of {target.name}", reason))
        return pd.DataFrame(), reason
    finally:
        _LOG.debug("probe of %s took %.1f s", target.name, time.monotonic() - start)


def _feature_sets(results: GroupResults) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Sets of features, name -> (participant, feature), and which participants have all of them."""
    participants, connectivity = results.participants, results.connectivity
    sets = {EMBEDDING: participants.features.astype(np.float64)}
    usable = np.ones(len(participants.table), dtype=bool)
    baselines = {
        "motion": motion(participants.table),
        "mask": mask_and_intensity(participants.table),
    }
    if connectivity is not None and connectivity.by_participant is not None:
        baselines["connectivity"] = connectivity.by_participant.astype(np.float64)
    elif connectivity is not None:
        results.not_done["baseline connectivity"] = connectivity.note
    for name, values in baselines.items():
        known = ~np.isnan(values).any(axis=1)
        if (~known).mean() <= _MAX_LACKING:
            sets[name], usable = values, usable & known
        else:
            results.not_done[f"baseline {name}"] = (
                f"{(~known).sum()} of {len(known)} participants lack it"
            )
    return sets, usable
