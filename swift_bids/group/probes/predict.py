"""Features and folds -> predictions for participants that a model has not seen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
from scipy.stats import rankdata
from sklearn.decomposition import PCA
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_info, threadpool_limits

from swift_bids.group.probes.design import Design, Folds
from swift_bids.group.probes.features import FeatureSet
from swift_bids.group.probes.ridge import fit_best_ridges

#: With more participants and more features than this, only as many principal components are kept;
#: decomposing all of them would take minutes.
MAX_COMPONENTS = 500


@contextmanager
def one_thread_each() -> Iterator[ThreadPoolExecutor]:
    """Threads for the folds, each of which computes with one thread.

    The products of a fold are too small for several threads, which wait for each other if other
    programs use the CPUs.
    """
    n_threads = max(library["num_threads"] for library in threadpool_info())
    with threadpool_limits(1), ThreadPoolExecutor(n_threads) as threads:
        yield threads


def predict(
    features: FeatureSet,
    design: Design,
    repetitions: Sequence[Folds],
    permuted: np.ndarray,
    threads: ThreadPoolExecutor,
) -> tuple[list[np.ndarray], np.ndarray, Counter[str]]:
    """Predict the target for every participant, with the model of the fold that excludes them.

    Parameters
    ----------
    features
        None at all for the dummy.
    permuted
        (permutation, participant), which are predicted in the first repetition.

    Returns
    -------
    predicted : list of numpy.ndarray
        For each repetition: (participant,) numbers; or (participant, 1 + class): index of the
        class, then a score for each class, as a rank within the fold (0 to 1) if all folds have all
        classes. Folds differ in their training targets, so pooled scores would be worse than
        chance.
    of_permuted : numpy.ndarray
        Likewise, (permutation, participant) or (permutation, participant, 1 + class).
    choices : Counter
        How often the folds chose each version of the features.
    """
    n_classes = len(design.classes)
    own = design.y[None]
    # the permuted targets of the first repetition share its decompositions
    targets = [np.concatenate([own, permuted]), *[own] * (len(repetitions) - 1)]
    predicted = [np.empty((*y.shape, 1 + n_classes) if n_classes else y.shape) for y in targets]
    # Ranks mean nothing within a fold of one class, as when whole sites are held out.
    ranked = [all(len(np.unique(design.y[t])) == n_classes for _, t in f) for f in repetitions]
    jobs = [(number, fold) for number, folds in enumerate(repetitions) for fold in folds]

    def of_fold(job: tuple[int, tuple[np.ndarray, np.ndarray]]) -> str | None:
        number, (train, test) = job
        found, version = _predict_fold(
            features, design, train, test, targets[number], ranked[number]
        )
        predicted[number][:, test] = found
        return version

    # the first fold alone, since it computes what the features keep for the others
    versions = [of_fold(jobs[0]), *threads.map(of_fold, jobs[1:])]
    choices = Counter(version for version in versions if version is not None)
    return [y[0] for y in predicted], predicted[0][1:], choices


def _predict_fold(
    features: FeatureSet,
    design: Design,
    train: np.ndarray,
    test: np.ndarray,
    targets: np.ndarray,
    ranked: bool,
) -> tuple[np.ndarray, str | None]:
    """Predictions for the test part, as `predict` returns them; and the version of the features
    that the first target chose."""
    n_classes = len(design.classes)
    if not features.n_features and n_classes:
        # the same class in all folds, which scores exactly at chance
        found = np.zeros((len(targets), len(test), 1 + n_classes))
        found[:, :, 0] = design.y.min()
        return found, None
    if not features.n_features:
        return targets[:, train].mean(axis=1, keepdims=True).repeat(len(test), axis=1), None
    versions = features.versions(train)
    prepared = [_prepare(x, design.covariates, train) for x in versions.values()]
    pairs = [(x[train], x[test]) for x in prepared]
    groups = None if design.groups is None else design.groups[train]
    if groups is not None and len(np.unique(groups)) < 2:
        groups = None
    if not n_classes:
        fitted = fit_best_ridges(pairs, targets[:, train].T, groups)
        return fitted.predicted.T, list(versions)[fitted.version[0]]
    scores, version = scores_of_classes(pairs, targets[:, train], groups, n_classes)
    class_of = scores.argmax(axis=2)[:, :, None]
    scores = rankdata(scores, axis=1) / len(test) if ranked else scores
    return np.concatenate([class_of, scores], axis=2), list(versions)[version]


def scores_of_classes(
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
