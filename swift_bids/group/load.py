"""Participant outputs -> embeddings of one kind: one row per run, and one per participant."""

from __future__ import annotations

import csv
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from swift_bids.base.backbones import BACKBONES, NETWORKS, feature_names
from swift_bids.base.errors import Problem, UsageError
from swift_bids.base.files import read_json
from swift_bids.group.baselines import MASK
from swift_bids.inputs.brain_mask import NEAREST
from swift_bids.inputs.filenames import entities_in
from swift_bids.inputs.run_filter import RunFilter
from swift_bids.outputs.paths import find_outputs
from swift_bids.outputs.tables import is_reserved

_LOG = logging.getLogger("swift_bids")
#: Columns in seconds.
_TRS = ("repetition_time", "model_tr")
#: Entities with a separate column; `name` contains all entities. The columns have other names than
#: the entities, because pybids reads the keys of a sidecar as entities of its files.
_ENTITIES = {"session_id": "ses", "task_id": "task", "run_id": "run"}
#: Columns that must be equal for embeddings to be comparable.
KIND = (
    "weights_sha256",
    "frame",
    "space_id",
    "denoising",
    "mask",
    "normalisation",
    "statistics",
    "robust_normalisation",
    "quantisation",
    "target_tr",
    "chunk_stride",
    "tail",
    "version",
)
#: Entities in which the names of one run in several spaces, resolutions or echoes differ.
CANDIDATE_ENTITIES = r"_(?:space|cohort|res|den|echo)-[^_]+"
#: Embeddings are comparable if their TRs differ by at most this (s), the widest range that
#: `--target-tr auto` leaves unchanged.
_MAX_TR_DIFFERENCE = 2 * max(backbone.time.tolerance for backbone in BACKBONES.values())
#: Columns of a run that are averaged, and added up, over the runs of a participant.
MEANS = ("template_share", *MASK, "tsnr", "mean_fd", "censored")
SUMS = ("n_warnings", "n_chunks")


@dataclass
class Embedded:
    """Embedded runs or participants: a table and features, with rows in the same order.

    Attributes
    ----------
    table
        One row per run (or participant): entities, quality and provenance.
    features
        (row, feature) float32.
    label
        Label of the network, with which the names of the features begin.
    """

    table: pd.DataFrame
    features: np.ndarray
    label: str

    @property
    def has_repeats(self) -> bool:
        """Whether any participant has several rows."""
        return bool(self.table["participant_id"].duplicated().any())

    @property
    def has_random_weights(self) -> bool:
        """Whether a network with random weights made any of the embeddings."""
        return bool(self.table["random_weights"].any())

    @property
    def kinds(self) -> list[dict[str, Any]]:
        """Weights and settings of each kind of embeddings, for the sidecars."""
        columns = ["variant", "weights", "random_weights", *kind_columns(self.table)]
        return self.table[columns].drop_duplicates().to_dict("records")

    @property
    def with_features(self) -> pd.DataFrame:
        """The table with one more column per feature, such as `swift000` ... `swift287`."""
        names = feature_names(self.label, self.features.shape[1])
        features = pd.DataFrame(self.features, columns=names, index=self.table.index)
        return pd.concat([self.table, features], axis=1)


def collect_runs(output_dir: Path, run_filter: RunFilter) -> tuple[Embedded, list[Problem]]:
    """Read the embeddings of all finished runs that the filter accepts, ordered by name.

    Raises
    ------
    UsageError
        There are none.
    """
    rows: list[dict[str, Any]] = []
    features: list[np.ndarray] = []
    problems: list[Problem] = []
    found = find_outputs(output_dir, "embedding", ".json")
    chosen = [output for output in found if run_filter.accepts(output[1])]
    label = _only_network([label for _, _, label in chosen], output_dir)
    for sidecar, name, _ in chosen:
        try:
            row, values = _read(name, sidecar, label)
            if features and len(values) != len(features[0]):
                raise ValueError(
                    f"it has {len(values)} features, other runs have {len(features[0])}"
                )
        except (OSError, ValueError, LookupError, TypeError, OverflowError, csv.Error) as error:
            reason = f"{sidecar} or its table cannot be read ({error!r}); embed the run again"
            problems.append(Problem(entities_in(name).get("sub", ""), name, reason))
            continue
        rows.append(row)
        features.append(values)
    seen = {row["participant_id"] for row in rows}
    for wanted in run_filter.participants or ():
        if f"sub-{wanted}" not in seen and wanted not in (run_filter.excluded or ()):
            problems.append(Problem(wanted, f"sub-{wanted}", f"has no embedding in {output_dir}"))
    if not rows:
        damaged = f" ({problems[0].reason})" if problems and problems[0].participant else ""
        raise UsageError(
            f"{output_dir} has no embeddings of the requested runs{damaged}; run the participant "
            f"level first"
        )
    return Embedded(pd.DataFrame(rows), np.stack(features), label), problems


def _only_network(labels: Sequence[str], output_dir: Path) -> str:
    """Return the label of the network of all runs; raise UsageError if there are several."""
    counts = Counter(labels)
    if len(counts) > 1:
        found = ", ".join(f"{NETWORKS[label].title} ({n} run(s))" for label, n in counts.items())
        raise UsageError(
            f"{output_dir} contains embeddings of several networks, which have nothing in common: "
            f"{found}; keep each network in a folder of its own, and compare the folders with "
            f"--compare"
        )
    return next(iter(counts), "")


def check_kinds(table: pd.DataFrame, allow_mixed: bool, source: str = "") -> int:
    """Check that all embeddings can be compared; return the number of kinds.

    Parameters
    ----------
    source
        What messages name first, such as a folder.

    Raises
    ------
    UsageError
        There are several kinds, or one run in several spaces, and `allow_mixed` is False.
    """
    columns = kind_columns(table)
    if np.ptp(table["model_tr"]) > _MAX_TR_DIFFERENCE:  # only with --target-tr native
        columns.append("model_tr")
    kinds = table.groupby(columns, dropna=False, sort=False).size()
    twice = table["name"].str.replace(CANDIDATE_ENTITIES, "", regex=True).duplicated(keep=False)
    if twice.any() and not allow_mixed:
        raise UsageError(
            f"{source}{twice.sum()} runs exist in several spaces, resolutions or echoes, such as "
            f"{', '.join(table['name'][twice][:2])}; choose with --space, --res or --echo-idx, or "
            f"use all with --allow-mixed"
        )
    if len(kinds) == 1:
        return 1
    differing = [c for c in columns if table[c].nunique(dropna=False) > 1]
    differences = "; ".join(
        f"{column}: "
        + ", ".join(
            f"{str(value)[: 12 if column == 'weights_sha256' else None]} "
            f"({count} run{'s' * (count > 1)})"
            for value, count in table[column].value_counts(dropna=False).items()
        )
        for column in differing
    )
    if not allow_mixed:
        raise UsageError(
            f"{source}the embeddings are of {len(kinds)} kinds that cannot be compared "
            f"({differences}); embed all runs with the same settings, select runs (--space, "
            f"--task-id, ...), or use all with --allow-mixed"
        )
    _LOG.warning(
        "%sMIXED: %d kinds of embeddings in one table (%s)", source, len(kinds), differences
    )
    return len(kinds)


def rename_clashing_columns(participants: pd.DataFrame) -> pd.DataFrame:
    """Rename columns of participants.tsv that clash with other columns to `participants_NAME`."""
    names: dict[str, str] = {}
    for column in participants.columns[1:]:
        name = column
        while (
            is_reserved(name) or name in names.values() or (name != column and name in participants)
        ):
            name = f"participants_{name}"
        names[column] = name
    return participants.rename(columns=names)


def kind_columns(table: pd.DataFrame) -> list[str]:
    """Columns of `KIND` that a table of runs has."""
    return [column for column in KIND if column in table]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def mask_of(settings: Mapping[str, Any]) -> str:
    """Name the brain mask of a run.

    Parameters
    ----------
    settings
        The entry `Preprocessing` of a sidecar.
    """
    parts = [settings.get("BrainMask", "functional"), settings.get("BrainMaskPath")]
    if settings.get("BrainMaskCarriedBy") == NEAREST:
        parts.append(f"by {NEAREST}")
    return " ".join(filter(None, parts))


def _read(name: str, sidecar: Path, label: str) -> tuple[dict[str, Any], np.ndarray]:
    metadata = read_json(sidecar)
    with open(sidecar.with_suffix(".tsv"), encoding="utf-8", newline="") as file:
        columns, values = list(csv.reader(file, delimiter="\t"))[:2]
    n_before = columns.index(feature_names(label, 1)[0])
    model, settings = metadata["Model"], metadata["Preprocessing"]
    entities = entities_in(name)
    row = {
        "participant_id": f"sub-{entities.get('sub')}",
        **{column: entities.get(entity) for column, entity in _ENTITIES.items()},
        "name": name,
        "space_id": settings["Space"],
        "denoising": settings.get("Denoising", "none"),
        "mask": mask_of(settings),
        "frame": settings["Frame"],
        "normalisation": settings["Normalisation"],
        "statistics": settings.get("Statistics", "mask"),
        "robust_normalisation": settings.get("RobustNormalisation", False),
        **({"quantisation": q} if (q := settings.get("Quantisation")) else {}),
        "repetition_time": metadata["RepetitionTime"],
        "target_tr": settings["TargetTR"],
        "model_tr": settings["ModelRepetitionTime"],
        "chunk_stride": settings["ChunkStride"],
        "tail": settings["Tail"],
        "variant": model["Variant"],
        "weights": model["Weights"],
        "weights_sha256": model["WeightsSHA256"],
        "random_weights": model["RandomWeights"],
        "version": metadata["GeneratedBy"][0]["Version"],
        **dict.fromkeys(MASK, float("nan")),  # version 0.5.0 did not write them
    }
    for column, value in zip(columns[:n_before], values):
        number = float("nan") if value == "n/a" else float(value)
        row[column] = int(number) if column.startswith("n_") else number
    if missing := [column for column in (*MEANS, *SUMS, "n_included") if column not in row]:
        raise ValueError(f"it has no column {missing[0]}")
    for column, value in row.items():
        if isinstance(value, (list, dict)) or (column in _TRS and not _is_number(value)):
            raise ValueError(f"{column} is {value!r}")
    features = np.array(values[n_before:], dtype=np.float32)
    if not np.isfinite(features).all():
        raise ValueError("a feature is not a finite number")
    return row, features
