"""swift_bids: fMRIPrep derivatives -> SwiFT embeddings.

`SwiFT` and `embed` are imported when they are first asked for, so that `swift-bids --help` need not
wait for torch.
"""

from importlib import metadata
from pathlib import Path
from typing import Any

_VERSION_FILE = Path(__file__).resolve().parent.parent / "version"
#: The number in the repository's `version` file, or in a checkout-less installation its copy.
__version__ = (
    _VERSION_FILE.read_text().strip() if _VERSION_FILE.is_file() else metadata.version("swift-bids")
)

__all__ = ["SwiFT", "__version__", "embed"]


def __getattr__(name: str) -> Any:
    if name == "SwiFT":
        from swift_bids.network.swift import SwiFT

        return SwiFT
    if name == "embed":
        from swift_bids.api import embed

        return embed
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
