"""Sphinx: make docs."""

import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # the checkout's, wherever another version may be installed

project = "swift_bids"
author = "The swift_bids developers"
release = version = (ROOT / "version").read_text().strip()

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinxarg.ext",  # the command line's page, from the parser itself
    "sphinx_copybutton",
]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
exclude_patterns = ["_build", "_columns.md"]
nitpicky = False
numpydoc_show_class_members = False
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # numpydoc's sections say it

html_theme = "furo"
html_title = f"swift_bids {release}"


def write_columns() -> None:
    """The table of all columns, from the descriptions that the app writes beside its tables."""
    described = json.loads((ROOT / "swift_bids" / "data" / "columns.json").read_text())
    rows = ["| column | unit | meaning |", "|---|---|---|"]
    for name, about in described.items():
        rows.append(f"| `{name}` | {about.get('Units', '')} | {about['Description']} |")
    (ROOT / "docs" / "_columns.md").write_text("\n".join(rows) + "\n")


write_columns()
