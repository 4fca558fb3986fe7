"""SwiFT, the 4D Swin Transformer of Kim et al. 2023 (arXiv:2307.05916)."""

from __future__ import annotations

from typing import Any

from torch import nn

from swift_bids.network.attention import Attention
from swift_bids.network.skeleton import Skeleton


class SwiFT(Skeleton):
    """The SwiFT backbone: attention within the windows.

    Parameters
    ----------
    arguments
        As for `swift_bids.network.skeleton.Skeleton`.

    Notes
    -----
    `SwiFT(**RELEASED_CONFIG)` is the network of Kim et al. 2023, 4,315,212 parameters.
    """

    title = "SwiFT"
    cut = True

    def __init__(self, **arguments: Any):
        super().__init__(**arguments)
        # The checkpoints contain this norm, but the features do not pass through it.
        self.norm = nn.LayerNorm(self.n_features)

    @staticmethod
    def make_mixer(
        dim: int, heads: int, qkv_bias: bool, attn_drop: float, drop: float
    ) -> dict[str, nn.Module]:
        return {"attn": Attention(dim, heads, qkv_bias, attn_drop, drop)}
