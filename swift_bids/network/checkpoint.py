"""A weights file -> its network, its constructor arguments, and tensors under the original names.

The file may be a bundle of ilex (a JAX port), an original Lightning checkpoint, or what a training
made of one: wrapped by torch.compile or DataParallel, with other heads, losses or a second network.
Every name and every shape of the backbone is checked.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swift_bids.base.errors import UsageError, some_of
from swift_bids.network.released import RELEASED_CONFIG
from swift_bids.network.stored_weights import (
    INDEX,
    Stored,
    is_torch_file,
    read_config_file,
    read_settings,
    read_stored,
    split_choice,
)

if TYPE_CHECKING:
    import torch

#: Chooses the class of a network by the names of its tensors.
Choice = Callable[[Iterable[str]], type[Any]]
#: A tensor that every backbone has; what is before it in a name is the name of the network.
_LANDMARK = "patch_embed.fc.weight"
#: Modules of the backbone; what else a network contains does not affect the embedding.
_OWN = ("patch_embed", "pos_embeds", "layers", "norm")
#: Parts of names that wrappers add: torch.compile, DataParallel, FSDP, activation checkpoints.
_WRAPPERS = ("_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
#: Name of a network whose tensors have no prefix.
_TOP = "top"
#: Most names that a message lists.
_MAX_LISTED = 3


@dataclass(frozen=True)
class BackboneWeights:
    """Content of a weights file.

    Attributes
    ----------
    network
        Class of the network that has these tensors.
    config
        Constructor arguments of the network.
    state
        Tensors under the names of the original.
    about
        Origin of the weights, as `swift_bids.network.bundles.write_bundle` records it.
    unused
        Names of tensors in the file that do not affect the embedding.
    assumed
        Whether the file does not contain its constructor arguments, and those of the released
        networks fit every tensor.
    """

    network: type[Any]
    config: dict[str, Any]
    state: dict[str, torch.Tensor]
    about: dict[str, Any]
    unused: tuple[str, ...]
    assumed: bool = False


def read_backbone(source: str | Path, choose: Choice) -> BackboneWeights:
    """Read a weights file and check every name and shape against the network it describes.

    Parameters
    ----------
    source
        A file of safetensors with its `config.json` beside it, the index of several, or a file of
        torch; `FILE@NETWORK` chooses one of several networks in a file.
    choose
        Chooses the class, which is called with the file's constructor arguments.

    Raises
    ------
    UsageError
        The file cannot be read, contains several networks, or a tensor is missing, unexpected, not
        finite or of the wrong shape.
    """
    file, choice = split_choice(source)
    stored = read_stored(file)
    config, about = _config_of(file, stored if _has_settings(file) else None)
    tensors, unused = choose_network(stored.tensors, choice, file)
    return check_backbone(str(source), tensors, config, choose, about, unused)


def check_backbone(
    name: str,
    tensors: Mapping[str, torch.Tensor],
    config: Mapping[str, Any] | None,
    choose: Choice,
    about: Mapping[str, Any] | None = None,
    unused: Iterable[str] = (),
) -> BackboneWeights:
    """Check tensors under the names of the original against a network.

    Parameters
    ----------
    name
        How messages call the weights.
    tensors, config
        Of one network; without constructor arguments, those of the released networks must fit.
    choose, about, unused
        As for `read_backbone`, and as in `BackboneWeights`.

    Raises
    ------
    UsageError
        As for `read_backbone`.
    """
    import torch

    network = choose(tensors)
    arguments = dict(RELEASED_CONFIG if config is None else config)
    if absent := [k for k in RELEASED_CONFIG if k not in arguments and k not in network.unused]:
        raise UsageError(f"{name}: the network's settings lack {', '.join(absent)}")
    try:
        with torch.device("meta"):  # names and shapes only
            expected = network(**arguments).state_dict()
    except (TypeError, ValueError, RuntimeError, IndexError, ArithmeticError) as error:
        raise UsageError(
            f"{name}: its configuration does not describe a {network.title} network ({error})"
        ) from error
    # The original has a final norm, but its features do not pass through it.
    missing = [n for n in expected if n not in tensors and not n.startswith("norm.")]
    others = [n for n in tensors if n not in expected]
    unexpected = [n for n in others if n.split(".")[0] in _OWN]
    shapes = [
        f"{n} {tuple(tensors[n].shape)} instead of {tuple(expected[n].shape)}"
        for n in expected
        if n in tensors and tensors[n].shape != expected[n].shape
    ]
    if prompts := [n for n in unexpected if n.endswith(".prompt")]:
        raise UsageError(
            f"{name}: contains prompts of a fine-tuning ({some_of(prompts, _MAX_LISTED)}), which "
            f"change the features; the app has no prompts, so give weights without them"
        )
    if missing or unexpected or shapes:
        problems = {"missing": missing, "unexpected": unexpected, "wrong shape": shapes}
        lists = [
            f"{kind}: {some_of(names, _MAX_LISTED)}" for kind, names in problems.items() if names
        ]
        instead = (
            "does not say what its network is like, and is not like the released ones"
            if config is None
            else f"does not contain the weights of a {network.title} backbone"
        )
        remedy = "; put the config.json of the network beside its file" if config is None else ""
        raise UsageError(f"{name}: {instead} ({'; '.join(lists)}){remedy}")
    state = {n: tensors[n].float() for n in expected if n in tensors}
    not_finite = [n for n, t in state.items() if not bool(t.isfinite().all())]
    if not_finite:
        raise UsageError(
            f"{name}: contains NaN or infinite values in {some_of(not_finite, _MAX_LISTED)}; "
            f"give other weights"
        )
    ignored = [*unused, *(n for n in others if n not in unexpected)]
    ignored += [n for n in state if n.startswith("norm.")]
    return BackboneWeights(
        network, arguments, state, dict(about or {}), tuple(ignored), assumed=config is None
    )


def read_config(source: str | Path) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    """Read the constructor arguments of a weights file, and its origin.

    The arguments are None for a file of torch that does not contain them and has no `config.json`
    beside it.

    Raises
    ------
    UsageError
        They cannot be read, or some of them are missing.
    """
    file, _ = split_choice(source)
    return _config_of(file, read_stored(file) if _has_settings(file) else None)


def _has_settings(file: Path) -> bool:
    """Whether the settings of a network may be in the file itself."""
    return not file.name.endswith(INDEX) and is_torch_file(file)


def _config_of(file: Path, stored: Stored | None) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    beside = file.parent / "config.json"
    if stored is not None:
        found = read_settings(stored.settings, file) or {}
        if any(key in found for key in RELEASED_CONFIG):
            return _known_settings(found), {}
        if not beside.exists():
            return None, {}
    elif not beside.exists():
        raise UsageError(f"{file}: there is no config.json beside it; add it")
    arguments, about = read_config_file(beside)
    return _known_settings(arguments), about


def _known_settings(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that make a network; a training has many others."""
    return {key: arguments[key] for key in RELEASED_CONFIG if key in arguments}


def choose_network(
    stored: Mapping[str, torch.Tensor], choice: str | None, file: str | Path
) -> tuple[dict[str, torch.Tensor], list[str]]:
    """Return the tensors of one network under the names of the original, and the other names.

    Parameters
    ----------
    choice
        Name of the network; None: the only one.
    file
        How messages call the weights.

    Raises
    ------
    UsageError
        There is no such network, or there are several.
    """
    tensors = reference_names(stored, file)
    networks = {
        prefix.rstrip(".") or _TOP: prefix
        for prefix in (n.removesuffix(_LANDMARK) for n in tensors if n.endswith(_LANDMARK))
    }
    if choice is not None and choice not in networks:
        existing = ", ".join(networks) or "none"
        raise UsageError(f"{file}: contains no network {choice}, but {existing}")
    if choice is None and len(networks) > 1:
        raise UsageError(
            f"{file}: contains {len(networks)} networks ({', '.join(networks)}); choose one, for "
            f"example --weights {Path(file).name}@{next(iter(networks))}"
        )
    prefix = networks[choice] if choice else next(iter(networks.values()), "")
    own = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
    return own, [n for n in tensors if not n.startswith(prefix)]


def reference_names(
    tensors: Mapping[str, torch.Tensor], file: str | Path
) -> dict[str, torch.Tensor]:
    """Rename tensors as in the original: no wrappers, and no brackets and suffixes of JAX.

    A `kernel` is a JAX matrix (in, out), so it is transposed. The caller checks the shapes.

    Raises
    ------
    UsageError
        Two tensors have the same name then.
    """
    plain: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        renamed = re.sub(r"\[(\d+)\]", r".\1", name).replace("/", ".")
        renamed = ".".join(part for part in renamed.split(".") if part not in _WRAPPERS)
        if renamed.endswith(".kernel"):
            tensor = tensor.T
        renamed = re.sub(r"\.(?:kernel|scale)$", ".weight", renamed)
        if renamed in plain:
            raise UsageError(f"{file}: contains two tensors named {renamed}")
        plain[renamed] = tensor
    return plain
