"""--weights / --variant -> a file on this machine, its identity, and a loaded backbone.

Three layouts are read: a bundle on the Hugging Face Hub, the same bundle as a local folder or
`.safetensors` file with its `config.json`, and the original Lightning `.ckpt`.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swift_bids.errors import UsageError

if TYPE_CHECKING:
    import torch

    from swift_bids.model import SwiFT

_LOG = logging.getLogger("swift_bids")
#: Hub bundles of the released variants.
HUB_IDS = {
    "contrastive": "ilex-hub/swift.contrastive.1",
    "hcp-sex": "ilex-hub/swift.hcp-sex.1",
}
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
_HUB_ID = re.compile(r"^[\w.-]+/[\w.-]+$")
_REMEDY = (
    "give --weights a Hub id, a folder with model.safetensors and config.json, a .safetensors file "
    "beside its config.json, or an original .ckpt (or --random-weights to try the app without)"
)
#: In a checkpoint beside the backbone; the features come before them, so they are not loaded.
_NOT_BACKBONE = re.compile(r"^(?:head|output_head|clf|emb_mlp)\b")


@dataclass(frozen=True)
class Weights:
    """Weights that were found, and how every output names them.

    Attributes
    ----------
    file
        `.safetensors` or `.ckpt` on this machine, as an absolute path.
    name
        Hub id, or the file's name with its folder's.
    sha256
        Of the file, in hexadecimal.
    random
        Whether they are random numbers, made to try the app without trained weights.
    """

    file: str
    name: str
    sha256: str
    random: bool


def find_weights(
    source: str | None, variant: str, random: bool = False, work_dir: str | Path = "."
) -> Weights:
    """Find the weights that a call asks for; Hub bundles are downloaded once into the Hub's cache.

    Parameters
    ----------
    source
        `--weights`: a Hub id, a folder or a file; None for the Hub bundle of `variant`.
    variant
        `contrastive` or `hcp-sex`.
    random
        `--random-weights`: without `source`, make a bundle of seeded random weights in `work_dir`;
        with `source`, allow a bundle that is marked as random.

    Raises
    ------
    UsageError
        Nothing is there, it cannot be read, or it is random and that was not asked for.
    """
    if random and source is None:
        source = str(write_random_bundle(Path(work_dir) / "random_weights"))
    source = source or HUB_IDS[variant]
    # Absolute, for the nodes run in folders of their own; links are kept, for in the Hub's cache
    # and in DataLad trees they lead away from config.json.
    path = Path(os.path.abspath(Path(source).expanduser()))
    if path.exists():
        file = _local_file(path)
        name = "/".join(file.parts[-2:])
    elif _HUB_ID.match(source) and path.suffix not in (".safetensors", ".ckpt"):
        file, name = _hub_file(source), source
    else:
        raise UsageError(f"--weights {source}: there is no such file or folder; {_REMEDY}")
    _, is_random = _read_config(file)
    if is_random and not random:
        raise UsageError(
            f"{file}: these weights are random numbers, made to try the app; add --random-weights "
            f"if you mean to use them, else {_REMEDY}"
        )
    if random and not is_random:
        raise UsageError(f"--random-weights was given, but {file} holds no random weights")
    try:
        with open(file, "rb") as content:
            sha256 = hashlib.file_digest(content, "sha256").hexdigest()
    except OSError as error:
        raise UsageError(f"{file}: cannot be read ({error.strerror})") from error
    return Weights(str(file), name, sha256, is_random)


def load_backbone(file: str | Path, device: str = "cpu") -> SwiFT:
    """Build the backbone and fill it with the weights, every name and shape checked.

    Parameters
    ----------
    file
        `.safetensors` with its `config.json` beside it, or an original `.ckpt`.
    device
        Where the network is to live.

    Raises
    ------
    UsageError
        A tensor is missing, unexpected, of another shape or not finite.
    """
    from swift_bids.model import SwiFT

    network = SwiFT(**_read_config(Path(file))[0])
    expected = network.state_dict()
    found = _match_names(_read_tensors(Path(file)), file)
    # The original holds a final norm that its features do not pass through.
    missing = [n for n in expected if n not in found and not n.startswith("norm.")]
    unexpected = [n for n in found if n not in expected and not _NOT_BACKBONE.match(n)]
    shapes = [
        f"{n} {tuple(found[n].shape)} instead of {tuple(expected[n].shape)}"
        for n in expected
        if n in found and found[n].shape != expected[n].shape
    ]
    if missing or unexpected or shapes:
        problems = {"missing": missing, "unexpected": unexpected, "of another shape": shapes}
        said = "; ".join(f"{kind}: {', '.join(names)}" for kind, names in problems.items() if names)
        raise UsageError(f"{file}: these are not the weights of a SwiFT backbone ({said})")
    bad = [n for n, t in found.items() if n in expected and not bool(t.isfinite().all())]
    if bad:
        raise UsageError(f"{file}: NaN or infinite values in {', '.join(bad)}")
    network.load_state_dict({n: found.get(n, expected[n]) for n in expected})
    return network.eval().requires_grad_(False).to(device)


def write_random_bundle(folder: str | Path, seed: int = 0) -> Path:
    """Write seeded random weights in the layout of the Hub bundles, marked as random."""
    import torch
    from safetensors.torch import save

    from swift_bids.model import RELEASED_CONFIG, SwiFT

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = SwiFT(**RELEASED_CONFIG)
    config = {
        "_ilex": {"constructor_kwargs": RELEASED_CONFIG},
        "_swift_bids": {"random_weights_seed": seed},
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    # not save_file, whose files only their owner can read
    (folder / "model.safetensors").write_bytes(save(network.state_dict()))
    return folder


def _local_file(path: Path) -> Path:
    file = path / "model.safetensors" if path.is_dir() else path
    if not file.is_file():
        raise UsageError(f"--weights {path}: the folder holds no model.safetensors; {_REMEDY}")
    if file.suffix not in (".safetensors", ".ckpt"):
        raise UsageError(f"--weights {path}: is neither .safetensors nor .ckpt; {_REMEDY}")
    return file


def _hub_file(repo_id: str) -> Path:
    """The bundle's weights in the Hub's cache; what is there already needs no network."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it counts its retries aloud
    files = ("config.json", "model.safetensors")
    try:
        return Path([hf_hub_download(repo_id, f, local_files_only=True) for f in files][-1])
    except LocalEntryNotFoundError:
        _LOG.info("weights: downloading %s from the Hugging Face Hub", repo_id)
    try:
        return Path([hf_hub_download(repo_id, file) for file in files][-1])
    except Exception as error:  # network, authorisation, disk: the hub's errors share no base
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UsageError(
            f"the weights {repo_id} are neither in the Hugging Face cache nor could they be "
            f"downloaded ({reason}); {_REMEDY}"
        ) from error


def _read_config(file: Path) -> tuple[dict[str, Any], bool]:
    """Constructor arguments, and whether the bundle is marked as random."""
    if file.suffix == ".ckpt":
        source, known = file, _load_checkpoint(file).get("hyper_parameters", {})
        known = known if isinstance(known, Mapping) else vars(known)
        random = False
    else:
        source = file.parent / "config.json"
        try:
            content = json.loads(source.read_text(encoding="utf-8"))
            known = content["_ilex"]["constructor_kwargs"]
            random = "random_weights_seed" in content.get("_swift_bids", {})
        except FileNotFoundError as error:
            raise UsageError(f"{file}: its config.json is missing beside it") from error
        except OSError as error:
            raise UsageError(f"{source}: cannot be read ({error.strerror})") from error
        except (ValueError, KeyError, TypeError) as error:
            raise UsageError(f"{source}: holds no _ilex.constructor_kwargs ({error!r})") from error
    absent = [key for key in _CONFIG_KEYS if key not in known]
    if absent:
        raise UsageError(f"{source}: does not say {', '.join(absent)} of the network")
    return {key: known[key] for key in _CONFIG_KEYS}, random


def _read_tensors(file: Path) -> dict[str, torch.Tensor]:
    if file.suffix == ".ckpt":
        return dict(_load_checkpoint(file)["state_dict"])
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise UsageError(f"{file}: is damaged or no safetensors file ({error})") from error


def _load_checkpoint(file: Path) -> dict[str, Any]:
    """Read a Lightning checkpoint as plain tensors and settings; other pickles are refused."""
    import argparse
    import pickle

    import torch

    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UsageError(
            f"{file}: is no checkpoint of plain tensors and is not read ({reason})"
        ) from error
    if not isinstance(content, Mapping) or "state_dict" not in content:
        raise UsageError(f"{file}: holds no state_dict; is it an original SwiFT checkpoint?")
    return dict(content)


def _match_names(tensors: dict[str, torch.Tensor], file: str | Path) -> dict[str, torch.Tensor]:
    """Tensors under the reference's names: other brackets, suffixes and one common prefix undone.

    A `kernel` is a JAX matrix (in, out) and is transposed; shapes are checked by the caller.
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
