"""The command line -> boutiques.json, its description for Boutiques (boutiques.github.io).

    python -m swift_bids.platforms.boutiques > boutiques.json

It is made from the parser, so that both say the same; a test compares them.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from swift_bids import __version__
from swift_bids.cli import values as arguments
from swift_bids.cli.flags import build_parser
from swift_bids.outputs.provenance import CODE_URL, IMAGE

#: First on the command line of every BIDS App, in this order (boutiques' BIDS validation).
_FIRST = ("bids_dir", "output_dir", "analysis_level", "participant_label", "session_label")
_LEFT_OUT = ("help", "version")
_INTEGERS = (arguments.positive,)
_NUMBERS = (arguments.millimetres, arguments.share)


def descriptor() -> dict[str, Any]:
    """The content of boutiques.json."""
    actions = {a.dest: a for a in build_parser()._actions if a.dest not in _LEFT_OUT}
    names = [*_FIRST, *(name for name in actions if name not in _FIRST)]
    inputs = [_input(actions[name]) for name in names]
    place = names.index("output_dir")
    new = inputs[place] | {
        "id": "output_dir_name",
        "name": "output_dir_name",
        "type": "String",
        "description": "folder to be made for the BIDS-Derivatives",
        "optional": True,
    }
    inputs[place] |= {"description": "folder that is there already", "optional": True}
    inputs.insert(place, new)
    keys = " ".join(_key(name) for name in names)
    return {
        "name": "swift_bids",
        "description": "SwiFT (4D Swin Transformer) embeddings of fMRIPrep derivatives",
        "author": "The swift_bids developers",
        "url": CODE_URL,
        "tool-version": __version__,
        "schema-version": "0.5",
        "command-line": f"mkdir -p [OUTPUT_DIR]; swift-bids {keys}",
        "container-image": {"type": "docker", "image": f"{IMAGE}:{__version__}"},
        "inputs": inputs,
        "groups": [
            {
                "id": "output_dir_group",
                "name": "Output folder",
                "members": ["output_dir_name", "output_dir"],
                "mutually-exclusive": True,
                "one-is-required": True,
            }
        ],
        "output-files": [
            {
                "id": "output",
                "name": "Output folder",
                "path-template": "[OUTPUT_DIR]",
                "description": "BIDS-Derivatives: embeddings, quality figures, pages",
            }
        ],
        "suggested-resources": {"cpu-cores": 4, "ram": 4, "walltime-estimate": 3600},
        "error-codes": [
            {"code": 1, "description": "Some runs could not be done; the log names them"},
            {"code": 2, "description": "The call is wrong, or there are no weights"},
        ],
        "tags": {"domain": ["neuroinformatics", "fmri", "bids"]},
    }


def _input(action: argparse.Action) -> dict[str, Any]:
    said: dict[str, Any] = {
        "id": action.dest,
        "name": action.dest,
        "type": _type(action),
        "description": (action.help or action.dest).replace("%%", "%"),
        "value-key": _key(action.dest),
        "optional": bool(action.option_strings),
    }
    if action.option_strings:
        long = [flag for flag in action.option_strings if flag.startswith("--")]
        said["command-line-flag"] = long[0]
    if action.choices:
        said["value-choices"] = list(action.choices)
    if said["type"] == "Number" and action.type in _INTEGERS:
        said |= {"integer": True, "minimum": 1}
    elif action.type is arguments.share:
        said |= {"minimum": 0, "maximum": 1}
    elif action.type is arguments.millimetres:
        said |= {"minimum": 0, "exclusive-minimum": True}
    if action.nargs == "+":
        said |= {"list": True, "min-list-entries": 1}
    if action.default not in (None, False) and said["type"] != "Flag":
        said["default-value"] = action.default
    if action.dest == "dry_run":  # without a value it is text
        said["command-line-flag-separator"] = "="
    return said


def _type(action: argparse.Action) -> str:
    if action.nargs == 0:
        return "Flag"
    if action.type in (*_INTEGERS, *_NUMBERS):
        return "Number"
    return "File" if action.type is Path else "String"


def _key(name: str) -> str:
    return f"[{name.upper()}]"


if __name__ == "__main__":
    print(json.dumps(descriptor(), indent=2, ensure_ascii=False))
