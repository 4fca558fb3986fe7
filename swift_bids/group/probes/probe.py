"""Features of participants and a target -> how well they predict it, compared with baselines."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from scipy.stats import rankdata
from sklearn.base import BaseEstimator
from sklearn.decomposition import PCA
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.linear_model import (
    LinearRegression,
    LogisticRegression,
    LogisticRegressionCV,
    RidgeCV,
)
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from swift_bids.group.columns import Target, reason_unfit
from swift_bids.group.probes.design import (
    N_INNER_FOLDS,
    Design,
    Folds,
    make_folds,
    permuted_targets,
    reason_unusable,
)
from swift_bids.group.probes.scores import DUMMY, metrics, probe_table

N_REPETITIONS = 5
#: Most principal components that are kept if there are more features than participants.
MAX_COMPONENTS = 500
#: Candidate strengths of the penalty; an inner cross-validation chooses one.
_C, _ALPHA = np.logspace(-4, 0, 5), np.logspace(-1, 5, 7)


def fit_probe(
    target: Target,
    features: Mapping[str, np.ndarray],
    covariates: np.ndarray | None = None,
    groups: np.ndarray | None = None,
    n_permutations: int = 200,
    n_jobs: int = 1,
) -> tuple[pd.DataFrame, str | None]:
    """Predict a target from several sets of features of the same participants.

    The probe standardises the features and uses ridge regression for numbers, and logistic
    regression with balanced classes for classes. An inner cross-validation chooses the strength of
    the penalty. There are five folds, repeated five times. All steps are fitted only to the
    training part of a fold.

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
    # (set, folds, targets): the true target in every repetition, permuted targets in the first
    tasks: list[tuple[str, Folds, np.ndarray | list[np.ndarray]]]
    tasks = [(name, folds, [design.y]) for name in sets for folds in repetitions]
    for part in np.array_split(permuted, n_jobs):
        tasks += [(name, repetitions[0], part) for name in features if len(part)]
    results = Parallel(n_jobs=n_jobs)(
        delayed(_predict)(sets[name], design, folds, targets, name == DUMMY)
        for name, folds, targets in tasks
    )
    predicted: dict[str, list[np.ndarray]] = {name: [] for name in sets}
    nulls: dict[str, list[dict[str, float]]] = {name: [] for name in sets}
    for number, ((name, _, targets), predictions) in enumerate(zip(tasks, results)):
        if number < len(sets) * N_REPETITIONS:
            predicted[name] += predictions
        else:
            nulls[name] += [metrics(y, p, design) for y, p in zip(targets, predictions)]
    return probe_table(target, design, sets, predicted, nulls), None


def _predict(
    x: np.ndarray, design: Design, folds: Folds, targets: np.ndarray | list[np.ndarray], dummy: bool
) -> list[np.ndarray]:
    """Predict each target for every participant, with the model of the fold that excludes them.

    Returns
    -------
    list of numpy.ndarray
        (participant,) numbers; or (participant, 1 + class): index of the class, then the
        probability of each class, as a rank within the fold (0 to 1) if all folds have all classes.
        Folds differ in their training targets, so pooled probabilities would be worse than chance.
    """
    shape = (len(x), 1 + len(design.classes)) if design.classes else (len(x),)
    predictions = [np.empty(shape) for _ in targets]
    n_classes = len(design.classes)
    # Ranks mean nothing within a fold of one class, as when whole sites are held out.
    ranked = all(len(np.unique(design.y[test])) == n_classes for _, test in folds)
    for train, test in folds:
        prepared = x if dummy else _prepare(x, design.covariates, train)
        for y, predicted in zip(targets, predictions):
            fitted = _fit(prepared[train], y[train], design, train, dummy)
            if not design.classes:
                predicted[test] = fitted.predict(prepared[test])
            else:
                chances = fitted.predict_proba(prepared[test])
                predicted[test, 0] = chances.argmax(axis=1)
                predicted[test, 1:] = rankdata(chances, axis=0) / len(test) if ranked else chances
    return predictions


def _prepare(x: np.ndarray, covariates: np.ndarray | None, train: np.ndarray) -> np.ndarray:
    """Transform the features of all participants with steps fitted to the training part."""
    if covariates is not None:
        effect = LinearRegression().fit(covariates[train], x[train])
        without = x - effect.predict(covariates)
        # A feature that equals a covariate leaves rounding errors, which must not be scaled up.
        rounding = 1e-8 * x[train].std(axis=0)
        x = np.where(without[train].std(axis=0) > rounding, without, 0)
    steps = [StandardScaler()]
    if x.shape[1] > len(train):
        # A mere rotation: a penalised model of all components equals that of all features.
        count = min(MAX_COMPONENTS, len(train) - 1)
        solver = "full" if count < MAX_COMPONENTS else "randomized"
        steps.append(PCA(count, svd_solver=solver, random_state=0))
    return make_pipeline(*steps).fit(x[train]).transform(x)


def _fit(
    x: np.ndarray, y: np.ndarray, design: Design, train: np.ndarray, dummy: bool
) -> BaseEstimator:
    if dummy and design.classes:  # the same class in all folds, which scores exactly at chance
        return DummyClassifier(strategy="constant", constant=int(design.y.min())).fit(x, y)
    if dummy:
        return DummyRegressor().fit(x, y)
    inner = None
    if design.groups is not None:
        n_groups = len(np.unique(design.groups[train]))
        if n_groups > 1:
            splitter = GroupKFold(min(N_INNER_FOLDS, n_groups))
            inner = list(splitter.split(x, y, design.groups[train]))
            if design.classes and any(len(np.unique(y[a])) < len(design.classes) for a, _ in inner):
                inner = None  # groups and classes coincide: inner folds split groups
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about convergence and about inner folds without a class
        if not design.classes:
            return RidgeCV(_ALPHA, cv=inner).fit(x, y)
        return LogisticRegressionCV(
            Cs=_C,
            cv=inner or N_INNER_FOLDS,
            scoring=negative_log_loss,
            class_weight="balanced",
            tol=1e-3,
            max_iter=300,
        ).fit(x, y)


def negative_log_loss(fitted: LogisticRegression, x: np.ndarray, y: np.ndarray) -> float:
    """Score predicted probabilities as scikit-learn's scorer `neg_log_loss` does, without the
    checks of the input that take most of its time."""
    chances = fitted.predict_proba(x)[np.arange(len(y)), np.searchsorted(fitted.classes_, y)]
    eps = np.finfo(chances.dtype).eps
    return float(np.log(np.clip(chances, eps, 1 - eps)).mean())
