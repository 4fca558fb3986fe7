"""A weights file of any format -> its tensors and what it says of its network.

The format follows from the content, never from the suffix: a torch file may be called `.ckpt`,
`.pt`, `.pth` or `.bin`. Pickles are read without running code: only harmless classes, which the
settings of a training may contain, are allowed.
"""

from __future__ import annotations

import argparse
import functools
import pathlib
import pickle
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swift_bids.base.errors import UsageError
from swift_bids.base.files import read_json

if TYPE_CHECKING:
    import torch

#: End of the name of the index of weights in several files.
INDEX = ".index.json"
#: What to do about a file that cannot be used.
_REMEDY = "give an original checkpoint or a Hub bundle"
#: How a file begins -> what it is instead of weights, and what to do.
_NOT_WEIGHTS = (
    (b"version https://git-lfs", "is a pointer of Git LFS, not the weights; run git lfs pull"),
    (b"<", "is a web page, not weights; download the file itself"),
    (b"\x1f\x8b", "is compressed with gzip; unpack it first"),
)
#: Keys under which trainings keep the settings of their network.
_SETTINGS = ("hyper_parameters", "hparams", "config", "args", "cfg")


@dataclass(frozen=True)
class Stored:
    """Content of a weights file.

    Attributes
    ----------
    tensors
        Under the names of the file; those in nested dictionaries with the names of these before
        them, `ema.model.norm.weight`.
    settings
        What the file says of the training and its network; None if it says nothing.
    """

    tensors: dict[str, torch.Tensor]
    settings: Any = None


def split_choice(source: str | Path) -> tuple[Path, str | None]:
    """Split `FILE@NETWORK` into the path and the name of one of several networks in the file."""
    path, at, network = str(source).rpartition("@")
    if not at or Path(source).exists() or not Path(path).is_file():
        return Path(source), None
    return Path(path), network


def is_torch_file(file: Path) -> bool:
    """Whether a file is one of torch or one of safetensors, by its first bytes.

    Raises
    ------
    UsageError
        It cannot be read, or is neither.
    """
    try:
        with open(file, "rb") as content:
            start = content.read(64)
    except OSError as error:
        raise UsageError(f"{file}: cannot be read ({error.strerror}); check the file") from error
    if not start:
        raise UsageError(f"{file}: is empty; fetch it again")
    for beginning, reason in _NOT_WEIGHTS:
        if start.lstrip().startswith(beginning):
            raise UsageError(f"{file}: {reason}")
    if start.startswith((b"PK\x03\x04", b"\x80")):
        return True
    if start[8:9] != b"{":  # the header of safetensors follows its length
        raise UsageError(
            f"{file}: is damaged, or neither a file of torch nor of safetensors; fetch it again"
        )
    return False


def read_stored(file: Path) -> Stored:
    """Read a file of torch or of safetensors, or all files of an index.

    Raises
    ------
    UsageError
        It cannot be read, or contains something that could run code.
    """
    if file.name.endswith(INDEX):
        return Stored({name: t for part in files_of(file) for name, t in _read(part).items()})
    if is_torch_file(file):
        content = _load_torch(file)
        settings = next((content[key] for key in _SETTINGS if key in content), None)
        return Stored(_named_tensors(content, file), settings)
    return Stored(_read(file))


def files_of(file: Path) -> list[Path]:
    """Return the files with the weights: those of an index, in order, or the file itself.

    Raises
    ------
    UsageError
        The index is damaged, or a file is missing.
    """
    if not file.name.endswith(INDEX):
        return [file]
    try:
        names = sorted(set(read_json(file)["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{file}: is not an index of weights ({error!r})") from error
    parts = [file.parent / str(name) for name in names]
    if missing := [part.name for part in parts if not part.is_file()]:
        raise UsageError(f"{file}: {', '.join(missing)} is missing beside it; fetch it")
    return parts


def _read(file: Path) -> dict[str, torch.Tensor]:
    if is_torch_file(file):
        return _named_tensors(_load_torch(file), file)
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise UsageError(
            f"{file}: is damaged or neither a safetensors file nor one of torch ({error})"
        ) from error


def _load_torch(file: Path) -> dict[str, Any]:
    """Read a file of torch that contains only tensors and settings; refuse any other pickle."""
    import torch

    try:
        with torch.serialization.safe_globals(_harmless()):
            content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        named = re.search(r"(?:GLOBAL|class|function) ([\w.]+\.\w+)", str(error))
        what = f"an object of {named[1]}" if named else "something else than tensors and settings"
        raise UsageError(
            f"{file}: cannot be read as a checkpoint, because it contains {what}, which could run "
            f"code; save its state_dict alone, or {_REMEDY}"
        ) from error
    except Exception as error:  # damaged bytes make the unpickler raise almost anything
        raise UsageError(
            f"{file}: cannot be read as a checkpoint of plain tensors ({type(error).__name__}); "
            f"{_REMEDY}"
        ) from error
    if not isinstance(content, Mapping):
        raise UsageError(f"{file}: contains no state_dict; {_REMEDY}")
    return dict(content)


@functools.cache
def _harmless() -> list[Any]:
    """Classes that settings may contain, and that only hold values."""
    import numpy as np

    modules = ("pathlib", "pathlib._local")  # of Python 3.13 and 3.14, and of all others
    paths = [
        (kind, f"{module}.{name}")
        for kind in (pathlib.PurePosixPath, pathlib.PureWindowsPath)
        for name in (kind.__name__, kind.__name__.removeprefix("Pure"))
        for module in modules
    ]
    core = np._core if hasattr(np, "_core") else np.core
    scalar = core.multiarray.scalar
    dtypes = {type(np.dtype(code)) for code in "?bBhHiIlLqQefdgFDSU"}
    return [
        argparse.Namespace,
        # torch fills plain dictionaries only
        (lambda *_: {}, "collections.defaultdict"),
        *(bool, dict, float, int, list, set, slice, str, tuple),
        np.dtype,
        np.ndarray,
        core.multiarray._reconstruct,
        *((scalar, f"numpy.{m}.multiarray.scalar") for m in ("core", "_core")),
        *dtypes,
        *paths,
    ]


def _named_tensors(content: Mapping[str, Any], file: Path) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint: of its `state_dict`, or of wherever they are."""
    found = dict(_walk(content.get("state_dict")))
    found |= dict(_walk({key: value for key, value in content.items() if key != "state_dict"}))
    if not found:
        raise UsageError(f"{file}: contains no named tensors; {_REMEDY}")
    return found


def _walk(content: Any, depth: int = 4) -> Iterator[tuple[str, torch.Tensor]]:
    import torch

    if not isinstance(content, Mapping):
        return
    for key, value in content.items():
        if not isinstance(key, str):
            continue
        if isinstance(value, torch.Tensor):
            yield key, value
        elif depth > 1:
            yield from ((f"{key}.{name}", tensor) for name, tensor in _walk(value, depth - 1))


def read_settings(content: Any, file: Path) -> dict[str, Any] | None:
    """Settings as a dictionary; None if there are none."""
    if isinstance(content, argparse.Namespace):
        return vars(content)
    if content is None or isinstance(content, Mapping):
        return None if content is None else dict(content)
    raise UsageError(f"{file}: contains {content!r:.40} instead of the network's settings")


def read_config_file(source: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Constructor arguments and origin in the `config.json` of a bundle."""
    try:
        content = read_json(source)
        return dict(content["_ilex"]["constructor_kwargs"]), dict(content.get("_swift_bids", {}))
    except OSError as error:
        raise UsageError(f"{source}: cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{source}: does not contain _ilex.constructor_kwargs ({error!r})"
        ) from error
