"""Features of participants and a target -> how well they predict it, compared with baselines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np
import pandas as pd

from swift_bids.group.columns import MAX_CLASSES, Target, reason_unfit
from swift_bids.group.probes.design import (
    Design,
    explained_part,
    make_folds,
    permuted_targets,
    reason_unusable,
)
from swift_bids.group.probes.features import FeatureSet, Table
from swift_bids.group.probes.predict import one_thread_each, predict
from swift_bids.group.probes.scores import DUMMY, PermutationTest, metrics, probe_table

#: Large samples differ less from one division into folds to the next.
N_REPETITIONS, N_REPETITIONS_OF_LARGE, LARGE = 5, 2, 200
#: Sites with fewer participants are left out; ComBat cannot estimate their effects.
MIN_OF_SITE = 5


def fit_probe(
    target: Target,
    features: Mapping[str, FeatureSet | np.ndarray],
    covariates: np.ndarray | None = None,
    groups: np.ndarray | None = None,
    n_permutations: int = 200,
    sites: np.ndarray | None = None,
) -> tuple[pd.DataFrame, str | None]:
    """Predict a target from several sets of features of the same participants.

    The probe standardises the features and fits a ridge regression: of numbers, or of an indicator
    for each class, from which `scores_of_classes` follow. Predictions for left-out participants of
    the training part choose the strength of the penalty. There are five folds, repeated five times
    (twice from 200 participants on). All steps are fitted only to the training part of a fold.

    Parameters
    ----------
    features
        Name -> features without NaN; an array is (participant, feature). `embedding` is compared
        with the others and with a dummy that uses only the targets of the training part.
    covariates, groups
        As `swift_bids.group.columns` returns them; participants without a value are excluded.
    sites
        (participant,) index of the site whose effects were removed, see `Design`; participants
        without one (-1) are excluded, and so are those of sites with fewer than five.
    n_permutations
        Number of permutations, see `swift_bids.group.probes.design.permuted_targets`.

    Returns
    -------
    pandas.DataFrame
        One row per set of features and metric: `value` (mean of the repetitions), `low`, `high`
        (95 %, bootstrap over participants or groups), `chosen` (versions of the features that the
        folds chose), `p` and `chance` (permutations in the first
        repetition; NaN if too few differ), `gain`, `gain_low`, `gain_high` (embedding minus this
        set, from the same bootstraps). Empty if the target cannot be probed.
    str or None
        Why the target cannot be probed.
    """
    kept = target.known
    if covariates is not None:
        kept &= ~np.isnan(covariates).any(axis=1)
    if groups is not None:
        kept &= groups >= 0
    if sites is not None:
        kept &= sites >= 0
        kept &= np.bincount(sites[kept], minlength=sites.max() + 1)[sites] >= MIN_OF_SITE
    design = Design(
        target.values[kept],
        target.classes,
        None if covariates is None else covariates[kept],
        None if groups is None else groups[kept],
        None if sites is None else sites[kept],
    )
    remaining = Target(target.name, target.classes, design.y)
    max_classes = len(remaining.classes) if design.predicts_site else MAX_CLASSES
    if reason := reason_unfit(remaining, kept.sum(), max_classes):
        return (
            pd.DataFrame(),
            f"after excluding participants who lack a covariate, group, site or baseline, {reason}",
        )
    n_repetitions = N_REPETITIONS if len(design.y) < LARGE else N_REPETITIONS_OF_LARGE
    repetitions = [make_folds(design, seed) for seed in range(n_repetitions)]
    if reason := reason_unusable(design, repetitions):
        return pd.DataFrame(), reason
    rows = np.flatnonzero(kept)
    sets = {
        name: (Table(values) if isinstance(values, np.ndarray) else values).select(rows)
        for name, values in features.items()
    }
    sets[DUMMY] = Table(np.zeros((len(rows), 0)))
    permuted = permuted_targets(design, repetitions[0], n_permutations)
    predicted: dict[str, list[np.ndarray]] = {}
    tested: dict[str, PermutationTest] = {}
    chosen: dict[str, str | None] = {}
    with one_thread_each() as threads:
        for name, x in sets.items():
            predicted[name], of_permuted, choices = predict(
                x, design, repetitions, permuted, threads
            )
            chosen[name] = shares(choices)
            if len(of_permuted) and name != DUMMY:
                tested[name] = _test(predicted[name][0], permuted, of_permuted, design)
    n_features = {name: x.n_features for name, x in sets.items()}
    return probe_table(target, design, n_features, chosen, predicted, tested), None


def shares(choices: Counter[str]) -> str | None:
    """How often the folds chose each version, most frequent first; None if there is only one."""
    if set(choices) <= {""}:
        return None
    return ", ".join(f"{name} {n / choices.total():.0%}" for name, n in choices.most_common())


def _test(
    predicted: np.ndarray, permuted: np.ndarray, predictions: np.ndarray, design: Design
) -> PermutationTest:
    """Compare predictions of the true target with those of permuted ones.

    The p-value compares how well both predict what the covariates do not explain. Permutations
    change the correlation of that part with the covariates, and so the error of the whole target,
    by more than predictions do.
    """
    explained = explained_part(design)
    chance = [metrics(y, p, design) for y, p in zip(permuted, predictions)]
    of_rest = chance
    if explained.any():
        of_rest = [metrics(y - explained, p, design) for y, p in zip(permuted, predictions)]
    return PermutationTest(metrics(design.y - explained, predicted, design), of_rest, chance)
