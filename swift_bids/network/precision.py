"""--precision -> a context that sets the number format of the network's matrix products."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from swift_bids.base.errors import UsageError

if TYPE_CHECKING:
    import torch

#: Choices of `--precision` and their torch types. Weights, sums and tokens always stay float32.
PRECISIONS = {"float32": "float32", "bf16": "bfloat16", "fp16": "float16"}


def at_precision(precision: str, device: str | torch.device) -> AbstractContextManager:
    """Return a context in which the network computes at this precision.

    Parameters
    ----------
    precision
        `float32`, `bf16` or `fp16`. For the last two, torch's autocast runs matrix products and
        attention in this format; residuals, normalisation and softmax stay float32.
    device
        Device of the network.

    Raises
    ------
    UsageError
        The device does not support this precision.
    """
    import torch

    kind = torch.device(device).type
    if precision == "float32":  # also within the autocast of a notebook
        return torch.autocast(kind, enabled=False)
    if kind == "cpu" and precision == "fp16":
        raise UsageError("--precision fp16 needs a GPU; on the CPU use float32 or bf16")
    if kind == "cuda" and precision == "bf16" and not torch.cuda.is_bf16_supported(False):
        raise UsageError("--precision bf16: this GPU lacks bfloat16; use fp16 or float32")
    return torch.autocast(kind, dtype=getattr(torch, PRECISIONS[precision]))
