"""Columns of participants.tsv -> targets to predict, covariates, and groups of participants."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from swift_bids.base.errors import UsageError
from swift_bids.outputs.tables import is_reserved

#: Fewest participants, and fewest participants in each class, for a probe.
MIN_PARTICIPANTS, MIN_IN_CLASS = 20, 10
#: Numbers with at most this many different values are classes; most classes of a target.
MAX_CLASS_NUMBERS, MAX_CLASSES = 5, 10
#: Most columns that are probed without `--target`.
MAX_TARGETS = 10
#: Most columns that an error message lists.
_MAX_LISTED = 20
#: Contents of a cell without a value.
MISSING = ("", "n/a", "N/A", "NA", "nan", "NaN", "None", "null")


@dataclass(frozen=True)
class Target:
    """A column that can be predicted.

    Attributes
    ----------
    name
        Name of the column.
    classes
        Labels of the classes; empty for a numeric target.
    values
        (participant,) number, or index of the class; NaN if missing.
    """

    name: str
    classes: tuple[str, ...]
    values: np.ndarray

    @property
    def known(self) -> np.ndarray:
        """(participant,) whether the participant has a value."""
        return ~np.isnan(self.values)

    @property
    def counts(self) -> dict[str, int]:
        """Number of participants in each class."""
        return {c: int((self.values == i).sum()) for i, c in enumerate(self.classes)}


def choose_targets(
    table: pd.DataFrame, columns: Sequence[str], requested: Sequence[str] | None
) -> tuple[list[Target], dict[str, str], list[str]]:
    """Return the targets that can be probed, for the other columns why they cannot, and a sentence
    for each target without its rare classes.

    Parameters
    ----------
    table
        One row per participant.
    columns
        Columns of participants.tsv, from which to choose if none was requested.
    requested
        Columns given with `--target`; None selects all that qualify, up to ten.

    Raises
    ------
    UsageError
        A requested column does not exist.
    """
    targets: list[Target] = []
    not_probed: dict[str, str] = {}
    notes: list[str] = []
    for name in columns if requested is None else dict.fromkeys(requested):
        column = _column(table, name, "--target")
        target, note = without_rare_classes(as_target(name, column))
        reason = reason_unfit(target, len(column))
        if reason is None and requested is None and len(targets) == MAX_TARGETS:
            reason = f"{MAX_TARGETS} columns are probed already; name this one with --target"
        if reason is None:
            targets.append(target)
            notes += [note] if note else []
        else:
            not_probed[name] = reason
    return targets, not_probed, notes


#: Larger numbers count as missing: their squares overflow.
_MAX_NUMBER = 1e100


def as_target(name: str, column: pd.Series) -> Target:
    """Read a column as numbers, or as classes if it is text or has few different values."""
    text = column.astype(str).str.strip()
    known = ~text.isin(MISSING) & column.notna()
    numbers = pd.to_numeric(text.where(known), errors="coerce").to_numpy(np.float64, copy=True)
    numbers[~(np.abs(numbers) < _MAX_NUMBER)] = np.nan
    is_number = bool((~np.isnan(numbers)).sum() == known.sum())
    if is_number and len(np.unique(numbers[known])) > MAX_CLASS_NUMBERS:
        return Target(name, (), numbers)
    if is_number:  # 1 and 1.0 are the same class
        text = pd.Series([f"{number:g}" for number in numbers])
        known = known.reset_index(drop=True)
    values = np.full(len(text), np.nan)
    codes, classes = pd.factorize(text[known], sort=True)
    values[known.to_numpy()] = codes
    return Target(name, tuple(classes), values)


def without_rare_classes(target: Target) -> tuple[Target, str | None]:
    """Leave out the participants of classes that are too small, if two classes remain.

    Returns
    -------
    Target
    str or None
        A sentence about the participants that are left out.
    """
    counts = target.counts
    rare = [label for label, n in counts.items() if n < MIN_IN_CLASS]
    kept = [label for label in target.classes if label not in rare]
    if not rare or len(kept) < 2:
        return target, None
    values = np.full(len(target.values), np.nan)
    for number, label in enumerate(kept):
        values[target.values == target.classes.index(label)] = number
    listed = ", ".join(f"{label}: {counts[label]}" for label in rare)
    return Target(target.name, tuple(kept), values), (
        f"{target.name}: its probe leaves out classes with fewer than {MIN_IN_CLASS} participants "
        f"({listed})"
    )


def reason_unfit(target: Target, n_participants: int, max_classes: int = MAX_CLASSES) -> str | None:
    """Why a target cannot be probed; None if it can."""
    n_known = int(target.known.sum())
    if n_known < MIN_PARTICIPANTS:
        return (
            f"{n_known} of {n_participants} participants have a value; a probe needs "
            f"{MIN_PARTICIPANTS}"
        )
    if not target.classes:
        return None
    if len(target.classes) == 1:
        return f"all participants have the same value, {target.classes[0]}"
    if len(target.classes) > max_classes:
        return (
            f"text with {len(target.classes)} different values; a probe accepts at most "
            f"{max_classes} classes"
        )
    small = {label: n for label, n in target.counts.items() if n < MIN_IN_CLASS}
    if small:
        counts = ", ".join(f"{label}: {n}" for label, n in small.items())
        return f"a class has too few participants ({counts}); each class needs {MIN_IN_CLASS}"
    return None


def covariate_matrix(
    table: pd.DataFrame, names: Sequence[str], group_by: str | None = None
) -> tuple[np.ndarray | None, list[str]]:
    """Build the covariates, (participant, column) float64: numbers, and indicators of classes.

    Missing values are NaN.

    Parameters
    ----------
    group_by
        `--group-by`.

    Returns
    -------
    numpy.ndarray or None
        None without covariates.
    list of str
        A sentence for each covariate that is the same for all participants and is left out.

    Raises
    ------
    UsageError
        A column does not exist, is text that differs between most participants, or has effects
        that a probe cannot know, because it holds out whole groups of `group_by`.
    """
    columns: list[np.ndarray] = []
    notes: list[str] = []
    groups = group_codes(table, group_by)
    for name in names:
        covariate = as_target(name, _column(table, name, "--covariate"))
        if covariate.classes and len(covariate.classes) > max(MAX_CLASS_NUMBERS, len(table) // 4):
            raise UsageError(
                f"--covariate {name}: the column is text with {len(covariate.classes)} different "
                f"values; choose a column of numbers or of a few classes"
            )
        if groups is not None and _is_unseen(covariate, groups):
            raise UsageError(
                f"--covariate {name}: its effect cannot be removed, because --group-by {group_by} "
                f"holds out all participants of a class of {name}; leave out one of the two"
            )
        if len(np.unique(covariate.values[covariate.known])) < 2:
            notes.append(f"--covariate {name}: is the same for all participants, so it is left out")
            continue
        if not covariate.classes:
            columns.append(covariate.values)
        for number in range(1, len(covariate.classes)):
            is_class = (covariate.values == number).astype(float)
            columns.append(np.where(covariate.known, is_class, np.nan))
    return (np.stack(columns, axis=1) if columns else None), notes


def _is_unseen(covariate: Target, groups: np.ndarray) -> bool:
    """Whether a class of a covariate exists in one group only."""
    known = covariate.known & (groups >= 0)
    return any(
        len(np.unique(groups[known & (covariate.values == number)])) == 1
        for number in range(len(covariate.classes))
    )


def group_codes(table: pd.DataFrame, name: str | None) -> np.ndarray | None:
    """Index of each participant's `--group-by` group, (participant,); -1 if missing.

    Raises
    ------
    UsageError
        The column does not exist.
    """
    if name is None:
        return None
    text = _column(table, name, "--group-by").astype(str).str.strip()
    return pd.factorize(text.where(~text.isin(MISSING)))[0]


def site_column(table: pd.DataFrame, name: str) -> tuple[Target, str | None]:
    """Read the column of `--harmonise`; participants of small sites count as without a site.

    Returns
    -------
    Target
    str or None
        A sentence about the sites that are left out.

    Raises
    ------
    UsageError
        The column does not exist, or fewer than two sites remain.
    """
    text = _column(table, name, "--harmonise").astype(str).str.strip()
    known = ~text.isin(MISSING)
    counts = table["participant_id"][known].groupby(text[known]).nunique()
    kept = sorted(counts.index[counts >= MIN_IN_CLASS])
    if len(kept) < 2:
        raise UsageError(
            f"--harmonise {name}: fewer than two of its values have {MIN_IN_CLASS} participants "
            f"each, which the estimates need; leave the flag out"
        )
    values = text.map({site: number for number, site in enumerate(kept)}).to_numpy(np.float64)
    rare = counts[counts < MIN_IN_CLASS].sort_index()
    listed = ", ".join(f"{site}: {n}" for site, n in rare.items())
    note = (
        f"--harmonise {name}: probes leave out values with fewer than {MIN_IN_CLASS} participants "
        f"({listed})"
    )
    return Target(name, tuple(kept), values), note if listed else None


def _column(table: pd.DataFrame, name: str, flag: str) -> pd.Series:
    if name in table:
        return table[name]
    near = difflib.get_close_matches(name, list(table), n=3)
    if near:
        advice = f"did you mean {' or '.join(near)}?"
    else:
        of_file = [column for column in table if not is_reserved(column)]
        more = ", ..." if len(of_file) > _MAX_LISTED else ""
        advice = f"its columns are {', '.join(of_file[:_MAX_LISTED]) or 'none'}{more}"
    raise UsageError(f"{flag} {name}: there is no such column in participants.tsv; {advice}")
