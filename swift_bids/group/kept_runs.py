"""Runs of the tables -> what the network read of them (`--keep-matrix`), and their chunks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from swift_bids.base.backbones import NETWORKS
from swift_bids.group.load import Embedded
from swift_bids.outputs.matrix import KeptMatrix
from swift_bids.outputs.paths import output_path
from swift_bids.steps.chunk_queue import QueuedRun


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

    def chunks(self, starts: Sequence[int]) -> QueuedRun:
        """The chunks that begin with these volumes, as the network reads them."""
        matrix = self.matrix
        return QueuedRun(
            matrix, matrix.index, starts, matrix.background, chunk_volumes=self.chunk_volumes
        )


def kept_runs(
    output_dir: Path, runs: Embedded, embed_again: Callable[[Sequence[str]], object]
) -> list[KeptRun]:
    """The runs in the order of the table.

    Parameters
    ----------
    embed_again
        Called with the names of the runs without a matrix, to make these.

    Raises
    ------
    InputError
        A matrix cannot be read.
    """
    n_volumes = NETWORKS[runs.label].chunk_volumes
    files = [matrix_path(output_dir, name, runs.label) for name in runs.table["name"]]
    if lacking := [name for name, file in zip(runs.table["name"], files) if not file.exists()]:
        embed_again(lacking)
    found = []
    for file, name, participant in zip(files, runs.table["name"], runs.table["participant_id"]):
        chunks = pd.read_csv(
            output_path(output_dir, name, runs.label, "timeseries", ".tsv"),
            sep="\t",
            usecols=["model_start", "included"],
        )
        starts = chunks["model_start"][chunks["included"].astype(bool)]
        found.append(KeptRun(name, participant, KeptMatrix(file), tuple(starts), n_volumes))
    return found


def matrix_path(output_dir: Path, name: str, label: str) -> Path:
    """Path of the matrix of a run."""
    return output_path(output_dir, name, label, "matrix", ".h5")


def matrix_uris(output_dir: Path, runs: Embedded) -> list[str]:
    """BIDS URIs of the matrices of all runs, in this dataset."""
    files = [matrix_path(output_dir, name, runs.label) for name in runs.table["name"]]
    return [f"bids::{file.relative_to(output_dir).as_posix()}" for file in files]
