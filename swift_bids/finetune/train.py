"""Examples + settings -> a trained classifier, epoch after epoch, with checkpoints in between.

The state after an epoch and the seed decide everything that follows, so a training that was
interrupted continues to the same weights in every bit.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from swift_bids.base.errors import InputError, UsageError
from swift_bids.base.files import write_atomically
from swift_bids.finetune.classifier import Classifier, Task
from swift_bids.finetune.examples import Chunk, Examples, in_parts
from swift_bids.finetune.settings import TrainingSettings
from swift_bids.network.precision import at_precision

#: Share of the steps in which the learning rate rises.
_WARM_UP = 0.05


@dataclass
class Progress:
    """A training after some epochs; what a checkpoint contains.

    Attributes
    ----------
    epoch
        Finished epochs.
    history
        Losses of each epoch: `train` and `validation`.
    best_epoch, best
        The epoch with the smallest validation loss, counted from 1, and its parameters.
    """

    epoch: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = 0
    best: dict[str, Tensor] = field(default_factory=dict)

    def is_finished(self, settings: TrainingSettings) -> bool:
        """Whether all epochs are done, or the validation loss has not fallen for long enough."""
        waited = self.epoch - self.best_epoch
        return self.epoch >= settings.epochs or (self.epoch > 0 and waited >= settings.patience)


def train(
    classifier: Classifier,
    task: Task,
    examples: Examples,
    fitted: np.ndarray,
    validation: np.ndarray,
    settings: TrainingSettings,
    checkpoint: Path,
    identity: dict[str, Any],
    on_epoch: Callable[[Progress], object] = lambda progress: None,
    on_chunks: Callable[[int], object] = lambda n_chunks: None,
) -> Progress:
    """Train a classifier, and leave it with the parameters of its best epoch.

    Parameters
    ----------
    fitted, validation
        Numbers of the participants to train on, and of those that decide which epoch is best.
    checkpoint
        File that is written after each epoch. If it exists, training continues from it.
    identity
        What the training depends on; a checkpoint with another one is refused.
    on_epoch, on_chunks
        Called after each epoch, and with the number of chunks after each step.

    Raises
    ------
    UsageError
        The checkpoint is of another training, or cannot be read.
    InputError
        The loss is not a finite number in any epoch.
    """
    device = next(classifier.parameters()).device
    chunks = examples.chunks_of(fitted)
    parameters = [p for p in classifier.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(
        parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay
    )
    scaler = torch.amp.GradScaler(device.type, enabled=settings.precision == "fp16")
    progress = Progress()
    if checkpoint.exists():
        content = _read(checkpoint, identity)
        classifier.load_state_dict(content["parameters"], strict=False)
        optimiser.load_state_dict(content["optimiser"])
        scaler.load_state_dict(content["scaler"])
        progress = Progress(**content["progress"])
    while not progress.is_finished(settings):
        # dropout and the order of the chunks depend on the epoch, not on what was before
        torch.manual_seed(settings.seed * 1_000_003 + progress.epoch)
        values = task.target.values[examples.owners(chunks)]
        batches = [
            [chunks[number] for number in batch]
            for batch in stratified_batches(values, settings.batch_size)
        ]
        trained_loss = _epoch(
            classifier,
            task,
            examples,
            batches,
            progress.epoch,
            settings,
            optimiser,
            scaler,
            on_chunks,
        )
        if not classifier.is_frozen:
            # Training has changed what the embeddings of all participants share.
            embeddings = _embed(classifier, examples, fitted, settings)
            classifier.centre.copy_(task.centre_of(embeddings, fitted))
        losses = {
            "train": trained_loss,
            "validation": _validation_loss(classifier, task, examples, validation, settings),
        }
        progress.epoch += 1
        progress.history.append(losses)
        before = [h["validation"] for h in progress.history[:-1]]
        if losses["validation"] < min(filter(math.isfinite, before), default=math.inf):
            progress.best_epoch = progress.epoch
            progress.best = {name: p.cpu().clone() for name, p in classifier.trained.items()}
        content = {
            "identity": identity,
            "parameters": classifier.trained,
            "optimiser": optimiser.state_dict(),
            "scaler": scaler.state_dict(),
            "progress": vars(progress),
        }
        write_atomically(checkpoint, partial(torch.save, content))
        on_epoch(progress)
    if not progress.best:
        raise InputError(
            f"{checkpoint}: the loss of the training is not a finite number; remove this file and "
            f"use a smaller --learning-rate"
        )
    classifier.load_state_dict(progress.best, strict=False)
    classifier.eval()
    return progress


def stratified_batches(values: np.ndarray, batch_size: int) -> list[list[int]]:
    """Divide examples at random into batches, in each of which the target is spread alike.

    What all examples share takes most of an embedding. If batches differed in their mean target,
    most of each step would go into that part instead of into differences between participants.

    Parameters
    ----------
    values
        (example,) targets.
    batch_size
        Largest number of examples in a batch.
    """
    shuffled = torch.randperm(len(values)).numpy()
    ordered = shuffled[np.argsort(values[shuffled], kind="stable")]
    batches: list[list[int]] = [[] for _ in range(math.ceil(len(values) / batch_size))]
    for start in range(0, len(ordered), len(batches)):  # neighbours go to different batches
        stratum = ordered[start : start + len(batches)].tolist()
        for batch, example in zip(torch.randperm(len(batches)).tolist(), stratum):
            batches[batch].append(example)
    return batches


def learning_rate(step: int, n_steps: int) -> float:
    """Learning rate of a step as a share of the largest: linear rise, then half a cosine."""
    n_rising = int(_WARM_UP * n_steps)
    if step < n_rising:
        return (step + 1) / n_rising
    return (1 + math.cos(math.pi * (step - n_rising) / max(1, n_steps - n_rising))) / 2


def predict(
    classifier: Classifier, examples: Examples, participants: np.ndarray, settings: TrainingSettings
) -> Tensor:
    """Outputs of participants, (participant, output) on the CPU: means over their chunks."""
    embeddings = _embed(classifier, examples, participants, settings)
    with torch.no_grad():
        return classifier.outputs(embeddings).double().cpu()


def _embed(
    classifier: Classifier, examples: Examples, participants: np.ndarray, settings: TrainingSettings
) -> Tensor:
    """Mean embeddings of participants over their chunks, (participant, feature)."""
    device = next(classifier.parameters()).device
    parts = in_parts(examples.chunks_of(participants), settings.micro_batch)
    classifier.eval()
    with torch.no_grad(), at_precision(settings.precision, device):
        embeddings = torch.cat([classifier.embed(v) for v, _ in examples.batches(parts)])
    owners = np.concatenate([examples.owners(part) for part in parts])
    return torch.stack([embeddings[owners == number].mean(dim=0) for number in participants])


def _epoch(
    classifier: Classifier,
    task: Task,
    examples: Examples,
    batches: Sequence[Sequence[Chunk]],
    epoch: int,
    settings: TrainingSettings,
    optimiser: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    on_chunks: Callable[[int], object],
) -> float:
    """Take one step of the optimiser for each batch; return the weighted mean loss.

    The gradients of the parts of a batch that go through the network together add up to those of
    the whole batch.
    """
    device = next(classifier.parameters()).device
    parts = [in_parts(batch, settings.micro_batch) for batch in batches]
    read = examples.batches([part for of_batch in parts for part in of_batch])
    total = total_weight = 0.0
    classifier.train()
    for step, (batch, of_batch) in enumerate(zip(batches, parts)):
        rate = learning_rate(epoch * len(batches) + step, settings.epochs * len(batches))
        for group in optimiser.param_groups:
            group["lr"] = settings.learning_rate * rate
        weight = float(task.weights(examples.owners(batch), examples.chunk_weights).sum())
        for volumes, participants in itertools.islice(read, len(of_batch)):
            with at_precision(settings.precision, device):
                outputs = classifier(volumes)
            weights = task.weights(participants, examples.chunk_weights)
            loss = (
                task.losses(outputs, participants) * torch.from_numpy(weights).to(outputs)
            ).sum()
            scaler.scale(loss / weight).backward()
            total += loss.item()
        scaler.step(optimiser)
        scaler.update()
        optimiser.zero_grad(set_to_none=True)
        total_weight += weight
        on_chunks(len(batch))
    return total / total_weight


def _validation_loss(
    classifier: Classifier,
    task: Task,
    examples: Examples,
    validation: np.ndarray,
    settings: TrainingSettings,
) -> float:
    """Mean loss of the validation participants, each predicted from all chunks."""
    losses = task.losses(predict(classifier, examples, validation, settings), validation)
    return float(np.average(losses.numpy(), weights=task.weights(validation)))


def _read(checkpoint: Path, identity: dict[str, Any]) -> dict[str, Any]:
    remedy = "remove this file to start again, or give the same flags to continue"
    try:
        content = torch.load(checkpoint, map_location="cpu", weights_only=True)
        recorded = dict(content["identity"])
    except Exception as error:  # damaged bytes make the unpickler raise almost anything
        raise UsageError(
            f"{checkpoint}: cannot be read ({type(error).__name__}); remove it to start again"
        ) from error
    differing = [key for key in identity if recorded.get(key) != identity[key]]
    if differing:
        key = differing[0]
        raise UsageError(
            f"{checkpoint}: belongs to a training with other settings ({key} {recorded.get(key)} "
            f"instead of {identity[key]}); {remedy}"
        )
    return content
