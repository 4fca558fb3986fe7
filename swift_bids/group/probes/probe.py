"""Features of participants and a target -> how well they predict it, compared with baselines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from scipy.stats import rankdata
from sklearn.decomposition import PCA
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from swift_bids.group.columns import Target, reason_unfit
from swift_bids.group.probes.design import (
    Design,
    Folds,
    explained_part,
    make_folds,
    permuted_targets,
    reason_unusable,
)
from swift_bids.group.probes.ridge import fit_ridges
from swift_bids.group.probes.scores import DUMMY, PermutationTest, metrics, probe_table

N_REPETITIONS = 5
#: With more participants than this and even more features, only as many principal components are
#: kept; decomposing all of them would take minutes.
MAX_COMPONENTS = 500


def fit_probe(
    target: Target,
    features: Mapping[str, np.ndarray],
    covariates: np.ndarray | None = None,
    groups: np.ndarray | None = None,
    n_permutations: int = 200,
) -> tuple[pd.DataFrame, str | None]:
    """Predict a target from several sets of features of the same participants.

    The probe standardises the features and fits a ridge regression: of numbers, or of an indicator
    for each class, from which `_scores_of_classes` follow. Predictions for left-out participants of
    the training part choose the strength of the penalty. There are five folds, repeated five times.
    All steps are fitted only to the training part of a fold.

    Parameters
    ----------
    features
        Name -> (participant, feature), without NaN. `embedding` is compared with the others and
        with a dummy that uses only the targets of the training part.
    covariates, groups
        As `swift_bids.group.columns` returns them; participants without a value are excluded.
    n_permutations
        Number of permutations, see `swift_bids.group.probes.design.permuted_targets`.

    Returns
    -------
    pandas.DataFrame
        One row per set of features and metric: `value` (mean of the repetitions), `low`, `high`
        (95 %, bootstrap over participants or groups), `p` and `chance` (permutations in the first
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
    design = Design(
        target.values[kept],
        target.classes,
        None if covariates is None else covariates[kept],
        None if groups is None else groups[kept],
    )
    remaining = Target(target.name, target.classes, design.y)
    if reason := reason_unfit(remaining, kept.sum()):
        return (
            pd.DataFrame(),
            f"after excluding participants who lack a covariate, group or baseline, {reason}",
        )
    repetitions = [make_folds(design, seed) for seed in range(N_REPETITIONS)]
    if reason := reason_unusable(design, repetitions):
        return pd.DataFrame(), reason
    sets = {name: values[kept] for name, values in features.items()}
    sets[DUMMY] = np.zeros((len(design.y), 1))
    permuted = permuted_targets(design, repetitions[0], n_permutations)
    own = design.y[None]
    predicted: dict[str, list[np.ndarray]] = {}
    tested: dict[str, PermutationTest] = {}
    for name, x in sets.items():
        # the permuted targets of the first repetition share its decompositions
        first, *of_permuted = _predict(
            x, design, repetitions[0], np.concatenate([own, permuted]), name == DUMMY
        )
        others = [_predict(x, design, f, own, name == DUMMY)[0] for f in repetitions[1:]]
        predicted[name] = [first, *others]
        if of_permuted and name != DUMMY:
            tested[name] = _test(first, permuted, of_permuted, design)
    return probe_table(target, design, sets, predicted, tested), None


def _test(
    predicted: np.ndarray, permuted: np.ndarray, predictions: Sequence[np.ndarray], design: Design
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


def _predict(
    x: np.ndarray, design: Design, folds: Folds, targets: np.ndarray, dummy: bool = False
) -> np.ndarray:
    """Predict each target for every participant, with the model of the fold that excludes them.

    Parameters
    ----------
    targets
        (target, participant): true or permuted.

    Returns
    -------
    numpy.ndarray
        (target, participant) numbers; or (target, participant, 1 + class): index of the class, then
        a score for each class, as a rank within the fold (0 to 1) if all folds have all classes.
        Folds differ in their training targets, so pooled scores would be worse than chance.
    """
    n_classes = len(design.classes)
    predicted = np.empty((*targets.shape, 1 + n_classes) if n_classes else targets.shape)
    # Ranks mean nothing within a fold of one class, as when whole sites are held out.
    ranked = all(len(np.unique(design.y[test])) == n_classes for _, test in folds)
    for train, test in folds:
        if dummy and n_classes:  # the same class in all folds, which scores exactly at chance
            predicted[:, test] = 0
            predicted[:, test, 0] = design.y.min()
            continue
        if dummy:
            predicted[:, test] = targets[:, train].mean(axis=1, keepdims=True)
            continue
        prepared = _prepare(x, design.covariates, train)
        groups = None if design.groups is None else design.groups[train]
        if groups is not None and len(np.unique(groups)) < 2:
            groups = None
        if not n_classes:
            fitted, _ = fit_ridges(prepared[train], targets[:, train].T, prepared[test], groups)
            predicted[:, test] = fitted.T
            continue
        scores = _scores_of_classes(
            prepared[train], targets[:, train], prepared[test], groups, n_classes
        )
        predicted[:, test, 0] = scores.argmax(axis=2)
        predicted[:, test, 1:] = rankdata(scores, axis=1) / len(test) if ranked else scores
    return predicted


def _scores_of_classes(
    x: np.ndarray, targets: np.ndarray, x_test: np.ndarray, groups: np.ndarray | None, n: int
) -> np.ndarray:
    """Linear discriminant scores for equally frequent classes, (target, test participant, class).

    Regression of indicators of the classes gives the directions of a linear discriminant analysis
    (Hastie, Tibshirani and Friedman 2009, section 4.3). A class's score is its regression divided
    by its share, minus half of the mean of this over the participants of the class, as predicted
    from the others; so a rare class is not at a disadvantage.

    Parameters
    ----------
    targets
        (target, participant) indices of classes.
    groups
        As for `fit_ridges`; not used if a class exists in one group only.
    n
        Number of classes.
    """
    is_class = targets[:, :, None] == np.arange(n)  # (target, participant, class)
    if groups is not None:
        # as in the first target, so that permuted targets are treated like the true one
        elsewhere = [is_class[0][groups != group].any(axis=0) for group in np.unique(groups)]
        if not np.all(elsewhere):
            groups = None
    indicators = is_class.transpose(1, 0, 2).reshape(len(x), -1).astype(np.float64)
    share = indicators.mean(axis=0)
    weights = np.where(is_class, 1 / is_class.mean(axis=1, keepdims=True), 0).sum(axis=2)
    fitted, left_out = fit_ridges(
        x, indicators, x_test, groups, weights.T.repeat(n, axis=1), n_together=n
    )
    centre = (left_out * indicators).sum(axis=0) / indicators.sum(axis=0)
    scores = (fitted - centre / 2) / share
    return scores.reshape(len(x_test), -1, n).transpose(1, 0, 2)


def _prepare(x: np.ndarray, covariates: np.ndarray | None, train: np.ndarray) -> np.ndarray:
    """Transform the features of all participants with steps fitted to the training part."""
    if covariates is not None:
        effect = LinearRegression().fit(covariates[train], x[train])
        without = x - effect.predict(covariates)
        # A feature that equals a covariate leaves rounding errors, which must not be scaled up.
        rounding = 1e-8 * x[train].std(axis=0)
        x = np.where(without[train].std(axis=0) > rounding, without, 0)
    steps = [StandardScaler()]
    if x.shape[1] > len(train) > MAX_COMPONENTS:
        steps.append(PCA(MAX_COMPONENTS, svd_solver="randomized", random_state=0))
    return make_pipeline(*steps).fit(x[train]).transform(x)
