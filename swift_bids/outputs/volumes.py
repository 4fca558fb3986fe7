"""Signals and faults of the volumes of a run -> a table with one row per volume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from swift_bids.base.files import write_json
from swift_bids.inputs.confounds import displacement_in
from swift_bids.inputs.run import Run
from swift_bids.inputs.run_confounds import confounds_of
from swift_bids.outputs.paths import run_folder
from swift_bids.outputs.provenance import GENERATED_BY, Provenance, source_uris
from swift_bids.outputs.tables import column_descriptions, write_table
from swift_bids.steps.volume_faults import FAULTS, OUTLIER, Faults
from swift_bids.steps.volume_signals import Volumes


def volume_table(run: Run, volumes: Volumes) -> pd.DataFrame:
    """One row per volume of the BOLD file: `global_signal`, `dvars`, `std_dvars`,
    `framewise_displacement` (mm), `dummy`, and `fault` (empty if there is none)."""
    displacement = None
    if (confounds := confounds_of(run)) is not None:
        displacement = displacement_in(confounds, run.n_volumes, run.confounds or run.bold)
    return pd.DataFrame(
        {
            "global_signal": volumes.global_signal,
            "dvars": volumes.dvars,
            "std_dvars": volumes.std_dvars,
            "framewise_displacement": np.nan if displacement is None else displacement,
            "dummy": np.arange(run.n_volumes) < run.first_volume,
            "fault": [None if code == 0 else FAULTS[code - 1] for code in volumes.faults.codes],
        }
    )


def write_volumes(
    output_dir: str | Path, run: Run, provenance: Provenance, table: pd.DataFrame
) -> list[Path]:
    """Write `<run>_desc-volumes_timeseries.tsv` and its sidecar; return the files."""
    file = run_folder(output_dir, run.name) / f"{run.name}_desc-volumes_timeseries.tsv"
    about = {
        "Description": "Signals of the brain voxels, and faults, of every volume",
        "Sources": source_uris(run, provenance),
        "GeneratedBy": [GENERATED_BY],
        "RepetitionTime": run.repetition_time,
        "DummyScansRemoved": run.first_volume,
    }
    write_table(file, table, digits=6)
    write_json(file.with_suffix(".json"), about | column_descriptions(table.columns))
    return [file, file.with_suffix(".json")]


def describe_faults(run: Run, volumes: Volumes) -> dict[str, Any]:
    """The faults of a run, ready for `qc.json`; volumes are counted from 0."""
    faults = volumes.faults
    return {
        **{name: _with_code(faults, code) for code, name in enumerate(FAULTS, start=1)},
        "outlier_intensity": [
            round(1 + float(faults.deviations[volume]), 3) for volume in _with_code(faults, OUTLIER)
        ],
        "incomplete_part": volumes.lost_part,
        "steps": faults.steps.tolist(),
        "step_sizes": [round(float(size), 4) for size in faults.step_sizes],
        "unsteady": volumes.n_unsteady,
        "dummy_scans_from": run.dummy_scans_from,
    }


def _with_code(faults: Faults, code: int) -> list[int]:
    return np.flatnonzero(faults.codes == code).tolist()
