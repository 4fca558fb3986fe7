"""A weights file -> constructor arguments, and tensors under the names of the original.

It reads two formats: a bundle's `model.safetensors` with its `config.json` (written by ilex, a JAX
port), and the original Lightning `.ckpt`. It checks every name and every shape.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swift_bids.base.errors import UsageError
from swift_bids.base.files import read_json

if TYPE_CHECKING:
    import torch
    from torch import nn

#: Constructor arguments that a weights file must contain.
_CONFIG_KEYS = (
    "img_size",
    "in_chans",
    "embed_dim",
    "window_size",
    "first_window_size",
    "patch_size",
    "depths",
    "num_heads",
    "c_multiplier",
    "last_layer_full_MSA",
)
#: Layers after the backbone, which the embedding does not need.
_HEAD = re.compile(r"^(?:head|output_head|clf|emb_mlp)\b")


@dataclass(frozen=True)
class Backbone:
    """Content of a weights file.

    Attributes
    ----------
    config
        Constructor arguments of the network.
    state
        Tensors under the names of the original.
    about
        Origin of the weights, as `swift_bids.network.bundles.write_bundle` records it.
    unused
        Names of tensors in the file that do not affect the embedding.
    """

    config: dict[str, Any]
    state: dict[str, torch.Tensor]
    about: dict[str, Any]
    unused: tuple[str, ...]


def read_backbone(file: str | Path, network: Callable[..., nn.Module]) -> Backbone:
    """Read a weights file and check every name and shape against the network it describes.

    Parameters
    ----------
    file
        `.safetensors` with its `config.json` beside it, or an original `.ckpt`.
    network
        Class of the network, which is called with the file's constructor arguments.

    Raises
    ------
    UsageError
        The file cannot be read, or a tensor is missing, unexpected, not finite or of the wrong
        shape.
    """
    import torch

    file = Path(file)
    config, about = read_config(file)
    try:
        with torch.device("meta"):  # names and shapes only
            expected = network(**config).state_dict()
    except (TypeError, ValueError, RuntimeError, IndexError, ArithmeticError) as error:
        raise UsageError(
            f"{file}: its configuration does not describe a SwiFT network ({error})"
        ) from error
    tensors = read_tensors(file)
    # The original has a final norm, but its features do not pass through it.
    missing = [n for n in expected if n not in tensors and not n.startswith("norm.")]
    unused = [n for n in tensors if n not in expected and _HEAD.match(n)]
    unexpected = [n for n in tensors if n not in expected and n not in unused]
    shapes = [
        f"{n} {tuple(tensors[n].shape)} instead of {tuple(expected[n].shape)}"
        for n in expected
        if n in tensors and tensors[n].shape != expected[n].shape
    ]
    if missing or unexpected or shapes:
        problems = {"missing": missing, "unexpected": unexpected, "wrong shape": shapes}
        lists = [f"{kind}: {', '.join(names)}" for kind, names in problems.items() if names]
        raise UsageError(
            f"{file}: does not contain the weights of a SwiFT backbone ({'; '.join(lists)})"
        )
    state = {n: tensors[n] for n in expected if n in tensors}
    not_finite = [n for n, t in state.items() if not bool(t.isfinite().all())]
    if not_finite:
        raise UsageError(
            f"{file}: contains NaN or infinite values in {', '.join(not_finite)}; "
            f"give other weights"
        )
    unused += [n for n in state if n.startswith("norm.")]
    return Backbone(config, state, about, tuple(unused))


def read_config(file: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read the constructor arguments and the origin of a bundle; UsageError without the first."""
    if file.suffix == ".ckpt":
        source, arguments = file, _load_checkpoint(file).get("hyper_parameters", {})
        arguments = vars(arguments) if isinstance(arguments, argparse.Namespace) else arguments
        about: dict[str, Any] = {}
    else:
        source = file.parent / "config.json"
        try:
            content = read_json(source)
            arguments = content["_ilex"]["constructor_kwargs"]
            about = dict(content.get("_swift_bids", {}))
        except FileNotFoundError as error:
            raise UsageError(f"{file}: there is no config.json beside it; add it") from error
        except OSError as error:
            raise UsageError(f"{source}: cannot be read ({error.strerror})") from error
        except (ValueError, KeyError, TypeError) as error:
            raise UsageError(
                f"{source}: does not contain _ilex.constructor_kwargs ({error!r})"
            ) from error
    if not isinstance(arguments, Mapping):
        raise UsageError(f"{source}: contains {arguments!r:.40} instead of the network's settings")
    absent = [key for key in _CONFIG_KEYS if key not in arguments]
    if absent:
        raise UsageError(f"{source}: the network's settings lack {', '.join(absent)}")
    return {key: arguments[key] for key in _CONFIG_KEYS}, about


def read_tensors(file: Path) -> dict[str, torch.Tensor]:
    """Read all tensors of a weights file, under the names of the original.

    Raises
    ------
    UsageError
        The file cannot be read, or contains something other than named tensors.
    """
    return _reference_names(_stored_tensors(file), file)


def _stored_tensors(file: Path) -> dict[str, torch.Tensor]:
    if file.suffix == ".ckpt":
        tensors = _load_checkpoint(file)["state_dict"]
        named = isinstance(tensors, Mapping) and all(isinstance(name, str) for name in tensors)
        if not named or not all(hasattr(tensor, "isfinite") for tensor in tensors.values()):
            raise UsageError(f"{file}: its state_dict contains more than named tensors")
        return dict(tensors)
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise UsageError(f"{file}: is damaged or not a safetensors file ({error})") from error


def _load_checkpoint(file: Path) -> dict[str, Any]:
    """Read a Lightning checkpoint of plain tensors and settings; refuse any other pickle."""
    import torch

    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged bytes make the unpickler raise almost anything
        # torch's own message advises users to run whatever code the file contains
        raise UsageError(
            f"{file}: cannot be read as a checkpoint of plain tensors "
            f"({type(error).__name__}); give an original SwiFT checkpoint or a Hub bundle"
        ) from error
    if not isinstance(content, Mapping) or "state_dict" not in content:
        raise UsageError(f"{file}: contains no state_dict; give an original SwiFT checkpoint")
    return dict(content)


def _reference_names(tensors: dict[str, torch.Tensor], file: Path) -> dict[str, torch.Tensor]:
    """Rename tensors as in the original: no JAX brackets and suffixes, and no common prefix.

    A `kernel` is a JAX matrix (in, out), so it is transposed. The caller checks the shapes.
    """
    plain: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        renamed = re.sub(r"\[(\d+)\]", r".\1", name).replace("/", ".")
        if renamed.endswith(".kernel"):
            tensor = tensor.T
        renamed = re.sub(r"\.(?:kernel|scale)$", ".weight", renamed)
        if renamed in plain:
            raise UsageError(f"{file}: contains two tensors named {renamed}")
        plain[renamed] = tensor
    landmark = "patch_embed.fc.weight"
    prefix = next((n.removesuffix(landmark) for n in plain if n.endswith(landmark)), "")
    return {n.removeprefix(prefix): tensor for n, tensor in plain.items()}
