"""What SwiFT and NeuroSTORM share: (B, 1, X, Y, Z, T) volumes -> (B, C, x, y, z, T) tokens.

Patches, learned positions, four stages of blocks, and patch merging between them, as in the
original of SwiFT (`SwinTransformer4D`, "version 7"). NeuroSTORM kept all of it and replaced the
attention within the windows. Constructor arguments, parameter names and results are those of the
originals, so their weights load by name. Only the order of the computation differs: see
`swift_bids.network.block`.
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Self, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from swift_bids.network import compiled
from swift_bids.network.block import Block
from swift_bids.network.checkpoint import BackboneWeights, read_backbone
from swift_bids.network.fused_linear import linear
from swift_bids.network.weights import find_weights


class PatchEmbed(nn.Module):
    """(B, 1, X, Y, Z, T) -> (B, x, y, z, t, C): one token per patch, a linear map of its voxels.

    It processes the volume in slabs one patch thick: after they are sorted into patches, their
    voxels stay in a processor's cache. Time stays the innermost axis, as in memory, so that sorting
    copies whole time courses; the matrix product transposes them.
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
                offset.expand(b, *offset.shape).flatten(0, 2),
                slab.reshape(-1, weight.shape[0], grid[3]).transpose(1, 2),
                weight.expand(b * grid[1] * grid[2], *weight.shape),
            ).view(b, *offset.shape)
            for slab, offset in zip(x, table)
        ]
        # Autocast lowers the precision of the product; the residuals start here and stay float32.
        return torch.stack(slabs, dim=1).to(table.dtype)


class PositionalEmbedding(nn.Module):
    """Adds learned embeddings of place and time; a shorter input uses those of the first times."""

    def __init__(self, dim: int, grid: Sequence[int]):
        super().__init__()
        x, y, z, t = grid
        self.pos_embed = nn.Parameter(torch.zeros(1, dim, x, y, z, 1))
        self.time_embed = nn.Parameter(torch.zeros(1, dim, 1, 1, 1, t))
        for embedding in (self.pos_embed, self.time_embed):
            # On `meta`, there are no values to draw, but torch 2.11 imports its compiler to draw
            # them: 1 s on a fast machine, 5 s on a slow one.
            if not embedding.is_meta:
                nn.init.trunc_normal_(embedding, std=0.02)

    def table(self, n_times: int) -> Tensor:
        """Return the sum of both embeddings, (x, y, z, t, C)."""
        place = self.pos_embed[0].permute(1, 2, 3, 4, 0).contiguous()  # (x, y, z, 1, C)
        return place + self.time_embed[0, ..., :n_times].permute(1, 2, 3, 4, 0).contiguous()

    def forward(self, x: Tensor) -> Tensor:  # (B, x, y, z, t, C)
        return x + self.table(x.shape[4])


class PatchMerging(nn.Module):
    """Merges 2x2x2 neighbouring tokens in space, not in time: C -> `c_multiplier` * C."""

    def __init__(self, dim: int, c_multiplier: int):
        super().__init__()
        self.norm = nn.LayerNorm(8 * dim)
        self.reduction = nn.Linear(8 * dim, c_multiplier * dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        b, nx, ny, nz, t, c = x.shape
        x = x.view(b, nx // 2, 2, ny // 2, 2, nz // 2, 2, t, c)
        x = self.norm(x.permute(0, 1, 3, 5, 7, 2, 4, 6, 8).flatten(5))
        return linear(x, self.reduction)


class Stage(nn.Module):
    """Alternating unshifted and shifted blocks, then patch merging."""

    def __init__(self, blocks: Sequence[Block], downsample: PatchMerging | None):
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.downsample = downsample
        #: Whether to compute activations again for the gradients, to save memory.
        self.activation_checkpointing = False

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            if self.activation_checkpointing and torch.is_grad_enabled():
                x = checkpoint(block, x, use_reentrant=False)
            else:
                x = block(x)
        return x if self.downsample is None else self.downsample(x)


class Skeleton(nn.Module, ABC):
    """A 4D network of windows; a subclass says what its blocks do within a window.

    Parameters
    ----------
    img_size, patch_size
        (x, y, z, t) of the input and of a patch, in voxels and volumes.
    in_chans, embed_dim, depths, num_heads, c_multiplier
        Input channels, width of the first stage, blocks and heads of each stage, factor by which
        the width grows from stage to stage.
    window_size, first_window_size
        4D windows in tokens; the second applies to the first stage.
    mlp_ratio, qkv_bias, drop_rate, attn_drop_rate, drop_path_rate
        As in the original; the rates have an effect in training mode only.
    last_layer_full_MSA
        Whether the last stage has no shifted blocks. The name suggests attention over all of space
        and time. One window does cover the 2x2x2 grid, but the original divides time into windows
        here, too, and the released weights were trained in this way.

    Raises
    ------
    ValueError
        The sizes cannot be divided into patches and merged.
    """

    #: Name of the network, for messages and sidecars.
    title: ClassVar[str]
    #: Whether blocks separate tokens that the shift brings together from opposite ends of the grid.
    cut: ClassVar[bool]
    #: Settings that have no effect and may be missing.
    unused: ClassVar[frozenset[str]] = frozenset()
    #: Variant as which its weights were loaded; None if unknown.
    variant: str | None = None

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
                f"img_size {tuple(img_size)} cannot be divided into patches of {tuple(patch_size)} "
                f"and merged {len(depths) - 1} times; choose multiples"
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
            blocks = [
                self.make_block(
                    dim,
                    heads,
                    window=first_window_size if stage == 0 else window_size,
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
        self.n_features = dim

    @staticmethod
    @abstractmethod
    def make_mixer(
        dim: int, heads: int, qkv_bias: bool, attn_drop: float, drop: float
    ) -> dict[str, nn.Module]:
        """Make what mixes the tokens of a window, under its name in checkpoints."""

    @classmethod
    def make_block(
        cls,
        dim: int,
        heads: int,
        *,
        window: Sequence[int],
        shifted: bool,
        mlp_ratio: float,
        qkv_bias: bool,
        drop: float,
        attn_drop: float,
        drop_path: float,
    ) -> Block:
        """Make one block of this network."""
        mixer = cls.make_mixer(dim, heads, qkv_bias, attn_drop, drop)
        return Block(mixer, dim, window, shifted, mlp_ratio, drop, drop_path, cls.cut)

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        revision: str | None = None,
        random_weights: bool = False,
    ) -> Self:
        """Load the weights of a Hub bundle, a folder or a file into a network in evaluation mode.

        Parameters
        ----------
        name_or_path, revision, random_weights
            As for `swift_bids.from_pretrained`, but no variant.

        Raises
        ------
        UsageError
            The weights do not exist, or are those of another network.
        """
        random = None if random_weights else False
        weights = find_weights(str(name_or_path), random=random, revision=revision)
        return cls.from_file(weights.file)

    @classmethod
    def from_file(cls, file: str | Path, device: str = "cpu") -> Self:
        """As `swift_bids.network.load.network_from_file`, but for the weights of this network."""
        return cls.from_weights(read_backbone(file, lambda names: cls)).to(device)

    @classmethod
    def from_weights(cls, weights: BackboneWeights) -> Self:
        """Put weights into a network in evaluation mode."""
        network = cls(**weights.config).float()
        network.load_state_dict(network.state_dict() | weights.state)
        return network.eval()

    def checkpoint_activations(self, on: bool) -> None:
        """Choose whether gradients compute activations again, which saves memory and takes time."""
        for stage in self.layers:
            cast(Stage, stage).activation_checkpointing = on

    def forward(self, x: Tensor) -> Tensor:
        """Turn (B, in_chans, X, Y, Z, T), T up to `img_size[3]`, into tokens (B, C, x, y, z, t)."""
        expected = (self.in_chans, *self.img_size)
        if x.ndim != 6 or x.shape[1:5] != expected[:4] or not 1 <= x.shape[5] <= expected[4]:
            raise ValueError(
                f"the input must be (B, {', '.join(map(str, expected[:4]))}, 1 to {expected[4]}), "
                f"not {tuple(x.shape)}"
            )
        if kernel := compiled.kernel_for(self, x):
            return compiled.forward(kernel, self, x)
        first, *others = self.pos_embeds
        x = self.layers[0](self.pos_drop(self.patch_embed(x, first)))  # (B, x, y, z, t, C)
        for position, layer in zip(others, self.layers[1:]):
            x = layer(self.pos_drop(position(x)))
        return x.permute(0, 5, 1, 2, 3, 4)
