"""One block: a mixer within 4D windows, and an MLP, on (B, x, y, z, t, C) tokens.

The mixer is attention (SwiFT) or a Mamba (NeuroSTORM). The block differs from the originals in two
ways. It cuts the windows of attention into pieces (`swift_bids.network.windows`), and during
inference it sends a few windows at a time through the whole block, so that their queries, scores
and hidden layer stay in the processor's cache.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from swift_bids.network.fused_linear import linear
from swift_bids.network.windows import window_pieces

#: Factors for the two residuals of a block (stochastic depth); None leaves a residual unchanged.
Factors = Tensor | tuple[None, None]


class MLP(nn.Module):
    """First linear layer and exact (erf) GELU; the block applies the second linear layer."""

    def __init__(self, dim: int, hidden: int, drop: float):
        super().__init__()
        self.linear1 = nn.Linear(dim, hidden)
        self.linear2 = nn.Linear(hidden, dim)
        self.drop = nn.Dropout(drop)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(linear(x, self.linear1, gelu=True))


@lru_cache(maxsize=64)
def _pieces_on(
    device: torch.device, cut: bool, *sizes: tuple[int, ...]
) -> tuple[tuple[Tensor, bool], ...]:
    """Copy `window_pieces(*sizes, cut)` to a device, once."""
    # Tensors created in inference mode cannot be used with gradients later.
    with torch.inference_mode(False):
        return tuple(
            (torch.as_tensor(same_size.index, device=device), same_size.padded)
            for same_size in window_pieces(*sizes, cut)
        )


class Block(nn.Module):
    """A mixer within (shifted) windows, then the MLP, each with a residual.

    Parameters
    ----------
    mixer
        Name of the mixer in checkpoints -> module, (piece, token, C) -> (piece, token, width). Its
        last layer, `proj`, turns the width into C: the block applies it when it adds the residual.
    window, shifted
        Window in tokens, and whether the windows are shifted by half of it.
    cut
        As for `swift_bids.network.windows.window_pieces`.
    """

    def __init__(
        self,
        mixer: Mapping[str, nn.Module],
        dim: int,
        window: Sequence[int],
        shifted: bool,
        mlp_ratio: float,
        drop: float,
        drop_path: float,
        cut: bool,
    ):
        super().__init__()
        self.window, self.shifted, self.cut = window, shifted, cut
        self.drop_path = drop_path
        self.norm1 = nn.LayerNorm(dim)
        ((self._mixer_name, module),) = mixer.items()
        self.add_module(self._mixer_name, module)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = MLP(dim, int(dim * mlp_ratio), drop)

    @property
    def mixer(self) -> Any:
        """The attention or the Mamba."""
        return getattr(self, self._mixer_name)

    def pieces(
        self, grid: tuple[int, ...], device: torch.device
    ) -> tuple[tuple[Tensor, bool], ...]:
        """Return this block's pieces of an (x, y, z, t) grid as (index (piece, token), padded).

        If an axis is not longer than the window, one unshifted window covers it
        (`get_window_size` of the original).
        """
        shift = [w // 2 if self.shifted and g > w else 0 for g, w in zip(grid, self.window)]
        window = tuple(map(min, grid, self.window))
        return _pieces_on(device, self.cut, grid, window, tuple(shift))

    def forward(self, x: Tensor) -> Tensor:
        grid, (b, dim) = tuple(x.shape[1:5]), (x.shape[0], x.shape[-1])
        x = x.reshape(b, -1, dim)  # (B, token, C)
        factors = self._residual_factors(x)
        if torch.is_grad_enabled():
            x = self._functional(x, grid, factors)
        else:
            x = self._in_place(x, grid, factors)
        return x.view(b, *grid, dim)

    def _in_place(self, x: Tensor, grid: tuple[int, ...], factors: Factors) -> Tensor:
        """Inference: every token is in exactly one piece, so results can overwrite the input."""
        for index, padded in self.pieces(grid, x.device):
            n_tokens = len(x) * index.shape[1]
            step = max(1, self.mixer.tokens_per_pass // n_tokens) if x.is_cpu else len(index)
            for part in index.split(step):
                y, positions = self._transform_pieces(x, part, padded, factors)
                x.index_copy_(1, positions, y)
        return x

    def _functional(self, x: Tensor, grid: tuple[int, ...], factors: Factors) -> Tensor:
        """With gradients: concatenate the results of all pieces, then restore grid order."""
        pieces = self.pieces(grid, x.device)
        results = [self._transform_pieces(x, index, padded, factors) for index, padded in pieces]
        order = torch.cat([positions for _, positions in results])
        return torch.cat([y for y, _ in results], dim=1)[:, torch.argsort(order)]

    def _transform_pieces(
        self, x: Tensor, index: Tensor, padded: bool, factors: Factors
    ) -> tuple[Tensor, Tensor]:
        """Return results (B, token, C) of pieces of one size, and their positions in the grid."""
        b, _, dim = x.shape
        positions = index.flatten()
        y = x.index_select(1, positions.clamp(min=0) if padded else positions)
        mixed = self.norm1(y)
        if padded:
            mixed = mixed * (positions >= 0)[:, None].to(y.dtype)
        mixed = self.mixer(mixed.view(-1, index.shape[1], dim)).flatten(0, 1)
        mixed = mixed.view(b, -1, mixed.shape[-1])
        if padded:
            real = positions >= 0
            y, mixed, positions = y[:, real], mixed[:, real], positions[real]
        y = self._add(y, mixed, self.mixer.proj, self.mixer.proj_drop, factors[0])
        y = self._add(y, self.mlp(self.norm2(y)), self.mlp.linear2, self.mlp.drop, factors[1])
        return y, positions

    def _add(
        self, y: Tensor, x: Tensor, layer: nn.Linear, drop: nn.Dropout, factor: Tensor | None
    ) -> Tensor:
        """Return y + layer(x)."""
        if not self.training:
            return linear(x, layer, add=y)
        added = drop(layer(x))
        return y + (added if factor is None else added * factor)

    def _residual_factors(self, x: Tensor) -> Factors:
        """Draw stochastic depth: factors (2 residuals, B, 1, 1), each 0 or 1 / (1 - rate)."""
        if not (self.training and self.drop_path > 0):
            return None, None
        kept = torch.rand(2, len(x), 1, 1, device=x.device) >= self.drop_path
        return kept.to(x.dtype) / (1 - self.drop_path)
