"""Columns of participants.tsv as people write them -> values to analyse, and what changed.

Numbers may be top-coded (`89+`, as BIDS asks for) or have decimal commas, one level may be spelled
in several ways, and a code such as -999 may stand for a missing value.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from swift_bids.base.errors import some_of
from swift_bids.group.columns import MISSING

#: A number of which only a limit is known: 89+, >89, >= 89, <5.
_LIMITED = re.compile(r"(?:[<>]=?\s*)?(-?\d+(?:\.\d+)?)\s*\+?")
_COMMA = re.compile(r"-?\d+,\d+")
_RANGE = re.compile(r"\d+(\.\d+)?\s*-\s*\d+(\.\d+)?")
#: Numbers that commonly stand for missing values: -9, 77, 888, -999, 9999.
_CODE = re.compile(r"-[789]|-?(7{2,}|8{2,}|9{2,})")
#: Fewest other values from which the app judges whether a number is a code.
_MIN_OTHERS = 5
#: Most rows that a message names.
_MAX_NAMED = 3


def clean_columns(
    table: pd.DataFrame, missing_codes: Sequence[str] = ()
) -> tuple[pd.DataFrame, list[str]]:
    """Make columns analysable.

    Parameters
    ----------
    table
        participants.tsv as text; the first column is `participant_id`.
    missing_codes
        `--missing-code`: cells with these contents become `n/a`.

    Returns
    -------
    pandas.DataFrame
        The table with some cells replaced.
    list of str
        A sentence for each kind of replacement, and for numbers that look like codes.
    """
    cleaned, notes = table.copy(), []
    ids = table.iloc[:, 0]
    for name in table.columns[1:]:
        text = table[name].astype(str).str.strip()
        text = text.where(~text.map(lambda cell: _is_code(cell, missing_codes)), "n/a")
        for clean in (_numbers, _levels):
            text, sentences = clean(str(name), text, ids)
            notes += sentences
        notes += _codes(str(name), text, ids)
        cleaned[name] = text
    return cleaned, notes


def _is_code(cell: str, codes: Sequence[str]) -> bool:
    if cell in codes:
        return True
    number = pd.to_numeric(cell, errors="coerce")
    return any(pd.to_numeric(code, errors="coerce") == number for code in codes)


def _known(text: pd.Series) -> pd.Series:
    return ~text.isin(MISSING)


def _is_number(text: pd.Series) -> pd.Series:
    return pd.to_numeric(text, errors="coerce").notna()


def _numbers(name: str, text: pd.Series, ids: pd.Series) -> tuple[pd.Series, list[str]]:
    """Read cells that are almost numbers, if all others are numbers."""
    odd = _known(text) & ~_is_number(text)
    of_kinds: tuple[tuple[Callable[[str], bool], Callable[[str], str], str], ...] = (
        (
            lambda cell: bool(_LIMITED.fullmatch(cell)),
            lambda cell: _LIMITED.fullmatch(cell)[1],  # type: ignore[index]
            "is read as the number, although it is only a limit",
        ),
        (
            lambda cell: bool(_COMMA.fullmatch(cell)),
            lambda cell: cell.replace(",", "."),
            "is read with a decimal comma",
        ),
        (
            lambda cell: bool(_RANGE.fullmatch(cell)),
            lambda cell: "n/a",
            "is a range of numbers and counts as missing",
        ),
    )
    fits = text.map(lambda cell: any(matches(cell) for matches, _, _ in of_kinds))
    # all with three digits may be thousands
    commas = text[odd & text.map(lambda cell: bool(_COMMA.fullmatch(cell)))]
    thousands = len(commas) > 0 and commas.str.fullmatch(r"-?[1-9]\d{0,2},\d{3}").all()
    has_numbers = (_known(text) & ~odd).any() or len(commas) > 0
    if not odd.any() or not fits[odd].all() or thousands or not has_numbers:
        return text, []
    notes = []
    changed = text.copy()
    for matches, read, how in of_kinds:
        cells = odd & text.map(matches)
        if cells.any():
            changed[cells] = text[cells].map(read)
            notes.append(f"{name}: {_named(text, cells, ids)} {how}")
    return changed, notes


def _levels(name: str, text: pd.Series, ids: pd.Series) -> tuple[pd.Series, list[str]]:
    """Write each level in its most frequent spelling, whatever its case."""
    known = _known(text)
    if _is_number(text[known]).all():
        return text, []
    changed, notes = text.copy(), []
    for _, same in text[known].groupby(text[known].str.casefold()):
        counts = same.value_counts()
        if len(counts) > 1:
            usual = counts.index[0]
            changed[same.index] = usual
            others = ", ".join(counts.index[1:])
            notes.append(f"{name}: {others} and {usual} are the same level, {usual}")
    return changed, notes


def _codes(name: str, text: pd.Series, ids: pd.Series) -> list[str]:
    """A sentence for each number that is far from all others and looks like a missing code."""
    known = _known(text) & _is_number(text)
    if known.sum() != _known(text).sum():
        return []
    numbers = pd.to_numeric(text.where(known), errors="coerce")
    whole = text.str.replace(r"\.0+$", "", regex=True)
    like_code = known & whole.map(lambda cell: bool(_CODE.fullmatch(cell)))
    others = numbers[known & ~like_code]
    notes: list[str] = []
    if len(others) < _MIN_OTHERS:
        return notes
    low, high = others.min(), others.max()
    for code, cells in whole[like_code].groupby(whole[like_code]):
        value = float(code)
        gap = max(low - value, value - high)
        if gap > 0 and (gap > high - low or value < 0 <= low):
            place = _named(text, text.index.isin(cells.index), ids)
            notes.append(
                f"{name}: {place} looks like a code for a missing value, but counts as a number; "
                f"if it is a code, give --missing-code {code}"
            )
    return notes


def _named(text: pd.Series, cells: pd.Series | np.ndarray, ids: pd.Series) -> str:
    """Name cells: their content, participant and row."""
    return some_of([f"{text[i]} of {ids[i]}" for i in text.index[np.asarray(cells)]], _MAX_NAMED)
