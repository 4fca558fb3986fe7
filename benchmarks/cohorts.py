"""Compare the embeddings of a cohort's own layout with those of the same runs from fMRIPrep's.

    python -m benchmarks.cohorts FOLDER [FOLDER ...]

Each folder contains `hcp`, `abcd` or `ukb`, and `full`: the same runs as fMRIPrep derivatives, made
by another program (for UK Biobank, FSL's own library fslpy). The tokens and the motion of both must
agree: bytes for HCP and ABCD, which only name their files in other ways, and 1e-3 (rms) for UK
Biobank, whose runs the app resamples.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from safetensors.numpy import load_file

from swift_bids.inputs.layouts import COHORTS
from swift_bids.network.bundles import write_random_bundle

ROOT = Path(__file__).resolve().parent.parent


def embed(bids_dir: Path, output_dir: Path, weights: Path) -> float:
    """Embed all runs of a dataset; return the seconds."""
    start = time.monotonic()
    command = [sys.executable, ROOT / "run.py", bids_dir, output_dir, "participant"]
    flags = ["--weights", weights, "--random-weights"]
    subprocess.run(list(map(str, [*command, *flags])), check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - start


def compare(folder: Path, weights: Path) -> None:
    """Print the deviation of each run's tokens and motion."""
    cohort = next(name for name in COHORTS if (folder / name).is_dir())
    with tempfile.TemporaryDirectory() as temporary:
        own, full = Path(temporary, "own"), Path(temporary, "full")
        seconds = embed(folder / cohort, own, weights), embed(folder / "full", full, weights)
        print(f"{folder}: {cohort} {seconds[0]:.1f} s, full {seconds[1]:.1f} s")
        for tokens_file in sorted(full.rglob("*_tokens.safetensors")):
            name = tokens_file.name.removesuffix("_desc-swift_tokens.safetensors")
            expected, found = (
                load_file(root / tokens_file.relative_to(full))["tokens"] for root in (full, own)
            )
            rms = np.sqrt(np.mean((found - expected) ** 2) / np.mean(expected**2))
            table = tokens_file.relative_to(full).with_name(f"{name}_desc-swift_timeseries.tsv")
            fd = [pd.read_csv(root / table, sep="\t")["mean_fd"] for root in (full, own)]
            equal = "bytes equal" if (found == expected).all() else f"tokens {rms:.1e} (rms)"
            print(f"  {name}: {equal}; mean FD differs by {np.abs(fd[0] - fd[1]).max():.1e} mm")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cohorts", description=__doc__)
    parser.add_argument("folders", type=Path, nargs="+", metavar="FOLDER")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        weights = write_random_bundle(Path(folder))
        for each in args.folders:
            compare(each, weights)


if __name__ == "__main__":
    main()
