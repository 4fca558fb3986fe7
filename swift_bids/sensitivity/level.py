"""swift-bids sensitivity: how far changes of the preprocessing move the embedding of a run."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from swift_bids.base.backbones import BACKBONES
from swift_bids.base.errors import UsageError
from swift_bids.base.files import write_atomically, write_json
from swift_bids.geometry.frames import FRAMES
from swift_bids.group.load import mask_of
from swift_bids.inputs.dataset import Dataset
from swift_bids.inputs.filenames import entities_in
from swift_bids.inputs.query import find_runs
from swift_bids.inputs.run import Run
from swift_bids.inputs.selection import Selection
from swift_bids.network.device import choose_devices
from swift_bids.network.load import network_from_file
from swift_bids.network.weights import Weights
from swift_bids.outputs.dataset import check_output_dir, refuse_other_network, write_dataset_files
from swift_bids.outputs.paths import figure_path, output_path
from swift_bids.outputs.provenance import (
    Provenance,
    resampling_metadata,
    settings_metadata,
    source_uris,
)
from swift_bids.outputs.tables import write_table
from swift_bids.participant import weights_of
from swift_bids.sensitivity.changes import measure
from swift_bids.sensitivity.figure import sensitivity_figure
from swift_bids.sensitivity.read import read_run
from swift_bids.sensitivity.yardstick import yardstick
from swift_bids.settings import ParticipantSettings
from swift_bids.steps.embed import embed_chunks

_LOG = logging.getLogger("swift_bids")
#: Columns of the table, and their meaning.
_COLUMNS = {
    "change": {
        "Description": "What was changed before the run was embedded again, or which other run it "
        "is compared with"
    },
    "effect": {
        "Description": "Which effect of the change was applied: all of it; mean, standard "
        "deviation and background; the background alone; or only which voxels are shown"
    },
    "statistics": {
        "Description": "Which voxels decide the mean, standard deviation and background: all brain "
        "voxels (mask), or the inner part of the template's brain (core)"
    },
    "tokens": {
        "Description": "Root mean square of the difference between the tokens, relative to that of "
        "the tokens"
    },
    "embedding": {
        "Description": "Root mean square of the difference between the embeddings, relative to "
        "that of the embedding"
    },
}
#: Chunks of the run that are embedded for each change; more hardly change the distances.
MAX_CHUNKS = 3


def run_sensitivity(settings: ParticipantSettings, dataset: Dataset, name: str) -> int:
    """Measure the changes for one run, write table and figure, and return the exit code.

    Parameters
    ----------
    name
        Name of the run, or the beginning of the name of just one run.

    Raises
    ------
    UsageError
        There is no such run, or the weights cannot be used.
    """
    import torch

    if settings.embedding.normalisation != "global":
        raise UsageError("sensitivity works only with --normalisation global")
    output_dir = check_output_dir(settings.output_dir, dataset)
    network_read = BACKBONES[settings.embedding.variant].network
    refuse_other_network(output_dir, network_read)
    run = _choose_run(dataset, name, settings.selection)
    frame = FRAMES[settings.embedding.frame]
    chunk_volumes = run.series.chunk_volumes
    n_chunks = min(MAX_CHUNKS, run.series.length // chunk_volumes)
    if n_chunks == 0:
        raise UsageError(f"{run.name}: is shorter than a chunk of {chunk_volumes} volumes")
    torch.set_num_threads(settings.resources.threads or settings.resources.processes)
    with tempfile.TemporaryDirectory() as folder:
        weights = weights_of(settings, Path(folder))
        device = choose_devices(settings.resources.device)[0][0]
        network = network_from_file(weights.file, device)
        others = _with_other_masks(dataset, run, settings.selection)
        voxels = read_run(run, others, frame, n_chunks, Path(folder))
        embed = partial(
            embed_chunks,
            network=network,
            batch_size=settings.resources.batch_size,
            precision=settings.embedding.precision,
            chunk_volumes=chunk_volumes,
        )
        tables = []
        for table in measure(voxels, embed):
            tables.append(table)
            first = table.iloc[0]
            _LOG.info(
                "%-40s tokens %6.2f %%, embedding %6.2f %%",
                first["change"],
                100 * first["tokens"],
                100 * first["embedding"],
            )
    apart = yardstick(output_dir, _kind(run, settings, weights), n_chunks)
    for row in apart.itertuples():
        tokens = "" if np.isnan(row.tokens) else f"tokens {100 * row.tokens:6.2f} %, "
        _LOG.info("%-40s %sembedding %6.2f %%", row.change, tokens, 100 * row.embedding)
    if apart.empty:
        _LOG.info("embed other runs to see how far apart runs and participants are")
    provenance = Provenance.of_call(settings.embedding, weights, device.partition(":")[0], dataset)
    write_dataset_files(output_dir, dataset, network_read)
    file = _write(output_dir, run, provenance, pd.concat([*tables, apart]), n_chunks)
    _LOG.info("table: %s", file)
    return 0


def _choose_run(dataset: Dataset, name: str, selection: Selection) -> Run:
    participant = entities_in(name).get("sub", "")
    labels, unknown = dataset.choose([participant] if participant else None, None, (1, 1))
    runs, problems = find_runs(dataset, labels, selection)
    found = [run for run in runs if f"{run.name}_".startswith(f"{name}_")]
    if len(found) == 1:
        return found[0]
    reasons = [
        f"{p.name}: {p.reason}"
        for p in [*unknown, *problems]
        if p.name.startswith((name, f"sub-{participant}"))
    ]
    if reasons and not found:
        raise UsageError(reasons[0])
    existing = ", ".join(run.name for run in found or runs)
    raise UsageError(f"{name}: is not the name of one run; choose from {existing}")


def _kind(run: Run, settings: ParticipantSettings, weights: Weights) -> dict[str, Any]:
    """What runs must share with this one, by the names of the group's columns."""
    return {
        "weights_sha256": weights.sha256,
        "frame": settings.embedding.frame,
        "space_id": run.space_of_input,
        "mask": mask_of(resampling_metadata(run)),
        "normalisation": settings.embedding.normalisation,
        "statistics": settings.embedding.statistics,
        "robust_normalisation": settings.embedding.robust_normalisation,
        "target_tr": settings.embedding.target_tr,
        **({"quantisation": "none"} if len(BACKBONES[run.variant].quantisations) > 1 else {}),
    }


def _with_other_masks(dataset: Dataset, run: Run, selection: Selection) -> Sequence[Run]:
    """The same run with its functional and with its anatomical mask, where it has them."""
    found = []
    for mask, kind in (("bold", "functional"), ("anat", "anatomical")):
        if kind != run.mask.kind:
            try:
                runs, _ = find_runs(dataset, [run.participant], replace(selection, masks=(mask,)))
            except UsageError:  # a cohort without such masks
                continue
            found += [other for other in runs if other.name == run.name]
    return found


def _write(
    output_dir: Path, run: Run, provenance: Provenance, table: pd.DataFrame, n_chunks: int
) -> Path:
    figure = figure_path(output_dir, run.name, "sensitivity")
    draw = sensitivity_figure(table, provenance.weights.random)
    write_atomically(
        figure, lambda f: draw.savefig(f, format="png", dpi=100, metadata={"Software": None})
    )
    file = output_path(output_dir, run.name, run.label, "sensitivity", ".tsv")
    write_table(file, table)
    about = {
        "Description": "How far changes of the preprocessing move tokens and embedding of the run, "
        "and how far other runs are from each other (medians)",
        "Chunks": n_chunks,
        "Sources": source_uris(run, provenance),
    }
    write_json(file.with_suffix(".json"), about | settings_metadata(provenance) | _COLUMNS)
    return file
