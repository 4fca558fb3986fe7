"""Requested columns -> what is probed: rows of participants or of sessions, and their targets."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from swift_bids.base.errors import UsageError
from swift_bids.group.average import average_runs
from swift_bids.group.columns import (
    Target,
    choose_targets,
    covariate_matrix,
    group_codes,
    site_column,
)
from swift_bids.group.load import Embedded
from swift_bids.group.probes.harmonise import check_installed
from swift_bids.inputs.sessions_table import SESSION_KEYS
from swift_bids.settings import GroupSettings


@dataclass(frozen=True)
class Analysis:
    """Targets that are predicted from the same rows.

    Attributes
    ----------
    by_session
        Whether a row is a session; else it is a participant.
    embedded
        Table and features of the rows.
    targets, covariates, groups, sites
        From `swift_bids.group.columns`; `sites` is the column of `--harmonise`. The sessions of a
        participant are always in one group.
    """

    by_session: bool
    embedded: Embedded
    targets: list[Target]
    covariates: np.ndarray | None
    groups: np.ndarray | None
    sites: Target | None = None

    @property
    def site_codes(self) -> np.ndarray | None:
        """(row,) index of the site, -1 if missing; None without `--harmonise`."""
        if self.sites is None:
            return None
        return np.nan_to_num(self.sites.values, nan=-1).astype(int)


def session_names(table: pd.DataFrame) -> pd.Series:
    """Name of the participant's session to which each row of a table belongs."""
    return table["participant_id"] + "_ses-" + table["session_id"].fillna("")


def plan_analyses(
    runs: Embedded,
    participants: Embedded,
    columns: list[str],
    sessions: pd.DataFrame,
    settings: GroupSettings,
) -> tuple[list[Analysis], dict[str, str], list[str]]:
    """Decide which targets are probed on participants, and which on sessions.

    A target is probed on sessions if it, a covariate or the groups are a column of sessions.

    Parameters
    ----------
    runs, participants
        With the columns of participants.tsv.
    columns
        Columns of participants.tsv, from which to choose if no target was requested.
    sessions
        From `swift_bids.inputs.sessions_table.read_sessions`.

    Returns
    -------
    analyses : list of Analysis
        Of participants, and of sessions if any column of sessions is requested.
    not_done : dict
        Target -> why it cannot be probed.
    notes : list of str
        Sentences about covariates and rare classes.

    Raises
    ------
    UsageError
        A column does not exist, or the requested columns contradict each other.
    """
    requested = [] if settings.targets == ["none"] else settings.targets
    if both := set(settings.covariates) & set(requested or ()):
        raise UsageError(
            f"--covariate {', '.join(both)}: the column is also a --target; remove one of the two"
        )
    if settings.harmonise:
        check_harmonise(settings)
    of_sessions = set(sessions.columns[2:]) - set(participants.table.columns)
    others_named = filter(None, [settings.group_by, settings.harmonise])
    adjusted = {*settings.covariates, *others_named} & of_sessions
    if requested is None and adjusted:
        raise UsageError(
            f"{', '.join(sorted(adjusted))} is a column of sessions; name the targets with --target"
        )
    by_session = [n for n in requested or () if n in of_sessions or adjusted]
    others = None if requested is None else [n for n in requested if n not in by_session]
    analyses: list[Analysis] = []
    not_done: dict[str, str] = {}
    notes: list[str] = []
    plans: list[tuple[bool, Embedded, list[str] | None]] = []
    if others or not by_session:
        plans.append((False, participants, others))
    if by_session:
        plans.append((True, _by_session(runs, participants, sessions), by_session))
    for is_session, embedded, names in plans:
        analysis, reasons, sentences = _plan(is_session, embedded, columns, names, settings)
        analyses.append(analysis)
        not_done |= reasons
        notes += sentences
    return analyses, not_done, list(dict.fromkeys(notes))


def _plan(
    by_session: bool,
    embedded: Embedded,
    columns: list[str],
    names: list[str] | None,
    settings: GroupSettings,
) -> tuple[Analysis, dict[str, str], list[str]]:
    table = embedded.table
    targets, not_done, rare = choose_targets(table, columns, names)
    covariates, constant = covariate_matrix(table, settings.covariates, settings.group_by)
    groups = group_codes(table, settings.group_by)
    if by_session:
        people = pd.factorize(table["participant_id"])[0]
        if groups is None:
            groups = people
        split = pd.Series(groups).groupby(people).nunique() > 1
        if split.any():
            who = table["participant_id"][people == split.idxmax()].iloc[0]
            raise UsageError(
                f"--group-by {settings.group_by}: the sessions of {who} are in several groups, but "
                f"a participant must not be both in the training and in the test set"
            )
    notes = [*rare, *constant]
    sites = None
    if settings.harmonise:
        sites, note = site_column(table, settings.harmonise)
        notes += [note] if note else []
        targets = [target for target in targets if target.name != sites.name]  # probed anyway
    return Analysis(by_session, embedded, targets, covariates, groups, sites), not_done, notes


def check_harmonise(settings: GroupSettings) -> None:
    """Refuse `--harmonise` without its package, or together with the same column elsewhere.

    Raises
    ------
    UsageError
        With what to do.
    """
    check_installed()
    name = settings.harmonise
    if settings.targets == ["none"]:
        raise UsageError(f"--harmonise {name} is for probes, but --target none asks for no probe")
    if name in settings.covariates or name in (settings.targets or ()):
        flag = "--covariate" if name in settings.covariates else "--target"
        raise UsageError(f"--harmonise {name}: the column is also a {flag}; remove one of the two")
    if name == settings.group_by:
        raise UsageError(
            f"--harmonise {name} --group-by {name}: the effect of a {name} that no training set "
            f"contains cannot be removed; remove one of the two"
        )


def _by_session(runs: Embedded, participants: Embedded, sessions: pd.DataFrame) -> Embedded:
    """Average the runs of each session; add the columns of participants and sessions."""
    table = runs.table
    names = session_names(table)
    averaged = average_runs(runs, names)
    keys = table.groupby(names, sort=False)[SESSION_KEYS].first()
    rows = pd.concat([keys.reset_index(drop=True), averaged.table], axis=1)
    of_participants = [c for c in participants.table.columns if c not in rows.columns]
    known = participants.table[["participant_id", *of_participants]]
    rows = rows.merge(known, on="participant_id", how="left")
    new = [c for c in sessions.columns if c in SESSION_KEYS or c not in rows.columns]
    table = rows.merge(sessions[new], on=SESSION_KEYS, how="left")
    return replace(averaged, table=table)
