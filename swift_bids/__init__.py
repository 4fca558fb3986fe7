"""swift_bids: fMRIPrep derivatives -> embeddings by SwiFT or NeuroSTORM.

The package imports what it offers to Python on first use, so that `swift-bids --help` does not wait
for torch.
"""

from importlib import import_module, metadata
from pathlib import Path
from typing import Any

_VERSION_FILE = Path(__file__).resolve().parent.parent / "version"
#: The content of the repository's `version` file; without a checkout, the installed copy of it.
__version__ = (
    _VERSION_FILE.read_text().strip() if _VERSION_FILE.is_file() else metadata.version("swift-bids")
)

#: Name -> module that contains it.
_OFFERED = {
    "NeuroSTORM": "swift_bids.network.neurostorm",
    "SwiFT": "swift_bids.network.swift",
    "embed": "swift_bids.api",
    "from_pretrained": "swift_bids.network.load",
}
__all__ = ["NeuroSTORM", "SwiFT", "__version__", "embed", "from_pretrained"]


def __getattr__(name: str) -> Any:
    if name in _OFFERED:
        return getattr(import_module(_OFFERED[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
