"""A cohort + settings -> trained classifiers: one for each fold, and one of all participants.

The network of a fold predicts the participants that it has not seen, so that its predictions can be
compared with those of probes that were fitted and tested on the same folds.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.preprocessing import StandardScaler
from torch import Tensor
from tqdm import tqdm

from swift_bids.base.errors import UsageError
from swift_bids.finetune.classifier import Classifier, Task, mean_embedding
from swift_bids.finetune.cohort import Cohort
from swift_bids.finetune.compare import compare
from swift_bids.finetune.examples import EmbeddedExamples, Examples
from swift_bids.finetune.settings import FineTuneSettings
from swift_bids.finetune.splits import early_stopping_split
from swift_bids.finetune.train import Progress, predict, train
from swift_bids.group.probes.design import Folds
from swift_bids.network.precision import at_precision
from swift_bids.network.skeleton import Skeleton

_LOG = logging.getLogger("swift_bids")


class Trainings:
    """Trains the classifiers of a fine-tuning.

    Parameters
    ----------
    cohort, examples
        Participants, and the chunks of their runs.
    load_network
        Loads the network from which each training starts.
    settings
        Of the command.
    folder
        Where checkpoints are kept.
    weights_sha256
        Of the weights from which each training starts.

    Attributes
    ----------
    curves
        Table of each training: one row per epoch.
    """

    def __init__(
        self,
        cohort: Cohort,
        examples: Examples,
        load_network: Callable[[], Skeleton],
        settings: FineTuneSettings,
        folder: Path,
        weights_sha256: str,
    ) -> None:
        self._cohort, self._load_network = cohort, load_network
        self._settings, self._folder = settings, folder
        self._examples = examples
        if settings.training.freeze == "backbone":
            self._examples = _embedded(examples, load_network(), settings)
        chunks = examples.chunks_of(np.arange(len(cohort.target.values)))
        data = [*cohort.runs.table["name"], *map(str, chunks), *map(str, cohort.target.values)]
        self._identity = asdict(settings.training) | {
            "target": settings.target,
            "weights": weights_sha256,
            "runs": _digest([*data, str(cohort.runs.kinds)]),
        }
        # parts of a batch and kept activations change the result by rounding at most
        del self._identity["micro_batch"], self._identity["activation_checkpointing"]
        self.curves: list[pd.DataFrame] = []

    def run(self, name: str, rows: np.ndarray) -> tuple[Classifier, Task]:
        """Train on some participants, a part of whom decides when to stop.

        Parameters
        ----------
        name
            Such as `fold 1 of 5`.
        rows
            Numbers of the participants.

        Raises
        ------
        UsageError
            A checkpoint is of another training.
        """
        settings = self._settings.training
        fitted, validation = early_stopping_split(self._cohort.design, rows, settings.seed)
        task = Task.of(self._cohort.target, fitted)
        embeddings = self._cohort.participants.features[fitted]
        classifier = Classifier(
            self._load_network(),
            task.n_outputs,
            task.centre_of(torch.from_numpy(embeddings), fitted).numpy(),
            StandardScaler().fit(embeddings).scale_,
            settings.freeze,
            settings.activation_checkpointing,
        ).to(self._settings.device)
        checkpoint = self._folder / f"{name.replace(' ', '-')}.pt"
        n_chunks = len(self._examples.chunks_of(fitted))
        with ExitStack() as stack:
            # shown on a terminal only
            bar = stack.enter_context(
                tqdm(total=settings.epochs * n_chunks, desc=name, unit="chunk", disable=None)
            )
            writer = None
            if self._settings.tensorboard:
                folder = self._folder.parent / "tensorboard" / name.replace(" ", "-")
                writer = stack.enter_context(import_tensorboard()(folder))
            progress = train(
                classifier,
                task,
                self._examples,
                fitted,
                validation,
                settings,
                checkpoint,
                self._identity
                | {
                    "training": name,
                    "participants": _digest([*map(str, fitted), "", *map(str, validation)]),
                },
                partial(_report, name, bar, writer),
                bar.update,
            )
        curve = pd.DataFrame(progress.history)
        curve.insert(0, "training", name)
        curve.insert(1, "epoch", np.arange(1, len(curve) + 1))
        self.curves.append(curve.assign(best=curve["epoch"] == progress.best_epoch))
        return classifier, task

    def predict(self, classifier: Classifier, task: Task, rows: np.ndarray) -> np.ndarray:
        """Predict participants, (participant, output), in the units of the target."""
        found = predict(classifier, self._examples, rows, self._settings.training).numpy()
        return found * task.std + task.mean


def evaluate(
    cohort: Cohort, trainings: Trainings, folds: Folds
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Cross-validate the fine-tuning, and compare it with probes on the same folds.

    Parameters
    ----------
    folds
        From `swift_bids.finetune.splits.outer_folds`.

    Returns
    -------
    scores : pandas.DataFrame
        From `swift_bids.group.probes.scores.probe_table`; empty without folds.
    predictions : pandas.DataFrame
        One row per participant: its fold, the target, and what the network of the fold predicts.
    """
    if not folds:
        return pd.DataFrame(), pd.DataFrame()
    design = cohort.design
    outputs = np.empty((len(design.y), max(1, len(design.classes))))
    fold_of = np.empty(len(design.y), dtype=int)
    for number, (fitted, tested) in enumerate(folds, 1):
        classifier, task = trainings.run(f"fold {number} of {len(folds)}", fitted)
        outputs[tested] = trainings.predict(classifier, task, tested)
        fold_of[tested] = number
    table = cohort.participants.table[["participant_id"]].assign(fold=fold_of)
    name = cohort.target.name
    if design.classes:
        labels = np.array(design.classes)
        table[name] = labels[design.y.astype(int)]
        table[f"predicted_{name}"] = labels[outputs.argmax(axis=1)]
        for number, label in enumerate(design.classes):
            table[f"predicted_{name}_{label}"] = outputs[:, number]
    else:
        table[name], table[f"predicted_{name}"] = design.y, outputs[:, 0]
    return compare(cohort, folds, outputs), table


def _embedded(
    examples: Examples, network: Skeleton, settings: FineTuneSettings
) -> EmbeddedExamples:
    """Send all chunks through a network once."""

    def embed(volumes: Tensor) -> Tensor:
        with at_precision(settings.training.precision, settings.device):
            return mean_embedding(network, volumes)

    return EmbeddedExamples(examples, embed, settings.training.micro_batch)


def _digest(parts: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def import_tensorboard() -> type[Any]:
    """The writer of TensorBoard.

    Raises
    ------
    UsageError
        TensorBoard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UsageError(
            f"--tensorboard needs TensorBoard, which cannot be imported ({error}); install it with "
            f"pip install tensorboard, or leave the flag out"
        ) from error
    return SummaryWriter


def _report(name: str, bar: Any, writer: Any, progress: Progress) -> None:
    """Show the losses of an epoch on the progress bar and in the log, and pass them to a writer."""
    losses = progress.history[-1]
    bar.set_postfix(losses)
    _LOG.info(
        "%s, epoch %d: loss %.4f, validation %.4f",
        name,
        progress.epoch,
        losses["train"],
        losses["validation"],
    )
    if writer is not None:
        for part, loss in losses.items():
            writer.add_scalar(f"loss/{part}", loss, progress.epoch)
