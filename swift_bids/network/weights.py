"""--weights / --variant -> a weights file on this machine and its identity.

It downloads a Hub bundle once, into the Hugging Face cache, and reads local bundles and original
checkpoints where they are. `swift_bids.network.checkpoint` reads the content.
"""

from __future__ import annotations

import logging
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swift_bids.base.errors import UsageError
from swift_bids.network.checkpoint import read_config
from swift_bids.network.known_weights import (
    HUB_IDS,
    REGISTRY,
    check_known,
    digests_of,
    recognise,
)
from swift_bids.network.stored_weights import INDEX, files_of, split_choice

_LOG = logging.getLogger("swift_bids")
_HUB_ID = re.compile(r"^[\w.-]+/[\w.-]+$")
#: Suffixes of weights; the content decides, but a path with one of them is no Hub id.
_SUFFIXES = (".safetensors", ".ckpt", ".pth", ".pt", ".bin")
_REMEDY = (
    "give with --weights (Python: weights=) a Hub id, a folder with model.safetensors and "
    "config.json, a .safetensors file beside its config.json, or an original checkpoint (to try "
    "the app without any: --random-weights)"
)


@dataclass(frozen=True)
class Weights:
    """A weights file, and how every output identifies it.

    Attributes
    ----------
    file
        Absolute path on this machine, or `FILE@NETWORK`, as for
        `swift_bids.network.checkpoint.read_backbone`.
    name
        Hub id, or the names of the folder and the file.
    sha256
        SHA-256 of the file in hexadecimal; of several files, of all one after the other.
    random
        Whether the weights are random numbers, for trying the app.
    revision
        Commit on the Hub; None for other files.
    known_as
        Which released file it is, by its digests; None if it is none.
    """

    file: str
    name: str
    sha256: str
    random: bool
    revision: str | None = None
    known_as: str | None = None


def find_weights(
    source: str | None,
    variant: str = "contrastive",
    random: bool | None = False,
    work_dir: str | Path = ".",
    revision: str | None = None,
) -> Weights:
    """Find the weights that a command requests.

    Parameters
    ----------
    source
        `--weights`: a Hub id (`@` and a revision may follow), a folder or a file (`@` and the name
        of one of its networks may follow). None selects the bundle of `variant`. A released bundle
        comes from the folder in `SWIFT_BIDS_WEIGHTS` if it is there (container images with weights
        set this variable), else from the Hub.
    variant
        One of `swift_bids.base.backbones.BACKBONES`.
    random
        `--random-weights`: True accepts only random weights, False refuses them, None accepts
        both.
    revision
        Branch, tag or commit of a Hub bundle; None for the registered one, else the newest.

    Raises
    ------
    UsageError
        The weights do not exist, cannot be read, differ from the registry, or are random without
        `random`.
    """
    source = source or HUB_IDS[variant]
    source = _bundle_in_container(source) or source
    # Absolute, because every node runs in its own folder. Links are not resolved: in the Hub's
    # cache and in DataLad datasets they point to folders without config.json.
    path, choice = split_choice(os.path.abspath(Path(source).expanduser()))
    hub_id, _, source_revision = source.partition("@")
    commit = None
    if path.exists():
        file = _local_file(path)
        name = "/".join(file.parts[-2:])
    elif _HUB_ID.match(hub_id) and path.suffix not in _SUFFIXES:
        file = hub_file(
            hub_id, revision or source_revision or None, fallback=Path(work_dir) / "huggingface"
        )
        name, commit = hub_id, file.parent.name
    else:
        raise UsageError(f"weights {source}: no such file or folder; {_REMEDY}")
    digests = digests_of(*files_of(file))
    if warning := check_known(file, name, commit, digests):
        _LOG.warning("weights: %s", warning)
    is_random = "random_weights_seed" in read_config(file)[1]
    if is_random and random is False:
        raise UsageError(
            f"{file}: these weights are random numbers for trying the app; accept them with "
            f"--random-weights (Python: random_weights=True), or {_REMEDY}"
        )
    if random and not is_random:
        raise UsageError(
            f"{file}: does not contain random weights; to use it, remove --random-weights"
        )
    known = recognise(digests)
    chosen = f"@{choice}" if choice else ""
    return Weights(
        f"{file}{chosen}",
        name + chosen,
        digests.sha256,
        is_random,
        commit,
        known.described if known else None,
    )


def weights_of_embeddings(source: str | None, variant: str, sha256: str) -> Weights:
    """Find the weights that made the embeddings.

    Raises
    ------
    UsageError
        They cannot be found, or are other ones.
    """
    weights = find_weights(source, variant, random=None)
    if weights.sha256 != sha256:
        raise UsageError(
            f"--weights {source or variant}: its SHA-256 is {weights.sha256}, but the embeddings "
            f"were made with weights of {sha256}; give those weights"
        )
    return weights


def _bundle_in_container(hub_id: str) -> str | None:
    """Return a bundle in the folder `SWIFT_BIDS_WEIGHTS`, which `weights fetch --to` filled."""
    folder = os.environ.get("SWIFT_BIDS_WEIGHTS")
    if not folder or hub_id not in REGISTRY:
        return None
    bundle = Path(folder, hub_id.rpartition("/")[2])
    return str(bundle) if bundle.exists() else None


def hub_file(
    repo_id: str,
    revision: str | None = None,
    local_dir: str | Path | None = None,
    fallback: Path | None = None,
) -> Path:
    """Return a bundle's weights in the Hub's cache or a folder, and download them if necessary.

    Parameters
    ----------
    repo_id
        Hub id of the bundle.
    revision
        Branch, tag or commit; None for the registered one, else the newest.
    local_dir
        Folder to use instead of the Hub's cache.
    fallback
        Cache to use if the usual one is not writable, as in a container without HOME.

    Raises
    ------
    UsageError
        The weights do not exist on this machine and cannot be downloaded.
    """
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # hides its warnings about retries
    files = ("config.json", "model.safetensors")
    registered = REGISTRY.get(repo_id, {}).get("revision")
    options: dict[str, Any] = {"revision": revision or registered, "local_dir": local_dir}
    try:
        paths = [hf_hub_download(repo_id, f, **options, local_files_only=True) for f in files]
        return Path(os.path.abspath(paths[-1]))
    except LocalEntryNotFoundError:
        _LOG.info("weights: downloading %s from the Hugging Face Hub", repo_id)
    if local_dir is None and fallback is not None and not _writable(Path(constants.HF_HUB_CACHE)):
        options["cache_dir"] = fallback
    try:
        return Path(os.path.abspath([hf_hub_download(repo_id, f, **options) for f in files][-1]))
    except Exception as error:  # network, permission, disk: these errors have no common class
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        newest = f"; {repo_id}@main is the newest revision" if registered and not revision else ""
        raise UsageError(
            f"the weights {repo_id} are not in the Hugging Face cache and cannot be downloaded "
            f"({reason}){newest}; {_REMEDY}"
        ) from error


def _writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK)


def _local_file(path: Path) -> Path:
    if path.is_dir() and not (path / "model.safetensors").exists():
        # the folder may contain one bundle, as `weights fetch --to` writes it, or one checkpoint
        places = (f"*{INDEX}", "*/model.safetensors", *(f"*{suffix}" for suffix in _SUFFIXES[1:]))
        for place in places:
            candidates = list(path.glob(place))
            if candidates:
                path = candidates[0] if len(candidates) == 1 else path
                break
    file = path / "model.safetensors" if path.is_dir() else path
    if not file.is_file():
        raise UsageError(
            f"weights {path}: contains no model.safetensors, and not exactly one bundle or "
            f"checkpoint; {_REMEDY}"
        )
    return file
