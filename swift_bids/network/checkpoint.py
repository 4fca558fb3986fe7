"""A file of weights -> constructor arguments, and tensors under the names of the original.

Two formats are read: a bundle's `model.safetensors` with its `config.json` (written by ilex, a JAX
port), and the original Lightning `.ckpt`. Nothing is matched silently: every name and every shape
is checked.
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

#: Constructor arguments that the shapes of the weights do not tell.
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
#: Layers behind the backbone; the embedding comes before them, so they are not loaded.
_HEAD = re.compile(r"^(?:head|output_head|clf|emb_mlp)\b")


@dataclass(frozen=True)
class Backbone:
    """Content of a file of weights.

    Attributes
    ----------
    config
        Constructor arguments of the network.
    state
        Tensors under the names of the original.
    about
        Where the weights come from, as `swift_bids.network.bundles.write_bundle` records it.
    unused
        Names of tensors in the file that the embedding does not depend on.
    """

    config: dict[str, Any]
    state: dict[str, torch.Tensor]
    about: dict[str, Any]
    unused: tuple[str, ...]


def read_backbone(file: str | Path, network: Callable[..., nn.Module]) -> Backbone:
    """Read a file of weights and check every name and shape against the network it describes.

    Parameters
    ----------
    file
        `.safetensors` with its `config.json` beside it, or an original `.ckpt`.
    network
        Class of the network; called with the file's constructor arguments.

    Raises
    ------
    UsageError
        A tensor is missing, unexpected, of another shape or not finite, or the file cannot be read.
    """
    import torch

    file = Path(file)
    config, about = read_config(file)
    try:
        with torch.device("meta"):  # names and shapes only
            expected = network(**config).state_dict()
    except (TypeError, ValueError, RuntimeError, IndexError, ArithmeticError) as error:
        raise UsageError(f"{file}: its configuration makes no network ({error})") from error
    found = read_tensors(file)
    # The original holds a final norm that its features do not pass through.
    missing = [n for n in expected if n not in found and not n.startswith("norm.")]
    unused = [n for n in found if n not in expected and _HEAD.match(n)]
    unexpected = [n for n in found if n not in expected and n not in unused]
    shapes = [
        f"{n} {tuple(found[n].shape)} instead of {tuple(expected[n].shape)}"
        for n in expected
        if n in found and found[n].shape != expected[n].shape
    ]
    if missing or unexpected or shapes:
        problems = {"missing": missing, "unexpected": unexpected, "of another shape": shapes}
        said = "; ".join(f"{kind}: {', '.join(names)}" for kind, names in problems.items() if names)
        raise UsageError(f"{file}: these are not the weights of a SwiFT backbone ({said})")
    state = {n: found[n] for n in expected if n in found}
    bad = [n for n, t in state.items() if not bool(t.isfinite().all())]
    if bad:
        raise UsageError(f"{file}: NaN or infinite values in {', '.join(bad)}")
    unused += [n for n in state if n.startswith("norm.")]
    return Backbone(config, state, about, tuple(unused))


def read_config(file: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Constructor arguments, and what a bundle says of its origin; UsageError without the first."""
    if file.suffix == ".ckpt":
        source, known = file, _load_checkpoint(file).get("hyper_parameters", {})
        known = vars(known) if isinstance(known, argparse.Namespace) else known
        about: dict[str, Any] = {}
    else:
        source = file.parent / "config.json"
        try:
            content = read_json(source)
            known = content["_ilex"]["constructor_kwargs"]
            about = dict(content.get("_swift_bids", {}))
        except FileNotFoundError as error:
            raise UsageError(f"{file}: its config.json is missing beside it") from error
        except OSError as error:
            raise UsageError(f"{source}: cannot be read ({error.strerror})") from error
        except (ValueError, KeyError, TypeError) as error:
            raise UsageError(f"{source}: holds no _ilex.constructor_kwargs ({error!r})") from error
    if not isinstance(known, Mapping):
        raise UsageError(f"{source}: says nothing of the network, but {known!r:.40}")
    absent = [key for key in _CONFIG_KEYS if key not in known]
    if absent:
        raise UsageError(f"{source}: does not say {', '.join(absent)} of the network")
    return {key: known[key] for key in _CONFIG_KEYS}, about


def read_tensors(file: Path) -> dict[str, torch.Tensor]:
    """All tensors of a file of weights, under the names of the original.

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
            raise UsageError(f"{file}: its state_dict holds other things than named tensors")
        return dict(tensors)
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise UsageError(f"{file}: is damaged or no safetensors file ({error})") from error


def _load_checkpoint(file: Path) -> dict[str, Any]:
    """Read a Lightning checkpoint as plain tensors and settings; other pickles are refused."""
    import pickle

    import torch

    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        # torch's own words advise to run whatever code the file holds
        raise UsageError(
            f"{file}: is no checkpoint of plain tensors and is not read "
            f"({type(error).__name__}); give an original SwiFT checkpoint or a Hub bundle"
        ) from error
    if not isinstance(content, Mapping) or "state_dict" not in content:
        raise UsageError(f"{file}: holds no state_dict; is it an original SwiFT checkpoint?")
    return dict(content)


def _reference_names(tensors: dict[str, torch.Tensor], file: Path) -> dict[str, torch.Tensor]:
    """Tensors under the names of the original, without JAX's brackets and suffixes and without a
    common prefix.

    A `kernel` is a JAX matrix (in, out) and is transposed; the caller checks the shapes.
    """
    plain: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        known = re.sub(r"\[(\d+)\]", r".\1", name).replace("/", ".")
        if known.endswith(".kernel"):
            tensor = tensor.T
        known = re.sub(r"\.(?:kernel|scale)$", ".weight", known)
        if known in plain:
            raise UsageError(f"{file}: two tensors are named {known}")
        plain[known] = tensor
    landmark = "patch_embed.fc.weight"
    prefix = next((n.removesuffix(landmark) for n in plain if n.endswith(landmark)), "")
    return {n.removeprefix(prefix): tensor for n, tensor in plain.items()}
