"""Check that memory, open files and time per run do not grow during a call with many runs.

    python -m benchmarks.load [--runs 500] [--nprocs 2] [--picture load.png]

The runs have 22 volumes on a grid of 8 mm and one participant each, and the network has few
features: the rest is the app's own work for a run. After every run, the benchmark records the
resident memory and the open files of the process that waits for the workers, and the total memory
of all its workers.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd

from benchmarks.pipeline import ROOT
from benchmarks.throughput import give_names
from swift_bids.network.bundles import write_bundle
from swift_bids.network.released import RELEASED_CONFIG
from swift_bids.network.swift import SwiFT

SHAPE, N_VOLUMES, TR = (23, 28, 23), 22, 0.8
AFFINE = np.array([[-8.0, 0, 0, 88], [0, 8, 0, -124], [0, 0, 8, -70], [0, 0, 0, 1]])
NAME = "sub-01_task-rest_space-MNI152NLin6Asym"


def write_runs(root: Path, n_runs: int) -> None:
    """Write derivatives of one small run for many participants."""
    func = root / "sub-01" / "func"
    func.mkdir(parents=True)
    description = {"Name": "load", "BIDSVersion": "1.8.0", "DatasetType": "derivative"}
    (root / "dataset_description.json").write_text(json.dumps(description))
    data = np.random.default_rng(0).integers(900, 1100, (*SHAPE, N_VOLUMES)).astype(np.int16)
    image = nib.Nifti1Image(data, AFFINE)
    image.header.set_zooms((8, 8, 8, TR))
    image.to_filename(func / f"{NAME}_desc-preproc_bold.nii.gz")
    (func / f"{NAME}_desc-preproc_bold.json").write_text(json.dumps({"RepetitionTime": TR}))
    brain = np.zeros(SHAPE, np.uint8)
    brain[tuple(slice(n // 4, 3 * n // 4) for n in SHAPE)] = 1
    nib.Nifti1Image(brain, AFFINE).to_filename(func / f"{NAME}_desc-brain_mask.nii.gz")
    confounds = "framewise_displacement\n" + "0.1\n" * N_VOLUMES
    (func / "sub-01_task-rest_desc-confounds_timeseries.tsv").write_text(confounds)
    give_names(root, n_runs)


def write_small_network(folder: Path) -> Path:
    """Write weights of a network with the input shape of the released ones and 48 features."""
    config = RELEASED_CONFIG | {"embed_dim": 6, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 1, 1]}
    return write_bundle(folder, config, SwiFT(**config).state_dict(), random_weights_seed=0)


def resident_mb(pid: int) -> float:
    """Resident memory of a process in MB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def descendants(pid: int) -> list[int]:
    """Process ids of all descendants of a process."""
    table = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True).stdout
    children: dict[int, list[int]] = {}
    for child, parent in (map(int, line.split()) for line in table.splitlines()):
        children.setdefault(parent, []).append(child)
    below = list(children.get(pid, []))
    for child in below:
        below += children.get(child, [])
    return below


def measure(call: list[str]) -> pd.DataFrame:
    """Run a call; a row for each run: run, seconds, parent_mb, workers_mb, open_files."""
    rows = []
    begin = time.monotonic()
    with subprocess.Popen(call, stdout=subprocess.PIPE, text=True) as job:
        for line in job.stdout:
            if match := re.match(r"\[(\d+)/\d+\] .*: (\w+) in", line):
                assert match.group(2) == "done", line
                workers = 0.0
                for pid in descendants(job.pid):
                    try:
                        workers += resident_mb(pid)
                    except (FileNotFoundError, ProcessLookupError):  # the worker has just ended
                        continue
                rows.append(
                    {
                        "run": int(match.group(1)),
                        "seconds": time.monotonic() - begin,
                        "parent_mb": resident_mb(job.pid),
                        "workers_mb": workers,
                        "open_files": len(os.listdir(f"/proc/{job.pid}/fd")),
                    }
                )
    assert job.returncode == 0
    return pd.DataFrame(rows)


def draw(samples: pd.DataFrame, picture: Path) -> None:
    """Plot the four curves."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    seconds_per_run = samples["seconds"].diff().rolling(20).mean()
    curves = {
        "waiting process (MB)": samples["parent_mb"],
        "workers together (MB)": samples["workers_mb"],
        "open files": samples["open_files"],
        "s per run (mean of 20)": seconds_per_run,
    }
    for axes, (title, values) in zip(figure.subplots(2, 2, sharex=True).flat, curves.items()):
        axes.plot(samples["run"], values, color="#1f4e79", linewidth=1)
        axes.set(title=title, ylim=(0, 1.15 * values.max()))
        axes.spines[["top", "right"]].set_visible(False)
    figure.supxlabel("runs done")
    figure.savefig(picture, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=500)
    parser.add_argument("--nprocs", type=int, default=2)
    parser.add_argument("--picture", type=Path, help="plot the curves to this file")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder, "fmriprep")
        write_runs(root, args.runs)
        weights = write_small_network(Path(folder, "weights"))
        call = [sys.executable, ROOT / "run.py", root, Path(folder, "out"), "participant"]
        flags = ["--weights", weights, "--random-weights", "--nprocs", args.nprocs]
        samples = measure([*map(str, [*call, *flags])])
    every = max(1, args.runs // 10)
    print("| runs done | waiting process, MB | workers, MB | open files | s per run |")
    print("|---|---|---|---|---|")
    before = 0.0
    for row in samples[samples["run"] % every == 0].itertuples():
        seconds = (row.seconds - before) / every
        before = row.seconds
        print(
            f"| {row.run} | {row.parent_mb:.0f} | {row.workers_mb:.0f} | {row.open_files} "
            f"| {seconds:.2f} |"
        )
    first, last = samples[samples["run"] == every].iloc[0], samples.iloc[-1]
    growth = last["parent_mb"] / first["parent_mb"] - 1
    print(f"waiting process from run {every} to {args.runs}: {growth:+.1%}")
    if args.picture is not None:
        draw(samples, args.picture)


if __name__ == "__main__":
    main()
