"""Settings of the group level -> tables, figures and the page of the group, step by step.

The steps read only outputs of the participant level, never the BOLD data.
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

from swift_bids.base.errors import Problem, UsageError, escape_control_characters, report_problems
from swift_bids.group.baselines import (
    MAX_RUNS,
    collect_connectivity,
    mask_and_intensity,
    motion,
)
from swift_bids.group.columns import (
    Target,
    choose_targets,
    covariate_matrix,
    group_codes,
    reason_unfit,
)
from swift_bids.group.identification import MOTION_SET, identification
from swift_bids.group.load import (
    Embedded,
    RunFilter,
    average_by_participant,
    check_kinds,
    collect_runs,
    rename_clashing_columns,
)
from swift_bids.group.mask_effects import VOLUME, associated_with_mask, volume_target
from swift_bids.group.outliers import MIN_RUNS, outliers
from swift_bids.group.page import write_group_report
from swift_bids.group.probes.probe import fit_probe
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
#: If at most this share of the participants lacks a baseline, the probes exclude these
#: participants; if more do, the probes omit the baseline.
_MAX_LACKING = 0.1


def run_group_level(settings: GroupSettings, dataset: Dataset) -> int:
    """Write the tables, figures and page of the group; return the exit code.

    Raises
    ------
    UsageError
        There are no participant outputs, they are of several kinds, or a column does not exist.
    """
    output_dir = check_output_dir(settings.output_dir, dataset)
    run_filter = RunFilter(
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
        runs, problems = collect_runs(output_dir, run_filter)
    if settings.dry_run:
        names = list(runs.table["name"])
        as_text = "\n".join(map(escape_control_characters, names))
        print(json.dumps({"runs": names}, indent=2) if settings.dry_run == "json" else as_text)
        return report_problems(problems)
    n_kinds = check_kinds(runs.table, settings.allow_mixed)
    if runs.table["random_weights"].any():
        _LOG.warning("RANDOM WEIGHTS: the embeddings in these tables mean nothing")
    listed, descriptions = participants_of(output_dir, dataset)
    known = rename_clashing_columns(listed)
    participants = average_by_participant(runs)
    for embedded in (participants, runs):
        embedded.table = embedded.table.merge(known, on="participant_id", how="left")
    # Check that all requested columns exist before writing anything.
    requested = [] if settings.targets == ["none"] else settings.targets
    targets, not_done = choose_targets(participants.table, list(known.columns[1:]), requested)
    covariates = covariate_matrix(participants.table, settings.covariates)
    groups = group_codes(participants.table, settings.group_by)
    if both := set(settings.covariates) & set(settings.targets or ()):
        raise UsageError(
            f"--covariate {', '.join(both)}: the column is also a --target; remove one of the two"
        )
    results = GroupResults(runs, participants, n_kinds, problems, settings.recorded, not_done)
    results.missing = _missing(dataset, run_filter, participants)
    write_dataset_files(output_dir, dataset)
    write_participants(output_dir, listed, descriptions)
    with _timed("outliers, neighbours and duplicates"):
        _compare_runs(output_dir, results)
    with _timed("functional connectivity"):
        if targets or (runs.has_repeats and len(runs.table) <= MAX_RUNS):
            results.connectivity = collect_connectivity(output_dir, runs.table)
            problems += results.connectivity.problems
    with _timed("identification"):
        results.identification = _identification(results, settings.permutations)
    _probe_targets(results, targets, covariates, groups, settings)
    if VOLUME not in settings.covariates:
        _examine_masks(results, targets, covariates, groups, settings)
    with _timed("writing"):
        write_group_tables(output_dir, results, descriptions)
        page = write_group_report(output_dir, results, known)
    _LOG.info("%d run(s) of %d participant(s): %s", len(runs.table), len(participants.table), page)
    return report_problems(problems)


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


def _identification(results: GroupResults, n_permutations: int) -> pd.DataFrame:
    """Identify participants by embeddings, functional connectivity and motion, each for the runs
    that have these features."""
    table = results.runs.table
    sets = {EMBEDDING: results.runs.features, MOTION_SET: motion(table)}
    if results.connectivity is not None and results.connectivity.by_run is not None:
        sets["connectivity"] = results.connectivity.by_run
    tables = []
    for name, values in sets.items():
        usable = ~np.isnan(values).any(axis=1)
        labels = table["participant_id"][usable]
        if usable.any():
            tables.append(identification({name: values[usable]}, labels, n_permutations))
    if tables[0].empty:
        results.not_done["identification"] = (
            "no participant has two runs, or there is only one participant"
        )
    return pd.concat(tables, ignore_index=True)


def _probe_targets(
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
                table, reason = fit_probe(
                    Target(target.name, target.classes, values),
                    features,
                    covariates,
                    groups,
                    settings.permutations,
                    settings.processes,
                )
            except BrokenProcessPool:
                reason = "a worker process was killed, probably for lack of memory; lower --nprocs"
                # requested targets are reported below
                if target.name not in (settings.targets or ()):
                    results.problems.append(Problem("", f"probe of {target.name}", reason))
        if reason:
            results.not_done[target.name] = reason
        else:
            tables.append(table)
    if tables:
        results.probes = pd.concat(tables, ignore_index=True)
    for column, reason in results.not_done.items():
        if settings.targets and column in settings.targets:
            results.problems.append(Problem("", f"--target {column}", reason))
        elif column.startswith("baseline"):
            _LOG.warning("%s is omitted: %s", column, reason)
        else:
            _LOG.debug("%s is not done: %s", column, reason)


def _examine_masks(
    results: GroupResults,
    targets: list[Target],
    covariates: np.ndarray | None,
    groups: np.ndarray | None,
    settings: GroupSettings,
) -> None:
    """Find targets that go with the volume of the mask, and predict it from the embeddings."""
    table = results.participants.table
    results.mask_related = associated_with_mask(targets, table)
    for name, how in results.mask_related.items():
        _LOG.warning("%s is associated with the volume of the brain masks (%s)", name, how)
    volume = volume_target(table)
    if settings.targets == ["none"] or VOLUME in {target.name for target in targets}:
        return
    if volume.classes or reason_unfit(volume, len(table)):  # few participants, or the same mask
        return
    features = {EMBEDDING: results.participants.features.astype(np.float64)}
    with _timed("probe of the mask's volume"):
        probe, _ = fit_probe(
            volume, features, covariates, groups, settings.permutations, settings.processes
        )
    results.probes = pd.concat([results.probes, probe], ignore_index=True)


def _feature_sets(results: GroupResults) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Sets of features, name -> (participant, feature), and which participants have all of them."""
    participants, connectivity = results.participants, results.connectivity
    sets = {EMBEDDING: participants.features.astype(np.float64)}
    usable = np.ones(len(participants.table), dtype=bool)
    baselines = {
        "motion": motion(participants.table),
        "mask": mask_and_intensity(participants.table),
    }
    if connectivity is not None and connectivity.by_participant is not None:
        baselines["connectivity"] = connectivity.by_participant.astype(np.float64)
    elif connectivity is not None:
        results.not_done["baseline connectivity"] = connectivity.note
    for name, values in baselines.items():
        known = ~np.isnan(values).any(axis=1)
        if (~known).mean() <= _MAX_LACKING:
            sets[name], usable = values, usable & known
        else:
            results.not_done[f"baseline {name}"] = (
                f"{(~known).sum()} of {len(known)} participants lack it"
            )
    return sets, usable


def _missing(dataset: Dataset, run_filter: RunFilter, participants: Embedded) -> list[str]:
    """Labels of participants of the input that were selected and have no embedding."""
    embedded = set(participants.table["participant_id"])
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
