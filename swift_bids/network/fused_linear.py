"""Runs a linear layer and its GELU or residual sum as one fused operator during inference.

On x86 processors, torch multiplies float32 matrices with MKL, which uses half the vector width of
AMD processors; oneDNN, which torch uses for convolutions, uses all of it. torch.compile replaces a
linear layer by `mkldnn::_linear_pointwise`, oneDNN's linear layer with bias and GELU or sum. It is
1.4 to 2.3 times faster here (docs/performance.md). Without it, this module calls plain layers.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_FUSED = None
if torch.backends.mkldnn.is_available():
    _FUSED = getattr(torch.ops.mkldnn, "_linear_pointwise", None)


def is_plain_inference(module: nn.Module) -> bool:
    """Return whether gradients, dropout, autocast and torch.compile are all off."""
    return not (
        module.training
        or torch.compiler.is_compiling()
        or torch.is_grad_enabled()
        or torch.is_autocast_enabled("cpu")
        or torch.is_autocast_enabled("cuda")
    )


def linear(x: Tensor, layer: nn.Linear, add: Tensor | None = None, gelu: bool = False) -> Tensor:
    """Return `layer(x)`, plus `add` or after the exact (erf) GELU; fused in plain inference.

    Parameters
    ----------
    x
        (..., in).
    layer
        Layer with weights (out, in) and bias.
    add
        Residual to add, (..., out).
    gelu
        Whether to apply the GELU.
    """
    supported = x.is_cpu and x.dtype == torch.float32
    if _FUSED is None or not (supported and is_plain_inference(layer)):
        y = layer(x) if add is None else add + layer(x)
        return F.gelu(y) if gelu else y
    if add is not None:
        return _FUSED.binary(x, add, layer.weight, layer.bias, "add")
    return _FUSED(x, layer.weight, layer.bias, "gelu" if gelu else "none", [], "none")
