"""Participants -> who is held out: the folds of the scores, and the split for early stopping."""

from __future__ import annotations

import numpy as np

from swift_bids.base.errors import UsageError
from swift_bids.finetune.cohort import Cohort
from swift_bids.group.probes.design import Design, Folds, make_folds, reason_unusable


def early_stopping_split(
    design: Design, rows: np.ndarray, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Divide the participants of a training into those to learn from, and about a fifth who decide
    when to stop: whole groups, if all classes are on both sides then.

    Parameters
    ----------
    rows
        Numbers of the participants.
    """
    y = design.y[rows]
    alone = Design(y, design.classes, None, None)
    grouped = (
        alone if design.groups is None else Design(y, design.classes, None, design.groups[rows])
    )
    splits = [*make_folds(grouped, seed + 1), *make_folds(alone, seed + 1)]
    complete = [
        split
        for split in splits
        if all(len(np.unique(y[part])) == len(design.classes) for part in split)
        or not design.classes
    ]
    fitted, validation = (complete or splits[-1:])[0]
    return rows[fitted], rows[validation]


def outer_folds(cohort: Cohort, n: int) -> Folds:
    """Folds of the cross-validation; none for 0.

    Raises
    ------
    UsageError
        The participants cannot be divided in this way.
    """
    if n == 0:
        return []
    design = cohort.design
    counts = np.bincount(design.y.astype(int)) if design.classes else np.array([len(design.y)])
    if n > counts.min():
        raise UsageError(
            f"--folds {n}: only {counts.min()} participants "
            f"{'of a class ' if design.classes else ''}can be divided; give a smaller number"
        )
    folds = make_folds(design, seed=0, n=n)
    if reason := reason_unusable(design, [folds]):
        raise UsageError(f"{cohort.target.name} cannot be measured: {reason}; try --folds 0")
    return folds
