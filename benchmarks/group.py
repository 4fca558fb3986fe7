"""Time each step of the group level with synthetic outputs of many participants.

    python -m benchmarks.group --participants 2500 --runs 4
    python -m benchmarks.group --participants 200 --runs 2 --probes --keep FOLDER
    python -m benchmarks.group --participants 60 --runs 2 --probes --columns 8 --keep FOLDER

The outputs look like those of the participant level, with features that differ more between
participants than between runs of one participant. The embeddings depend on the column `planted` of
participants.tsv, `shuffled` is the same column in random order, and `age` affects the
embeddings, the motion and the volume of the brain mask. To compare two versions, let both read the
same FOLDER, and set PYTHONPATH.
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from safetensors.numpy import save_file

from swift_bids import __version__

N_FEATURES, N_PARCELS, N_VOLUMES = 288, 200, 120


def write_outputs(
    root: Path, n_participants: int, n_runs: int, connectivity: bool, n_columns: int = 0
) -> None:
    """Write participants.tsv of the input, with random columns, and outputs of the participant
    level."""
    rng = np.random.default_rng(0)
    planted = np.arange(n_participants) % 2
    age = rng.uniform(20, 80, n_participants).round(1)
    fmriprep, output = root / "fmriprep", root / "swift"
    fmriprep.mkdir(parents=True)
    description = {"Name": "made up", "BIDSVersion": "1.10.0", "DatasetType": "derivative"}
    (fmriprep / "dataset_description.json").write_text(json.dumps(description))
    labels = [f"{number:05d}" for number in range(1, n_participants + 1)]
    pd.DataFrame(
        {
            "participant_id": [f"sub-{label}" for label in labels],
            "age": age,
            "planted": np.where(planted, "case", "control"),
            "shuffled": np.where(rng.permutation(planted), "case", "control"),
            "site": rng.choice(["A", "B", "C"], n_participants),
        }
        | {f"random{i}": _random_column(i, rng, n_participants) for i in range(n_columns)}
    ).to_csv(fmriprep / "participants.tsv", sep="\t", index=False)
    direction = rng.standard_normal((2, N_FEATURES))
    common = rng.standard_normal((N_PARCELS, N_PARCELS))
    names = [f"swift{i:03d}" for i in range(N_FEATURES)]
    for number, label in enumerate(labels):
        (fmriprep / f"sub-{label}").mkdir()
        person = rng.standard_normal(N_FEATURES)
        person += 0.25 * (2 * planted[number] - 1) * direction[0]
        person += 0.01 * (age[number] - 50) * direction[1]
        mixing = common + 0.3 * rng.standard_normal((N_PARCELS, N_PARCELS))
        for run in range(1, n_runs + 1):
            name = f"sub-{label}_task-rest_run-{run}_space-MNI152NLin6Asym_res-2"
            folder = output / f"sub-{label}" / "func"
            folder.mkdir(parents=True, exist_ok=True)
            features = person + 0.7 * rng.standard_normal(N_FEATURES)
            mean_fd = abs(rng.normal(0.1 + 0.002 * age[number], 0.05))
            figures = {
                "template_share": rng.uniform(0.93, 0.99),
                "mask_volume": rng.normal(1700 - 4 * (age[number] - 50), 60),
                "template_dice": rng.uniform(0.93, 0.97),
                "mean_intensity": rng.normal(10_000, 800),
                "tsnr": rng.normal(50, 8),
                "n_warnings": int(mean_fd > 0.25),
                "n_chunks": 15,
                "n_included": 15,
                "mean_fd": mean_fd,
                "censored": min(1.0, mean_fd / 3),
            }
            row = pd.DataFrame([figures | dict(zip(names, features.astype(np.float32)))])
            stem = folder / f"{name}_desc-swift_embedding"
            row.to_csv(f"{stem}.tsv", sep="\t", index=False)
            columns = {column: {"Description": "made up " * 8} for column in row}
            Path(f"{stem}.json").write_text(json.dumps(_metadata() | columns, indent=2))
            if connectivity:
                tokens = features[:, None] + 0.5 * rng.standard_normal((2, N_FEATURES, 8))
                positions = {"positions": tokens.reshape(2, N_FEATURES, 2, 2, 2).astype("f4")}
                save_file(positions, folder / f"{name}_desc-swift_positions.safetensors")
                series = rng.standard_normal((N_VOLUMES, N_PARCELS)) @ mixing
                table = pd.DataFrame(series, columns=[f"p{i}" for i in range(N_PARCELS)]).round(4)
                parcels = name.replace("_res-2", "_seg-made_res-2_desc-denoised_timeseries")
                table.to_csv(folder / f"{parcels}.tsv", sep="\t", index=False)
                atlas = {"Name": "made", "SHA256": "0" * 64}
                about = {"Atlas": atlas, "ConfoundsStrategy": "simple"}
                (folder / f"{parcels}.json").write_text(json.dumps(about))


def _random_column(number: int, rng: np.random.Generator, n: int) -> np.ndarray:
    """Numbers, two classes and three classes by turns."""
    if number % 3 == 0:
        return rng.normal(size=n).round(3)
    classes = np.array(["a", "b", "c"])[: 1 + number % 3]
    return rng.permutation(np.resize(classes, n))


def _metadata() -> dict:
    return {
        "GeneratedBy": [{"Name": "swift_bids", "Version": __version__}],
        "Model": {
            "Name": "SwiFT",
            "Variant": "contrastive",
            "Weights": "made up",
            "WeightsSHA256": "0" * 64,
            "RandomWeights": True,
        },
        "Preprocessing": {
            "Space": "MNI152NLin6Asym",
            "ModelRepetitionTime": 0.8,
            "Frame": "ukb",
            "Normalisation": "global",
            "TargetTR": "auto",
            "ChunkStride": 20,
            "Tail": "drop",
        },
        "RepetitionTime": 0.8,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--participants", type=int, default=2500)
    parser.add_argument("--runs", type=int, default=4)
    parser.add_argument(
        "--probes", action="store_true", help="also write parcel time series and run the probes"
    )
    parser.add_argument("--columns", type=int, default=0, help="random columns to add")
    parser.add_argument("--keep", type=Path, help="write the data to this folder and keep it")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        root = args.keep or Path(temporary, "data")
        if not root.exists():
            write_outputs(root, args.participants, args.runs, args.probes, args.columns)
        call = [
            sys.executable,
            "-m",
            "swift_bids",
            root / "fmriprep",
            root / "swift",
            "group",
            "-v",
        ]
        start = time.monotonic()
        done = subprocess.run(
            [*call, *([] if args.probes else ["--target", "none"])],
            check=True,
            capture_output=True,
            text=True,
        )
        seconds = time.monotonic() - start
        page = (root / "swift" / "group.html").stat().st_size
    for step, taken in re.findall(r"^(.*) took ([\d.]+) s$", done.stdout, re.MULTILINE):
        print(f"{step:40s} {taken:>7} s")
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(
        f"total {seconds:.1f} s, CPU {used.ru_utime + used.ru_stime:.1f} s, largest process "
        f"{used.ru_maxrss / 1e3:.0f} MB, page {page / 1e6:.1f} MB"
    )


if __name__ == "__main__":
    main()
