"""A linear layer and what follows it, during inference, in one call where torch has one.

On x86 processors torch multiplies float32 matrices with MKL, which uses half the vector width on
AMD's; its convolutions go through oneDNN, which does not. `mkldnn::_linear_pointwise`, the operator
that torch.compile puts in place of a linear layer, is oneDNN's linear layer with bias, GELU or sum
included: 1.4 to 2.3 times faster here (docs/performance.md). Where it is missing, plain layers do.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_FUSED = None
if torch.backends.mkldnn.is_available():
    _FUSED = getattr(torch.ops.mkldnn, "_linear_pointwise", None)


def is_plain_inference(module: nn.Module) -> bool:
    """Whether neither gradients, dropout, autocast nor torch.compile are wanted."""
    return not (
        module.training
        or torch.compiler.is_compiling()
        or torch.is_grad_enabled()
        or torch.is_autocast_enabled("cpu")
        or torch.is_autocast_enabled("cuda")
    )


def linear(x: Tensor, layer: nn.Linear, add: Tensor | None = None, gelu: bool = False) -> Tensor:
    """`layer(x)`, then plus `add` or through the exact (erf) GELU; fused in plain inference.

    Parameters
    ----------
    x
        (..., in).
    layer
        Its weights, (out, in), and bias.
    add
        (..., out), a residual.
    """
    fits = x.is_cpu and x.dtype == torch.float32
    if _FUSED is None or not (fits and is_plain_inference(layer)):
        y = layer(x) if add is None else add + layer(x)
        return F.gelu(y) if gelu else y
    if add is not None:
        return _FUSED.binary(x, add, layer.weight, layer.bias, "add")
    return _FUSED(x, layer.weight, layer.bias, "gelu" if gelu else "none", [], "none")
