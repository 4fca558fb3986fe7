"""config.json of a brainlife task -> the app on one run -> brainlife's output folders.

brainlife calls `main` at the root of the repository in a folder with `config.json`, whose values
are paths and parameters and whose `_inputs` tell whose data they are. What it takes back are a
folder for each registered output (`embedding`, `html`) and `product.json` (brainlife.io/docs, "App
Developers").
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any, cast

import nibabel as nib
import pandas as pd

from swift_bids.base.files import read_json, write_json
from swift_bids.cli.main import main as run_app
from swift_bids.outputs.paths import output_path
from swift_bids.outputs.quality import verdicts_of

#: Parameters of config.json that are flags of the app by the same name.
_FLAGS = ("variant", "weights", "normalisation", "target_tr", "dummy_scans", "max_censored")
_SWITCHES = ("random_weights", "no_tokens")


def main(folder: Path) -> int:
    """Do the task in `folder`; return the exit code.

    `product.json` tells what came of it in any case.
    """
    try:
        config = read_json(folder / "config.json")
        name = lay_out(config, folder / "work" / "fmriprep", folder)
    except (OSError, ValueError, KeyError) as error:
        _write_product(folder, [_message("error", f"config.json cannot be used: {error}")])
        print(f"swift-bids: error: config.json cannot be used: {error}", file=sys.stderr)
        return 2
    output = folder / "work" / "swift_bids"
    code = run_app([str(folder / "work" / "fmriprep"), str(output), "participant", *_flags(config)])
    if code != 0:
        _write_product(folder, [_message("error", "The run was not embedded, see the log.")])
        return code
    embedding = folder / "embedding"
    embedding.mkdir(exist_ok=True)
    for file in sorted(output_path(output, name, "embedding", ".tsv").parent.iterdir()):
        shutil.copy(file, embedding)
    (folder / "html").mkdir(exist_ok=True)
    shutil.copy(output / f"{name.split('_')[0]}.html", folder / "html" / "index.html")
    _write_product(folder, _products(output, name))
    shutil.rmtree(folder / "work")
    return 0


def lay_out(config: dict[str, Any], root: Path, folder: Path) -> str:
    """Lay out the inputs as fMRIPrep does, with links; return the name of the run.

    Raises
    ------
    KeyError, ValueError
        `fmri` or `mask` is not given, or there is no TR.
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
    for link, given in files.items():
        if given:
            source = (folder / given).resolve()
            if not source.is_file():
                raise ValueError(f"{given} is not there")
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
    """`sub-01_ses-1_task-rest_run-1` from the inputs' meta, with what BIDS allows in labels."""
    meta: dict[str, Any] = {}
    for given in config.get("_inputs") or []:
        meta = (given.get("meta") or {}) | meta
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
    """TR in s: of the config, of the meta (`RepetitionTime`), or of the header."""
    for given in [config, *[i.get("meta") or {} for i in config.get("_inputs") or []]]:
        for key in ("tr", "RepetitionTime"):
            if given.get(key):
                return float(given[key])
    image = cast(nib.Nifti1Image, nib.load(folder / config["fmri"]))
    zooms = image.header.get_zooms()
    if len(zooms) < 4 or not 0 < zooms[3] < 30:
        raise ValueError("no TR in config.json, and none in seconds in the header")
    return float(zooms[3])


def _flags(config: dict[str, Any]) -> list[str]:
    flags = [f"--{name.replace('_', '-')}={config[name]}" for name in _FLAGS if config.get(name)]
    flags += [f"--{name.replace('_', '-')}" for name in _SWITCHES if config.get(name)]
    # of the job that `main` asks for; PBS need not keep it to that
    return [*flags, f"--nprocs={os.environ.get('PBS_NP', 4)}", "--mem=8G"]


def _products(output: Path, name: str) -> list[dict[str, Any]]:
    """The verdicts of the run as messages, and its chunks as a figure."""
    qc = read_json(output_path(output, name, "qc", ".json"))
    chunks = pd.read_csv(output_path(output, name, "timeseries", ".tsv"), sep="\t")
    products: list[dict[str, Any]]
    products = [_message("info" if good else "warning", text) for good, text in verdicts_of(qc)]
    if qc["Model"]["RandomWeights"]:
        products.insert(0, _message("danger", "Random weights: the embeddings mean nothing."))
    seconds = chunks["onset"].tolist()
    moved = [None if pd.isna(value) else value for value in chunks["mean_fd"].tolist()]
    traces = [
        {"type": "bar", "name": "distance", "x": seconds, "y": chunks["distance"].tolist()},
        {"type": "scatter", "name": "mean FD (mm)", "x": seconds, "y": moved, "yaxis": "y2"},
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
