"""Compare runs that the app conforms to the FSL 2 mm grid with the same runs made on it.

    python -m benchmarks.other_grids DIRECT OTHER [OTHER ...]

DIRECT holds fMRIPrep derivatives of one run on the FSL 2 mm grid, each OTHER those of the same run
on another grid of the same template, made by fMRIPrep's own resampler from the same raw run. The
table has the deviation of the tokens from those of DIRECT (root mean square, per cent), and the
time of `normalise` with this grid divided by that with linear interpolation.
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

from swift_bids.network.bundles import write_random_bundle

ROOT = Path(__file__).resolve().parent.parent


def embed(bids_dir: Path, output_dir: Path, weights: Path, *flags: str) -> tuple[np.ndarray, float]:
    """Embed the run of a dataset; return its tokens and the seconds."""
    start = time.monotonic()
    command = [sys.executable, ROOT / "run.py", bids_dir, output_dir, "participant", *flags]
    command += ["--weights", weights, "--random-weights", "--nprocs", "1"]
    subprocess.run(list(map(str, command)), check=True, stdout=subprocess.DEVNULL)
    seconds = time.monotonic() - start
    (file,) = output_dir.rglob("*_tokens.safetensors")
    return load_file(file)["tokens"], seconds


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.other_grids", description=__doc__)
    parser.add_argument("direct", type=Path)
    parser.add_argument("others", type=Path, nargs="+", metavar="OTHER")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        weights = write_random_bundle(Path(temporary))
        rows = {}
        for mask in ("bold", "anat"):
            expected, _ = embed(
                args.direct, Path(temporary, f"direct_{mask}"), weights, "--mask", mask
            )
            for other in args.others:
                row = rows.setdefault(str(other), {})
                for kind in ("linear", "cubic"):
                    folder = Path(temporary, f"{other.parent.name}_{mask}_{kind}")
                    flags = ("--mask", mask, "--interpolation", kind)
                    tokens, seconds = embed(other, folder, weights, *flags)
                    rms = np.sqrt(np.mean((tokens - expected) ** 2) / np.mean(expected**2))
                    row[f"{kind}, {mask} mask"] = f"{100 * rms:.2f} %"
                    row[f"{kind}, {mask} mask, s"] = f"{seconds:.1f}"
        print(pd.DataFrame(rows).T.to_string())


if __name__ == "__main__":
    main()
