"""Group level, step by step: runs, participants, similarity, identification, probes, page.

Only participant outputs are read; the BOLD data are not.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd

from swift_bids.base.errors import Problem, UsageError, report_problems, visible
from swift_bids.group.baselines import MOST_RUNS, collect_connectivity, motion
from swift_bids.group.columns import Target, choose_targets, covariate_matrix, group_codes
from swift_bids.group.identification import MOTION_SET, identification
from swift_bids.group.load import (
    Embedded,
    Wanted,
    check_kinds,
    collect_runs,
    of_participants,
    own_names,
)
from swift_bids.group.outliers import MIN_RUNS, outliers
from swift_bids.group.page import write_group_report
from swift_bids.group.probes.probe import probe
from swift_bids.group.probes.scores import EMBEDDING
from swift_bids.group.similarity import duplicates, nearest_neighbours
from swift_bids.group.tables import GroupResults, write_group_tables, write_similarity
from swift_bids.inputs.dataset import Dataset
from swift_bids.outputs.dataset import (
    check_output_dir,
    participants_of,
    write_dataset_files,
    write_participants,
)
from swift_bids.settings import GroupSettings

_LOG = logging.getLogger("swift_bids")
#: Where fewer than this share of participants lack functional connectivity, they are left out of
#: the probes; where more do, it is.
_MAY_LACK = 0.1


def run_group_level(settings: GroupSettings, dataset: Dataset) -> int:
    """Write tables, figures and page of the group; return the exit code.

    Raises
    ------
    UsageError
        There are no participant outputs, they are of several kinds, or a column is not there.
    """
    output_dir = check_output_dir(settings.output_dir, dataset)
    wanted = Wanted(
        settings.participants.labels,
        settings.participants.excluded,
        settings.sessions,
        settings.tasks,
        settings.runs,
        settings.spaces,
        settings.resolutions,
        settings.echoes,
    )
    with _timed("reading"):
        runs, problems = collect_runs(output_dir, wanted)
    if settings.dry_run:
        names = list(runs.table["name"])
        as_text = "\n".join(map(visible, names))
        print(json.dumps({"runs": names}, indent=2) if settings.dry_run == "json" else as_text)
        return report_problems(problems)
    n_kinds = check_kinds(runs.table, settings.allow_mixed)
    if runs.table["random_weights"].any():
        _LOG.warning("RANDOM WEIGHTS: embeddings in these tables mean nothing")
    listed, descriptions = participants_of(output_dir, dataset)
    known = own_names(listed)
    participants = of_participants(runs)
    for embedded in (participants, runs):
        embedded.table = embedded.table.merge(known, on="participant_id", how="left")
    # Columns that are asked for and not there are found out before anything is written.
    asked = [] if settings.targets == ["none"] else settings.targets
    targets, why_not = choose_targets(participants.table, list(known.columns[1:]), asked)
    covariates = covariate_matrix(participants.table, settings.covariates)
    groups = group_codes(participants.table, settings.group_by)
    if both := set(settings.covariates) & set(settings.targets or ()):
        raise UsageError(f"--covariate {', '.join(both)}: is a --target too; leave one of them out")
    results = GroupResults(runs, participants, n_kinds, problems, settings.recorded, why_not)
    results.missing = _missing(dataset, wanted, participants)
    write_dataset_files(output_dir, dataset)
    write_participants(output_dir, listed, descriptions)
    with _timed("outliers, neighbours and duplicates"):
        _compare_runs(output_dir, results)
    with _timed("functional connectivity"):
        if targets or (runs.several_of_one and len(runs.table) <= MOST_RUNS):
            results.connectivity = collect_connectivity(output_dir, runs.table)
            problems += results.connectivity.problems
    with _timed("identification"):
        results.identification = _identification(results, settings.permutations)
    _probe(results, targets, covariates, groups, settings)
    with _timed("writing"):
        write_group_tables(output_dir, results, descriptions)
        page = write_group_report(output_dir, results, known)
    _LOG.info("%d run(s) of %d participant(s): %s", len(runs.table), len(participants.table), page)
    return report_problems(problems)


def _compare_runs(output_dir: Path, results: GroupResults) -> None:
    """Outliers, neighbours and duplicates: columns of the table of runs, and a table of pairs."""
    table, features = results.runs.table, results.runs.features
    codes = pd.factorize(table["participant_id"])[0]
    distance, outlier, results.n_components = outliers(features, codes)
    table["outlier_distance"], table["outlier"] = distance.round(3), outlier
    if not results.n_components:
        few = len(table) < MIN_RUNS
        results.why_not["outliers"] = (
            f"there are {len(table)} runs; it takes {MIN_RUNS}" if few else "most runs are alike"
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


def _identification(results: GroupResults, n_permutations: int) -> pd.DataFrame:
    """Tell participants apart by embeddings, functional connectivity and motion, each for the runs
    that have it."""
    table = results.runs.table
    sets = {EMBEDDING: results.runs.features, MOTION_SET: motion(table)}
    if results.connectivity is not None and results.connectivity.of_runs is not None:
        sets["connectivity"] = results.connectivity.of_runs
    tables = []
    for name, values in sets.items():
        usable = ~np.isnan(values).any(axis=1)
        of_runs = table["participant_id"][usable]
        if usable.any():
            tables.append(identification({name: values[usable]}, of_runs, n_permutations))
    if tables[0].empty:
        results.why_not["identification"] = "no participant has two runs, or there is only one"
    return pd.concat(tables, ignore_index=True)


def _probe(
    results: GroupResults,
    targets: list[Target],
    covariates: np.ndarray | None,
    groups: np.ndarray | None,
    settings: GroupSettings,
) -> None:
    """Predict each target from embeddings and from baselines, for the same participants."""
    features, usable = _feature_sets(results) if targets else ({}, np.empty(0, dtype=bool))
    tables = []
    for target in targets:
        with _timed(f"probe of {target.name}"):
            values = np.where(usable, target.values, np.nan)
            try:
                table, reason = probe(
                    Target(target.name, target.classes, values),
                    features,
                    covariates,
                    groups,
                    settings.permutations,
                    settings.processes,
                )
            except BrokenProcessPool:
                reason = "a worker was killed, most likely because memory ran out (see --nprocs)"
                if target.name not in (settings.targets or ()):  # which is told of below
                    results.problems.append(Problem("", f"probe of {target.name}", reason))
        if reason:
            results.why_not[target.name] = reason
        else:
            tables.append(table)
    if tables:
        results.probes = pd.concat(tables, ignore_index=True)
    for column, reason in results.why_not.items():
        if settings.targets and column in settings.targets:
            results.problems.append(Problem("", f"--target {column}", reason))
        elif column.startswith("baseline"):
            _LOG.warning("%s is left out: %s", column, reason)
        else:
            _LOG.debug("not done: %s: %s", column, reason)


def _feature_sets(results: GroupResults) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Name -> (participant, feature), and which participants have all of them."""
    participants, connectivity = results.participants, results.connectivity
    sets = {EMBEDDING: participants.features.astype(np.float64)}
    usable = np.ones(len(participants.table), dtype=bool)
    baselines = {"motion": motion(participants.table)}
    if connectivity is not None and connectivity.of_participants is not None:
        baselines["connectivity"] = connectivity.of_participants.astype(np.float64)
    elif connectivity is not None:
        results.why_not["baseline connectivity"] = connectivity.note
    for name, values in baselines.items():
        known = ~np.isnan(values).any(axis=1)
        if (~known).mean() <= _MAY_LACK:
            sets[name], usable = values, usable & known
        else:
            results.why_not[f"baseline {name}"] = (
                f"{(~known).sum()} of {len(known)} participants have none"
            )
    return sets, usable


def _missing(dataset: Dataset, wanted: Wanted, participants: Embedded) -> list[str]:
    """Participants of the input that were not asked to be left out and have no embedding."""
    there = set(participants.table["participant_id"])
    unknown = set(wanted.excluded or ()) - set(dataset.participants)
    if unknown:
        _LOG.warning("there is no sub-%s to exclude", ", sub-".join(sorted(unknown)))
    missing = [
        label
        for label in dataset.participants
        if f"sub-{label}" not in there and wanted.has(f"sub-{label}", participant_only=True)
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
