"""Settings of the group level -> tables, figures and the page of the group, step by step.

The steps read only outputs of the participant level, never the BOLD data.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd

from swift_bids.base.backbones import NETWORKS
from swift_bids.base.errors import escape_control_characters, report_problems
from swift_bids.group.analysis import plan_analyses
from swift_bids.group.average import average_by_participant
from swift_bids.group.baselines import motion
from swift_bids.group.clean import clean_columns
from swift_bids.group.compare import read_compared
from swift_bids.group.conditions import compare_conditions, conditions_of
from swift_bids.group.connectivity import MAX_RUNS, collect_connectivity
from swift_bids.group.identification import identification
from swift_bids.group.load import (
    Embedded,
    RunFilter,
    check_kinds,
    collect_runs,
    rename_clashing_columns,
)
from swift_bids.group.outliers import MIN_RUNS, outliers
from swift_bids.group.page import write_group_report
from swift_bids.group.probes.scores import COMPARED, CONNECTIVITY, EMBEDDING, MOTION
from swift_bids.group.reliability import reliability
from swift_bids.group.similarity import duplicates, nearest_neighbours
from swift_bids.group.tables import GroupResults, write_group_tables, write_similarity
from swift_bids.group.targets import probe_targets, report_not_done
from swift_bids.inputs.dataset import Dataset
from swift_bids.inputs.sessions_table import SESSION_KEYS, read_sessions
from swift_bids.outputs.dataset import (
    check_output_dir,
    participants_of,
    write_dataset_files,
    write_participants,
)
from swift_bids.settings import GroupSettings

_LOG = logging.getLogger("swift_bids")


def run_group_level(settings: GroupSettings, dataset: Dataset) -> int:
    """Write the tables, figures and page of the group; return the exit code.

    Raises
    ------
    UsageError
        There are no participant outputs, they are of several kinds, or a column does not exist.
    """
    output_dir = check_output_dir(settings.output_dir, dataset)
    run_filter = settings.run_filter
    compared, of_compared = None, list[str]()
    with _timed("reading"):
        runs, problems = collect_runs(output_dir, run_filter)
        if settings.compare is not None:
            compared, of_compared, unreadable = read_compared(
                settings.compare, output_dir, runs, run_filter, settings.allow_mixed
            )
            problems += unreadable
    if settings.dry_run:
        names = list(runs.table["name"])
        as_text = "\n".join(map(escape_control_characters, names))
        print(json.dumps({"runs": names}, indent=2) if settings.dry_run == "json" else as_text)
        return report_problems(problems)
    n_kinds = check_kinds(runs.table, settings.allow_mixed)
    listed, descriptions = participants_of(output_dir, dataset)
    known, notes = clean_columns(rename_clashing_columns(listed), settings.missing_codes)
    participants = average_by_participant(runs)
    for embedded in (participants, runs):
        embedded.table = embedded.table.merge(known, on="participant_id", how="left")
    sessions, of_sessions = _sessions(dataset, runs, settings)
    # Check that all requested columns exist before writing anything.
    analyses, not_done, of_columns = plan_analyses(
        runs, participants, list(known.columns[1:]), sessions, settings
    )
    results = GroupResults(runs, participants, n_kinds, problems, settings.recorded, not_done)
    results.notes = [*of_compared, *notes, *of_sessions, *of_columns]
    results.compared = compared
    if results.random_weights:
        _LOG.warning("RANDOM WEIGHTS: %s mean nothing", results.random_weights)
    for note in results.notes:
        _LOG.warning("%s", note)
    results.missing = _missing(dataset, run_filter, set(participants.table["participant_id"]))
    write_dataset_files(output_dir, dataset, NETWORKS[runs.label])
    write_participants(output_dir, listed, descriptions)
    with _timed("outliers, neighbours and duplicates"):
        _compare_runs(output_dir, results)
    with _timed("functional connectivity"):
        has_targets = any(analysis.targets for analysis in analyses)
        if has_targets or (runs.has_repeats and len(runs.table) <= MAX_RUNS):
            people = runs.table["participant_id"]
            results.connectivity = collect_connectivity(output_dir, runs.table, people)
            problems += results.connectivity.problems
    with _timed("identification"):
        conditions = conditions_of(runs.table, list(known.columns[1:]), settings.group_by)
        results.identification = _identification(results, conditions, settings.permutations)
        results.conditions = compare_conditions(
            runs.features, runs.table["participant_id"], conditions, settings.permutations
        )
    results.reliability, reason = reliability(runs)
    if reason:
        results.not_done["reliability"] = reason
    if compared is not None:
        results.compared_reliability, _ = reliability(compared.runs)
    with _timed("probes"):
        for analysis in analyses:
            probe_targets(output_dir, results, analysis, settings)
        report_not_done(results, settings)
    with _timed("writing"):
        write_group_tables(output_dir, results, descriptions)
        page = write_group_report(output_dir, results, known)
    _LOG.info("%d run(s) of %d participant(s): %s", len(runs.table), len(participants.table), page)
    return report_problems(problems)


def _sessions(
    dataset: Dataset, runs: Embedded, settings: GroupSettings
) -> tuple[pd.DataFrame, list[str]]:
    """Columns of the sessions of the runs, and what was read in another way than written; none if
    all requested columns are those of participants."""
    requested = {*settings.covariates, *(settings.targets or ()), settings.group_by}
    requested.add(settings.harmonise)
    elsewhere = requested - {None, "none", *runs.table}
    table = pd.DataFrame(columns=SESSION_KEYS)
    if runs.table["session_id"].notna().any() and elsewhere:
        table = read_sessions(dataset, runs.table["participant_id"].unique())
    if table.empty:
        return table, []
    names = table["participant_id"] + " ses-" + table["session_id"]
    cleaned, notes = clean_columns(
        pd.concat([names.rename("name"), table.iloc[:, 2:]], axis=1), settings.missing_codes
    )
    return pd.concat([table[SESSION_KEYS], cleaned.iloc[:, 1:]], axis=1), notes


def _compare_runs(output_dir: Path, results: GroupResults) -> None:
    """Add outliers and nearest runs to the table of runs, and find nearly identical pairs."""
    table, features = results.runs.table, results.runs.features
    codes = pd.factorize(table["participant_id"])[0]
    distance, outlier, results.n_components = outliers(features, codes)
    table["outlier_distance"], table["outlier"] = distance.round(3), outlier
    if not results.n_components:
        few = len(table) < MIN_RUNS
        results.not_done["outliers"] = (
            f"outlier detection needs {MIN_RUNS} runs" if few else "most runs are identical"
        )
    table["nearest"], table["nearest_similarity"] = None, np.nan
    if len(table) > 1:
        neighbours = nearest_neighbours(features, table["name"])
        nearest = neighbours[neighbours["rank"] == 1]
        table["nearest"] = nearest["neighbour"].to_numpy()
        table["nearest_similarity"] = nearest["similarity"].to_numpy()
        write_similarity(output_dir, results, neighbours)
    results.duplicates = duplicates(features, table)
    for pair in results.duplicates.itertuples():
        _LOG.warning(
            "%s and %s are nearly identical; check whether files were mixed up",
            pair.name,
            pair.other,
        )


def _identification(
    results: GroupResults, conditions: pd.DataFrame, n_permutations: int
) -> pd.DataFrame:
    """Identify participants by embeddings, functional connectivity and motion, each for the runs
    that have these features."""
    table = results.runs.table
    sets = {EMBEDDING: results.runs.features}
    if results.compared is not None:
        sets[COMPARED] = results.compared.beside(results.runs).features
    sets[MOTION] = motion(table)
    if results.connectivity is not None and results.connectivity.by_run is not None:
        sets[CONNECTIVITY] = results.connectivity.by_run
    tables = []
    for name, values in sets.items():
        usable = ~np.isnan(values).any(axis=1)
        labels = table["participant_id"][usable]
        if usable.any():
            own = conditions[usable]
            tables.append(
                identification({name: values[usable]}, labels, n_permutations, conditions=own)
            )
    if tables[0].empty:
        results.not_done["identification"] = (
            "no participant has two runs, or there is only one participant"
        )
    return pd.concat(tables, ignore_index=True)


def _missing(dataset: Dataset, run_filter: RunFilter, embedded: set[str]) -> list[str]:
    """Labels of participants of the input that were selected and have no embedding."""
    unknown = set(run_filter.excluded or ()) - set(dataset.participants)
    if unknown:
        _LOG.warning(
            "--exclude-participant-label: the input has no sub-%s", ", sub-".join(sorted(unknown))
        )
    missing = [
        label
        for label in dataset.participants
        if f"sub-{label}" not in embedded
        and run_filter.accepts(f"sub-{label}", participant_only=True)
    ]
    if missing:
        _LOG.warning(
            "%d participant(s) of the input have no embedding: %s%s",
            len(missing),
            ", ".join(f"sub-{label}" for label in missing[:10]),
            ", ..." if len(missing) > 10 else "",
        )
    return missing


@contextmanager
def _timed(step: str) -> Iterator[None]:
    start = time.monotonic()
    yield
    _LOG.debug("%s took %.1f s", step, time.monotonic() - start)
