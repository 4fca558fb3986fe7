"""Runs of the tables -> what the network read of them (`--keep-matrix`), and their chunks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from swift_bids.base.backbones import NETWORKS
from swift_bids.group.load import Embedded
from swift_bids.outputs.matrix import KeptMatrix
from swift_bids.outputs.paths import output_path


@dataclass(frozen=True)
class KeptRun:
    """A run whose matrix was kept.

    Attributes
    ----------
    name, participant
        Name of the run, and `sub-XX`.
    matrix
        What the network read.
    starts
        First volume, in the matrix, of each chunk that the run's embedding includes.
    chunk_volumes
        Volumes of a chunk.
    """

    name: str
    participant: str
    matrix: KeptMatrix
    starts: tuple[int, ...]
    chunk_volumes: int


def without_matrix(output_dir: Path, runs: Embedded) -> list[str]:
    """Names of the runs whose matrix was not kept."""
    return [
        name
        for name in runs.table["name"]
        if not output_path(output_dir, name, runs.label, "matrix", ".h5").exists()
    ]


def kept_runs(output_dir: Path, runs: Embedded) -> list[KeptRun]:
    """The runs in the order of the table.

    Raises
    ------
    InputError
        A matrix does not exist or cannot be read.
    """
    n_volumes = NETWORKS[runs.label].chunk_volumes
    found = []
    for name, participant in zip(runs.table["name"], runs.table["participant_id"]):
        chunks = pd.read_csv(
            output_path(output_dir, name, runs.label, "timeseries", ".tsv"),
            sep="\t",
            usecols=["model_start", "included"],
        )
        starts = chunks["model_start"][chunks["included"].astype(bool)]
        matrix = KeptMatrix(output_path(output_dir, name, runs.label, "matrix", ".h5"))
        found.append(KeptRun(name, participant, matrix, tuple(starts), n_volumes))
    return found
