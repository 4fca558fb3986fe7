"""What can be known before any run is read: are weights, device and atlas usable?"""

from __future__ import annotations

from pathlib import Path

from swift_bids.base.errors import InputError, UsageError
from swift_bids.geometry.frames import MODEL_SHAPE
from swift_bids.geometry.resample_time import CHUNK_VOLUMES
from swift_bids.steps.parcels import read_atlas


def check_atlas(atlas_file: Path) -> None:
    """Refuse an atlas that cannot be used, before any run is read.

    Raises
    ------
    UsageError
        As `swift_bids.steps.parcels.read_atlas` says it.
    """
    if atlas_file.exists() and not atlas_file.is_file():  # a pipe would keep us waiting
        raise UsageError(f"--atlas: {atlas_file} is no file that can be read; give an image")
    try:
        read_atlas(atlas_file)
    except InputError as error:
        raise UsageError(f"--atlas: {error}") from error


def check_network(weights_file: str, device: str, precision: str) -> tuple[str, list[str]]:
    """Check that the network can be loaded and can run as asked.

    It runs in a worker, so that the process that waits for the workers need not import torch.

    Parameters
    ----------
    weights_file
        As `swift_bids.network.checkpoint.read_backbone` takes it.
    device, precision
        `--device` and `--precision`.

    Returns
    -------
    device : str
        `cpu`, `cuda` or `cuda:N`.
    notes : list of str
        What the user should know.

    Raises
    ------
    UsageError
        Wrong weights, or a device that is not there or cannot do that.
    """
    from swift_bids.network.checkpoint import read_backbone
    from swift_bids.network.precision import at_precision
    from swift_bids.network.swift import SwiFT
    from swift_bids.steps.embed import choose_device

    backbone = read_backbone(weights_file, SwiFT)
    reads = [backbone.config["in_chans"], *backbone.config["img_size"]]
    if reads != [1, *MODEL_SHAPE, CHUNK_VOLUMES]:
        raise UsageError(
            f"{weights_file}: this network reads {' x '.join(map(str, reads))} values, not the 1 x "
            f"96 x 96 x 96 x 20 of the released ones; the app cannot make its input"
        )
    notes = []
    if backbone.unused:
        notes.append(f"weights: not part of the features, left out: {', '.join(backbone.unused)}")
    chosen, warning = choose_device(device)
    if warning:
        notes.append(warning)
    at_precision(precision, chosen)
    return chosen, notes
