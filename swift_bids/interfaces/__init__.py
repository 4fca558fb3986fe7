"""The steps as nipype interfaces, thin wrappers around plain functions."""

from swift_bids.interfaces.data import Chunk, Crop, Locate, Normalise
from swift_bids.interfaces.embedding import PROGRESS_FILE, Aggregate, Embed, load_network

__all__ = [
    "PROGRESS_FILE",
    "Aggregate",
    "Chunk",
    "Crop",
    "Embed",
    "Locate",
    "Normalise",
    "load_network",
]
