"""Runs and their participants -> conditions of acquisition, within which runs are exchangeable.

Runs of one site, scanner or task are alike whoever is in the scanner. If the participants of a
study differ in these conditions, runs of one participant are therefore more similar to each other
than to others even if nothing of the person is in the embedding. Permutations of participants must
not mix conditions (Winkler et al. 2015, exchangeability blocks).
"""

from __future__ import annotations

import re

import numpy as np
import pandas as pd

from swift_bids.group.columns import MISSING
from swift_bids.group.permute import permute_within
from swift_bids.group.similarity import centred, random_runs
from swift_bids.inputs.filenames import entities_in

#: A column of participants.tsv names a site or scanner if its name has one of the first words, and
#: no words but these, such as `abcd_site`, `site_id_l` and `ManufacturersModelName`.
_SITE = {"site", "center", "centre", "institution", "scanner", "manufacturer", "manufacturers"}
_SITE |= {"device", "field"}
_WITH_SITE = {"id", "name", "code", "number", "type", "model", "serial", "software", "version", "l"}
_WITH_SITE |= {"mri", "scan", "scanning", "imaging", "acquisition", "study", "data", "info", "abcd"}
_WITH_SITE |= {"magnetic", "strength"}
#: Entities of a run that are no condition of its acquisition, or have a condition of their own.
_NO_CONDITION = ("sub", "ses", "run", "space", "cohort", "res", "den", "desc")
#: Most runs whose most similar runs are looked up.
_MAX_QUERIES = 2000


def conditions_of(table: pd.DataFrame, columns: list[str], group_by: str | None) -> pd.DataFrame:
    """Conditions that differ between runs, (run, condition): text.

    Parameters
    ----------
    table
        Table of the runs, with the columns of participants.tsv.
    columns
        Columns of participants.tsv.
    group_by
        `--group-by`; used if it is a column of participants.

    Returns
    -------
    pandas.DataFrame
        `--group-by`, columns that name a site or scanner, `session` (the first, second ... of the
        participant), `repetition_time`, and entities such as `task`, `acq` and `dir`.
    """
    chosen = [name for name in columns if _names_site(name)]
    if group_by is not None and group_by in table and group_by not in chosen:
        chosen.insert(0, group_by)
    found = {name: table[name] for name in chosen}
    sessions = table["session_id"].fillna("")
    found["session"] = sessions.groupby(table["participant_id"]).rank("dense").astype(int)
    found["repetition_time"] = table["repetition_time"].astype(float).round(3)
    entities = pd.DataFrame(list(map(entities_in, table["name"])), index=table.index)
    found |= {name: entities[name] for name in entities if name not in _NO_CONDITION}
    conditions = pd.DataFrame(found, index=table.index).astype(object)
    conditions = conditions.where(conditions.notna(), "n/a").astype(str)
    conditions = conditions.apply(lambda column: column.str.strip().replace(MISSING, "n/a"))
    return conditions.loc[:, conditions.nunique() > 1]


def _names_site(column: str) -> bool:
    words = {word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", column)}
    return bool(words & _SITE) and words <= _SITE | _WITH_SITE


def strata_of(conditions: pd.DataFrame) -> np.ndarray:
    """Index of the combination of conditions of each run, (run,)."""
    if conditions.shape[1] == 0:
        return np.zeros(len(conditions), dtype=int)
    return conditions.groupby(list(conditions), sort=False).ngroup().to_numpy()


def compare_conditions(
    features: np.ndarray,
    participants: pd.Series,
    conditions: pd.DataFrame,
    n_permutations: int,
    seed: int = 0,
) -> pd.DataFrame:
    """Measure whether runs of different participants are alike if they share a condition.

    Parameters
    ----------
    features
        (run, feature).
    participants
        (run,) labels.
    conditions
        From `conditions_of`.

    Returns
    -------
    pandas.DataFrame
        One row per condition: `condition`, `value` (share of runs whose most similar run of another
        participant has the same condition), `chance` and `p` from permutations of the condition
        among participants, and among the runs of each if it differs between them.
    """
    rng = np.random.default_rng(seed)
    codes = pd.factorize(participants)[0]
    rows = []
    if conditions.shape[1] and codes.max(initial=0) > 0:
        queries = random_runs(len(codes), _MAX_QUERIES, rng)
        unit = centred(features)
        similarity = unit[queries] @ unit.T
        similarity[codes[queries, None] == codes] = -np.inf
        nearest = similarity.argmax(axis=1)
        for name in conditions:
            values = pd.factorize(conditions[name])[0]
            scores = [
                (labels[queries] == labels[nearest]).mean()
                for labels in _permuted(values, codes, n_permutations, rng)
            ]
            no_worse = sum(score >= scores[0] - 1e-9 for score in scores[1:])
            rows.append(
                {
                    "condition": name,
                    "value": scores[0],
                    "chance": np.mean(scores[1:]),
                    "p": (1 + no_worse) / (1 + n_permutations),
                    "n_levels": conditions[name].nunique(),
                    "n_queries": len(queries),
                    "n_permutations": n_permutations,
                }
            )
    return pd.DataFrame(rows)


def _permuted(
    values: np.ndarray, codes: np.ndarray, n: int, rng: np.random.Generator
) -> list[np.ndarray]:
    """The values of a condition, and n permutations of them, each (run,).

    If the runs of some participants differ, participants with the same number of runs exchange
    theirs, and each participant's are shuffled.
    """
    first = np.unique(codes, return_index=True)[1]
    of_participant = values[first]
    if (of_participant[codes] == values).all():
        return [values, *(rng.permutation(of_participant)[codes] for _ in range(n))]
    by_participant = np.argsort(codes, kind="stable")
    size = np.bincount(codes)
    start = np.cumsum(size) - size
    drawn = [values]
    for _ in range(n):
        source = permute_within(size, rng)  # (participant,) whose runs it gets
        theirs = np.concatenate(
            [by_participant[start[other] : start[other] + size[other]] for other in source]
        )
        permuted = np.empty_like(values)
        permuted[by_participant] = values[theirs][permute_within(codes[by_participant], rng)]
        drawn.append(permuted)
    return drawn
