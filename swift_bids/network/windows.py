"""Token grid + window + shift -> the pieces of the grid within which tokens are mixed.

The original Swin code rolls the token grid, cuts it into windows and adds -100 to the attention
score of every pair of tokens that the roll brought together from opposite ends of the grid. Such a
pair has weight e^-100 = 4e-44, which is nothing in float32. This module instead cuts each window
along those seams beforehand, and attention stays within a piece: no roll, no mask, fewer pairs.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np


@dataclass(frozen=True)
class Pieces:
    """All pieces of one size.

    Attributes
    ----------
    index
        int64 (piece, token of the piece): positions in the flattened (C-order) grid. -1 marks a
        token that only pads an axis to a multiple of the window; its features are zeros, and it
        takes part, as in the originals.
    padded
        Whether the index contains -1.
    """

    index: np.ndarray
    padded: bool


@lru_cache(maxsize=64)
def window_pieces(
    grid: tuple[int, ...], window: tuple[int, ...], shift: tuple[int, ...], cut: bool = True
) -> tuple[Pieces, ...]:
    """Cut a token grid into the pieces within which tokens are mixed.

    Parameters
    ----------
    grid
        Tokens along (x, y, z, t).
    window, shift
        Window size and shift along the same axes, in tokens.
    cut
        Whether to cut the windows along the seams; False: each piece is a whole window, with its
        tokens in C order of the rolled grid.

    Returns
    -------
    tuple of Pieces
        One entry per size of piece, the largest first.
    """
    padded = [math.ceil(g / w) * w for g, w in zip(grid, window)]
    flat = np.full(padded, -1, dtype=np.int64)
    flat[tuple(slice(g) for g in grid)] = np.arange(math.prod(grid)).reshape(grid)
    flat = np.roll(flat, [-s for s in shift], axis=range(len(grid)))

    # Tokens that the roll moved across the end of an axis get a different label for that axis.
    seams = [np.arange(p) >= p - s * cut for p, s in zip(padded, shift)]
    labels = sum(
        seam.astype(np.int64).reshape([-1 if a == axis else 1 for a in range(len(grid))]) << axis
        for axis, seam in enumerate(seams)
    )

    def by_window(values: np.ndarray) -> np.ndarray:
        """(x, y, z, t) -> (window, token of the window)."""
        split = list(itertools.chain(*((p // w, w) for p, w in zip(padded, window))))
        n = len(grid)
        order = [2 * a for a in range(n)] + [2 * a + 1 for a in range(n)]
        return values.reshape(split).transpose(order).reshape(-1, math.prod(window))

    pieces: dict[int, list[np.ndarray]] = {}
    for tokens, label in zip(by_window(flat), by_window(np.broadcast_to(labels, padded))):
        for value in np.unique(label):
            piece = tokens[label == value]
            if (piece >= 0).any():
                pieces.setdefault(len(piece), []).append(piece)
    stacked = {size: np.stack(pieces[size]) for size in sorted(pieces, reverse=True)}
    return tuple(Pieces(index, bool((index < 0).any())) for index in stacked.values())
