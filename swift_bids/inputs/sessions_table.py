"""sessions.tsv of each participant, or of the dataset -> columns of sessions."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from swift_bids.inputs.dataset import Dataset
from swift_bids.inputs.tsv_tables import participant_ids, read_table

_LOG = logging.getLogger("swift_bids")
#: Columns that identify a session.
SESSION_KEYS = ["participant_id", "session_id"]


def read_sessions(dataset: Dataset, participants: Iterable[str]) -> pd.DataFrame:
    """Read the columns of sessions, as text.

    They come from `sub-XX/sub-XX_sessions.tsv`, where BIDS has them, from a `sessions.tsv` with the
    column `participant_id` in the root of the dataset, or from a participants.tsv with a row for
    each session; of the raw dataset, or else of the derivatives.

    Parameters
    ----------
    participants
        `sub-XX` of each participant.

    Returns
    -------
    pandas.DataFrame
        `participant_id`, `session_id` (a label without `ses-`), and the other columns; empty
        without such files. A file that cannot be read leads to a warning.
    """
    for root in filter(None, (dataset.raw, dataset.root)):
        tables = [_read(root / name / f"{name}_sessions.tsv", name) for name in participants]
        tables.append(_read(root / "sessions.tsv", None))
        if (root / "participants.tsv").exists():
            tables.append(sessions_in(read_table(root / "participants.tsv", "participant_id")))
        if known := [table for table in tables if table is not None]:
            merged = pd.concat(known, ignore_index=True)
            return merged.drop_duplicates(SESSION_KEYS, ignore_index=True)
    return pd.DataFrame(columns=SESSION_KEYS)


def sessions_in(participants: pd.DataFrame | None) -> pd.DataFrame | None:
    """The rows of a participants.tsv that has one for each session; None if it has not."""
    if participants is None:
        return None
    names = participants.columns.str.casefold()
    found = participants.columns[names.isin(["session_id", "session"])]
    if len(found) == 0 or not participants["participant_id"].duplicated().any():
        return None
    return _keyed(participants.rename(columns={found[0]: "session_id"}))


def _read(file: Path, participant: str | None) -> pd.DataFrame | None:
    table = read_table(file, "session_id") if file.exists() else None
    if table is None:
        return None
    if participant is not None:
        table = table.assign(participant_id=participant)
    if "participant_id" not in table:
        _LOG.warning("%s: has no column participant_id; add it", file)
        return None
    return _keyed(table)


def _keyed(table: pd.DataFrame) -> pd.DataFrame:
    """Write the keys as the other tables do, in the first two columns."""
    table["participant_id"] = participant_ids(table["participant_id"])
    table["session_id"] = table["session_id"].str.removeprefix("ses-")
    return table[[*SESSION_KEYS, *table.columns.drop(SESSION_KEYS)]]
