"""Measure seconds and disk space per run, for the estimates in docs/slurm.md.

    python -m benchmarks.throughput [--runs 8] [--volumes 300] [--nprocs 1 2]

All participants have the same run of 91 x 109 x 91 float32 voxels. The benchmark also times a call
with one run: the difference is the cost of starting the app.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.pipeline import ROOT, write_dataset
from swift_bids.network.bundles import write_random_bundle


def give_names(root: Path, n_runs: int) -> None:
    """Link the files of sub-01 to the names of more participants."""
    for number in range(2, n_runs + 1):
        for file in (root / "sub-01" / "func").iterdir():
            link = (
                root / f"sub-{number:02d}" / "func" / file.name.replace("-01_", f"-{number:02d}_")
            )
            link.parent.mkdir(parents=True, exist_ok=True)
            if not link.exists():
                os.link(file, link)


def measure(root: Path, weights: Path, labels: list[str], nprocs: int) -> tuple[float, float]:
    """Seconds and MB written for one call."""
    with tempfile.TemporaryDirectory() as output:
        call = [sys.executable, ROOT / "run.py", root, output, "participant"]
        flags = ["--weights", weights, "--random-weights", "--nprocs", nprocs]
        begin = time.monotonic()
        done = subprocess.run(
            [*map(str, [*call, *flags]), "--participant-label", *labels], capture_output=True
        )
        seconds = time.monotonic() - begin
        assert done.returncode == 0, done.stdout
        written = sum(file.stat().st_size for file in Path(output).rglob("*") if file.is_file())
    return seconds, written / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=8)
    parser.add_argument("--volumes", type=int, default=300)
    parser.add_argument("--nprocs", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--data", type=Path, help="keep the data in this folder")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        root = (args.data or Path(made)) / f"run{args.volumes}"
        bold = write_dataset(root, args.volumes)
        weights = write_random_bundle(Path(made) / "weights")
        give_names(root, args.runs)
        labels = [f"{number:02d}" for number in range(1, args.runs + 1)]
        print(f"one run: {args.volumes} volumes, {bold.stat().st_size / 1e6:.0f} MB gzipped")
        print("| CPUs | runs | s | s per run | MB written per run |")
        print("|---|---|---|---|---|")
        for nprocs in args.nprocs:
            for some in (labels[:1], labels):
                seconds, written = measure(root, weights, some, nprocs)
                n = len(some)
                print(f"| {nprocs} | {n} | {seconds:.1f} | {seconds / n:.2f} | {written / n:.1f} |")


if __name__ == "__main__":
    main()
