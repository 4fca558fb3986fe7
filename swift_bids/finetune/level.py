"""swift-bids finetune: embedded runs and a column -> a fine-tuned network, and what it gains."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

from swift_bids.base.errors import UsageError, report_problems
from swift_bids.base.files import write_json
from swift_bids.finetune.bundle import WEIGHTS, write_card, write_fine_tuned
from swift_bids.finetune.cohort import collect_cohort
from swift_bids.finetune.evaluate import Trainings, evaluate, import_tensorboard
from swift_bids.finetune.examples import Examples
from swift_bids.finetune.page import write_page
from swift_bids.finetune.settings import FineTuneSettings
from swift_bids.finetune.splits import outer_folds
from swift_bids.group.kept_runs import kept_runs
from swift_bids.network.checkpoint import read_backbone
from swift_bids.network.load import class_with, network_from_file
from swift_bids.network.weights import weights_of_embeddings
from swift_bids.outputs.paths import fine_tuned_folder
from swift_bids.outputs.tables import column_descriptions, write_table
from swift_bids.steps.embed import use_device

_LOG = logging.getLogger("swift_bids")
#: Folder of the checkpoints, which is removed at the end.
CHECKPOINTS = "checkpoints"


def run_finetune(settings: FineTuneSettings, embed_again: Callable[[Sequence[str]], object]) -> int:
    """Fine-tune a network, write it with its scores and page, and return the exit code.

    Parameters
    ----------
    embed_again
        As for `swift_bids.group.kept_runs.kept_runs`.

    Raises
    ------
    UsageError
        The column, the weights or the settings cannot be used, or the folder already contains a
        fine-tuned network.
    InputError
        A matrix cannot be read, or the training fails.
    """
    output_dir = settings.output_dir
    folder = fine_tuned_folder(output_dir, settings.name)
    # with checkpoints, an earlier call was interrupted
    if (folder / WEIGHTS).exists() and not (folder / CHECKPOINTS).exists():
        raise UsageError(
            f"{folder}: already contains a fine-tuned network; remove the folder, or give another "
            f"--name"
        )
    cohort = collect_cohort(
        output_dir,
        settings.run_filter,
        settings.target,
        settings.group_by,
        settings.missing_codes,
    )
    kind = cohort.runs.kinds[0]
    weights = weights_of_embeddings(settings.weights, kind["variant"], kind["weights_sha256"])
    backbone = read_backbone(weights.file, class_with)
    if "fine_tuned_from" in backbone.about:
        cohort.notes.append(
            f"The weights from which this training starts were fine-tuned on "
            f"{backbone.about.get('target')}; if they learned from these participants, all scores "
            f"are too good"
        )
    folds = outer_folds(cohort, settings.folds)
    if settings.tensorboard:
        import_tensorboard()
    for note in cohort.notes:
        _LOG.warning("%s", note)
    if weights.random:
        _LOG.warning("RANDOM WEIGHTS: the network is trained from random numbers")
    people = cohort.participants.table["participant_id"]
    use_device(torch.device(settings.device))
    examples = Examples(
        kept_runs(output_dir, cohort.runs, embed_again), list(people), settings.device
    )
    _LOG.info(
        "%s: %d participants, %d runs, %d chunks",
        settings.target,
        len(people),
        len(cohort.runs.table),
        cohort.runs.table["n_included"].sum(),
    )
    (folder / CHECKPOINTS).mkdir(parents=True, exist_ok=True)
    trainings = Trainings(
        cohort,
        examples,
        lambda: network_from_file(weights.file, settings.device),
        settings,
        folder / CHECKPOINTS,
        weights.sha256,
    )
    scores, predictions = evaluate(cohort, trainings, folds)
    classifier, task = trainings.run("all participants", np.arange(len(people)))
    about = write_fine_tuned(
        folder, classifier, task, cohort, weights, backbone.config, backbone.about, settings
    )
    curves = pd.concat(trainings.curves, ignore_index=True)
    for name, table, description in (
        ("scores", scores, "How well sets of features predict the target"),
        ("predictions", predictions, "Predictions by networks trained without the participant"),
        ("curves", curves, "Losses of each training and epoch"),
    ):
        if len(table):
            file = folder / f"{name}.tsv"
            write_table(file, table)
            columns = column_descriptions(table.columns, _columns_of(table, settings.target))
            write_json(file.with_suffix(".json"), {"Description": description} | about | columns)
    write_card(folder, cohort, scores, len(folds), weights, settings, about)
    page = write_page(folder, cohort, scores, len(folds), curves, weights, settings)
    shutil.rmtree(folder / CHECKPOINTS)
    _LOG.info("fine-tuned network: %s", folder)
    _LOG.info("report: %s", page)
    return report_problems(cohort.problems)


def _columns_of(table: pd.DataFrame, target: str) -> dict[str, Any]:
    """Descriptions of the columns of these tables."""
    predicted = {
        column: {"Description": f"Score of {target} {column.removeprefix(f'predicted_{target}_')}"}
        for column in table
        if column.startswith(f"predicted_{target}_")
    }
    return predicted | {
        "training": {"Description": "A fold of the cross-validation, or all participants"},
        "epoch": {"Description": "Passes over the training chunks"},
        "train": {"Description": "Mean loss of the training chunks during the epoch"},
        "validation": {
            "Description": "Mean loss, after the epoch, of the participants who decide when to stop"
        },
        "best": {"Description": "Whether the parameters after this epoch are used"},
        "fold": {"Description": "Fold in which the participant was held out"},
        target: {"Description": f"Column {target} of participants.tsv"},
        f"predicted_{target}": {"Description": f"Predicted {target}"},
    }
