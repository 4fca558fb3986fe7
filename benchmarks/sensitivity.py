"""Measure how much the embeddings of several runs depend on their preprocessing.

    python -m benchmarks.sensitivity FOLDER [FOLDER ...] [--flags="--mask anat"]

Each folder holds fMRIPrep derivatives of one participant with one run, such as a `full` folder made
by another program. The runs are embedded as those of different participants, with random weights
but the same for all, and `swift-bids sensitivity` is called for each. The table has a row for each
change: how far the tokens, and the embedding in brackets, move in per cent.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd

from swift_bids.network.bundles import write_random_bundle

ROOT = Path(__file__).resolve().parent.parent


def gather(folders: list[Path], root: Path) -> list[str]:
    """Link the runs into one dataset, as those of sub-1, sub-2, ...; return their labels."""
    labels = [str(number) for number in range(1, len(folders) + 1)]
    for label, folder in zip(labels, folders):
        for file in sorted(folder.glob("sub-*/**/*")):
            if file.is_file():
                path = file.relative_to(folder).as_posix()
                old = path.split("/")[0]
                link = root / path.replace(old, f"sub-{label}")
                link.parent.mkdir(parents=True, exist_ok=True)
                os.link(file, link)
    description = next(folder / "dataset_description.json" for folder in folders)
    (root / description.name).write_bytes(description.read_bytes())
    return labels


def call(*arguments: object) -> None:
    """Call the app."""
    command = [sys.executable, ROOT / "run.py", *arguments, "--random-weights"]
    subprocess.run(list(map(str, command)), check=True, stdout=subprocess.DEVNULL)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sensitivity", description=__doc__)
    parser.add_argument("folders", type=Path, nargs="+", metavar="FOLDER")
    parser.add_argument("--flags", default="", help="flags of the app, as one word")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folders[0].parent) as temporary:
        root, out = Path(temporary, "in"), Path(temporary, "out")
        flags = [*shlex.split(args.flags), "--weights", write_random_bundle(Path(temporary))]
        labels = gather(args.folders, root)
        call(root, out, "participant", *flags)
        columns = {}
        for label, folder in zip(labels, args.folders):
            start = time.monotonic()
            call("sensitivity", root, out, f"sub-{label}", *flags)
            seconds = time.monotonic() - start
            (file,) = out.glob(f"sub-{label}/**/*_desc-swift_sensitivity.tsv")
            table = pd.read_csv(file, sep="\t", na_values="n/a").fillna("")
            names = table["change"] + ", " + table["effect"] + ", " + table["statistics"]
            values = [
                f"{100 * t:.1f} ({100 * e:.1f})" for t, e in table[["tokens", "embedding"]].values
            ]
            columns[f"{folder} ({seconds:.0f} s)"] = pd.Series(values, index=names)
        print(pd.DataFrame(columns).to_string())


if __name__ == "__main__":
    main()
