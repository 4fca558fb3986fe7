"""Parcel means of a run -> its table of denoised time series -> functional connectivity."""

from __future__ import annotations

import glob
import re
from pathlib import Path

import numpy as np
import pandas as pd

from swift_bids.chunk import read_confounds
from swift_bids.json_text import parse
from swift_bids.outputs import (
    GENERATED_BY,
    Provenance,
    run_folder,
    source_uris,
    write_json,
    write_table,
)
from swift_bids.parcels import VOLUMES_PER_REGRESSOR, Parcels, denoise
from swift_bids.runs import Run

_SUFFIX = "_desc-denoised_timeseries"
#: Correlations are kept this far from 1, where Fisher's z is infinite.
_LIMIT = 1 - 1e-6


def write_parcels(
    output_dir: str | Path, run: Run, provenance: Provenance, parcels: Parcels, means: np.ndarray
) -> list[Path]:
    """Write `<run>_seg-<label>_desc-denoised_timeseries.tsv` and its sidecar; return the files.

    Parameters
    ----------
    means
        (used volume of the BOLD file, parcel), as `swift_bids.normalise.normalise` writes them.
    """
    confounds = None
    if run.confounds:
        confounds = read_confounds(run.confounds).iloc[run.first_volume :]
    denoised, regressors = denoise(means, confounds)
    folder = run_folder(output_dir, run.name)
    file = folder / f"{_stem(run.name, parcels.label)}.tsv"
    for other in _tables(folder, run.name):  # of another atlas, in another call
        if other.stem != file.stem:
            other.unlink()
    about = {
        "Description": "Mean signal of parcels without trend and confounds",
        "Sources": source_uris(run, provenance),
        "GeneratedBy": [GENERATED_BY],
        "RepetitionTime": run.repetition_time,
        "DummyScansRemoved": run.first_volume,
        "Atlas": {"Name": parcels.label, "SHA256": parcels.sha256},
        "Regressors": ["mean", "linear trend", *regressors],
        "RegressorsNote": f"At most one confound for {VOLUMES_PER_REGRESSOR} volumes",
    }
    columns = {
        name: {"Description": description, "Units": "standard deviations"}
        for name, description in zip(parcels.names, parcels.descriptions)
    }
    write_table(file, pd.DataFrame(denoised, columns=parcels.names).round(4))
    write_json(file.with_suffix(".json"), about | columns)
    return [file, file.with_suffix(".json")]


def find_parcels(folder: Path, run_name: str) -> Path | None:
    """The table of denoised time series of a run, if it has one."""
    return next((file for file in _tables(folder, run_name) if file.suffix == ".tsv"), None)


def _tables(folder: Path, run_name: str) -> list[Path]:
    """The tables of a run, whichever the atlas, and their sidecars."""
    before, after = _stem(run_name, "?").split("?")
    pattern = re.compile(re.escape(before) + "[A-Za-z0-9]+" + re.escape(after) + r"\.(tsv|json)")
    return [
        file
        for file in sorted(folder.glob(f"{glob.escape(before)}*"))
        if pattern.fullmatch(file.name)
    ]


def _stem(run_name: str, label: str) -> str:
    """The run's name with its `seg` entity, which BIDS has before `res`."""
    before, res, after = run_name.partition("_res-")
    return f"{before}_seg-{label}{res}{after}{_SUFFIX}"


def atlas_of(parcel_file: Path) -> tuple[str, str | None]:
    """Label and SHA-256 of the atlas that a table of time series was made with."""
    atlas = parse(parcel_file.with_suffix(".json").read_text(encoding="utf-8"))["Atlas"]
    return atlas["Name"], atlas["SHA256"]


def connectivity(parcel_file: Path) -> tuple[np.ndarray, list[str]]:
    """Functional connectivity of a run.

    Returns
    -------
    numpy.ndarray
        (edge,) float32: Fisher's z of the Pearson correlation of each pair of parcels, upper
        triangle row by row; NaN where a parcel has no signal.
    list of str
        Names of the parcels.

    Raises
    ------
    ValueError
        It is no such table.
    """
    table = pd.read_csv(parcel_file, sep="\t", na_values="n/a", dtype=np.float32)
    if table.shape[1] < 2 or len(table) < 2:
        raise ValueError("it takes two parcels and two volumes")
    with np.errstate(invalid="ignore", divide="ignore"):
        correlation = np.corrcoef(table.to_numpy(), rowvar=False)
    edges = correlation[np.triu_indices(table.shape[1], k=1)]
    return np.arctanh(np.clip(edges, -_LIMIT, _LIMIT)).astype(np.float32), list(table.columns)
