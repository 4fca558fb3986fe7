"""Samples of Brainmarks (arXiv:2510.13768) -> chunks as the app makes them -> tokens.

A sample is a run in the voxels of the template's brain: `bold` (volume, 228,483 voxels), z-scored
over time, with the `mean` and `std` of each voxel, and its `tr`. The voxels are those of the mask
of MNI152NLin6Asym at 2 mm, in C order of (z, y, x), with x to the right.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from swift_bids.base.backbones import BACKBONES
from swift_bids.geometry.frames import FRAMES, FSL_SHAPE, MODEL_SHAPE
from swift_bids.geometry.grid import template_brain
from swift_bids.geometry.resample_time import Series, model_repetition_time, resample
from swift_bids.network.load import from_pretrained
from swift_bids.network.skeleton import Skeleton
from swift_bids.steps.chunk import chunk_rows
from swift_bids.steps.voxel_statistics import VoxelMoments
from swift_bids.steps.z_scores import METHODS, ZScores, check_quantisation

#: Chunks of a sample, as in Brainmarks' own wrappers of these networks.
_MAX_CHUNKS = 8


class Transform:
    """Turns a sample into the chunks that a network reads.

    Parameters
    ----------
    variant, frame, normalisation, quantisation
        As for `swift_bids.embed`; mean and standard deviation of each voxel are restored first.
    max_chunks
        Most chunks of a sample; they follow each other from its start.

    Attributes
    ----------
    index
        (voxel in the frame,) flat C-order positions in the 96^3 input.
    """

    def __init__(
        self,
        variant: str,
        frame: str = "auto",
        normalisation: str = "global",
        quantisation: str = "auto",
        max_chunks: int = _MAX_CHUNKS,
    ):
        if normalisation not in METHODS:
            raise ValueError(f"normalisation is {normalisation!r}; choose {' or '.join(METHODS)}")
        self._backbone, self._max_chunks = BACKBONES[variant], max_chunks
        self._method = normalisation
        self._is_quantised = check_quantisation(quantisation, variant) == "int8"
        self._columns, self.index = voxels_in_frame(
            self._backbone.frame if frame == "auto" else frame
        )

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        """Return the sample with `bold` (chunk, volume, voxel) and `background` (1,), without
        `mean` and `std`; other entries, such as the target, stay.

        A sample that is shorter than a chunk is filled up by reflection; volumes after the last
        whole chunk are left out.
        """
        rows = (sample["bold"] * sample["std"] + sample["mean"]).numpy()[:, self._columns]
        rows = rows.astype(np.float32)
        tr = float(sample["tr"])
        model_tr = model_repetition_time("auto", tr, self._backbone.time)
        series = Series.of_run(len(rows), tr, 0, model_tr, self._backbone)
        rows[rows == 0] = np.nan
        values = np.concatenate(list(resample([rows], series)))
        moments = VoxelMoments(len(self.index))
        moments.add(values)
        z_scores = ZScores(moments, self._method, limits=moments if self._is_quantised else None)
        matrix = z_scores.apply(values)
        n_volumes = series.chunk_volumes
        starts = range(0, max(1, len(matrix) - n_volumes + 1), n_volumes)[: self._max_chunks]
        chunks = [matrix[chunk_rows(start, len(matrix), n_volumes)] for start in starts]
        others = {key: value for key, value in sample.items() if key not in ("mean", "std")}
        return others | {
            "bold": torch.from_numpy(np.stack(chunks)),
            "background": torch.tensor([float(z_scores.background)]),
        }


class Encoder(nn.Module):
    """Turns chunks into tokens.

    Parameters
    ----------
    network
        SwiFT or NeuroSTORM.
    index
        From `Transform`.
    """

    __space__ = "mni"

    def __init__(self, network: Skeleton, index: np.ndarray):
        super().__init__()
        self.network = network
        self.index: Tensor
        self.register_buffer("index", torch.from_numpy(index), persistent=False)

    def tokens(self, batch: dict[str, Tensor]) -> Tensor:
        """Return (sample, token, feature) of a batch of transformed samples.

        The tokens of a sample are in the order chunk, x, y, z, t.
        """
        is_trained = any(parameter.requires_grad for parameter in self.network.parameters())
        with torch.set_grad_enabled(is_trained and torch.is_grad_enabled()):
            # one sample at a time: the input of a chunk takes 71 MB, its brain voxels 9 MB
            found = [
                self.network(self._volumes(chunks.to(self.index.device), float(value))).float()
                for chunks, value in zip(batch["bold"], batch["background"])
            ]
        tokens = torch.stack(found)  # (sample, chunk, feature, x, y, z, t)
        return tokens.movedim(2, -1).flatten(1, 5)

    def _volumes(self, chunks: Tensor, background: float) -> Tensor:
        """Chunks (chunk, volume, voxel) -> the network's input."""
        n_chunks, n_volumes, _ = chunks.shape
        shape = (n_chunks, math.prod(MODEL_SHAPE), n_volumes)
        volumes = torch.full(shape, background, device=chunks.device)
        volumes[:, self.index] = chunks.transpose(1, 2).float()
        return volumes.view(n_chunks, 1, *MODEL_SHAPE, n_volumes)


def voxels_in_frame(frame: str) -> tuple[np.ndarray, np.ndarray]:
    """Find the voxels of a sample that are in a frame.

    Returns
    -------
    columns : numpy.ndarray
        Their numbers in the sample.
    index : numpy.ndarray
        Their flat C-order positions in the 96^3 input.
    """
    # (z, y, x) with x to the right; the FSL grid is (x, y, z) with x to the left
    z, y, right = np.nonzero(template_brain()[::-1].T)
    inside, places = FRAMES[frame].place(np.stack([FSL_SHAPE[0] - 1 - right, y, z]))
    return np.flatnonzero(inside), np.ravel_multi_index(tuple(places), MODEL_SHAPE)


def make_model(
    variant: str,
    wrapper: Callable[[Skeleton, np.ndarray], nn.Module],
    weights: str | Path | None = None,
    random_weights: bool = False,
    **settings: Any,
) -> tuple[Transform, nn.Module]:
    """Make the transform and the frozen model of a variant, for Brainmarks.

    Parameters
    ----------
    wrapper
        Makes the model of a network and the `index` of the transform.
    weights, random_weights
        As for `swift_bids.from_pretrained`; None: the Hub bundle of the variant.
    settings
        As for `Transform`.
    """
    transform = Transform(variant, **settings)
    network = from_pretrained(variant if weights is None else weights, None, random_weights)
    return transform, wrapper(network.requires_grad_(False), transform.index)
