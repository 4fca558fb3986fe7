"""Columns of participants -> what can be predicted, covariates, and groups that stay together."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from swift_bids.base.errors import UsageError

#: Fewer participants, or participants in a class, are too few for a probe.
LEAST_PARTICIPANTS, LEAST_IN_CLASS = 20, 10
#: A column of numbers with at most so many values is one of classes; with more classes it is none.
FEW_VALUES, MOST_CLASSES = 5, 10
#: Without `--target`, so many columns are probed.
MOST_TARGETS = 10
_MISSING = ("", "n/a", "N/A", "NA", "nan", "NaN", "None", "null")


@dataclass(frozen=True)
class Target:
    """A column that can be predicted.

    Attributes
    ----------
    name
        Of the column.
    classes
        Labels of the classes; empty for a number.
    values
        (participant,) number, or number of the class; NaN where it is missing.
    """

    name: str
    classes: tuple[str, ...]
    values: np.ndarray

    @property
    def known(self) -> np.ndarray:
        """(participant,) whether there is a value."""
        return ~np.isnan(self.values)

    @property
    def counts(self) -> dict[str, int]:
        """Participants in each class."""
        return {c: int((self.values == i).sum()) for i, c in enumerate(self.classes)}


def choose_targets(
    table: pd.DataFrame, columns: Sequence[str], asked: Sequence[str] | None
) -> tuple[list[Target], dict[str, str]]:
    """Targets that can be probed, and for the other columns why not.

    Parameters
    ----------
    table
        A row a participant.
    columns
        Columns to choose from where none was asked for: those of participants.tsv.
    asked
        `--target`; None for all that qualify, up to ten.

    Raises
    ------
    UsageError
        An asked-for column is not there.
    """
    targets: list[Target] = []
    why_not: dict[str, str] = {}
    for name in columns if asked is None else dict.fromkeys(asked):
        column = _column(table, name, "--target")
        target = as_target(name, column)
        reason = unfit(target, len(column))
        if reason is None and asked is None and len(targets) == MOST_TARGETS:
            reason = f"{MOST_TARGETS} columns are probed already; ask for it with --target"
        if reason is None:
            targets.append(target)
        else:
            why_not[name] = reason
    return targets, why_not


#: Numbers whose squares are still numbers; larger ones are none of a study's.
_BEYOND = 1e100


def as_target(name: str, column: pd.Series) -> Target:
    """Read a column as a number, or as classes where it is text or has few values."""
    text = column.astype(str).str.strip()
    known = ~text.isin(_MISSING) & column.notna()
    numbers = pd.to_numeric(text.where(known), errors="coerce").to_numpy(np.float64, copy=True)
    numbers[~(np.abs(numbers) < _BEYOND)] = np.nan
    is_number = bool((~np.isnan(numbers)).sum() == known.sum())
    if is_number and len(np.unique(numbers[known])) > FEW_VALUES:
        return Target(name, (), numbers)
    if is_number:  # 1 and 1.0 are one class
        text = pd.Series([f"{number:g}" for number in numbers])
        known = known.reset_index(drop=True)
    values = np.full(len(text), np.nan)
    codes, classes = pd.factorize(text[known], sort=True)
    values[known.to_numpy()] = codes
    return Target(name, tuple(classes), values)


def unfit(target: Target, n_participants: int) -> str | None:
    """Why a probe of a target would tell nothing; None where it may."""
    n_known = int(target.known.sum())
    if n_known < LEAST_PARTICIPANTS:
        return (
            f"{n_known} of {n_participants} participants have a value; a probe needs "
            f"{LEAST_PARTICIPANTS}"
        )
    if not target.classes:
        return None
    if len(target.classes) == 1:
        return f"all have the same value, {target.classes[0]}"
    if len(target.classes) > MOST_CLASSES:
        return (
            f"text with {len(target.classes)} different values; at most {MOST_CLASSES} are classes"
        )
    small = {label: n for label, n in target.counts.items() if n < LEAST_IN_CLASS}
    if small:
        told = ", ".join(f"{label}: {n}" for label, n in small.items())
        return f"too few participants in a class ({told}); each needs {LEAST_IN_CLASS}"
    return None


def covariate_matrix(table: pd.DataFrame, names: Sequence[str]) -> np.ndarray | None:
    """(participant, column) float64: numbers as they are, classes as indicators; NaN if missing.

    Raises
    ------
    UsageError
        A column is not there, or is text that differs between most participants.
    """
    if not names:
        return None
    columns = []
    for name in names:
        covariate = as_target(name, _column(table, name, "--covariate"))
        if covariate.classes and len(covariate.classes) > max(FEW_VALUES, len(table) // 4):
            raise UsageError(
                f"--covariate {name}: is text with {len(covariate.classes)} different values; give "
                f"numbers or a few classes"
            )
        if not covariate.classes:
            columns.append(covariate.values)
        for number in range(1, len(covariate.classes)):
            is_class = (covariate.values == number).astype(float)
            columns.append(np.where(covariate.known, is_class, np.nan))
    return np.stack(columns, axis=1) if columns else None


def group_codes(table: pd.DataFrame, name: str | None) -> np.ndarray | None:
    """(participant,) number of the group of `--group-by`, -1 where it is missing.

    Raises
    ------
    UsageError
        The column is not there.
    """
    if name is None:
        return None
    text = _column(table, name, "--group-by").astype(str).str.strip()
    return pd.factorize(text.where(~text.isin(_MISSING)))[0]


def _column(table: pd.DataFrame, name: str, flag: str) -> pd.Series:
    if name in table:
        return table[name]
    near = difflib.get_close_matches(name, list(table), n=3) or list(table)[:8]
    raise UsageError(f"{flag} {name}: participants.tsv has no such column ({', '.join(near)}, ...)")
