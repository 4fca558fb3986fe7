"""--weights / --variant -> a file on this machine and its identity.

Hub bundles are downloaded once into the Hugging Face cache; local bundles and original checkpoints
are taken where they lie. What is in them: `swift_bids.network.checkpoint`.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from swift_bids.base.errors import UsageError
from swift_bids.network.checkpoint import read_config

_LOG = logging.getLogger("swift_bids")
#: Released bundles: Hub id -> variant, revision to take and SHA-256 of the weights, where known.
REGISTRY: dict[str, dict[str, Any]] = json.loads(
    resources.files("swift_bids").joinpath("data/weights.json").read_text()
)
#: Variant -> Hub id.
HUB_IDS = {bundle["variant"]: name for name, bundle in REGISTRY.items()}
_HUB_ID = re.compile(r"^[\w.-]+/[\w.-]+$")
_REMEDY = (
    "give --weights a Hub id, a folder with model.safetensors and config.json, a .safetensors file "
    "beside its config.json, or an original .ckpt (or --random-weights to try the app without)"
)


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
    revision
        Commit on the Hub; None for other files.
    """

    file: str
    name: str
    sha256: str
    random: bool
    revision: str | None = None


def find_weights(
    source: str | None,
    variant: str = "contrastive",
    random: bool | None = False,
    work_dir: str | Path = ".",
    revision: str | None = None,
) -> Weights:
    """Find the weights that a call asks for.

    Parameters
    ----------
    source
        `--weights`: a Hub id (`@` and a revision may follow), a folder or a file; None for the
        bundle of `variant`, from the folder that `SWIFT_BIDS_WEIGHTS` names if it is there (an
        image with weights sets it), else from the Hub.
    variant
        `contrastive` or `hcp-sex`.
    random
        `--random-weights`: True accepts only a bundle marked as random, False refuses it, None
        accepts both.
    revision
        Branch, tag or commit of a Hub bundle; None for the registered one, else the newest.

    Raises
    ------
    UsageError
        Nothing is there, it cannot be read, it is not what the registry says, or it is random and
        that was not asked for.
    """
    source = source or _supplied(HUB_IDS[variant]) or HUB_IDS[variant]
    # Absolute, for the nodes run in folders of their own; links are kept, for in the Hub's cache
    # and in DataLad trees they lead away from config.json.
    path = Path(os.path.abspath(Path(source).expanduser()))
    hub_id, _, at = source.partition("@")
    commit = None
    if path.exists():
        file = _local_file(path)
        name = "/".join(file.parts[-2:])
    elif _HUB_ID.match(hub_id) and path.suffix not in (".safetensors", ".ckpt"):
        file = hub_file(hub_id, revision or at or None, spare=Path(work_dir) / "huggingface")
        name, commit = hub_id, file.parent.name
    else:
        raise UsageError(f"--weights {source}: there is no such file or folder; {_REMEDY}")
    is_random = "random_weights_seed" in read_config(file)[1]
    if is_random and random is False:
        raise UsageError(
            f"{file}: these weights are random numbers, made to try the app; add --random-weights "
            f"if you mean to use them, else {_REMEDY}"
        )
    if random and not is_random:
        raise UsageError(f"--random-weights was given, but {file} holds no random weights")
    weights = Weights(str(file), name, sha256_of(file), is_random, commit)
    registered = REGISTRY.get(name, {}).get("sha256")
    if registered not in (None, weights.sha256):
        raise UsageError(
            f"{file}: its SHA-256 is {weights.sha256}, but {name} is registered with {registered}; "
            f"the file is damaged or was exchanged: delete it and fetch it again"
        )
    return weights


def _supplied(hub_id: str) -> str | None:
    """A bundle in the folder of `SWIFT_BIDS_WEIGHTS`, laid out as `weights fetch --to` does."""
    folder = os.environ.get("SWIFT_BIDS_WEIGHTS")
    bundle = Path(folder, hub_id.rpartition("/")[2]) if folder else None
    return str(bundle) if bundle is not None and bundle.exists() else None


def hub_file(
    repo_id: str,
    revision: str | None = None,
    local_dir: str | Path | None = None,
    spare: Path | None = None,
) -> Path:
    """A bundle's weights in the Hub's cache (or a folder); what is there needs no network.

    Without a revision the registered one is taken, else the newest. `spare` becomes the cache where
    the usual one cannot be written, as in a container without HOME.

    Raises
    ------
    UsageError
        They are not there and cannot be downloaded.
    """
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it counts its retries aloud
    files = ("config.json", "model.safetensors")
    registered = REGISTRY.get(repo_id, {}).get("revision")
    place: dict[str, Any] = {"revision": revision or registered, "local_dir": local_dir}
    try:
        paths = [hf_hub_download(repo_id, f, **place, local_files_only=True) for f in files]
        return Path(os.path.abspath(paths[-1]))
    except LocalEntryNotFoundError:
        _LOG.info("weights: downloading %s from the Hugging Face Hub", repo_id)
    if local_dir is None and spare is not None and not _writable(Path(constants.HF_HUB_CACHE)):
        place["cache_dir"] = spare
    try:
        return Path(os.path.abspath([hf_hub_download(repo_id, f, **place) for f in files][-1]))
    except Exception as error:  # network, authorisation, disk: the hub's errors share no base
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UsageError(
            f"the weights {repo_id} are neither in the Hugging Face cache nor could they be "
            f"downloaded ({reason}); {_REMEDY}"
        ) from error


def _writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK)


def _local_file(path: Path) -> Path:
    if path.is_dir() and not (path / "model.safetensors").exists():
        # a folder that holds a bundle's, as `weights fetch --to` makes it, or a checkpoint
        within = [*path.glob("*/model.safetensors"), *path.glob("*.ckpt")]
        path = within[0] if len(within) == 1 else path
    file = path / "model.safetensors" if path.is_dir() else path
    if not file.is_file():
        raise UsageError(
            f"--weights {path}: the folder holds no model.safetensors, nor one other bundle or "
            f"checkpoint; {_REMEDY}"
        )
    if file.suffix not in (".safetensors", ".ckpt"):
        raise UsageError(f"--weights {path}: is neither .safetensors nor .ckpt; {_REMEDY}")
    return file


def sha256_of(file: Path) -> str:
    try:
        with open(file, "rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest()
    except OSError as error:
        raise UsageError(f"{file}: cannot be read ({error.strerror})") from error
