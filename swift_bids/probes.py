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

from swift_bids.targets import Target, unfit

N_FOLDS, N_INNER_FOLDS, N_REPETITIONS, N_BOOTSTRAPS = 5, 3, 5, 500
#: Components kept where there are more features than participants; up to so many nothing is lost.
MOST_COMPONENTS = 500
#: Groups of up to so many are exchanged as wholes (families); fewer different permutations than
#: this give no p-value.
SMALL_GROUP, LEAST_DIFFERENT = 5, 19
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
        Of the target, see `_permutations`.

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
    repetitions = [_folds(design, seed) for seed in range(N_REPETITIONS)]
    if reason := _unusable(design, repetitions):
        return pd.DataFrame(), reason
    sets = {name: values[kept] for name, values in features.items()}
    sets[DUMMY] = np.zeros((len(design.y), 1))
    permuted = _permutations(design, repetitions[0], n_permutations)
    # (set, folds, targets): the true target in each repetition, and permuted ones in the first
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
            nulls[name] += [_metrics(y, p, design) for y, p in zip(targets, predictions)]
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
        if not _enough_of_each(design.y, design, folds):
            return "a class has too few participants outside one of the folds or groups"
        for train, _ in folds:
            if not design.classes and np.ptp(design.y[train]) == 0:
                return "all participants outside one of the folds have the same value"
    return None


def _enough_of_each(y: np.ndarray, design: Design, folds: _Folds) -> bool:
    """Whether every class is in every training part, often enough for the inner folds."""
    n_classes = len(design.classes)
    return all(
        np.bincount(y[train].astype(int), minlength=n_classes)[:n_classes].min(
            initial=N_INNER_FOLDS
        )
        >= N_INNER_FOLDS
        for train, _ in (folds if n_classes else ())
    )


def _permutations(design: Design, folds: _Folds, n: int) -> np.ndarray:
    """(permutation, participant) targets under the null; no row where there are too few of them.

    They are exchanged within the test parts of the folds, which keeps the folds balanced. With
    groups: between groups, where a group has one value only (a site of patients); else within
    groups, and small groups of one size, such as families, with each other as a whole.

    Of a number with covariates, what they do not explain is exchanged (Freedman and Lane 1983).
    """
    rng = np.random.default_rng(0)
    y, explained = design.y, np.zeros(len(design.y))
    if design.covariates is not None and not design.classes:
        explained = LinearRegression().fit(design.covariates, y).predict(design.covariates)
    block = np.empty(len(y), dtype=int)
    for number, (_, test) in enumerate(folds):
        block[test] = number
    blocks = [np.flatnonzero(block == number) for number in np.unique(block)]
    if design.groups is not None:
        blocks = [np.flatnonzero(design.groups == number) for number in np.unique(design.groups)]
    one_value = design.groups is not None and all(np.ptp(y[places]) == 0 for places in blocks)
    drawn: list[np.ndarray] = []
    for _ in range(10 * n):
        if len(drawn) == n:
            break
        source = np.arange(len(y))  # (participant,) whose value it gets
        if one_value:
            order = rng.permutation(len(blocks))
            for places, other in zip(blocks, order):
                source[places] = blocks[other][0]
        else:
            others = _of_one_size(blocks, rng) if design.groups is not None else blocks
            for places, other in zip(blocks, others):
                source[places] = rng.permutation(other)
        values = explained + (y - explained)[source]
        if _enough_of_each(values, design, folds):
            drawn.append(values)
    permuted = np.array(drawn).reshape(-1, len(y))
    enough = len(np.unique(permuted, axis=0)) >= min(n, LEAST_DIFFERENT)
    return permuted if enough else permuted[:0]


def _of_one_size(blocks: list[np.ndarray], rng: np.random.Generator) -> list[np.ndarray]:
    """The blocks, those of up to five participants exchanged with others of their size."""
    others = list(blocks)
    for size in range(1, SMALL_GROUP + 1):
        numbers = [number for number, places in enumerate(blocks) if len(places) == size]
        for number, other in zip(numbers, rng.permutation(numbers)):
            others[number] = blocks[other]
    return others


def _predict(
    x: np.ndarray, design: Design, folds: _Folds, targets: np.ndarray | list, dummy: bool
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


def _fit(x: np.ndarray, y: np.ndarray, design: Design, train: np.ndarray, dummy: bool):
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
                    "p": (1 + no_worse) / (1 + len(null))
                    if len(null) and np.isfinite(best)
                    else np.nan,
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
