"""Participant outputs -> one table of all runs; the BOLD data are not read again."""

from __future__ import annotations

import argparse
import json
import logging
import re
from pathlib import Path
from typing import Any

import pandas as pd

from swift_bids.dataset import Dataset
from swift_bids.derivative import check_output_dir, write_dataset_files, write_participants
from swift_bids.errors import Problem, UsageError, report_problems
from swift_bids.outputs import column_descriptions, write_json, write_table

_LOG = logging.getLogger("swift_bids")
#: Entities that get a column of their own; `name` holds them all. Not called as the entities are:
#: pybids reads the keys of a sidecar as entities of the files that inherit it.
_ENTITIES = {"session_id": "ses", "task_id": "task", "run_id": "run"}

#: Columns in which embeddings that may be compared do not differ.
_KIND = (
    "weights_sha256",
    "frame",
    "space_id",
    "normalisation",
    "target_tr",
    "chunk_stride",
    "tail",
    "version",
)


def run_group_level(args: argparse.Namespace, dataset: Dataset) -> int:
    """Write the table of all runs in the output folder; return the exit code.

    Raises
    ------
    UsageError
        There are no participant outputs.
    """
    output_dir = check_output_dir(args.output_dir, dataset)
    table, problems = collect_runs(output_dir, args.participant_label)
    if args.dry_run:
        _LOG.info("%s", "\n".join(table["name"]))
        return report_problems(problems)
    write_dataset_files(output_dir, dataset)
    write_participants(output_dir, dataset)
    file = output_dir / "group_desc-swift_embedding.tsv"
    write_table(file, table)
    write_json(file.with_suffix(".json"), column_descriptions(table.columns))
    if table["random_weights"].any():
        _LOG.warning("RANDOM WEIGHTS: embeddings in this table mean nothing")
    kinds = table.drop_duplicates(list(_KIND))
    if len(kinds) > 1:
        _LOG.warning(
            "the table mixes %d kinds of embeddings (columns %s); compare runs of one kind only",
            len(kinds),
            ", ".join(_KIND),
        )
    _LOG.info(
        "%d run(s) of %d participant(s): %s", len(table), table["participant_id"].nunique(), file
    )
    return report_problems(problems)


def collect_runs(
    output_dir: Path, participants: list[str] | None = None
) -> tuple[pd.DataFrame, list[Problem]]:
    """Read the embedding of every finished run.

    Parameters
    ----------
    output_dir
        Root of the derivatives.
    participants
        Labels without `sub-`; None for all.

    Returns
    -------
    table : pandas.DataFrame
        One row a run, sorted by name: entities, quality, what made it, `swift000` ... `swift287`.
    problems : list of Problem
        Participants without embeddings that were asked for, and outputs that cannot be read.

    Raises
    ------
    UsageError
        There is none.
    """
    rows, problems = [], []
    for sidecar in sorted(output_dir.glob("sub-*/**/*_desc-swift_embedding.json")):
        name = sidecar.name.removesuffix("_desc-swift_embedding.json")
        participant = _entity(name, "sub") or ""
        if participants is not None and participant not in participants:
            continue
        try:
            rows.append(_row(name, sidecar))
        except (OSError, ValueError, KeyError) as error:
            reason = f"{sidecar} or its table cannot be read ({error!r}); embed the run again"
            problems.append(Problem(participant, name, reason))
    seen = {row["participant_id"].iloc[0] for row in rows}
    for label in participants or ():
        if f"sub-{label}" not in seen:
            problems.append(Problem(label, f"sub-{label}", f"has no embedding in {output_dir}"))
    if not rows:
        raise UsageError(
            f"{output_dir} holds no embeddings of the asked-for participants; run the participant "
            f"level first"
        )
    return pd.concat(rows, ignore_index=True), problems


def _row(name: str, sidecar: Path) -> pd.DataFrame:
    metadata = json.loads(sidecar.read_text(encoding="utf-8"))
    # Read as text: the numbers are passed on with the digits they were written with.
    embedding = pd.read_csv(sidecar.with_suffix(".tsv"), sep="\t", dtype=str, keep_default_na=False)
    model, how = metadata["Model"], metadata["Preprocessing"]
    about: dict[str, Any] = {
        "participant_id": f"sub-{_entity(name, 'sub')}",
        **{column: _entity(name, entity) for column, entity in _ENTITIES.items()},
        "name": name,
        "space_id": how["Space"],
        "frame": how["Frame"],
        "normalisation": how["Normalisation"],
        "repetition_time": metadata["RepetitionTime"],
        "target_tr": how["TargetTR"],
        "model_tr": how["ModelRepetitionTime"],
        "chunk_stride": how["ChunkStride"],
        "tail": how["Tail"],
        "variant": model["Variant"],
        "weights": model["Weights"],
        "weights_sha256": model["WeightsSHA256"],
        "random_weights": model["RandomWeights"],
        "version": metadata["GeneratedBy"][0]["Version"],
    }
    return pd.concat([pd.DataFrame([about]), embedding], axis=1)


def _entity(name: str, entity: str) -> str | None:
    match = re.search(rf"(?:^|_){entity}-([^_]+)", name)
    return match.group(1) if match else None
