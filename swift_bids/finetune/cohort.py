"""Outputs of the participant level + a column -> the participants of a fine-tuning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from swift_bids.base.errors import Problem, UsageError
from swift_bids.group.analysis import Analysis
from swift_bids.group.average import average_by_participant
from swift_bids.group.clean import clean_columns
from swift_bids.group.columns import Target, choose_targets, group_codes, reason_unfit
from swift_bids.group.connectivity import collect_connectivity
from swift_bids.group.feature_sets import collect_features
from swift_bids.group.load import Embedded, check_kinds, collect_runs, rename_clashing_columns
from swift_bids.group.probes.design import Design
from swift_bids.group.probes.features import FeatureSet
from swift_bids.group.tables import GroupResults
from swift_bids.inputs.run_filter import RunFilter
from swift_bids.inputs.tsv_tables import read_table


@dataclass(frozen=True)
class Cohort:
    """Participants with a value of the target, and what to predict it from.

    Attributes
    ----------
    runs, participants
        Embeddings of their runs, and their means; rows of participants as everywhere below.
    target
        Without missing values.
    design
        Target and groups, for the folds.
    baselines
        Name -> features that the fine-tuned network is compared with, the embedding among them.
    notes
        Sentences about participants and baselines that were left out.
    problems
        Outputs that could not be read.
    """

    runs: Embedded
    participants: Embedded
    target: Target
    design: Design
    baselines: dict[str, FeatureSet]
    notes: list[str]
    problems: list[Problem]


def collect_cohort(
    output_dir: Path,
    run_filter: RunFilter,
    target: str,
    group_by: str | None,
    missing_codes: Sequence[str],
) -> Cohort:
    """Read embeddings, baselines and the column.

    Raises
    ------
    UsageError
        There are no embeddings, they are of several kinds, or the column cannot be learned.
    """
    runs, problems = collect_runs(output_dir, run_filter)
    check_kinds(runs.table, allow_mixed=False)
    participants = average_by_participant(runs)
    file = output_dir / "participants.tsv"
    listed = read_table(file, "participant_id") if file.exists() else None
    if listed is None:
        raise UsageError(
            f"{file}: does not exist or lists no participants; add the participants' columns to "
            f"participants.tsv of the input, and run the participant level again"
        )
    known, notes = clean_columns(rename_clashing_columns(listed), missing_codes)
    participants.table = participants.table.merge(known, on="participant_id", how="left")
    columns = list(known.columns[1:])
    targets, reasons, rare = choose_targets(participants.table, columns, [target])
    if not targets:
        raise UsageError(f"--target {target}: {reasons[target]}")
    groups = group_codes(participants.table, group_by)
    results = GroupResults(runs, participants, 1, problems, {}, {})
    results.connectivity = collect_connectivity(
        output_dir, runs.table, runs.table["participant_id"]
    )
    analysis = Analysis(False, participants, targets, None, groups)
    features = collect_features(output_dir, results, analysis)
    notes += [*rare, *(f"{name}: left out, since {why}" for name, why in features.omitted.items())]
    kept = targets[0].known & features.usable & (True if groups is None else groups >= 0)
    n_lacking = int((targets[0].known & ~kept).sum())
    if n_lacking:
        notes.append(
            f"{n_lacking} participant(s) are left out, because they lack a baseline or a group"
        )
    rows = np.flatnonzero(kept)
    chosen = Target(targets[0].name, targets[0].classes, targets[0].values[rows])
    design = Design(chosen.values, chosen.classes, None, None if groups is None else groups[rows])
    if reason := reason_unfit(chosen, len(rows)):
        raise UsageError(
            f"--target {target}: of the participants with all baselines and a group, {reason}"
        )
    people = participants.table.iloc[rows].reset_index(drop=True)
    is_kept = runs.table["participant_id"].isin(people["participant_id"]).to_numpy()
    return Cohort(
        Embedded(runs.table[is_kept].reset_index(drop=True), runs.features[is_kept], runs.label),
        Embedded(people, participants.features[rows], runs.label),
        chosen,
        design,
        {name: values.select(rows) for name, values in features.sets.items()},
        notes,
        results.problems,
    )
