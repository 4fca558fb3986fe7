"""One image and its brain mask -> its embeddings, without BIDS, nipype or output files."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from nibabel.spatialimages import SpatialImage
from torch import Tensor, nn

from swift_bids.base.backbones import (
    BACKBONES,
    CHUNK_VOLUMES,
    DEFAULT_VARIANT,
    QUANTISATIONS,
    feature_names,
)
from swift_bids.base.errors import InputError, UsageError
from swift_bids.geometry.frames import FRAMES
from swift_bids.geometry.grid import is_fsl_grid
from swift_bids.geometry.resample_time import Series, model_repetition_time, refuse_too_short
from swift_bids.inputs.bold_reader import open_bold
from swift_bids.inputs.brain_mask import functional_mask
from swift_bids.inputs.given_images import given_image
from swift_bids.inputs.transforms import GridWarp
from swift_bids.network.device import choose_devices
from swift_bids.network.given import device_name, network_of, variant_of
from swift_bids.network.precision import PRECISIONS
from swift_bids.steps.aggregate import aggregate
from swift_bids.steps.bold_points import SPLINE_ORDER
from swift_bids.steps.chunk import SHORT_RUNS, TAILS, plan_chunks
from swift_bids.steps.chunk_queue import QueuedRun
from swift_bids.steps.crop import crop
from swift_bids.steps.embed import ModelInput, embed_chunks
from swift_bids.steps.locate_warped import locate_warped
from swift_bids.steps.normalise import normalise
from swift_bids.steps.volume_signals import Volumes
from swift_bids.steps.z_scores import (
    METHODS,
    STATISTICS,
    check_quantisation,
    check_statistics,
)

#: Longest TR in s; a larger number is one of milliseconds.
_MAX_TR = 30


@dataclass(frozen=True)
class ImageEmbedding:
    """Embeddings of one image.

    Attributes
    ----------
    chunks
        One row per chunk, as in the app's `timeseries.tsv`, but without motion.
    tokens
        (chunk, 288, 2, 2, 2, 20) float32, axes chunk, feature, x, y, z, t.
    embedding
        (288,) float32, the mean over tokens and chunks.
    affine
        Voxel-to-world affine (4, 4) of the 96 x 96 x 96 input, in mm.
    matrix, index, background
        Components of the network's input: z-scores (volume, brain voxel), flat C-order positions
        of the voxels in 96^3, and the value of all other voxels.
    variant, frame, quantisation
        How the network read the image.
    """

    chunks: pd.DataFrame
    tokens: np.ndarray
    embedding: np.ndarray
    affine: np.ndarray
    matrix: np.ndarray
    index: np.ndarray
    background: float
    variant: str
    frame: str
    quantisation: str

    def volumes(self, chunk: int) -> Tensor:
        """Return the network's input for one chunk: (1, 1, 96, 96, 96, 20) float32."""
        starts = self.chunks["model_start"].tolist()
        n_volumes = BACKBONES[self.variant].network.chunk_volumes
        run = QueuedRun(self.matrix, self.index, starts, self.background, chunk_volumes=n_volumes)
        return ModelInput(1, n_volumes=n_volumes).fill([run], [run.read_rows(chunk)])


def embed(
    bold: str | Path | SpatialImage | np.ndarray,
    mask: str | Path | SpatialImage | np.ndarray,
    *,
    tr: float,
    affine: np.ndarray | None = None,
    weights: str | Path | nn.Module | Mapping[str, Tensor] | None = None,
    variant: str | None = None,
    frame: str = "auto",
    interpolation: str = "cubic",
    normalisation: str = "global",
    quantisation: str = "auto",
    statistics: str = "mask",
    robust_normalisation: bool = False,
    dummy_scans: int = 0,
    target_tr: str | float = "auto",
    chunk_stride: int = CHUNK_VOLUMES,
    tail: str = "drop",
    short_runs: str = "skip",
    device: str | int | torch.device | None = "auto",
    precision: str = "float32",
    batch_size: int | None = None,
    random_weights: bool = False,
) -> ImageEmbedding:
    """Embed a preprocessed BOLD image with the same steps as the app, by SwiFT or NeuroSTORM.

    Parameters
    ----------
    bold, mask
        4D BOLD and 3D brain mask on the same grid in MNI space, as files, images of nibabel or
        arrays.
    tr
        Repetition time in s.
    affine
        Voxel-to-world affine (4, 4) in mm, for arrays.
    weights
        As for `swift_bids.network.given.network_of`; None: the Hub bundle of `variant`.
    variant
        `contrastive`, `hcp-sex` or `neurostorm-mae`. None: that of the weights if they come from
        `swift_bids.from_pretrained` and are a variant or its Hub bundle, else `contrastive` for
        SwiFT and `neurostorm-mae` for NeuroSTORM.
    frame
        `auto` (the variant's), `hcp`, `ukb` or `neurostorm`.
    dummy_scans
        Volumes to omit at the start.
    interpolation, normalisation, quantisation, statistics, robust_normalisation
        Same as the app's flags.
    target_tr, chunk_stride, tail
        Same as the app's flags.
    short_runs
        Same as the app's flag.
    device
        Same as the app's flag, or a device of torch; a number is that of a GPU, None is `auto`.
    precision, batch_size
        Same as the app's flags.
    random_weights
        Whether to accept a bundle of random weights.

    Raises
    ------
    UsageError
        The weights or the device do not exist, or a setting is not valid.
    InputError
        The images cannot be read, are not on the same grid, or are too short.
    """
    for choice, choices in (
        (variant or DEFAULT_VARIANT, BACKBONES),
        (frame, ("auto", *FRAMES)),
        (interpolation, SPLINE_ORDER),
        (normalisation, METHODS),
        (quantisation, QUANTISATIONS),
        (statistics, STATISTICS),
        (tail, TAILS),
        (short_runs, SHORT_RUNS),
        (precision, PRECISIONS),
    ):
        if choice not in choices:
            raise UsageError(f"{choice!r} is not valid; choose one of {', '.join(choices)}")
    check_statistics(statistics, normalisation)
    limits: tuple[tuple[str, Any, float, float], ...] = (
        ("tr", tr, 0.05, _MAX_TR),
        ("target_tr", tr if target_tr in ("auto", "native") else target_tr, 0.05, _MAX_TR),
        ("dummy_scans", dummy_scans, 0, math.inf),
        ("chunk_stride", chunk_stride, 1, math.inf),
        ("batch_size", 1 if batch_size is None else batch_size, 1, math.inf),
    )
    for name, number, least, most in limits:
        is_time = name in ("tr", "target_tr")
        right_type = isinstance(number, Real if is_time else Integral)
        if not right_type or not least <= number <= most:
            whole = f"a whole number of at least {least:g}"
            kind = f"it in seconds, {least} to {most}" if is_time else whole
            raise UsageError(f"{name} is {number!r}; give {kind}")
    torch_device = choose_devices(device_name(device))[0][0]
    source = (variant or DEFAULT_VARIANT) if weights is None else weights
    network = network_of(source, random_weights).to(torch_device)
    variant = variant_of(network, variant)
    backbone, quantisation = BACKBONES[variant], check_quantisation(quantisation, variant)
    chosen_frame = FRAMES[backbone.frame if frame == "auto" else frame]
    with tempfile.TemporaryDirectory() as folder:
        given = [
            given_image(image, name, Path(folder, f"{name}.nii"), affine)
            for name, image in (("bold", bold), ("mask", mask))
        ]
        try:
            files = [image.file for image in given]
            with open_bold(files[0]) as image:
                n_volumes, same_grid = image.shape[3], is_fsl_grid(image.shape[:3], image.affine)
            points = None
            if not same_grid:
                warp = GridWarp(interpolation=interpolation)
                own_mask = functional_mask(str(files[1]))
                located, points = locate_warped(files[0], own_mask, warp, chosen_frame)
                files[1] = Path(folder, "located.nii")
                located.to_filename(files[1])
            model_tr = model_repetition_time(str(target_tr), tr, backbone.time)
            series = Series.of_run(n_volumes, tr, dummy_scans, model_tr, backbone)
            refuse_too_short(series, short_runs)
            normalised = normalise(
                files[0],
                files[1],
                chosen_frame,
                series,
                Path(folder) / "matrix.npy",
                normalisation,
                statistics,
                points=points,
                robust=robust_normalisation,
                volume_file=Path(folder) / "volumes.npz",
                quantisation=quantisation,
            )
            chunks = plan_chunks(
                series,
                faults=Volumes.load(Path(folder) / "volumes.npz").faults,
                stride=chunk_stride,
                tail=tail,
                short_runs=short_runs,
            )
            crop(files[1], chosen_frame, Path(folder) / "index.npy")
        except InputError as error:  # it names files that are not the user's
            reason = str(error)
            for used in given:
                reason = reason.replace(str(used.file), used.name)
            raise InputError(reason) from error
        matrix, index = (np.load(Path(folder) / name) for name in ("matrix.npy", "index.npy"))
    was_training = network.training
    try:
        tokens = embed_chunks(
            matrix,
            index,
            chunks["model_start"].tolist(),
            normalised.background,
            network.eval(),
            batch_size,
            precision,
            chunk_volumes=series.chunk_volumes,
        )
    finally:
        network.train(was_training)
    embeddings = aggregate(tokens, chunks, backbone.network.label)
    names = feature_names(backbone.network.label, tokens.shape[1])
    return ImageEmbedding(
        chunks=embeddings.chunks.drop(columns=["mean_fd", "censored", "included"]),
        tokens=tokens,
        embedding=embeddings.run[names].to_numpy(np.float32)[0],
        affine=chosen_frame.affine,
        matrix=matrix,
        index=index,
        background=normalised.background,
        variant=variant,
        frame=chosen_frame.name,
        quantisation=quantisation,
    )
