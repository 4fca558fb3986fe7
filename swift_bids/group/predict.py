"""swift-bids predict: probes of one group -> predictions for the participants of another."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from swift_bids.base.backbones import NETWORKS
from swift_bids.base.errors import UsageError, report_problems
from swift_bids.base.files import write_json
from swift_bids.group.average import average_by_participant
from swift_bids.group.load import KIND, Embedded, check_kinds, collect_runs
from swift_bids.group.probes.saved import HEAD, SavedProbe, read_probes
from swift_bids.group.tables import MODEL, PREDICTIONS
from swift_bids.inputs.run_filter import RunFilter
from swift_bids.outputs.provenance import GENERATED_BY
from swift_bids.outputs.tables import column_descriptions, write_table

_LOG = logging.getLogger("swift_bids")


def run_predict(
    probes: Path, output_dir: Path, run_filter: RunFilter, targets: list[str] | None
) -> int:
    """Predict participants from their embeddings; return the exit code.

    Parameters
    ----------
    probes
        A file that the group level saved, or its folder.
    output_dir
        Outputs of the participant level, where the table is written.
    run_filter
        Which runs to use.
    targets
        Columns to predict; None: all that were saved.

    Raises
    ------
    UsageError
        There are no such probes or embeddings, or they were made with other weights or settings.
    """
    runs, problems = collect_runs(output_dir, run_filter)
    check_kinds(runs.table, allow_mixed=False)
    file = find_probes(probes, runs.label)
    saved, about = read_probes(file)
    check_same_kind(file, about, runs)
    known = {probe.target: probe for probe in saved}
    for name in targets or ():
        if name not in known:
            raise UsageError(f"--target {name}: {file} has no such probe, but {', '.join(known)}")
    participants = average_by_participant(runs)
    chosen = [known[name] for name in targets or known]
    table = participants.table[["participant_id", "n_runs", "n_included", "mean_fd"]]
    for probe in chosen:
        table = pd.concat([table, predictions(probe, participants.features)], axis=1)
    if runs.has_random_weights:
        _LOG.warning("RANDOM WEIGHTS: these predictions mean nothing")
    written = output_dir / PREDICTIONS.format(runs.label)
    write_table(written, table)
    described = {
        "Description": "Predictions for participants, by probes of another group",
        "GeneratedBy": [GENERATED_BY],
        "Embeddings": runs.kinds,
        "Probes": {"File": str(file.resolve()), **_without(about, "Embeddings", "GeneratedBy")},
    }
    columns = column_descriptions(table.columns, _columns_of(chosen))
    write_json(written.with_suffix(".json"), described | columns)
    _LOG.info("%d participant(s): %s", len(table), written)
    return report_problems(problems)


def find_probes(probes: Path, label: str) -> Path:
    """Return the file of the probes of a network.

    Raises
    ------
    UsageError
        It does not exist.
    """
    named = [probes / HEAD, probes / MODEL.format(label)] if probes.is_dir() else [probes]
    for file in named:
        if file.is_file():
            return file
    title = NETWORKS[label].title
    raise UsageError(
        f"{named[-1]}: does not exist; give the folder of a fine-tuned network, or the output "
        f"folder of a group level that saved probes of {title} embeddings (those with --covariate, "
        f"--harmonise or sessions are not saved)"
    )


def check_same_kind(file: Path, about: dict[str, Any], runs: Embedded) -> None:
    """Raise UsageError if the embeddings differ in weights or settings from those of the probes."""
    # All are of one kind; others differ only in the name of the same weights.
    kind = runs.kinds[0]
    try:
        of_probes = about["Embeddings"][0]
    except (KeyError, IndexError, TypeError) as error:
        raise UsageError(
            f"{file}: does not say from which embeddings its probes were made"
        ) from error
    differing = [c for c in KIND if of_probes.get(c) != kind.get(c)]
    if differing:
        differences = ", ".join(
            f"{c} {of_probes.get(c)} instead of {kind.get(c)}" for c in differing
        )
        raise UsageError(
            f"{file}: its probes were made from other embeddings ({differences}); embed these runs "
            f"in the same way"
        )


def predictions(probe: SavedProbe, features: np.ndarray) -> pd.DataFrame:
    """Return the columns of a probe: the prediction and, for classes, a score for each class."""
    outputs = probe.predict(features.astype(np.float64))
    if not probe.classes:
        return pd.DataFrame({probe.target: outputs[:, 0]})
    labels = np.array(probe.classes)[outputs.argmax(axis=1)]
    scores = {f"{probe.target}_{c}": outputs[:, i] for i, c in enumerate(probe.classes)}
    return pd.DataFrame({probe.target: labels} | scores)


def _columns_of(probes: list[SavedProbe]) -> dict[str, Any]:
    described: dict[str, Any] = {}
    for probe in probes:
        fitted = f"by a probe of {probe.n_participants} participants"
        described[probe.target] = {"Description": f"Predicted {probe.target}, {fitted}"}
        for name in probe.classes:
            described[f"{probe.target}_{name}"] = {
                "Description": f"Score of {probe.target} {name}; the class with the largest score "
                f"is predicted"
            }
    return described


def _without(content: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in content.items() if key not in keys}
