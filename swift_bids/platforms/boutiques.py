"""The command line -> boutiques.json, a description for Boutiques (boutiques.github.io).

    python -m swift_bids.platforms.boutiques > boutiques.json

The file is generated from the parser; a test checks that it is up to date.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from swift_bids import __version__
from swift_bids.cli import values as flag_types
from swift_bids.cli.flags import build_parser
from swift_bids.outputs.provenance import CODE_URL, IMAGE

#: The first arguments, in the order that Boutiques' BIDS validation requires.
_FIRST = ("bids_dir", "output_dir", "analysis_level", "participant_label", "session_label")
_OMITTED = ("help", "version")
_INTEGERS = (flag_types.positive,)
_NUMBERS = (flag_types.millimetres, flag_types.share)


def descriptor() -> dict[str, Any]:
    """The content of boutiques.json."""
    actions = {a.dest: a for a in build_parser()._actions if a.dest not in _OMITTED}
    names = [*_FIRST, *(name for name in actions if name not in _FIRST)]
    inputs = [_input(actions[name]) for name in names]
    position = names.index("output_dir")
    new = inputs[position] | {
        "id": "output_dir_name",
        "name": "output_dir_name",
        "type": "String",
        "description": "new folder for the BIDS-Derivatives",
        "optional": True,
    }
    inputs[position] |= {
        "description": "existing folder for the BIDS-Derivatives",
        "optional": True,
    }
    inputs.insert(position, new)
    keys = " ".join(_key(name) for name in names)
    return {
        "name": "swift_bids",
        "description": "SwiFT or NeuroSTORM embeddings of fMRIPrep derivatives",
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
                "description": "BIDS-Derivatives: embeddings, quality metrics, pages",
            }
        ],
        "suggested-resources": {"cpu-cores": 4, "ram": 4, "walltime-estimate": 3600},
        "error-codes": [
            {"code": 1, "description": "Some runs failed; the log names them"},
            {"code": 2, "description": "The command is wrong or there is nothing to do"},
        ],
        "tags": {"domain": ["neuroinformatics", "fmri", "bids"]},
    }


def _input(action: argparse.Action) -> dict[str, Any]:
    described: dict[str, Any] = {
        "id": action.dest,
        "name": action.dest,
        "type": _type(action),
        "description": (action.help or action.dest).replace("%%", "%"),
        "value-key": _key(action.dest),
        "optional": bool(action.option_strings),
    }
    if action.option_strings:
        long = [flag for flag in action.option_strings if flag.startswith("--")]
        described["command-line-flag"] = long[0]
    if action.choices:
        described["value-choices"] = list(action.choices)
    if described["type"] == "Number" and action.type in _INTEGERS:
        described |= {"integer": True, "minimum": 1}
    elif action.type is flag_types.share:
        described |= {"minimum": 0, "maximum": 1}
    elif action.type is flag_types.millimetres:
        described |= {"minimum": 0, "exclusive-minimum": True}
    if action.nargs == "+":
        described |= {"list": True, "min-list-entries": 1}
    if action.default not in (None, False) and described["type"] != "Flag":
        described["default-value"] = action.default
    if action.dest == "dry_run":  # without a value it prints text
        described["command-line-flag-separator"] = "="
    return described


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
