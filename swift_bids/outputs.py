"""Embeddings of a run -> BIDS-Derivatives files, each whole or not there at all."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from swift_bids import __version__
from swift_bids.aggregate import Embeddings
from swift_bids.atomic import write_atomically
from swift_bids.chunk import CHUNK_VOLUMES
from swift_bids.crop import Coverage
from swift_bids.dataset import Dataset
from swift_bids.grid import INTERPOLATION, space_note
from swift_bids.names import entities_in
from swift_bids.normalise import Normalisation
from swift_bids.quality import quality, verdicts_of
from swift_bids.runs import Run
from swift_bids.weights import Weights

#: Name of the input dataset in BIDS URIs, `bids:fmriprep:sub-01/...`.
INPUT_DATASET = "fmriprep"
BIDS_VERSION = "1.10.0"
#: Of sidecars, beside the columns.
_KEYS = (
    "Description",
    "GeneratedBy",
    "Embeddings",
    "Settings",
    "Connectivity",
    "Sources",
    "InputFingerprint",
    "Files",
    "Columns",
)
CODE_URL = "https://github.com/swift-bids/swift_bids"
#: Software, as BIDS has it in sidecars and dataset_description.json.
GENERATED_BY = {"Name": "swift_bids", "Version": __version__, "CodeURL": CODE_URL}
#: The published image, without its tag.
IMAGE = "swiftbids/swift_bids"


@dataclass(frozen=True)
class Provenance:
    """What made the outputs of a run; part of every sidecar.

    Attributes
    ----------
    variant, weights_name, weights_revision, weights_sha256, random_weights
        Which network.
    frame, normalisation, dummy_scans, target_tr, chunk_stride, tail, short_runs
        Preprocessing parameters, as the flags of these names took them.
    fd_threshold, max_censored
        Which chunks enter the run's mean.
    precision, device
        Number format, and `cpu` or `cuda`: float32 results differ in the last digits between them.
    dataset_root
        Folder that BIDS URIs are relative to.
    """

    variant: str
    weights_name: str
    weights_revision: str | None
    weights_sha256: str
    random_weights: bool
    frame: str
    normalisation: str
    dummy_scans: str
    target_tr: str
    chunk_stride: int
    tail: str
    short_runs: str
    fd_threshold: float
    max_censored: float
    precision: str
    device: str
    dataset_root: str

    @classmethod
    def of(cls, weights: Weights, dataset: Dataset, **parameters: Any) -> Provenance:
        return cls(
            weights_name=weights.name,
            weights_revision=weights.revision,
            weights_sha256=weights.sha256,
            random_weights=weights.random,
            dataset_root=str(dataset.root),
            **parameters,
        )


def write_text(path: Path, text: str) -> None:
    """Write text; half of a character, as names and JSON may hold, is spelled out."""
    content = text.encode("utf-8", errors="backslashreplace")
    write_atomically(path, lambda temporary: temporary.write_bytes(content))


def write_json(path: Path, content: dict[str, Any]) -> None:
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a BIDS table: tab-separated, `n/a` for missing, `true`/`false` for booleans."""
    booleans = table.select_dtypes("bool").columns
    table = table.assign(**{c: table[c].map({True: "true", False: "false"}) for c in booleans})
    write_text(path, table.to_csv(sep="\t", na_rep="n/a", index=False, lineterminator="\n"))


def output_path(output_dir: str | Path, run_name: str, suffix: str, extension: str) -> Path:
    """Where an output of a run goes: the source's name with `desc-swift` and another suffix.

    Every entity of the source stays in the name, so no two inputs can share an output.
    """
    return run_folder(output_dir, run_name) / f"{run_name}_desc-swift_{suffix}{extension}"


def run_folder(output_dir: str | Path, run_name: str) -> Path:
    """Where the outputs of a run go, beside the place of its BOLD file in the input."""
    entities = entities_in(run_name)
    folder = Path(output_dir) / f"sub-{entities['sub']}"
    if "ses" in entities:
        folder /= f"ses-{entities['ses']}"
    return folder / "func"


def figure_path(output_dir: str | Path, run_name: str, figure: str) -> Path:
    """Where a figure of a run goes: `sub-XX/figures/<run>_desc-<figure>_bold.png`."""
    participant = run_name.split("_")[0]
    return Path(output_dir) / participant / "figures" / f"{run_name}_desc-{figure}_bold.png"


def bids_uri(path: str, dataset_root: str) -> str:
    """`bids:fmriprep:<path relative to the derivatives>` (BIDS specification, BIDS URIs)."""
    return f"bids:{INPUT_DATASET}:{Path(path).relative_to(dataset_root).as_posix()}"


def source_uris(run: Run, provenance: Provenance) -> list[str]:
    """The files that a run's outputs are made from, as BIDS URIs."""
    files = filter(None, (run.bold, run.mask, run.confounds))
    return [bids_uri(file, provenance.dataset_root) for file in files]


def write_run(
    output_dir: str | Path,
    run: Run,
    provenance: Provenance,
    embeddings: Embeddings,
    normalisation: Normalisation,
    coverage: Coverage,
    tokens: np.ndarray | None,
    inputs: Mapping[str, str],
    others: Iterable[Path],
) -> None:
    """Write the tables, sidecars, tokens and quality figures of one run.

    The run's own embedding comes last: where its sidecar is, everything else is there too, as long
    as the sidecar says.

    Parameters
    ----------
    tokens
        (chunk, 288, 2, 2, 2, 20) float32, or None to leave them out (`--no-tokens`).
    inputs
        BIDS URI of each input file -> its fingerprint; kept in the last sidecar.
    others
        Files of the run that are written already, its figures and parcels.
    """
    from safetensors.numpy import save

    common = run_metadata(run, provenance, normalisation)
    files = [*others]

    def path(suffix: str, extension: str) -> Path:
        files.append(output_path(output_dir, run.name, suffix, extension))
        return files[-1]

    def described(table: pd.DataFrame) -> dict[str, Any]:
        return common | column_descriptions(table.columns)

    if tokens is None:  # an earlier call's would not belong to the new tables
        for extension in (".json", ".safetensors"):
            output_path(output_dir, run.name, "tokens", extension).unlink(missing_ok=True)
    else:
        axes = "chunk, feature, x, y, z, t"
        # One mark only: safetensors writes several in an order that differs from call to call.
        marks = {"about": f"axes {axes}; weights SHA-256 {provenance.weights_sha256}"}
        # not save_file, whose files only their owner can read
        content = save({"tokens": tokens}, metadata=marks)
        write_atomically(path("tokens", ".safetensors"), lambda file: file.write_bytes(content))
        description = "Output of the network for every chunk, before any pooling"
        write_json(
            path("tokens", ".json"),
            common | {"Description": description, "Axes": axes, "Shape": list(tokens.shape)},
        )
    qc = common | quality(embeddings, normalisation, coverage, run)
    qc["Warnings"] = [sentence for good, sentence in verdicts_of(qc) if not good]
    write_json(path("qc", ".json"), qc)
    write_table(path("timeseries", ".tsv"), embeddings.chunks)
    write_json(path("timeseries", ".json"), described(embeddings.chunks))
    table = embeddings.run.copy()
    for place, (column, value) in enumerate(
        (
            ("template_share", coverage.template_share),
            ("tsnr", normalisation.tsnr),
            ("n_warnings", len(qc["Warnings"])),
        )
    ):
        table.insert(place, column, value)
    write_table(path("embedding", ".tsv"), table)
    sizes = {file.relative_to(output_dir).as_posix(): file.stat().st_size for file in sorted(files)}
    made_from = {"InputFingerprint": dict(inputs), "Files": sizes}
    write_json(path("embedding", ".json"), described(table) | made_from)


def run_metadata(run: Run, provenance: Provenance, normalisation: Normalisation) -> dict[str, Any]:
    """The part of a run's sidecars that says what made them."""
    settings = settings_metadata(provenance)
    of_run = {
        "Space": run.space,
        **({"SpaceNote": note} if (note := space_note(run.space)) else {}),
        "ResampledToFSL2mm": normalisation.interpolated,
        "SpatialInterpolation": INTERPOLATION if normalisation.interpolated else "none",
        "DummyScansRemoved": run.first_volume,
        "ModelRepetitionTime": run.model_tr,
        "TemporalInterpolation": "linear" if run.series.resampled else "none",
    }
    return {
        "Sources": source_uris(run, provenance),
        **settings,
        "Preprocessing": of_run | settings["Preprocessing"],
        "RepetitionTime": run.repetition_time,
    }


def settings_metadata(provenance: Provenance) -> dict[str, Any]:
    """Software, network and settings of a call, as the sidecars of all its runs say them."""
    revision = provenance.weights_revision
    return {
        "GeneratedBy": [GENERATED_BY],
        "Model": {
            "Name": "SwiFT",
            "Variant": provenance.variant,
            "Weights": provenance.weights_name,
            **({"WeightsRevision": revision} if revision else {}),
            "WeightsSHA256": provenance.weights_sha256,
            "RandomWeights": provenance.random_weights,
            "Precision": provenance.precision,
            "Device": provenance.device,
        },
        "Preprocessing": {
            "Frame": provenance.frame,
            "Normalisation": provenance.normalisation,
            "DummyScans": provenance.dummy_scans,
            "TargetTR": provenance.target_tr,
            "FDThreshold": provenance.fd_threshold,
            "MaxCensored": provenance.max_censored,
            "ChunkVolumes": CHUNK_VOLUMES,
            "ChunkStride": provenance.chunk_stride,
            "Tail": provenance.tail,
            "ShortRuns": provenance.short_runs,
        },
    }


def is_our_column(name: str) -> bool:
    """Whether a table's column, or a key of its sidecar, of that name is ours."""
    return name in (*_columns(), *_KEYS) or re.fullmatch(r"swift\d{3}", name) is not None


@lru_cache(maxsize=1)
def _columns() -> dict[str, Any]:
    return json.loads(resources.files("swift_bids").joinpath("data/columns.json").read_text())


def column_descriptions(
    columns: Iterable[str], carried: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Descriptions of table columns, with units (BIDS specification, tabular files).

    Parameters
    ----------
    carried
        Descriptions of columns that are not ours: participants.json.
    """
    known = dict(carried or {}) | _columns()
    feature = "Feature {} of the SwiFT embedding, mean over the 2 x 2 x 2 x 20 tokens"
    of_others = {"Description": "As in the participants.tsv of the input, which does not tell more"}

    def describe(column: str) -> Any:
        if re.fullmatch(r"swift\d{3}", column):
            return {"Description": feature.format(int(column[5:]))}
        return known.get(column.removeprefix("participants_"), of_others)

    return {column: describe(column) for column in columns}
