"""The stage `training` of `python -m benchmarks.gpu`."""

from __future__ import annotations

import itertools

import numpy as np
import torch

from benchmarks.gpu.network import measure, out_of_memory_is_a_figure
from benchmarks.gpu.stage import Stage
from swift_bids.finetune.classifier import Classifier
from swift_bids.network.precision import at_precision


def training(stage: Stage) -> None:
    """Chunks per second and memory per chunk of a training step, by batch."""
    classifier = (
        Classifier(stage.network(), 2, np.zeros(288), np.ones(288)).to(stage.device).train()
    )
    optimiser = torch.optim.AdamW(classifier.parameters(), lr=1e-6)
    scaler = torch.amp.GradScaler(stage.device, enabled=stage.is_gpu)
    precisions = dict.fromkeys(["float32", stage.precision])
    batches = (1,) if stage.quick else (1, 4, 8, 16)
    for recomputed, precision, batch in itertools.product((False, True), precisions, batches):
        classifier.network.checkpoint_activations(recomputed)
        volumes = stage.volumes(batch)
        label = f"{precision} {'recomputed' if recomputed else 'kept'} batch {batch}"

        def step(volumes: torch.Tensor = volumes, precision: str = precision) -> None:
            with at_precision(precision, stage.device):
                loss = classifier(volumes).float().square().mean()
            scaler.scale(loss).backward()
            scaler.step(optimiser)
            scaler.update()
            optimiser.zero_grad(set_to_none=True)

        with out_of_memory_is_a_figure(stage, label):
            measure(stage, label, batch, step, rounds=3)
