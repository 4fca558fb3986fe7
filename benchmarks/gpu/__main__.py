"""Check and measure the app on a GPU, in at most six minutes and without network access.

    python -m benchmarks.gpu [--reference reference_forward.pt] [--output gpu.json]
    python -m benchmarks.gpu --device cpu --quick      # the same stages on a CPU, as a rehearsal

Each stage runs in a process of its own with its own time limit, so a stage that fails or hangs does
not stop the later ones. The results so far are written to the JSON file after every stage.
`docs/developing.md` says what to copy to a machine without network access, and how to read the
result.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
#: Stage -> its time limit in seconds. The last one gets what is left.
LIMITS = {
    "device": 60,
    "parity": 60,
    "speed": 80,
    "app": 170,
    "memory": 40,
    "training": 40,
    "profile": 40,
    "graphs": 40,
    "tests": 60,
    "compile": 300,
}
#: Seconds for everything.
TOTAL = 350


def run_stage(name: str, limit: float, arguments: list[str]) -> dict:
    """Run a stage in a process of its own; return its result, or its error."""
    with tempfile.NamedTemporaryFile("r", suffix=".json") as result:
        command = [sys.executable, "-m", "benchmarks.gpu.stages", name, result.name, *arguments]
        start = time.monotonic()
        with subprocess.Popen(
            command,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        ) as process:
            try:
                said, _ = process.communicate(timeout=limit)
                error = None if process.returncode == 0 else said[-2000:]
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)  # its own processes, too
                said, _ = process.communicate()
                error = f"stopped after {limit:.0f} s: {said[-1000:]}"
        text = Path(result.name).read_text()
    # A stage writes its result after every figure, so a stage that was stopped has some.
    found = json.loads(text) if text else {}
    return {"seconds": round(time.monotonic() - start, 1), **found} | (
        {"error": error} if error else {}
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true", help="small sizes, to rehearse on a CPU")
    parser.add_argument("--reference", type=Path, help="traced original forward pass")
    parser.add_argument("--output", type=Path, default=Path("gpu.json"))
    parser.add_argument("--stages", nargs="+", choices=LIMITS, default=list(LIMITS))
    args = parser.parse_args()
    arguments = ["--device", args.device] + ["--quick"] * args.quick
    if args.reference:
        arguments += ["--reference", str(args.reference.resolve())]
    results: dict[str, dict] = {}
    end = time.monotonic() + TOTAL
    for name in args.stages:
        limit = min(LIMITS[name], end - time.monotonic())
        if limit < 5:
            results[name] = {"error": f"not run: the {TOTAL} s for all stages are over"}
        else:
            results[name] = run_stage(name, limit, arguments)
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.write_text(json.dumps(results, indent=2) + "\n")
        print(f"== {name}\n{json.dumps(results[name], indent=1)}", flush=True)
    failed = [name for name, result in results.items() if "error" in result]
    print(
        f"\nwritten to {args.output}; " + (f"failed: {', '.join(failed)}" if failed else "all ran")
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
