"""Features of participants and a target -> how well they predict it, compared with baselines."""

from __future__ import annotations

from collections import Counter
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
from swift_bids.group.probes.features import FeatureSet, Table
from swift_bids.group.probes.ridge import fit_best_ridges
from swift_bids.group.probes.scores import DUMMY, PermutationTest, metrics, probe_table

#: Large samples differ less from one division into folds to the next.
N_REPETITIONS, N_REPETITIONS_OF_LARGE, LARGE = 5, 2, 200
#: With more participants and more features than this, only as many principal components are kept;
#: decomposing all of them would take minutes.
MAX_COMPONENTS = 500


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
    for each class, from which `_scores_of_classes` follow. Predictions for left-out participants of
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
        (participant,) index of the site whose effects were removed, see `Design`.
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
    design = Design(
        target.values[kept],
        target.classes,
        None if covariates is None else covariates[kept],
        None if groups is None else groups[kept],
        None if sites is None else sites[kept],
    )
    remaining = Target(target.name, target.classes, design.y)
    if reason := reason_unfit(remaining, kept.sum()):
        return (
            pd.DataFrame(),
            f"after excluding participants who lack a covariate, group or baseline, {reason}",
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
    own = design.y[None]
    predicted: dict[str, list[np.ndarray]] = {}
    tested: dict[str, PermutationTest] = {}
    chosen: dict[str, str | None] = {}
    for name, x in sets.items():
        choices: Counter[str] = Counter()
        # the permuted targets of the first repetition share its decompositions
        first, *of_permuted = _predict(
            x, design, repetitions[0], np.concatenate([own, permuted]), choices
        )
        others = [_predict(x, design, folds, own, choices)[0] for folds in repetitions[1:]]
        predicted[name] = [first, *others]
        chosen[name] = _shares(choices)
        if of_permuted and name != DUMMY:
            tested[name] = _test(first, permuted, of_permuted, design)
    n_features = {name: x.n_features for name, x in sets.items()}
    return probe_table(target, design, n_features, chosen, predicted, tested), None


def _shares(choices: Counter[str]) -> str | None:
    """How often the folds chose each version, most frequent first; None if there is only one."""
    if set(choices) <= {""}:
        return None
    return ", ".join(f"{name} {n / choices.total():.0%}" for name, n in choices.most_common())


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
    features: FeatureSet, design: Design, folds: Folds, targets: np.ndarray, choices: Counter[str]
) -> np.ndarray:
    """Predict each target for every participant, with the model of the fold that excludes them.

    Parameters
    ----------
    features
        None at all for the dummy.
    targets
        (target, participant): true or permuted.
    choices
        Counts the versions of the features that the first target chose.

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
        if not features.n_features and n_classes:
            # the same class in all folds, which scores exactly at chance
            predicted[:, test] = 0
            predicted[:, test, 0] = design.y.min()
            continue
        if not features.n_features:
            predicted[:, test] = targets[:, train].mean(axis=1, keepdims=True)
            continue
        versions = features.versions(train)
        prepared = [_prepare(x, design.covariates, train) for x in versions.values()]
        pairs = [(x[train], x[test]) for x in prepared]
        groups = None if design.groups is None else design.groups[train]
        if groups is not None and len(np.unique(groups)) < 2:
            groups = None
        if not n_classes:
            fitted = fit_best_ridges(pairs, targets[:, train].T, groups)
            predicted[:, test] = fitted.predicted.T
            choices[list(versions)[fitted.version[0]]] += 1
            continue
        scores, version = _scores_of_classes(pairs, targets[:, train], groups, n_classes)
        choices[list(versions)[version]] += 1
        predicted[:, test, 0] = scores.argmax(axis=2)
        predicted[:, test, 1:] = rankdata(scores, axis=1) / len(test) if ranked else scores
    return predicted


def _scores_of_classes(
    versions: Sequence[tuple[np.ndarray, np.ndarray]],
    targets: np.ndarray,
    groups: np.ndarray | None,
    n: int,
) -> tuple[np.ndarray, int]:
    """Linear discriminant scores for equally frequent classes, (target, test participant, class);
    and the version of the features that the first target chose.

    Regression of indicators of the classes gives the directions of a linear discriminant analysis
    (Hastie, Tibshirani and Friedman 2009, section 4.3). A class's score is its regression divided
    by its share, minus half of the mean of this over the participants of the class, as predicted
    from the others; so a rare class is not at a disadvantage.

    Parameters
    ----------
    targets
        (target, participant) indices of classes.
    versions, groups
        As for `fit_best_ridges`; groups are not used if a class exists in one group only.
    n
        Number of classes.
    """
    is_class = targets[:, :, None] == np.arange(n)  # (target, participant, class)
    if groups is not None:
        # as in the first target, so that permuted targets are treated like the true one
        elsewhere = [is_class[0][groups != group].any(axis=0) for group in np.unique(groups)]
        if not np.all(elsewhere):
            groups = None
    indicators = is_class.transpose(1, 0, 2).reshape(targets.shape[1], -1).astype(np.float64)
    share = indicators.mean(axis=0)
    weights = np.where(is_class, 1 / is_class.mean(axis=1, keepdims=True), 0).sum(axis=2)
    fitted = fit_best_ridges(
        versions, indicators, groups, weights.T.repeat(n, axis=1), n_together=n
    )
    centre = (fitted.left_out * indicators).sum(axis=0) / indicators.sum(axis=0)
    scores = (fitted.predicted - centre / 2) / share
    return scores.reshape(len(scores), -1, n).transpose(1, 0, 2), int(fitted.version[0])


def _prepare(x: np.ndarray, covariates: np.ndarray | None, train: np.ndarray) -> np.ndarray:
    """Transform the features of all participants with steps fitted to the training part."""
    if covariates is not None:
        effect = LinearRegression().fit(covariates[train], x[train])
        without = x - effect.predict(covariates)
        # A feature that equals a covariate leaves rounding errors, which must not be scaled up.
        rounding = 1e-8 * x[train].std(axis=0)
        x = np.where(without[train].std(axis=0) > rounding, without, 0)
    steps = [StandardScaler()]
    if min(x.shape[1], len(train)) > MAX_COMPONENTS:
        steps.append(PCA(MAX_COMPONENTS, svd_solver="randomized", random_state=0))
    return make_pipeline(*steps).fit(x[train]).transform(x)
