"""--precision -> the number format that the network's matrix products run in."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from swift_bids.base.errors import UsageError

if TYPE_CHECKING:
    import torch

#: Choices of `--precision` and their torch types. Weights, sums and tokens stay float32 in all.
PRECISIONS = {"float32": "float32", "bf16": "bfloat16", "fp16": "float16"}


def at_precision(precision: str, device: str | torch.device) -> AbstractContextManager:
    """A context in which the network computes at this precision.

    Parameters
    ----------
    precision
        `float32`, or `bf16` or `fp16`: then torch's autocast gives matrix products and attention
        this format, while residuals, normalisation and softmax stay float32.
    device
        The network's.

    Raises
    ------
    UsageError
        The device does not have it.
    """
    import torch

    kind = torch.device(device).type
    if precision == "float32":
        return nullcontext()
    if kind == "cpu" and precision == "fp16":
        raise UsageError("--precision fp16 needs a GPU; on the CPU use float32 or bf16")
    if kind == "cuda" and precision == "bf16" and not torch.cuda.is_bf16_supported(False):
        raise UsageError("--precision bf16: this GPU has no bfloat16; use fp16 or float32")
    return torch.autocast(kind, dtype=getattr(torch, PRECISIONS[precision]))
