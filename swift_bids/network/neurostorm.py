"""The encoder of NeuroSTORM (Wang et al. 2026, Nature Biomedical Engineering).

It is SwiFT with a Mamba in each window instead of attention. The tokens of a window form a sequence
in C order, time last. The original does not separate the tokens that the shift brings together from
opposite ends of the grid: the state of the Mamba runs across the seam.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from swift_bids.network.mamba import Mamba
from swift_bids.network.skeleton import Skeleton


class NeuroSTORM(Skeleton):
    """NeuroSTORM's encoder: a Mamba within the windows.

    Parameters
    ----------
    arguments
        As for `swift_bids.network.skeleton.Skeleton`; `num_heads`, `qkv_bias` and `attn_drop_rate`
        have no effect, but are in the settings of the checkpoints.

    Notes
    -----
    `NeuroSTORM(**RELEASED_CONFIG)` is the released network, 5,173,020 parameters.
    """

    title = "NeuroSTORM"
    cut = False
    unused = frozenset({"num_heads"})

    def __init__(
        self, *, depths: Sequence[int], num_heads: Sequence[int] | None = None, **arguments: Any
    ):
        super().__init__(depths=depths, num_heads=num_heads or [1] * len(depths), **arguments)

    @staticmethod
    def make_mixer(
        dim: int, heads: int, qkv_bias: bool, attn_drop: float, drop: float
    ) -> dict[str, nn.Module]:
        return {"mamba": Mamba(dim)}
