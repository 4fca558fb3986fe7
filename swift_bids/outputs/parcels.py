"""Parcel means of a run -> a table of denoised time series."""

from __future__ import annotations

import glob
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from swift_bids.base.files import read_json, write_json
from swift_bids.inputs.parcel_defaults import SIMPLE
from swift_bids.inputs.run import Run
from swift_bids.inputs.run_confounds import confounds_of
from swift_bids.outputs.paths import run_folder
from swift_bids.outputs.provenance import GENERATED_BY, Provenance, source_uris
from swift_bids.outputs.tables import write_table
from swift_bids.steps.denoise import VOLUMES_PER_REGRESSOR, denoise, used_confounds
from swift_bids.steps.parcels import Parcels

_SUFFIX = "_desc-denoised_timeseries"


def write_parcels(
    output_dir: str | Path,
    run: Run,
    provenance: Provenance,
    parcels: Parcels,
    strategy: str,
    means: np.ndarray,
    faulty: np.ndarray,
) -> list[Path]:
    """Write `<run>_seg-<label>_desc-denoised_timeseries.tsv` and its sidecar; return the files.

    Parameters
    ----------
    strategy
        One of `swift_bids.inputs.parcel_defaults.STRATEGIES`.
    means
        (volume of the BOLD file without dummy scans, parcel), as
        `swift_bids.steps.normalise.normalise` writes them to `parcel_file`.
    faulty
        bool (volume of the BOLD file,): volumes whose rows are left empty.
    """
    confounds = confounds_of(run)
    if confounds is not None:
        confounds = confounds.iloc[run.first_volume :]
        if run.confounds:
            confounds = used_confounds(confounds, run.confounds, strategy)
    denoised = denoise(means, confounds, faulty[run.first_volume :], strategy)
    folder = run_folder(output_dir, run.name)
    file = folder / f"{_stem(run.name, parcels.label)}.tsv"
    for other in _tables(folder, run.name):  # from an earlier call with another atlas
        if other.stem != file.stem:
            other.unlink()
    about = {
        "Description": "Mean signals of parcels without trend and confounds",
        "Sources": source_uris(run, provenance),
        "GeneratedBy": [GENERATED_BY],
        "RepetitionTime": run.repetition_time,
        "DummyScansRemoved": run.first_volume,
        "Atlas": {"Name": parcels.label, "SHA256": parcels.sha256},
        "ConfoundsStrategy": strategy,
        "Regressors": ["mean", "linear trend", *denoised.regressors],
        "FaultyVolumes": np.flatnonzero(faulty).tolist(),
        "ScrubbedVolumes": (run.first_volume + np.flatnonzero(denoised.scrubbed)).tolist(),
        "OmittedRegressors": denoised.omitted,
        "RegressorsNote": f"At most one confound for every {VOLUMES_PER_REGRESSOR} volumes",
    }
    columns = {
        name: {"Description": description, "Units": "standard deviations"}
        for name, description in zip(parcels.names, parcels.descriptions)
    }
    write_table(file, pd.DataFrame(denoised.signals, columns=parcels.names).round(4))
    write_json(file.with_suffix(".json"), about | columns)
    return [file, file.with_suffix(".json")]


def find_parcels(folder: Path, run_name: str) -> Path | None:
    """Find the table of denoised time series of a run; None if the run has none."""
    return next((file for file in _tables(folder, run_name) if file.suffix == ".tsv"), None)


def _tables(folder: Path, run_name: str) -> list[Path]:
    """The tables of a run for any atlas, and their sidecars."""
    before, after = _stem(run_name, "?").split("?")
    pattern = re.compile(re.escape(before) + "[A-Za-z0-9]+" + re.escape(after) + r"\.(tsv|json)")
    return [
        file
        for file in sorted(folder.glob(f"{glob.escape(before)}*"))
        if pattern.fullmatch(file.name)
    ]


def _stem(run_name: str, label: str) -> str:
    """The run's name with the `seg` entity, which BIDS puts before `res`."""
    before, res, after = run_name.partition("_res-")
    return f"{before}_seg-{label}{res}{after}{_SUFFIX}"


@dataclass(frozen=True)
class Origin:
    """What a table of time series was made with.

    Attributes
    ----------
    atlas, sha256
        Label and SHA-256 of the atlas.
    strategy
        One of `swift_bids.inputs.parcel_defaults.STRATEGIES`.
    is_shortened
        Whether the run was too short for all regressors of its strategy.
    """

    atlas: str
    sha256: str
    strategy: str
    is_shortened: bool = field(compare=False)


def origin_of(parcel_file: Path) -> Origin:
    """Read from its sidecar what a table of time series was made with."""
    about = read_json(parcel_file.with_suffix(".json"))
    return Origin(
        about["Atlas"]["Name"],
        about["Atlas"]["SHA256"],
        about.get("ConfoundsStrategy", SIMPLE),  # version 0.5.0 did not write it
        bool(about.get("OmittedRegressors")),
    )
