"""Target, covariates and groups of a probe -> folds, and permutations under the null."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import (
    GroupKFold,
    KFold,
    StratifiedGroupKFold,
    StratifiedKFold,
)

from swift_bids.group.permute import MIN_DIFFERENT, permute_within

#: Number of folds, and fewest participants of each class in the training part of each.
N_FOLDS, MIN_IN_TRAINING = 5, 3
#: Fewest participants of a site in the training part of each fold.
_MIN_OF_SITE = 3
#: Largest groups, such as families, that permutations swap as a whole.
MAX_SWAPPED_SIZE = 5
#: Indices of the training and test participants of each fold.
Folds = list[tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Design:
    """The parts of a probe that all its sets of features share.

    Attributes
    ----------
    y
        (participant,) number, or index of the class.
    classes
        Labels; empty for a numeric target.
    covariates
        (participant, column), whose linear effect is removed from the features in each fold.
    groups
        (participant,) index of the group; a fold never splits a group.
    sites
        (participant,) index of the site whose effects are removed from the features; None: not
        done. Targets are permuted only within sites, since they may differ between sites.
    """

    y: np.ndarray
    classes: tuple[str, ...]
    covariates: np.ndarray | None
    groups: np.ndarray | None
    sites: np.ndarray | None = None

    @property
    def predicts_site(self) -> bool:
        """Whether the target is the site itself."""
        return self.sites is not None and np.array_equal(self.y, self.sites)


def make_folds(design: Design, seed: int, n: int = N_FOLDS) -> Folds:
    """Folds of one repetition, stratified by class, with whole groups; an empty list if there is
    only one group."""
    if design.groups is not None:
        n = min(n, len(np.unique(design.groups)))
    if n < 2:
        return []
    kind = (KFold, GroupKFold) if not design.classes else (StratifiedKFold, StratifiedGroupKFold)
    splitter = kind[design.groups is not None](n, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about small classes, which `reason_unusable` reports
        return list(splitter.split(design.y, design.y, design.groups))


def reason_unusable(design: Design, repetitions: list[Folds]) -> str | None:
    """Why the folds cannot be used, in a sentence; None if they can."""
    if not repetitions[0]:
        return "all participants are in one group; a probe needs two groups or more"
    for folds in repetitions:
        if not _enough_of_each(design.y, design, folds):
            return "the training part of a fold has too few participants of a class"
        for train, _ in folds:
            if design.sites is not None:
                counts = np.bincount(design.sites[train], minlength=design.sites.max() + 1)
                if counts[np.unique(design.sites)].min() < _MIN_OF_SITE:
                    return (
                        "the training part of a fold has too few participants of a site, whose "
                        "effects --harmonise could not remove"
                    )
            if not design.classes and np.ptp(design.y[train]) == 0:
                return "all participants outside one of the folds have the same value"
    return None


def _enough_of_each(y: np.ndarray, design: Design, folds: Folds) -> bool:
    """Whether every training part has enough participants of each class."""
    n_classes = len(design.classes)
    return all(
        np.bincount(y[train].astype(int), minlength=n_classes)[:n_classes].min(
            initial=MIN_IN_TRAINING
        )
        >= MIN_IN_TRAINING
        for train, _ in (folds if n_classes else ())
    )


def explained_part(design: Design) -> np.ndarray:
    """Part of a number that its covariates explain, as deviations from the mean, (participant,); 0
    for classes and without covariates."""
    if design.covariates is None or design.classes:
        return np.zeros(len(design.y))
    fitted = LinearRegression().fit(design.covariates, design.y).predict(design.covariates)
    return fitted - design.y.mean()


def permuted_targets(design: Design, folds: Folds, n: int) -> np.ndarray:
    """Permute the targets: (permutation, participant), without rows if too few differ.

    The function permutes within the test parts of the folds: the true target was stratified by
    them, too. With groups, it permutes between groups if every group has only one value (a site of
    patients); otherwise it permutes within groups, and swaps small groups of the same size, such as
    families. Only if too few groups of a fold can be swapped are they swapped between folds.

    For a number with covariates, it permutes the part that the covariates do not explain (Freedman
    and Lane 1983).
    """
    fold = np.empty(len(design.y), dtype=int)
    for number, (_, test) in enumerate(folds):
        fold[test] = number
    permuted = _draw(design, folds, n, fold)
    if not len(permuted) and design.groups is not None:
        permuted = _draw(design, folds, n, np.zeros_like(fold))
    return permuted


def _draw(design: Design, folds: Folds, n: int, fold: np.ndarray) -> np.ndarray:
    """Permute the targets without mixing folds, given as the number of each participant's fold;
    no rows if too few differ."""
    rng = np.random.default_rng(0)
    y, explained = design.y, explained_part(design)
    members = fold if design.groups is None else design.groups
    site = np.zeros(len(y), dtype=int)
    if design.sites is not None and not design.predicts_site:
        site = design.sites
    _, block_of = np.unique(np.stack([members, site]), axis=1, return_inverse=True)
    blocks = [np.flatnonzero(block_of == number) for number in np.unique(block_of)]
    first = np.array([places[0] for places in blocks])
    size = np.array([len(places) for places in blocks])
    # a group that is at several sites is not swapped
    is_whole = np.bincount(members)[members[first]] == size
    one_value = design.groups is not None and all(np.ptp(y[places]) == 0 for places in blocks)
    # Blocks with the same number may take each other's place.
    own = -1 - np.arange(len(blocks))
    is_swapped = (size <= MAX_SWAPPED_SIZE) & (design.groups is not None)
    place = fold[first] * (site.max() + 1) + site[first]
    alike = place if one_value else np.where(is_swapped, place * (size.max() + 1) + size, own)
    alike = np.where(is_whole, alike, own)
    drawn: list[np.ndarray] = []
    for _ in range(10 * n):
        if len(drawn) == n:
            break
        source = np.arange(len(y))  # (participant,) index of the participant whose value it gets
        order = permute_within(alike, rng)
        for places, other in zip(blocks, order):
            source[places] = blocks[other][0] if one_value else rng.permutation(blocks[other])
        values = explained + (y - explained)[source]
        if _enough_of_each(values, design, folds):
            drawn.append(values)
    permuted = np.array(drawn).reshape(-1, len(y))
    enough = len(np.unique(permuted, axis=0)) >= min(n, MIN_DIFFERENT)
    return permuted if enough else permuted[:0]
