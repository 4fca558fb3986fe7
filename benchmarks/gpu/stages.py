"""Run one stage of `python -m benchmarks.gpu`.

python -m benchmarks.gpu.stages NAME RESULT.json --device cuda [--quick] [--reference FILE]
"""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path

from benchmarks.gpu.stage import Stage

#: Stage -> its module, imported only when it runs: a package that is missing stops no other stage.
STAGES = {
    **dict.fromkeys(
        ["device", "parity", "speed", "memory", "profile", "compile", "graphs"], "network"
    ),
    **dict.fromkeys(["tests", "app"], "app"),
    "training": "training",
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.stages", description=__doc__)
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("result", type=Path)
    parser.add_argument("--device", required=True)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--reference", type=Path)
    args = parser.parse_args()
    module = importlib.import_module(f"benchmarks.gpu.{STAGES[args.stage]}")
    stage = Stage(args.result, args.device, args.quick, args.reference)
    getattr(module, args.stage)(stage)


if __name__ == "__main__":
    main()
