"""What the stages of `python -m benchmarks.gpu` have in common."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from swift_bids.network.released import RELEASED_CONFIG
from swift_bids.network.swift import SwiFT

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Stage:
    """What a stage is given, and its figures.

    Attributes
    ----------
    device, quick, reference
        The command's flags.
    figures
        Written to the result file whenever a figure is added with `add`.
    """

    file: Path
    device: str
    quick: bool
    reference: Path | None
    figures: dict[str, Any] = field(default_factory=dict)

    def add(self, name: str, value: Any) -> None:
        """Add a figure, rounded to four digits, and write all figures to the file."""
        if isinstance(value, float):
            value = float(f"{value:.4g}")
        self.figures[name] = value
        self.file.write_text(json.dumps(self.figures))

    @property
    def is_gpu(self) -> bool:
        return self.device.startswith("cuda")

    @property
    def precision(self) -> str:
        """The fastest number format that this device supports."""
        return "fp16" if self.is_gpu else "float32"

    def network(self) -> SwiFT:
        """The released network with random weights."""
        torch.manual_seed(0)
        torch.backends.cuda.enable_cudnn_sdp(False)  # as in the app
        return SwiFT(**RELEASED_CONFIG).eval().to(self.device)

    def volumes(self, batch: int) -> torch.Tensor:
        """Random input, (batch, 1, 96, 96, 96, 20)."""
        return torch.randn(batch, 1, 96, 96, 96, 20, device=self.device)

    def wait(self) -> None:
        """Wait until the GPU has finished."""
        if self.is_gpu:
            torch.cuda.synchronize()

    def seconds(self, work: Callable[[], object], rounds: int = 5) -> float:
        """Median time of `work` after one warm-up, in seconds."""
        work()
        times = []
        for _ in range(1 if self.quick else rounds):
            self.wait()
            start = time.perf_counter()
            work()
            self.wait()
            times.append(time.perf_counter() - start)
        return statistics.median(times)
