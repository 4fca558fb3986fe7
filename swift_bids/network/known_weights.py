"""data/weights.json: the released weights, and by which digests to recognise their files.

A digest that its owner has confirmed is `verified`; one that was only read somewhere is `reported`,
with its source. A file that contradicts a verified digest is refused; one that contradicts a
reported digest leads to a warning, because the report may be wrong.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from swift_bids.base.errors import UsageError

#: Released bundles: Hub id -> variant, revision and known files.
REGISTRY: dict[str, dict[str, Any]] = json.loads(
    resources.files("swift_bids").joinpath("data/weights.json").read_text()
)
#: Variant -> Hub id of its first bundle in the registry.
HUB_IDS = {bundle["variant"]: name for name, bundle in reversed(REGISTRY.items())}


@dataclass(frozen=True)
class Digests:
    """What identifies the content of a file.

    Attributes
    ----------
    sha256, git_blob
        In hexadecimal. git identifies a file by its blob id, the SHA-1 of `blob <bytes>\\0` and the
        content.
    """

    sha256: str
    git_blob: str


def digests_of(*files: str | Path) -> Digests:
    """Compute the digests of a file, or of several one after the other, as of one file.

    Raises
    ------
    UsageError
        A file cannot be read.
    """
    sha256 = hashlib.sha256()
    try:
        size = sum(Path(file).stat().st_size for file in files)
        blob = hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False)
        for file in files:
            with open(file, "rb") as content:
                while part := content.read(1 << 20):
                    sha256.update(part)
                    blob.update(part)
    except OSError as error:
        name = error.filename or files[0]
        raise UsageError(f"{name}: cannot be read ({error.strerror}); check the file") from error
    return Digests(sha256.hexdigest(), blob.hexdigest())


@dataclass(frozen=True)
class KnownFile:
    """A released file.

    Attributes
    ----------
    release, name
        Hub id of the release to which it belongs; its file name.
    sha256, git_blob
        Digests; None if unknown.
    verified, reported_by
        Whether an owner has confirmed the digests, and where they come from.
    """

    release: str
    name: str
    sha256: str | None
    git_blob: str | None
    verified: bool
    reported_by: str

    def has(self, digests: Digests) -> bool:
        """Whether a file with these digests is this one: all that are known are equal."""
        pairs = ((self.sha256, digests.sha256), (self.git_blob, digests.git_blob))
        known = [(own, other) for own, other in pairs if own is not None]
        return bool(known) and all(own == other for own, other in known)

    @property
    def described(self) -> str:
        """For the sidecars and `weights verify`."""
        status = "verified" if self.verified else "reported, not verified here"
        return f"{self.name} of {self.release} ({status}: {self.reported_by})"


def known_files() -> list[KnownFile]:
    """Return all released files whose digests are known."""
    fields = ("name", "sha256", "git_blob", "verified", "reported_by")
    return [
        KnownFile(release, **{field: file[field] for field in fields})
        for release, bundle in REGISTRY.items()
        for file in bundle["files"]
    ]


def recognise(digests: Digests) -> KnownFile | None:
    """Return the released file with these digests, if there is one."""
    return next((file for file in known_files() if file.has(digests)), None)


def check_known(file: Path, name: str, revision: str | None, digests: Digests) -> str | None:
    """Compare a file with the released one that has its name.

    Parameters
    ----------
    file, digests
        The file on this machine, and its digests.
    name, revision
        As in `swift_bids.network.weights.Weights`.

    Returns
    -------
    str or None
        A warning if it contradicts a reported digest.

    Raises
    ------
    UsageError
        It contradicts a verified digest.
    """
    for known in known_files():
        # Other revisions of a bundle contain other weights under the same name. Outside the Hub,
        # only the names of the original checkpoints tell what a file should be.
        from_hub = known.release == name and revision in (None, REGISTRY[name]["revision"])
        expected = from_hub if known.name == "model.safetensors" else known.name == file.name
        if not expected or known.has(digests):
            continue
        if known.sha256 is not None:
            differs = f"its SHA-256 is {digests.sha256}, not {known.sha256}"
        else:
            differs = f"its git blob id is {digests.git_blob}, not {known.git_blob}"
        if known.verified:
            raise UsageError(
                f"{file}: {differs}, which {known.name} of {known.release} has; the file is "
                f"damaged or was replaced: delete it and fetch it again"
            )
        return (
            f"{file}: {differs}, which {known.reported_by} reports for {known.name} of "
            f"{known.release}; check where the file comes from"
        )
    return None
