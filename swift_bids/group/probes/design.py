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

N_FOLDS, N_INNER_FOLDS = 5, 3
#: Largest groups, such as families, that permutations swap as a whole; fewest different
#: permutations for a p-value.
MAX_SWAPPED_SIZE, MIN_DIFFERENT = 5, 19
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
    """

    y: np.ndarray
    classes: tuple[str, ...]
    covariates: np.ndarray | None
    groups: np.ndarray | None


def make_folds(design: Design, seed: int) -> Folds:
    """Folds of one repetition, stratified by class, with whole groups; an empty list if there is
    only one group."""
    n = N_FOLDS
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
            if not design.classes and np.ptp(design.y[train]) == 0:
                return "all participants outside one of the folds have the same value"
    return None


def _enough_of_each(y: np.ndarray, design: Design, folds: Folds) -> bool:
    """Whether every training part has enough participants of each class for the inner folds."""
    n_classes = len(design.classes)
    return all(
        np.bincount(y[train].astype(int), minlength=n_classes)[:n_classes].min(
            initial=N_INNER_FOLDS
        )
        >= N_INNER_FOLDS
        for train, _ in (folds if n_classes else ())
    )


def permuted_targets(design: Design, folds: Folds, n: int) -> np.ndarray:
    """Permute the targets: (permutation, participant), without rows if too few differ.

    The function permutes within the test parts of the folds, which keeps the folds balanced. With
    groups, it permutes between groups if every group has only one value (a site of patients);
    otherwise it permutes within groups, and swaps small groups of the same size, such as families.

    For a number with covariates, it permutes the part that the covariates do not explain (Freedman
    and Lane 1983).
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
        source = np.arange(len(y))  # (participant,) index of the participant whose value it gets
        if one_value:
            order = rng.permutation(len(blocks))
            for places, other in zip(blocks, order):
                source[places] = blocks[other][0]
        else:
            others = _swap_small_blocks(blocks, rng) if design.groups is not None else blocks
            for places, other in zip(blocks, others):
                source[places] = rng.permutation(other)
        values = explained + (y - explained)[source]
        if _enough_of_each(values, design, folds):
            drawn.append(values)
    permuted = np.array(drawn).reshape(-1, len(y))
    enough = len(np.unique(permuted, axis=0)) >= min(n, MIN_DIFFERENT)
    return permuted if enough else permuted[:0]


def _swap_small_blocks(blocks: list[np.ndarray], rng: np.random.Generator) -> list[np.ndarray]:
    """Swap blocks of up to five participants at random with others of the same size."""
    others = list(blocks)
    for size in range(1, MAX_SWAPPED_SIZE + 1):
        numbers = [number for number, places in enumerate(blocks) if len(places) == size]
        for number, other in zip(numbers, rng.permutation(numbers)):
            others[number] = blocks[other]
    return others
