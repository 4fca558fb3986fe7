"""Weights of either network -> the network, in evaluation mode."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch

from swift_bids.base.backbones import BACKBONES, DEFAULT_VARIANT, Network
from swift_bids.base.errors import UsageError
from swift_bids.network.checkpoint import read_backbone
from swift_bids.network.known_weights import HUB_IDS, REGISTRY
from swift_bids.network.neurostorm import NeuroSTORM
from swift_bids.network.released import RELEASED_CONFIG
from swift_bids.network.skeleton import Skeleton
from swift_bids.network.stored_weights import split_choice
from swift_bids.network.swift import SwiFT
from swift_bids.network.weights import find_weights


def from_pretrained(
    name_or_path: str | Path, revision: str | None = None, random_weights: bool = False
) -> Skeleton:
    """Load the weights of a Hub bundle, a folder or a file into a network in evaluation mode.

    Parameters
    ----------
    name_or_path
        Hub id such as `ilex-hub/swift.contrastive.1`, a variant such as `contrastive`, a folder
        with `model.safetensors` and `config.json`, that `.safetensors` file, or a checkpoint;
        `FILE@NETWORK` chooses one of several networks in a file.
    revision
        Branch, tag or commit of a Hub bundle.
    random_weights
        Whether to accept a bundle of random weights, or to make some for a variant.

    Returns
    -------
    SwiFT or NeuroSTORM
        The network whose tensors the file contains.

    Raises
    ------
    UsageError
        The weights do not exist, or are not those of a network that the app knows.
    """
    source = str(name_or_path)
    is_variant = source in HUB_IDS
    if is_variant and random_weights:
        return random_network(source)
    if not is_variant and "/" not in source and not Path(split_choice(source)[0]).exists():
        raise UsageError(
            f"{source}: is neither a file or folder nor a variant; the variants are "
            f"{', '.join(BACKBONES)}"
        )
    weights = find_weights(
        None if is_variant else source,
        source if is_variant else DEFAULT_VARIANT,
        random=None if random_weights else False,
        revision=revision,
    )
    network = network_from_file(weights.file)
    bundle = REGISTRY.get(source.partition("@")[0], {})
    network.variant = source if is_variant else bundle.get("variant")
    return network


def network_from_file(file: str | Path, device: str = "cpu") -> Skeleton:
    """Load the weights of a file into a network in evaluation mode.

    Parameters
    ----------
    file
        As for `swift_bids.network.checkpoint.read_backbone`.
    device
        Device on which to put the network.

    Raises
    ------
    UsageError
        The file does not contain the weights of a network that the app knows.
    """
    weights = read_backbone(file, class_with)
    return weights.network.from_weights(weights).to(device)


def random_network(variant: str, seed: int = 0) -> Skeleton:
    """Make the network of a variant with random weights, in evaluation mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = class_of(BACKBONES[variant].network)(**RELEASED_CONFIG)
    network.variant = variant
    return network.eval()


def class_of(network: Network) -> type[Skeleton]:
    """Return the class of a network."""
    return {kind.title: kind for kind in (SwiFT, NeuroSTORM)}[network.title]


def class_with(names: Iterable[str]) -> type[Skeleton]:
    """Return the class whose tensors have these names: NeuroSTORM has Mambas."""
    return NeuroSTORM if any(".mamba." in name for name in names) else SwiFT
