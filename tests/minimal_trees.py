"""Small trees of fMRIPrep's minimal level (tests/data/minimal/make.py), as they are or copied."""

import shutil
from pathlib import Path

from app import ROOT, query

#: Name -> folder with `raw`, `minimal` and `truth.npz`.
TREES = {
    name: ROOT / "tests" / "data" / "minimal" / name for name in ("plain", "fieldmap", "two_levels")
}


def copy_tree(name: str, folder: Path) -> Path:
    """Copy a tree, to change it."""
    return Path(shutil.copytree(TREES[name], folder / name))


def query_tree(tree: str | Path, **selection):
    """Runs of a tree, and the problems as a dict."""
    folder = TREES[tree] if tree in TREES else Path(tree)
    return query(folder / "raw", folder / "minimal", **selection)
