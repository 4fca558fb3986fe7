"""--dry-run: list the runs that would be embedded, their files, and an estimate of the time."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from typing import Any

import pandas as pd

from swift_bids.base.errors import Problem
from swift_bids.inputs.dataset import Dataset
from swift_bids.inputs.layouts import COHORTS
from swift_bids.inputs.run import Run
from swift_bids.settings import EmbeddingSettings, ParticipantSettings
from swift_bids.steps.chunk import count_chunks

_LOG = logging.getLogger("swift_bids")
#: Seconds that one CPU needs to read and normalise a volume of 2 mm; to resample one from another
#: grid, and from a raw run; and to embed a chunk (docs/performance.md); a GPU is faster.
_SECONDS_PER_VOLUME, _SECONDS_PER_GRID_VOLUME, _SECONDS_PER_RAW_VOLUME = 0.007, 0.015, 0.06
_SECONDS_PER_CHUNK = 0.35
#: Memory in GB for the app, and for each run that is processed at the same time.
_APP_GB, _RUN_GB = 0.4, 0.6


def print_runs(
    runs: Sequence[Run],
    problems: Sequence[Problem],
    dataset: Dataset,
    settings: ParticipantSettings,
) -> None:
    """Print a line for each run and an estimate for all, as text, or as JSON, which also lists
    the problems."""
    processes = settings.resources.processes
    rows = [_row(run, dataset, settings.embedding) for run in runs]
    seconds = sum(row["seconds"] for row in rows) / min(processes, max(1, len(rows)))
    estimate = {
        "seconds": round(seconds),
        "memory_gb": round(_APP_GB + _RUN_GB * min(processes, len(rows)), 1),
        "cpus": processes,
    }
    if settings.dry_run == "json":
        failed = [{"name": p.name, "reason": p.reason} for p in problems]
        document = {"runs": rows, "problems": failed, "estimate": estimate}
        print(json.dumps(document, indent=2, ensure_ascii=False))
    elif rows:
        table = pd.DataFrame(rows).drop(columns=["others", "warnings"])
        if dataset.input_type not in COHORTS:  # the name of the BOLD file is that of the run
            table = table.drop(columns="name")
        # Their paths differ from the BOLD file's only at the end, so show the kind, and yes or no.
        table["mask"] = table.pop("mask_kind")
        table["confounds"] = table["confounds"].notna().map({True: "yes", False: "no"})
        table.loc[table["level"] == "minimal", "confounds"] = "motion"  # from the transforms
        for line in table.to_string(index=False, max_colwidth=None).splitlines():
            _LOG.info("%s", line)
        _LOG.info(
            "%d run(s), about %.0f minute(s) and %.1f GB of memory on %d CPU(s)",
            len(rows),
            max(1, seconds / 60),
            estimate["memory_gb"],
            processes,
        )


def _row(run: Run, dataset: Dataset, settings: EmbeddingSettings) -> dict[str, Any]:
    n_chunks = count_chunks(run.series, settings)
    per_volume = _SECONDS_PER_GRID_VOLUME if run.transforms else _SECONDS_PER_VOLUME
    if run.raw_transforms:
        per_volume = _SECONDS_PER_RAW_VOLUME
    return {
        "name": run.name,
        **{
            kind: path and os.path.relpath(path, dataset.root)
            for kind, path in (
                ("bold", run.bold),
                ("mask", run.mask.file),
                ("confounds", run.confounds),
            )
        },
        "mask_kind": run.mask.kind,
        "level": "full" if run.raw_transforms is None else "minimal",
        "space": run.space_of_input,
        "frame": settings.frame,
        "repetition_time": run.repetition_time,
        "model_tr": run.model_tr,
        "volumes": run.n_volumes,
        "dummy": run.first_volume,
        "chunks": n_chunks,
        "seconds": round(run.n_volumes * per_volume + n_chunks * _SECONDS_PER_CHUNK, 1),
        "others": list(run.others),
        "warnings": list(run.warnings),
    }
