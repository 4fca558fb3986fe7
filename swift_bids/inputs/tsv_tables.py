"""participants.tsv and sessions.tsv, however they were saved -> their cells as text."""

from __future__ import annotations

import io
import logging
import re
import warnings
from pathlib import Path

import pandas as pd

_LOG = logging.getLogger("swift_bids")
#: Separators that spreadsheets write instead of tabs.
_OTHERS = {",": "commas", ";": "semicolons"}


def read_table(file: Path, key: str) -> pd.DataFrame | None:
    """Read a table; say in a warning what is wrong with it, or why it cannot be used.

    Parameters
    ----------
    file
        Separated by tabs or, with a warning, by commas or semicolons; in UTF-8, UTF-16 or, with a
        warning, the encoding of Windows.
    key
        Name of the column that it must have, in any case.

    Returns
    -------
    pandas.DataFrame or None
        Text without spaces around it, with the key as first column; None if it cannot be used.
    """
    try:
        text = _decoded(file)
        separator = _separator(text, file)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            table = pd.read_csv(
                io.StringIO(text), sep=separator, dtype=str, keep_default_na=False, index_col=False
            )
    except (OSError, ValueError) as error:
        _LOG.warning("%s: its columns are not used (%s); correct the file", file, error)
        return None
    if caught:
        _LOG.warning("%s: has rows with more cells than its header; they are left out", file)
    names = [name.strip() for name in text.splitlines()[0].split(separator)]
    if twice := sorted({name for name in names if name and names.count(name) > 1}):
        message = "%s: has several columns named %s; the second one is called %s.1"
        _LOG.warning(message, file, ", ".join(twice), twice[0])
    table.columns = table.columns.str.strip()
    table = table.apply(lambda column: column.str.strip())
    # a tab at the end of each row makes a column without name and content
    nameless = table.columns.str.startswith("Unnamed:") & (table == "").all().to_numpy()
    table = table.loc[:, ~nameless]
    found = next((name for name in table if name.casefold() == key), None)
    if found is None:
        existing = ", ".join(table.columns[:5])
        _LOG.warning("%s: has no column %s, but %s; rename one", file, key, existing)
        return None
    return table[[found, *table.columns.drop(found)]].rename(columns={found: key})


def participant_ids(column: pd.Series) -> pd.Series:
    """Ids of participants as `sub-XX`, with or without prefix in the table, in any case."""
    prefix = re.compile("^sub[-_]", re.IGNORECASE)
    return "sub-" + column.str.replace(prefix, "", regex=True)


def _decoded(file: Path) -> str:
    content = file.read_bytes()
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return content.decode("utf-16")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        _LOG.warning("%s: is not in UTF-8, so it is read as Windows saves text", file)
        return content.decode("cp1252")


def _separator(text: str, file: Path) -> str:
    header = next(iter(text.splitlines()), "")
    if "\t" not in header:
        for character, name in _OTHERS.items():
            if character in header:
                _LOG.warning("%s: is separated by %s instead of tabs", file, name)
                return character
    return "\t"
