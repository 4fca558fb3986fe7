"""Mamba-1 (Gu and Dao 2023, arXiv:2312.00752), the mixer of NeuroSTORM's blocks.

Names, shapes and results are those of `mamba_ssm.Mamba(d_model, d_state=16, d_conv=4, expand=2)`.
Where mamba_ssm is installed, its CUDA kernel scans on GPUs; torch does it everywhere else.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from swift_bids.network.fused_linear import linear
from swift_bids.network.selective_scan import selective_scan

#: Width of the convolution over time, states per channel, channels per feature.
_CONVOLUTION, _STATES, _EXPANSION = 4, 16, 2
#: Range from which the original draws the step sizes of new networks.
_NEW_STEPS = (1e-3, 1e-1)


@cache
def _scan_of_mamba_ssm() -> Callable[..., Tensor] | None:
    """Return the scan of mamba_ssm, which runs on GPUs only; None if it cannot be imported."""
    try:
        from mamba_ssm.ops.selective_scan_interface import selective_scan_fn
    except (ImportError, OSError):  # not installed, or built for another CUDA or torch
        return None
    return selective_scan_fn


class Mamba(nn.Module):
    """A causal state-space model over each sequence: (sequence, token, C) -> (..., 2 C).

    The block applies the projection to C, `proj`, when it adds the residual.

    Parameters
    ----------
    dim
        Features of a token, C.
    """

    #: Tokens per pass during inference: the scan needs many windows to fill its vectors.
    tokens_per_pass = 16384

    def __init__(self, dim: int):
        super().__init__()
        inner, self.rank = _EXPANSION * dim, math.ceil(dim / 16)
        self.in_proj = nn.Linear(dim, 2 * inner, bias=False)
        # one filter per channel over its own past
        self.conv1d = nn.Conv1d(inner, inner, _CONVOLUTION, groups=inner)
        self.x_proj = nn.Linear(inner, self.rank + 2 * _STATES, bias=False)
        self.dt_proj = nn.Linear(self.rank, inner)
        self.A_log = nn.Parameter(torch.log(torch.arange(1.0, _STATES + 1)).repeat(inner, 1))
        self.D = nn.Parameter(torch.ones(inner))
        self.out_proj = nn.Linear(inner, dim, bias=False)
        if not self.D.is_meta:
            low, high = map(math.log, _NEW_STEPS)
            step = torch.exp(torch.empty(inner).uniform_(low, high))
            # softplus of the bias is the step
            nn.init.uniform_(self.dt_proj.weight, -(self.rank**-0.5), self.rank**-0.5)
            self.dt_proj.bias.data.copy_(step + torch.log(-torch.expm1(-step)))

    @property
    def proj(self) -> nn.Linear:
        """The last layer, which the block applies."""
        return self.out_proj

    @property
    def proj_drop(self) -> nn.Module:
        """Dropout after it; the original has none."""
        return nn.Identity()

    def forward(self, u: Tensor) -> Tensor:
        # Tokens first: one token of all sequences lies together in memory, as the scan needs it.
        x, gate = linear(u.transpose(0, 1).contiguous(), self.in_proj).chunk(2, dim=-1)
        x = F.silu(self._convolve(x))
        steps, b, c = linear(x, self.x_proj).split([self.rank, _STATES, _STATES], dim=-1)
        steps = F.linear(steps, self.dt_proj.weight)
        # The original scans in float32 under autocast, too.
        with torch.autocast(x.device.type, enabled=False):
            kind = self.A_log.dtype
            x, gate, steps, b, c = (t.to(kind) for t in (x, gate, steps, b, c))
            a, bias = -torch.exp(self.A_log), self.dt_proj.bias
            if x.is_cuda and (scan := _scan_of_mamba_ssm()):
                x, gate, steps, b, c = (t.permute(1, 2, 0) for t in (x, gate, steps, b, c))
                return scan(
                    x, steps, a, b, c, self.D, z=gate, delta_bias=bias, delta_softplus=True
                ).transpose(1, 2)
            y = selective_scan(x, F.softplus(steps + bias), a, b, c)
            return (torch.addcmul(y, x, self.D) * F.silu(gate)).transpose(0, 1)

    def _convolve(self, x: Tensor) -> Tensor:
        """Convolve each channel of (token, sequence, channel) over the token and the three before
        it."""
        weight = self.conv1d.weight[:, 0].T  # (4, channel), the oldest token first
        y = x * weight[-1]
        for distance in range(1, min(_CONVOLUTION, len(x))):
            y[distance:].addcmul_(x[:-distance], weight[-1 - distance])
        return y if self.conv1d.bias is None else y + self.conv1d.bias
