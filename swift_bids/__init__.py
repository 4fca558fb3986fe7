"""swift_bids: fMRIPrep derivatives -> SwiFT embeddings.

The package imports `SwiFT` and `embed` on first use, so that `swift-bids --help` does not wait for
torch.
"""

from importlib import metadata
from pathlib import Path
from typing import Any

_VERSION_FILE = Path(__file__).resolve().parent.parent / "version"
#: The content of the repository's `version` file; without a checkout, the installed copy of it.
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
