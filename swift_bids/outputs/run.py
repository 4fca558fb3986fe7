"""Results of a run -> BIDS-Derivatives files, each complete or absent."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from swift_bids.base.files import write_atomically, write_json
from swift_bids.inputs.run import Run
from swift_bids.outputs.matrix import MATRIX, Conformed, write_matrix
from swift_bids.outputs.paths import output_path
from swift_bids.outputs.provenance import Provenance, run_metadata
from swift_bids.outputs.quality import quality, verdicts_of
from swift_bids.outputs.tables import column_descriptions, write_table
from swift_bids.steps.aggregate import Embeddings
from swift_bids.steps.crop import Coverage
from swift_bids.steps.normalise import Normalisation
from swift_bids.steps.volume_signals import Volumes

TOKENS = "Output of the network for every chunk, before pooling"
POSITIONS = (
    "Mean and standard deviation of the tokens over the volumes of all included chunks, for each "
    "of the {} positions"
)


def write_run(
    output_dir: str | Path,
    run: Run,
    provenance: Provenance,
    embeddings: Embeddings,
    normalisation: Normalisation,
    coverage: Coverage,
    volumes: Volumes,
    tokens: np.ndarray | None,
    conformed: Conformed | None,
    fingerprints: Mapping[str, str],
    others: Iterable[Path],
) -> None:
    """Write the tables, sidecars, tokens and quality metrics of one run.

    The sidecar of the run's embedding is written last and lists all other files with their sizes:
    if the sidecar exists, the run is complete.

    Parameters
    ----------
    tokens
        (chunk, feature, x, y, z, t) float32, or None to omit the file (`--no-tokens`).
    conformed
        The network's input, or None to omit the file (without `--keep-matrix`).
    fingerprints
        BIDS URI of each input file -> its fingerprint; recorded in embedding.json.
    others
        Files of the run that were written before: its figures, parcels and volumes.
    """
    common = run_metadata(run, provenance, normalisation)
    files = [*others]

    def path(suffix: str, extension: str) -> Path:
        files.append(output_path(output_dir, run.name, run.label, suffix, extension))
        return files[-1]

    def described(table: pd.DataFrame) -> dict[str, Any]:
        return common | column_descriptions(table.columns)

    def write_array(suffix: str, array: np.ndarray, axes: str, description: str) -> None:
        from safetensors.numpy import save

        # A single entry: safetensors writes several in an order that changes from call to call.
        metadata = {"about": f"axes {axes}; weights SHA-256 {provenance.weights.sha256}"}
        # not save_file, which makes files that only their owner can read
        content = save({suffix: array}, metadata=metadata)
        write_atomically(path(suffix, ".safetensors"), lambda file: file.write_bytes(content))
        about = {"Description": description, "Axes": axes, "Shape": list(array.shape)}
        write_json(path(suffix, ".json"), common | about)

    # files of an earlier call do not match the new tables
    for suffix, extension, content in (
        ("tokens", ".safetensors", tokens),
        ("matrix", ".h5", conformed),
    ):
        if content is None:
            for end in (".json", extension):
                file = output_path(output_dir, run.name, run.label, suffix, end)
                file.unlink(missing_ok=True)
    if tokens is not None:
        write_array("tokens", tokens, "chunk, feature, x, y, z, t", TOKENS)
    if conformed is not None:
        write_matrix(path("matrix", ".h5"), conformed)
        write_json(path("matrix", ".json"), common | {"Description": MATRIX})
    grid = " x ".join(map(str, embeddings.positions.shape[2:]))
    write_array(
        "positions", embeddings.positions, "statistic, feature, x, y, z", POSITIONS.format(grid)
    )
    qc = common | quality(embeddings, normalisation, coverage, volumes, run)
    qc["Warnings"] = [sentence for good, sentence in verdicts_of(qc) if not good]
    write_json(path("qc", ".json"), qc)
    write_table(path("timeseries", ".tsv"), embeddings.chunks)
    write_json(path("timeseries", ".json"), described(embeddings.chunks))
    table = embeddings.run.copy()
    for position, (column, value) in enumerate(
        (
            ("template_share", coverage.template_share),
            ("mask_volume", coverage.volume_ml),
            ("template_dice", coverage.dice),
            ("mean_intensity", normalisation.intensity),
            ("tsnr", normalisation.tsnr),
            ("n_warnings", len(qc["Warnings"])),
        )
    ):
        table.insert(position, column, value)
    write_table(path("embedding", ".tsv"), table)
    sizes = {file.relative_to(output_dir).as_posix(): file.stat().st_size for file in sorted(files)}
    made_from = {"InputFingerprint": dict(fingerprints), "Files": sizes}
    write_json(path("embedding", ".json"), described(table) | made_from)
