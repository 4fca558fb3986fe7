"""Features of participants + a target -> how well it is predicted, against baselines."""

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
from sklearn.linear_model import LinearRegression, LogisticRegressionCV, RidgeCV
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from swift_bids.group.columns import Target, unfit
from swift_bids.group.probes.design import (
    N_INNER_FOLDS,
    Design,
    Folds,
    make_folds,
    permuted_targets,
    why_unusable,
)
from swift_bids.group.probes.scores import DUMMY, metrics, probe_table

N_REPETITIONS = 5
#: Components kept where there are more features than participants; up to so many nothing is lost.
MOST_COMPONENTS = 500
#: Strengths of the penalty, chosen within the training part of each fold.
_C, _ALPHA = np.logspace(-4, 0, 5), np.logspace(-1, 5, 7)


def probe(
    target: Target,
    features: Mapping[str, np.ndarray],
    covariates: np.ndarray | None = None,
    groups: np.ndarray | None = None,
    n_permutations: int = 200,
    n_jobs: int = 1,
) -> tuple[pd.DataFrame, str | None]:
    """Predict a target from several sets of features of the same participants.

    Standardised features, ridge regression for numbers and logistic regression (balanced classes)
    for classes, the strength of the penalty chosen by an inner cross-validation; five folds, five
    times. Whatever is fitted to the features is fitted to the training part of a fold.

    Parameters
    ----------
    features
        Name -> (participant, feature), without NaN. `embedding` is compared with the others; a
        dummy that knows only the training part's targets is added.
    covariates, groups
        As `swift_bids.group.columns` makes them; participants without one are left out.
    n_permutations
        Of the target, see `swift_bids.group.probes.design.permuted_targets`.

    Returns
    -------
    pandas.DataFrame
        A row for each set of features and metric: `value` (mean of the repetitions), `low`, `high`
        (95 %, bootstrap over participants or groups), `p` and `chance` (permutations in the first
        repetition; NaN where too few differ), `gain`, `gain_low`, `gain_high` (embedding minus this
        one, from the same bootstraps). Empty where it could not be done.
    str or None
        Why not.
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
    left = Target(target.name, target.classes, design.y)
    if reason := unfit(left, kept.sum()):
        return (
            pd.DataFrame(),
            f"{reason}, after all that miss a covariate, group or baseline are out",
        )
    repetitions = [make_folds(design, seed) for seed in range(N_REPETITIONS)]
    if reason := why_unusable(design, repetitions):
        return pd.DataFrame(), reason
    sets = {name: values[kept] for name, values in features.items()}
    sets[DUMMY] = np.zeros((len(design.y), 1))
    permuted = permuted_targets(design, repetitions[0], n_permutations)
    # (set, folds, targets): the true target in each repetition, and permuted ones in the first
    tasks: list[tuple[str, Folds, np.ndarray | list[np.ndarray]]]
    tasks = [(name, folds, [design.y]) for name in sets for folds in repetitions]
    for part in np.array_split(permuted, n_jobs):
        tasks += [(name, repetitions[0], part) for name in features if len(part)]
    done = Parallel(n_jobs=n_jobs)(
        delayed(_predict)(sets[name], design, folds, targets, name == DUMMY)
        for name, folds, targets in tasks
    )
    predicted: dict[str, list[np.ndarray]] = {name: [] for name in sets}
    nulls: dict[str, list[dict[str, float]]] = {name: [] for name in sets}
    for place, ((name, _, targets), predictions) in enumerate(zip(tasks, done)):
        if place < len(sets) * N_REPETITIONS:
            predicted[name] += predictions
        else:
            nulls[name] += [metrics(y, p, design) for y, p in zip(targets, predictions)]
    return probe_table(target, design, sets, predicted, nulls), None


def _predict(
    x: np.ndarray, design: Design, folds: Folds, targets: np.ndarray | list[np.ndarray], dummy: bool
) -> list[np.ndarray]:
    """Predictions of every participant by the folds that it is not trained in, for each target.

    Returns
    -------
    list of numpy.ndarray
        (participant,) numbers; or (participant, 1 + class): number of the class, and each class'
        probability as a rank within the fold, 0 to 1, where all folds have all classes. Folds
        differ in the targets they were trained on, which would make pooled probabilities worse than
        chance.
    """
    shape = (len(x), 1 + len(design.classes)) if design.classes else (len(x),)
    predictions = [np.empty(shape) for _ in targets]
    n_classes = len(design.classes)
    # Within a fold of one class, as where whole sites are left out, ranks would tell nothing.
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
    """Features of all participants, with all that is fitted fitted to the training part."""
    if covariates is not None:
        effect = LinearRegression().fit(covariates[train], x[train])
        without = x - effect.predict(covariates)
        # A feature that is a covariate leaves rounding, which must not be scaled up again.
        rounding = 1e-8 * x[train].std(axis=0)
        x = np.where(without[train].std(axis=0) > rounding, without, 0)
    steps = [StandardScaler()]
    if x.shape[1] > len(train):
        # Only a rotation: a penalised model of all components is that of all features.
        most = min(MOST_COMPONENTS, len(train) - 1)
        solver = "full" if most < MOST_COMPONENTS else "randomized"
        steps.append(PCA(most, svd_solver=solver, random_state=0))
    return make_pipeline(*steps).fit(x[train]).transform(x)


def _fit(
    x: np.ndarray, y: np.ndarray, design: Design, train: np.ndarray, dummy: bool
) -> BaseEstimator:
    if dummy and design.classes:  # the same class in all folds, so that it is exactly at chance
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
                inner = None  # groups and classes go together: choose the penalty within groups
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of convergence and of folds without a class, in the path
        if not design.classes:
            return RidgeCV(_ALPHA, cv=inner).fit(x, y)
        return LogisticRegressionCV(
            Cs=_C,
            cv=inner or N_INNER_FOLDS,
            scoring="neg_log_loss",
            class_weight="balanced",
            tol=1e-3,
            max_iter=300,
        ).fit(x, y)
