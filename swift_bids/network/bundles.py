"""Converted checkpoints or random weights -> a folder in the layout of the Hub bundles."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors.torch import save

from swift_bids.base.backbones import DEFAULT_VARIANT
from swift_bids.base.errors import UsageError
from swift_bids.base.files import write_atomically, write_json
from swift_bids.network.checkpoint import read_backbone
from swift_bids.network.known_weights import digests_of
from swift_bids.network.load import class_with, random_network
from swift_bids.network.released import RELEASED_CONFIG
from swift_bids.network.stored_weights import split_choice


def write_bundle(folder: str | Path, config: dict[str, Any], state: dict, **about: Any) -> Path:
    """Write weights in the layout of the Hub bundles.

    Parameters
    ----------
    folder
        Folder in which to write `model.safetensors` and `config.json`.
    config, state
        Constructor arguments, and tensors under the names of the original.
    about
        Origin of the weights, recorded in `config.json` under `_swift_bids`.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    content = {"_ilex": {"constructor_kwargs": config}, "_swift_bids": about}
    # save_file would write files that only their owner can read
    data = save({name: tensor.contiguous() for name, tensor in state.items()})
    write_json(folder / "config.json", content)
    write_atomically(folder / "model.safetensors", lambda file: file.write_bytes(data))
    return folder


def write_random_bundle(folder: str | Path, variant: str = DEFAULT_VARIANT, seed: int = 0) -> Path:
    """Write random weights of a variant's network in the layout of the Hub bundles, and record
    their seed."""
    state = random_network(variant, seed).state_dict()
    return write_bundle(folder, RELEASED_CONFIG, state, random_weights_seed=seed)


def convert_checkpoint(checkpoint: str | Path, folder: str | Path) -> Path:
    """Write the backbone of a checkpoint in the layout of the Hub bundles.

    Raises
    ------
    UsageError
        The checkpoint cannot be read, or the folder already contains weights.
    """
    folder = Path(folder)
    file, choice = split_choice(checkpoint)
    if not file.is_file():
        raise UsageError(f"{checkpoint}: does not exist; give a checkpoint")
    if (folder / "model.safetensors").exists():
        raise UsageError(f"{folder}: already contains model.safetensors; give another folder")
    backbone = read_backbone(checkpoint, class_with)
    origin = {"converted_from": file.name, "original_sha256": digests_of(file).sha256}
    if choice is not None:
        origin["network"] = choice
    return write_bundle(folder, backbone.config, backbone.state, **origin)
