"""config.json of a brainlife task -> the app on one run -> brainlife's output folders.

brainlife calls `main`, at the root of the repository, in a folder with `config.json`. Its values
are paths and parameters; its `_inputs` describe the participant and the run. brainlife expects a
folder for each registered output (`embedding`, `html`) and `product.json` (brainlife.io/docs, "App
Developers").
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pandas as pd

from swift_bids.base.errors import InputError
from swift_bids.base.files import read_json, write_json
from swift_bids.cli.main import main as run_app
from swift_bids.inputs.raw_header import load_header
from swift_bids.outputs.paths import find_outputs, output_path, run_folder
from swift_bids.outputs.quality import verdicts_of

#: Parameters of config.json that are flags of the app with the same name.
_FLAGS = (
    "variant",
    "weights",
    "normalisation",
    "quantisation",
    "target_tr",
    "dummy_scans",
    "max_censored",
)
_SWITCHES = ("random_weights", "no_tokens")


def main(folder: Path) -> int:
    """Run the task in `folder` and return the exit code.

    `product.json` always contains the outcome, even after an error.
    """
    root = folder / "work" / "fmriprep"
    try:
        config = read_json(folder / "config.json")
        name = lay_out(config, root, folder)
    except (OSError, ValueError, KeyError, InputError) as error:
        _write_product(folder, [_message("error", f"config.json cannot be used: {error}")])
        print(f"swift-bids: error: config.json cannot be used: {error}", file=sys.stderr)
        return 2
    output = folder / "work" / "swift_bids"
    try:
        code = run_app([str(root), str(output), "participant", *_flags(config)])
    except SystemExit:  # from argparse: a parameter in config.json is wrong
        code = 2
    if code != 0:
        _write_product(folder, [_message("error", "The run was not embedded; see the log.")])
        return code
    embedding = folder / "embedding"
    embedding.mkdir(exist_ok=True)
    for file in sorted(run_folder(output, name).iterdir()):
        shutil.copy(file, embedding)
    (folder / "html").mkdir(exist_ok=True)
    shutil.copy(output / f"{name.split('_')[0]}.html", folder / "html" / "index.html")
    _write_product(folder, _products(output, name))
    shutil.rmtree(folder / "work")
    return 0


def lay_out(config: dict[str, Any], root: Path, folder: Path) -> str:
    """Link the inputs into a folder with fMRIPrep's layout and return the name of the run.

    Raises
    ------
    KeyError, ValueError
        `fmri` or `mask` is missing, or there is no TR.
    """
    name = _name_of(config)
    space = config.get("space") or "MNI152NLin6Asym"
    files = {
        f"{name}_space-{space}_desc-preproc_bold.nii.gz": config["fmri"],
        f"{name}_space-{space}_desc-brain_mask.nii.gz": config["mask"],
        f"{name}_desc-confounds_timeseries.tsv": config.get("confounds"),
    }
    target = root / name.split("_")[0] / "func"
    target.mkdir(parents=True, exist_ok=True)
    for link, path in files.items():
        if path:
            source = (folder / path).resolve()
            if not source.is_file():
                raise ValueError(f"{path} does not exist")
            (target / link).unlink(missing_ok=True)
            (target / link).symlink_to(source)
    write_json(
        target / f"{name}_space-{space}_desc-preproc_bold.json",
        {"RepetitionTime": _repetition_time(config, folder)},
    )
    about = {"Name": "brainlife", "BIDSVersion": "1.10.0", "DatasetType": "derivative"}
    write_json(root / "dataset_description.json", about)
    return f"{name}_space-{space}"


def _name_of(config: dict[str, Any]) -> str:
    """Name such as `sub-01_ses-1_task-rest_run-1` from the inputs' meta, with valid BIDS labels."""
    meta: dict[str, Any] = {}
    for item in config.get("_inputs") or []:
        meta = (item.get("meta") or {}) | meta
    labels = {
        entity: re.sub(r"[^A-Za-z0-9]", "", str(meta.get(key) or ""))
        for entity, key in (
            ("sub", "subject"),
            ("ses", "session"),
            ("task", "task"),
            ("run", "run"),
        )
    }
    labels["sub"], labels["task"] = labels["sub"] or "01", labels["task"] or "rest"
    return "_".join(f"{entity}-{label}" for entity, label in labels.items() if label)


def _repetition_time(config: dict[str, Any], folder: Path) -> float:
    """TR in s, from config.json, from the meta (`RepetitionTime`), or from the header."""
    for source in [config, *[i.get("meta") or {} for i in config.get("_inputs") or []]]:
        for key in ("tr", "RepetitionTime"):
            if source.get(key):
                return float(source[key])
    zooms = load_header(str(folder / config["fmri"])).get_zooms()
    if len(zooms) < 4 or not 0 < zooms[3] < 30:
        raise ValueError("config.json has no TR, and the header has none in seconds")
    return float(zooms[3])


def _flags(config: dict[str, Any]) -> list[str]:
    flags = [f"--{name.replace('_', '-')}={config[name]}" for name in _FLAGS if config.get(name)]
    flags += [f"--{name.replace('_', '-')}" for name in _SWITCHES if config.get(name)]
    # The limits in the #PBS lines of the script `main` at the repository root; PBS does not always
    # enforce them.
    return [*flags, f"--nprocs={os.environ.get('PBS_NP', 4)}", "--mem=8G"]


def _products(output: Path, name: str) -> list[dict[str, Any]]:
    """Messages from the verdicts of the run, and a figure of its chunks."""
    ((qc_file, _, label),) = find_outputs(output, "qc", ".json")
    qc = read_json(qc_file)
    chunks = pd.read_csv(output_path(output, name, label, "timeseries", ".tsv"), sep="\t")
    products: list[dict[str, Any]]
    products = [_message("info" if good else "warning", text) for good, text in verdicts_of(qc)]
    if qc["Model"]["RandomWeights"]:
        products.insert(0, _message("danger", "Random weights: the embeddings mean nothing."))
    seconds = chunks["onset"].tolist()
    motion = [None if pd.isna(value) else value for value in chunks["mean_fd"].tolist()]
    traces = [
        {"type": "bar", "name": "distance", "x": seconds, "y": chunks["distance"].tolist()},
        {"type": "scatter", "name": "mean FD (mm)", "x": seconds, "y": motion, "yaxis": "y2"},
    ]
    layout = {
        "xaxis": {"title": {"text": "onset of the chunk (s)"}},
        "yaxis": {"title": {"text": "cosine distance from the run"}},
        "yaxis2": {"title": {"text": "mean FD (mm)"}, "overlaying": "y", "side": "right"},
    }
    products.append({"type": "plotly", "name": "Chunks", "data": traces, "layout": layout})
    return products


def _message(kind: str, text: str) -> dict[str, str]:
    return {"type": kind, "msg": text}


def _write_product(folder: Path, products: list[dict[str, Any]]) -> None:
    write_json(folder / "product.json", {"brainlife": products, "tags": []})


if __name__ == "__main__":
    sys.exit(main(Path.cwd()))
