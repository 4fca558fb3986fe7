"""Features of participants + a target -> how well it is predicted, against baselines."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from scipy.stats import rankdata
from sklearn.decomposition import PCA
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.linear_model import LinearRegression, LogisticRegressionCV, RidgeCV
from sklearn.metrics import (
    balanced_accuracy_score,
    mean_absolute_error,
    r2_score,
    roc_auc_score,
)
from sklearn.model_selection import (
    GroupKFold,
    KFold,
    StratifiedGroupKFold,
    StratifiedKFold,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from swift_bids.targets import Target

N_FOLDS, N_INNER_FOLDS, N_REPETITIONS, N_BOOTSTRAPS = 5, 3, 5, 500
#: Components kept where there are more features than participants; up to so many nothing is lost.
MOST_COMPONENTS = 500
#: Strengths of the penalty, chosen within the training part of each fold.
_C, _ALPHA = np.logspace(-4, 0, 5), np.logspace(-1, 5, 7)
EMBEDDING, DUMMY = "embedding", "dummy"
_Folds = list[tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Design:
    """What is the same for all sets of features of a probe.

    Attributes
    ----------
    y
        (participant,) number, or number of the class.
    classes
        Labels; empty for a number.
    covariates
        (participant, column), whose linear effect is taken out of the features in each fold.
    groups
        (participant,) number of the group; participants of one are never split.
    """

    y: np.ndarray
    classes: tuple[str, ...]
    covariates: np.ndarray | None
    groups: np.ndarray | None


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
        As `swift_bids.targets` makes them; participants without one are left out.
    n_permutations
        Of the target: within groups, else within folds, so that folds stay balanced.

    Returns
    -------
    pandas.DataFrame
        A row for each set of features and metric: `value` (mean of the repetitions), `low`, `high`
        (95 %, bootstrap over participants or groups), `p` and `chance` (permutations of the first
        repetition), `gain`, `gain_low`, `gain_high` (embedding minus this one, from the same
        bootstraps). Empty where it could not be done.
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
    repetitions = [_folds(design, seed) for seed in range(N_REPETITIONS)]
    if reason := _unusable(design, repetitions):
        return pd.DataFrame(), reason
    sets = {name: values[kept] for name, values in features.items()}
    sets[DUMMY] = np.zeros((len(design.y), 1))
    predicted, nulls = {}, {}
    permuted = _permutations(design, repetitions[0], n_permutations)
    for name, values in sets.items():
        model = DUMMY if name == DUMMY else "linear"
        predicted[name] = [_predict(values, design, f, [design.y], model)[0] for f in repetitions]
        parts = np.array_split(permuted, n_jobs) if model != DUMMY else []
        with Parallel(n_jobs=n_jobs) as parallel:
            done = parallel(
                delayed(_predict)(values, design, repetitions[0], part, model)
                for part in parts
                if len(part)
            )
        drawn = [scores for part in done for scores in part]
        nulls[name] = [_metrics(y, p, design) for y, p in zip(permuted, drawn)]
    return _table(target, design, sets, predicted, nulls), None


def _folds(design: Design, seed: int) -> _Folds:
    n = N_FOLDS
    if design.groups is not None:
        n = min(n, len(np.unique(design.groups)))
    if n < 2:
        return []
    kind = (KFold, GroupKFold) if not design.classes else (StratifiedKFold, StratifiedGroupKFold)
    splitter = kind[design.groups is not None](n, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of small classes, which `_unusable` looks at
        return list(splitter.split(design.y, design.y, design.groups))


def _unusable(design: Design, repetitions: list[_Folds]) -> str | None:
    if not repetitions[0]:
        return "all participants are in one group; leaving groups out needs two or more"
    for folds in repetitions:
        for train, _ in folds:
            counts = np.bincount(design.y[train].astype(int)) if design.classes else [N_INNER_FOLDS]
            if len(counts) < len(design.classes) or min(counts) < N_INNER_FOLDS:
                return "a class has too few participants outside one of the folds or groups"
            if not design.classes and np.ptp(design.y[train]) == 0:
                return "all participants outside one of the folds have the same value"
    return None


def _permutations(design: Design, folds: _Folds, n: int) -> np.ndarray:
    """(permutation, participant): targets exchanged within groups, else within test parts."""
    rng = np.random.default_rng(0)
    block = design.groups
    if block is None:
        block = np.empty(len(design.y), dtype=int)
        for number, (_, test) in enumerate(folds):
            block[test] = number
    permuted = np.tile(design.y, (n, 1))
    for number in np.unique(block):
        places = np.flatnonzero(block == number)
        for row in permuted:
            row[places] = rng.permutation(row[places])
    return permuted


def _predict(
    x: np.ndarray, design: Design, folds: _Folds, targets: np.ndarray | list, model: str
) -> list[np.ndarray]:
    """Predictions of every participant by the folds that it is not trained in, for each target.

    Returns
    -------
    list of numpy.ndarray
        (participant,) numbers; or (participant, 1 + class): number of the class, and each class'
        probability as a rank within the fold, 0 to 1. Folds differ in the targets they were
        trained on, which would make pooled probabilities worse than chance.
    """
    shape = (len(x), 1 + len(design.classes)) if design.classes else (len(x),)
    predictions = [np.empty(shape) for _ in targets]
    for train, test in folds:
        prepared = x if model == DUMMY else _prepare(x, design.covariates, train)
        for y, predicted in zip(targets, predictions):
            fitted = _fit(prepared[train], y[train], design, train, model)
            if not design.classes:
                predicted[test] = fitted.predict(prepared[test])
            else:
                chances = fitted.predict_proba(prepared[test])
                predicted[test, 0] = chances.argmax(axis=1)
                predicted[test, 1:] = rankdata(chances, axis=0) / len(test)
    return predictions


def _prepare(x: np.ndarray, covariates: np.ndarray | None, train: np.ndarray) -> np.ndarray:
    """Features of all participants, with all that is fitted fitted to the training part."""
    if covariates is not None:
        effect = LinearRegression().fit(covariates[train], x[train])
        x = x - effect.predict(covariates)
    steps = [StandardScaler()]
    if x.shape[1] > len(train):
        # Only a rotation: a penalised model of all components is that of all features.
        most = min(MOST_COMPONENTS, len(train) - 1)
        solver = "full" if most < MOST_COMPONENTS else "randomized"
        steps.append(PCA(most, svd_solver=solver, random_state=0))
    return make_pipeline(*steps).fit(x[train]).transform(x)


def _fit(x: np.ndarray, y: np.ndarray, design: Design, train: np.ndarray, model: str):
    if model == DUMMY:
        return (DummyClassifier() if design.classes else DummyRegressor()).fit(x, y)
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


def _metrics(y: np.ndarray, predicted: np.ndarray, design: Design) -> dict[str, float]:
    """Metrics of one set of predictions; NaN where one is not defined."""
    if not design.classes:
        flat = np.ptp(predicted) < 1e-12 or np.ptp(y) == 0
        return {
            "r2": r2_score(y, predicted) if np.ptp(y) else np.nan,
            "mae": mean_absolute_error(y, predicted),
            "pearson_r": np.nan if flat else np.corrcoef(y, predicted)[0, 1],
        }
    if len(np.unique(y)) < len(design.classes):
        return {"balanced_accuracy": np.nan, "auroc": np.nan}
    of_class = y[:, None] == np.arange(len(design.classes))
    return {
        "balanced_accuracy": balanced_accuracy_score(y, predicted[:, 0]),
        "auroc": roc_auc_score(of_class, predicted[:, 1:]),
    }


def _table(
    target: Target,
    design: Design,
    sets: Mapping[str, np.ndarray],
    predicted: Mapping[str, list[np.ndarray]],
    nulls: Mapping[str, list[dict[str, float]]],
) -> pd.DataFrame:
    drawn = _bootstraps(design, predicted)
    rows = []
    for name, repetitions in predicted.items():
        found = pd.DataFrame([_metrics(design.y, p, design) for p in repetitions])
        null = pd.DataFrame(nulls[name], columns=found.columns)
        if name == DUMMY:  # which only says that folds differ in the mean they are trained on
            found = found.drop(columns="pearson_r", errors="ignore")
        for metric in found:
            sign = -1 if metric == "mae" else 1
            # A permutation for which the metric is not defined counts against the embedding.
            no_worse = (~(sign * null[metric] < sign * found[metric].iloc[0] - 1e-12)).sum()
            gain = drawn[EMBEDDING][metric] - drawn[name][metric]
            other = name != EMBEDDING
            best = found[metric].mean()
            rows.append(
                {
                    "target": target.name,
                    "features": name,
                    "metric": metric,
                    "value": best,
                    "low": drawn[name][metric].quantile(0.025),
                    "high": drawn[name][metric].quantile(0.975),
                    "p": (1 + no_worse) / (1 + len(null)) if len(null) else np.nan,
                    "chance": null[metric].mean() if len(null) else np.nan,
                    "gain_low": gain.quantile(0.025) if other else np.nan,
                    "gain_high": gain.quantile(0.975) if other else np.nan,
                    "n_participants": len(design.y),
                    "classes": ", ".join(f"{k}: {n}" for k, n in target_counts(design).items()),
                    "n_features": 0 if name == DUMMY else sets[name].shape[1],
                    "n_permutations": len(null),
                }
            )
    table = pd.DataFrame(rows)
    of_embedding = table[table["features"] == EMBEDDING].set_index("metric")["value"]
    gain = table["metric"].map(of_embedding) - table["value"]
    table.insert(8, "gain", gain.where(table["features"] != EMBEDDING))
    return table


def target_counts(design: Design) -> dict[str, int]:
    """Participants of each class that took part; empty for a number."""
    return {label: int((design.y == i).sum()) for i, label in enumerate(design.classes)}


def _bootstraps(
    design: Design, predicted: Mapping[str, list[np.ndarray]]
) -> dict[str, pd.DataFrame]:
    """Metrics of resampled participants (or groups) in a repetition drawn at random, by set."""
    rng = np.random.default_rng(0)
    block = np.arange(len(design.y)) if design.groups is None else design.groups
    members = [np.flatnonzero(block == number) for number in np.unique(block)]
    drawn: dict[str, list[dict[str, float]]] = {name: [] for name in predicted}
    for _ in range(N_BOOTSTRAPS):
        chosen = rng.integers(len(members), size=len(members))
        sample = np.concatenate([members[number] for number in chosen])
        repetition = rng.integers(N_REPETITIONS)
        for name, repetitions in predicted.items():
            drawn[name].append(_metrics(design.y[sample], repetitions[repetition][sample], design))
    return {name: pd.DataFrame(values) for name, values in drawn.items()}
