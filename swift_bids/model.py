"""SwiFT, the 4D Swin Transformer: (B, 1, X, Y, Z, T) volumes -> (B, C, x, y, z, T) tokens.

The network of Kim et al. 2023 (arXiv:2307.05916), with the constructor arguments, parameter names
and numbers of the original implementation (`SwinTransformer4D`, "version 7"), so that its weights
load by name.

What differs is only how windows are visited: see `swift_bids.windows`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from swift_bids.linear import is_plain_inference, linear
from swift_bids.windows import attention_pieces

#: Constructor arguments of both released variants (`_ilex.constructor_kwargs` of their bundles).
RELEASED_CONFIG = {
    "img_size": (96, 96, 96, 20),
    "in_chans": 1,
    "embed_dim": 36,
    "window_size": (4, 4, 4, 4),
    "first_window_size": (4, 4, 4, 4),
    "patch_size": (6, 6, 6, 1),
    "depths": (2, 2, 6, 2),
    "num_heads": (3, 6, 12, 24),
    "c_multiplier": 2,
    "last_layer_full_MSA": True,
}

#: Tokens that one pass through a block works on during inference: with them, their queries, keys,
#: values and hidden layer, a few MB, which stay in a core's cache.
TOKENS_AT_ONCE = 2048


class PatchEmbed(nn.Module):
    """(B, 1, X, Y, Z, T) -> (B, x, y, z, t, C): one token a patch, a linear map of its voxels.

    On the CPU it goes through the volume in slabs one patch thick, whose voxels, brought into the
    order of patches, stay in the cache. Time stays the innermost axis of that order, as it is in
    memory, so that whole runs of voxels are copied and the matrix product turns them round.
    """

    def __init__(self, patch_size: Sequence[int], in_chans: int, embed_dim: int):
        super().__init__()
        self.patch_size = tuple(patch_size)
        self.fc = nn.Linear(in_chans * math.prod(patch_size), embed_dim)

    def forward(self, x: Tensor, position: PositionalEmbedding) -> Tensor:
        b, c = x.shape[:2]
        grid = [n // p for n, p in zip(x.shape[2:], self.patch_size)]
        x = x.reshape(b, c, *itertools.chain(*zip(grid, self.patch_size)))
        x = x.permute(2, 0, 4, 6, 3, 5, 7, 9, 1, 8)  # (x, B, y, z, px, py, pz, pt, c, t)
        table = position.table(grid[3]) + self.fc.bias  # (x, y, z, t, C)
        weight = self.fc.weight.T
        slabs = [
            torch.baddbmm(
                there.expand(b, *there.shape).flatten(0, 2),
                slab.reshape(-1, weight.shape[0], grid[3]).transpose(1, 2),
                weight.expand(b * grid[1] * grid[2], *weight.shape),
            ).view(b, *there.shape)
            for slab, there in zip(x, table)
        ]
        return torch.stack(slabs, dim=1)


class PositionalEmbedding(nn.Module):
    """Adds a learned embedding of place and one of time; a shorter input takes the first times."""

    def __init__(self, dim: int, grid: Sequence[int]):
        super().__init__()
        x, y, z, t = grid
        self.pos_embed = nn.Parameter(torch.zeros(1, dim, x, y, z, 1))
        self.time_embed = nn.Parameter(torch.zeros(1, dim, 1, 1, 1, t))
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        nn.init.trunc_normal_(self.time_embed, std=0.02)

    def table(self, n_times: int) -> Tensor:
        """Both embeddings as one table (x, y, z, t, C)."""
        place = self.pos_embed[0].permute(1, 2, 3, 4, 0).contiguous()  # (x, y, z, 1, C)
        return place + self.time_embed[0, ..., :n_times].permute(1, 2, 3, 4, 0).contiguous()

    def forward(self, x: Tensor) -> Tensor:  # (B, x, y, z, t, C)
        return x + self.table(x.shape[4])


class Attention(nn.Module):
    """Multi-head self-attention within each piece, up to the projection that the block adds:
    (piece, token, C) -> the same shape."""

    def __init__(self, dim: int, num_heads: int, qkv_bias: bool, attn_drop: float, drop: float):
        super().__init__()
        self.num_heads = num_heads
        self.attn_drop = attn_drop
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(drop)

    def forward(self, x: Tensor) -> Tensor:
        pieces, tokens, dim = x.shape
        plain = is_plain_inference(self)
        qkv = linear(x, self.qkv) if plain else self.qkv(x)
        qkv = qkv.view(pieces, tokens, 3, self.num_heads, dim // self.num_heads)
        qkv = qkv.permute(2, 0, 3, 1, 4)  # (3, piece, head, token, C / heads)
        if plain and x.is_cpu:
            return _attend_cpu(*qkv.flatten(1, 2)).view(pieces, dim, tokens).transpose(1, 2)
        head = dim // self.num_heads
        # The fused kernels of GPUs want multiples of 8; zeros change neither scores nor results.
        x = F.scaled_dot_product_attention(
            *F.pad(qkv, (0, -head % 8)),
            dropout_p=self.attn_drop if self.training else 0.0,
            scale=head**-0.5,
        )
        return x[..., :head].transpose(1, 2).flatten(2)


def _attend_cpu(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention of many small pieces: (piece x head, token, D) -> (piece x head, D, token).

    With heads of 12 features, three calls of the matrix library over all pieces at once are faster
    than torch's fused kernel, which takes them one by one (docs/performance.md).
    """
    scores = q.new_empty(len(q), q.shape[1], k.shape[1])
    scale = q.shape[2] ** -0.5
    torch.baddbmm(scores, q, k.transpose(1, 2), beta=0, alpha=scale, out=scores)
    torch.softmax(scores, dim=-1, out=scores)
    return torch.bmm(v.transpose(1, 2), scores.transpose(1, 2))


class MLP(nn.Module):
    """Linear and exact (erf) GELU, up to the second linear map that the block adds."""

    def __init__(self, dim: int, hidden: int, drop: float):
        super().__init__()
        self.linear1 = nn.Linear(dim, hidden)
        self.linear2 = nn.Linear(hidden, dim)
        self.drop = nn.Dropout(drop)

    def forward(self, x: Tensor) -> Tensor:
        if is_plain_inference(self):
            return linear(x, self.linear1, gelu=True)
        return self.drop(F.gelu(self.linear1(x)))


@lru_cache(maxsize=64)
def _pieces_on(device: torch.device, *sizes: tuple[int, ...]) -> tuple[tuple[Tensor, bool], ...]:
    """`attention_pieces(*sizes)` on a device, copied there once."""
    with torch.inference_mode(
        False
    ):  # what is made in inference mode cannot be used with gradients
        return tuple(
            (torch.as_tensor(index, device=device), padded)
            for index, padded in attention_pieces(*sizes)
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
        """The pieces of this block on a (x, y, z, t) grid, as (index (piece, token), padded).

        An axis no longer than the window is one window, unshifted (`get_window_size` of the
        original).
        """
        shift = [w // 2 if self.shifted and g > w else 0 for g, w in zip(grid, self.window)]
        return _pieces_on(device, grid, tuple(map(min, grid, self.window)), tuple(shift))

    def forward(self, x: Tensor) -> Tensor:
        grid, (b, dim) = tuple(x.shape[1:5]), (x.shape[0], x.shape[-1])
        x = x.reshape(b, -1, dim)  # (B, token, C)
        keep = self._kept_samples(x)
        if torch.is_grad_enabled():
            x = self._functional(x, grid, keep)
        else:
            x = self._in_place(x, grid, keep)
        return x.view(b, *grid, dim)

    def _in_place(self, x: Tensor, grid: tuple[int, ...], keep: Sequence) -> Tensor:
        """Inference: every token lies in one piece, so a piece's result may replace its input."""
        for index, padded in self.pieces(grid, x.device):
            step = max(1, TOKENS_AT_ONCE // (len(x) * index.shape[1])) if x.is_cpu else len(index)
            for part in index.split(step):
                y, where = self._attend(x, part, padded, keep)
                x.index_copy_(1, where, y)
        return x

    def _functional(self, x: Tensor, grid: tuple[int, ...], keep: Sequence) -> Tensor:
        """The same with gradients: pieces side by side, then put back in grid order."""
        pieces = self.pieces(grid, x.device)
        done = [self._attend(x, index, padded, keep) for index, padded in pieces]
        order = torch.cat([where for _, where in done])
        return torch.cat([y for y, _ in done], dim=1)[:, torch.argsort(order)]

    def _attend(self, x: Tensor, index: Tensor, padded: bool, keep: Sequence):
        """Results of pieces of one size (B, token, C), and their positions in the grid."""
        b, _, dim = x.shape
        where = index.flatten()
        y = x.index_select(1, where.clamp(min=0) if padded else where)
        attended = self.norm1(y)
        if padded:
            attended = attended * (where >= 0)[:, None].to(y.dtype)
        attended = self.attn(attended.view(-1, index.shape[1], dim)).reshape(b, -1, dim)
        if padded:
            y, attended, where = y[:, where >= 0], attended[:, where >= 0], where[where >= 0]
        y = self._add(y, attended, self.attn.proj, self.attn.proj_drop, keep[0])
        y = self._add(y, self.mlp(self.norm2(y)), self.mlp.linear2, self.mlp.drop, keep[1])
        return y, where

    def _add(self, y: Tensor, x: Tensor, layer: nn.Linear, drop: nn.Dropout, factor) -> Tensor:
        """y + layer(x)."""
        if is_plain_inference(self):
            return linear(x, layer, add=y)
        added = drop(layer(x))
        return y + (added if factor is None else added * factor)

    def _kept_samples(self, x: Tensor) -> Tensor | tuple[None, None]:
        """Stochastic depth: factors (2 residuals, B, 1, 1), 0 or 1 / (1 - rate)."""
        if not (self.training and self.drop_path > 0):
            return None, None
        kept = torch.rand(2, len(x), 1, 1, device=x.device) >= self.drop_path
        return kept.to(x.dtype) / (1 - self.drop_path)


class PatchMerging(nn.Module):
    """Joins 2x2x2 neighbouring tokens (time is never merged): C -> `c_multiplier` * C."""

    def __init__(self, dim: int, c_multiplier: int):
        super().__init__()
        self.norm = nn.LayerNorm(8 * dim)
        self.reduction = nn.Linear(8 * dim, c_multiplier * dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        b, nx, ny, nz, t, c = x.shape
        x = x.view(b, nx // 2, 2, ny // 2, 2, nz // 2, 2, t, c)
        x = self.norm(x.permute(0, 1, 3, 5, 7, 2, 4, 6, 8).flatten(5))
        return linear(x, self.reduction) if is_plain_inference(self) else self.reduction(x)


class Stage(nn.Module):
    """Blocks with and without shift in turn, then the merging of patches."""

    def __init__(self, blocks: Sequence[Block], downsample: PatchMerging | None):
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x if self.downsample is None else self.downsample(x)


class SwiFT(nn.Module):
    """The SwiFT backbone.

    Parameters
    ----------
    img_size, patch_size
        (x, y, z, t) of the input and of a patch, in voxels and volumes.
    in_chans, embed_dim, depths, num_heads, c_multiplier
        Input channels, width of the first stage, blocks and heads of each stage, growth of the
        width from stage to stage.
    window_size, first_window_size
        4D attention windows in tokens; the second is the first stage's.
    mlp_ratio, qkv_bias, drop_rate, attn_drop_rate, drop_path_rate
        As in the original; rates act in training mode only.
    last_layer_full_MSA
        No block of the last stage is shifted. The name promises attention over all of space and
        time, and the 2x2x2 grid there does lie within one window; but the original cuts time into
        windows here too, and the released weights were trained so.

    Raises
    ------
    ValueError
        Sizes that cannot be cut into patches and merged.

    Notes
    -----
    `SwiFT(**RELEASED_CONFIG)` is the network of Kim et al. 2023, 4,315,212 parameters.
    """

    def __init__(
        self,
        img_size: Sequence[int],
        in_chans: int,
        embed_dim: int,
        window_size: Sequence[int],
        first_window_size: Sequence[int],
        patch_size: Sequence[int],
        depths: Sequence[int],
        num_heads: Sequence[int],
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        c_multiplier: int = 2,
        last_layer_full_MSA: bool = False,
    ):
        super().__init__()
        grid = [n // p for n, p in zip(img_size, patch_size)]
        merged = 2 ** (len(depths) - 1)
        if any(n % p for n, p in zip(img_size, patch_size)) or any(g % merged for g in grid[:3]):
            raise ValueError(
                f"img_size {tuple(img_size)} cannot be cut into patches of {tuple(patch_size)} "
                f"that are merged {len(depths) - 1} times"
            )
        self.img_size, self.in_chans = tuple(img_size), in_chans
        self.patch_embed = PatchEmbed(patch_size, in_chans, embed_dim)
        self.pos_drop = nn.Dropout(drop_rate)
        self.pos_embeds = nn.ModuleList()
        self.layers = nn.ModuleList()
        drop_paths = iter(np.linspace(0, drop_path_rate, sum(depths)).tolist())
        for stage, (depth, heads) in enumerate(zip(depths, num_heads)):
            dim = embed_dim * c_multiplier**stage
            last = stage == len(depths) - 1
            window = first_window_size if stage == 0 else window_size
            blocks = [
                Block(
                    dim,
                    heads,
                    window,
                    shifted=bool(i % 2) and not (last and last_layer_full_MSA),
                    mlp_ratio=mlp_ratio,
                    qkv_bias=qkv_bias,
                    drop=drop_rate,
                    attn_drop=attn_drop_rate,
                    drop_path=next(drop_paths),
                )
                for i in range(depth)
            ]
            self.pos_embeds.append(
                PositionalEmbedding(dim, [g // 2**stage for g in grid[:3]] + grid[3:])
            )
            self.layers.append(Stage(blocks, None if last else PatchMerging(dim, c_multiplier)))
        # Held for the sake of the checkpoints, which have it; the features come before it.
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (B, C, x, y, z, t) of volumes (B, in_chans, X, Y, Z, T), T up to `img_size[3]`."""
        want = (self.in_chans, *self.img_size)
        if x.ndim != 6 or x.shape[1:5] != want[:4] or not 1 <= x.shape[5] <= want[4]:
            raise ValueError(
                f"the input must be (B, {', '.join(map(str, want[:4]))}, 1 to {want[4]}), "
                f"not {tuple(x.shape)}"
            )
        first, *others = self.pos_embeds
        x = self.layers[0](self.pos_drop(self.patch_embed(x, first)))  # (B, x, y, z, t, C)
        for position, layer in zip(others, self.layers[1:]):
            x = layer(self.pos_drop(position(x)))
        return x.permute(0, 5, 1, 2, 3, 4)
