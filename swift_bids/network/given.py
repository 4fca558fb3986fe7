"""What a notebook gives as weights and as device -> a network and the name of a device."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from swift_bids.base.backbones import BACKBONES
from swift_bids.base.errors import UsageError
from swift_bids.network.checkpoint import check_backbone, choose_network
from swift_bids.network.load import class_with, from_pretrained
from swift_bids.network.skeleton import Skeleton


def network_of(weights: Any, random_weights: bool = False) -> Skeleton:
    """Return the network that a notebook gives as weights.

    Parameters
    ----------
    weights
        A SwiFT or NeuroSTORM network; a module that contains just one, such as torch.compile,
        DataParallel or a LightningModule make; a state_dict of a released architecture; or anything
        that `swift_bids.from_pretrained` accepts.
    random_weights
        Whether to accept a bundle of random weights.

    Raises
    ------
    UsageError
        There is no network, there are several, or it is not in float32.
    """
    if isinstance(weights, (str, Path)):
        return from_pretrained(weights, random_weights=random_weights)
    if isinstance(weights, Mapping):
        tensors = {str(name): value for name, value in weights.items()}
        if not all(isinstance(value, torch.Tensor) for value in tensors.values()):
            raise UsageError("weights is a dictionary, but not a state_dict of tensors")
        named, unused = choose_network(tensors, None, "weights")
        checked = check_backbone("weights", named, None, class_with, unused=unused)
        return checked.network.from_weights(checked)
    if not isinstance(weights, nn.Module):
        raise UsageError(
            f"weights is {type(weights).__name__}; give a network, its state_dict, a Hub id, "
            f"a folder or a file"
        )
    found = [module for module in weights.modules() if isinstance(module, Skeleton)]
    if len(found) != 1:
        raise UsageError(
            f"weights: this {type(weights).__name__} contains {len(found)} networks of SwiFT "
            f"or NeuroSTORM; give one"
        )
    kinds = {parameter.dtype for parameter in found[0].parameters()} - {torch.float32}
    if kinds:
        raise UsageError(
            f"weights: the network is in {str(kinds.pop()).removeprefix('torch.')}; give "
            f"network.float(), and choose the number format with precision="
        )
    return found[0]


def variant_of(network: Skeleton, variant: str | None) -> str:
    """Return the variant of a network.

    Parameters
    ----------
    variant
        What the user says it is; None: what its weights were loaded as, else the first variant of
        this network.

    Raises
    ------
    UsageError
        The variant is one of another network.
    """
    of_network = [v for v, b in BACKBONES.items() if b.network.title == network.title]
    chosen = variant or network.variant or of_network[0]
    if chosen not in of_network:
        raise UsageError(
            f"variant {chosen!r} is not one of {network.title}; choose {' or '.join(of_network)}"
        )
    return chosen


def device_name(device: str | int | torch.device | None) -> str:
    """Return a device as `--device` names it: a GPU for a number, `auto` for None."""
    if device is None:
        return "auto"
    if isinstance(device, int):
        return f"cuda:{device}"
    return "cpu" if str(device).startswith("cpu") else str(device)
