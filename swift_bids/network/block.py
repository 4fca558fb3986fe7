"""One Swin block: 4D window attention and MLP on (B, x, y, z, t, C) tokens.

It differs from the original in two ways. It cuts windows into pieces
(`swift_bids.network.windows`), and during inference it sends a few windows at a time through the
whole block, so that their queries, scores and hidden layer stay in the processor's cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from swift_bids.network.fused_linear import is_plain_inference, linear
from swift_bids.network.windows import attention_pieces

#: Tokens per pass through a block during inference. Together with their queries, keys, values and
#: hidden layer they take a few MB, which stay in a core's cache.
TOKENS_PER_PASS = 2048
#: Factors for the two residuals of a block (stochastic depth); None leaves a residual unchanged.
Factors = Tensor | tuple[None, None]


class Attention(nn.Module):
    """Multi-head self-attention within each piece, (piece, token, C) -> the same shape.

    The block applies the projection, `proj`, when it adds the residual.
    """

    def __init__(self, dim: int, num_heads: int, qkv_bias: bool, attn_drop: float, drop: float):
        super().__init__()
        self.num_heads = num_heads
        self.attn_drop = attn_drop
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(drop)

    def forward(self, x: Tensor) -> Tensor:
        pieces, tokens, dim = x.shape
        qkv = linear(x, self.qkv).view(pieces, tokens, 3, self.num_heads, dim // self.num_heads)
        qkv = qkv.permute(2, 0, 3, 1, 4)  # (3, piece, head, token, C / heads)
        if x.is_cpu and is_plain_inference(self):
            return _attend_cpu(*qkv.flatten(1, 2)).view(pieces, dim, tokens).transpose(1, 2)
        head = dim // self.num_heads
        # Fused GPU kernels need multiples of 8; padding with zeros does not change the result.
        q, k, v = F.pad(qkv, (0, -head % 8))
        x = F.scaled_dot_product_attention(
            q,
            k,
            v,
            dropout_p=self.attn_drop if self.training else 0.0,
            scale=head**-0.5,
        )
        return x[..., :head].transpose(1, 2).flatten(2)


def _attend_cpu(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention of many small pieces: (piece x head, token, D) -> (piece x head, D, token).

    With heads of 12 features, three matrix products over all pieces together are faster than
    torch's fused kernel, which handles the pieces one by one (docs/performance.md).
    """
    scores = q.new_empty(len(q), q.shape[1], k.shape[1])
    scale = q.shape[2] ** -0.5
    torch.baddbmm(scores, q, k.transpose(1, 2), beta=0, alpha=scale, out=scores)
    torch.softmax(scores, dim=-1, out=scores)
    return torch.bmm(v.transpose(1, 2), scores.transpose(1, 2))


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
def _pieces_on(device: torch.device, *sizes: tuple[int, ...]) -> tuple[tuple[Tensor, bool], ...]:
    """Copy `attention_pieces(*sizes)` to a device, once."""
    # Tensors created in inference mode cannot be used with gradients later.
    with torch.inference_mode(False):
        return tuple(
            (torch.as_tensor(same_size.index, device=device), same_size.padded)
            for same_size in attention_pieces(*sizes)
        )


class Block(nn.Module):
    """One Swin block: attention within (shifted) windows, then the MLP, each with a residual."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        window: Sequence[int],
        shifted: bool,
        mlp_ratio: float,
        qkv_bias: bool,
        drop: float,
        attn_drop: float,
        drop_path: float,
    ):
        super().__init__()
        self.window = window
        self.shifted = shifted
        self.drop_path = drop_path
        self.norm1 = nn.LayerNorm(dim)
        self.attn = Attention(dim, num_heads, qkv_bias, attn_drop, drop)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = MLP(dim, int(dim * mlp_ratio), drop)

    def pieces(
        self, grid: tuple[int, ...], device: torch.device
    ) -> tuple[tuple[Tensor, bool], ...]:
        """Return this block's pieces of an (x, y, z, t) grid as (index (piece, token), padded).

        If an axis is not longer than the window, one unshifted window covers it
        (`get_window_size` of the original).
        """
        shift = [w // 2 if self.shifted and g > w else 0 for g, w in zip(grid, self.window)]
        return _pieces_on(device, grid, tuple(map(min, grid, self.window)), tuple(shift))

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
            step = max(1, TOKENS_PER_PASS // (len(x) * index.shape[1])) if x.is_cpu else len(index)
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
        attended = self.norm1(y)
        if padded:
            attended = attended * (positions >= 0)[:, None].to(y.dtype)
        attended = self.attn(attended.view(-1, index.shape[1], dim)).reshape(b, -1, dim)
        if padded:
            real = positions >= 0
            y, attended, positions = y[:, real], attended[:, real], positions[real]
        y = self._add(y, attended, self.attn.proj, self.attn.proj_drop, factors[0])
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
