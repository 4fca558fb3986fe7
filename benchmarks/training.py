"""Time and memory of one training chunk, with and without activation checkpointing.

    python -m benchmarks.training
    python -m benchmarks.training --variant neurostorm-mae --rounds 5

The memory is that of the tensors that autograd keeps for the gradients of one chunk.
"""

from __future__ import annotations

import argparse
import os
import time

import numpy as np
import torch

from swift_bids.base.backbones import BACKBONES
from swift_bids.finetune.classifier import Classifier
from swift_bids.network.load import random_network


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--variant", choices=tuple(BACKBONES), default="contrastive")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    classifier = Classifier(random_network(args.variant), 2, np.zeros(288), np.ones(288))
    torch.nn.init.normal_(classifier.head.weight)
    volumes = torch.randn(1, 1, 96, 96, 96, 20)
    seconds: dict[str, list[float]] = {name: [] for name in ("inference", "kept", "recomputed")}
    kept: dict[str, float] = {}
    for _ in range(args.rounds):  # by turns, since other programs use the machine, too
        classifier.eval()
        start = time.perf_counter()
        with torch.no_grad():
            classifier(volumes)
        seconds["inference"].append(time.perf_counter() - start)
        for name in ("kept", "recomputed"):
            classifier.train().network.checkpoint_activations(name == "recomputed")
            sizes: list[int] = []

            def pack(tensor: torch.Tensor, sizes: list[int] = sizes) -> torch.Tensor:
                sizes.append(tensor.numel() * tensor.element_size())
                return tensor

            start = time.perf_counter()
            with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
                loss = classifier(volumes).square().sum()
            loss.backward()
            seconds[name].append(time.perf_counter() - start)
            kept[name] = sum(sizes) / 1e6
    best = {name: min(times) for name, times in seconds.items()}
    for name, size in kept.items():
        print(f"activations {name:10s} {size:6.0f} MB {best[name]:6.2f} s")
    print(f"inference              {best['inference']:16.2f} s")
    print(
        f"recomputed / kept: memory {kept['recomputed'] / kept['kept']:.2f}, "
        f"time {best['recomputed'] / best['kept']:.2f}; "
        f"training / inference {best['kept'] / best['inference']:.1f}"
    )


if __name__ == "__main__":
    main()
