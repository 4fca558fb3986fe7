"""The steps that run the network and write the outputs: embed, aggregate."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    File,
    TraitedSpec,
    isdefined,
    traits,
)

from swift_bids.base.locks import exclusive
from swift_bids.geometry.frames import FRAMES
from swift_bids.inputs.parcel_defaults import STRATEGIES
from swift_bids.inputs.run import Run
from swift_bids.interfaces.step import Step
from swift_bids.network.precision import PRECISIONS
from swift_bids.network.weights import Weights
from swift_bids.outputs.matrix import Conformed
from swift_bids.outputs.parcels import write_parcels
from swift_bids.outputs.paths import output_path
from swift_bids.outputs.provenance import Provenance
from swift_bids.outputs.run import write_run
from swift_bids.outputs.volumes import volume_table, write_volumes
from swift_bids.steps.aggregate import aggregate
from swift_bids.steps.crop import Coverage
from swift_bids.steps.normalise import MatrixFile, Normalisation
from swift_bids.steps.parcels import read_atlas
from swift_bids.steps.volume_signals import Volumes

if TYPE_CHECKING:
    from swift_bids.network.skeleton import Skeleton

#: File to which the embed node writes one line per finished chunk, for the progress bar.
PROGRESS_FILE = "chunks_done"


class _EmbedInput(BaseInterfaceInputSpec):
    matrix = File(exists=True, mandatory=True)
    statistics = traits.Dict(mandatory=True)
    index = File(exists=True, mandatory=True)
    chunks = File(exists=True, mandatory=True)
    weights = traits.Dict(mandatory=True, desc="fields of Weights")
    device = traits.Str(mandatory=True)
    batch_size = traits.Range(low=1, desc="unset: as many chunks as fit")
    precision = traits.Enum(*PRECISIONS, usedefault=True)
    chunk_volumes = traits.Range(low=1, value=20, usedefault=True)
    compiled = traits.Bool(False, usedefault=True, desc="run the network with torch.compile")
    threads = traits.Range(low=1, mandatory=True, nohash=True)
    use_gpu = traits.Bool(False, usedefault=True, desc="whether a job of a cluster needs a GPU")
    workers = traits.Str(nohash=True, desc="socket of processes that own the GPUs; unset: none")


class _EmbedOutput(TraitedSpec):
    tokens = File(exists=True, desc="(chunk, C, x, y, z, t) float32 .npy")
    kernel = traits.Str(desc="what ran the network: torch, or an instruction set")


class Embed(Step):
    """Matrix + index map + chunks -> tokens, in this process or in one that owns a GPU."""

    input_spec, output_spec = _EmbedInput, _EmbedOutput

    def _run_step(self, folder: Path) -> None:
        starts = pd.read_csv(self.inputs.chunks, sep="\t")["model_start"].tolist()
        embed = self._embed_in_worker if isdefined(self.inputs.workers) else self._embed_here
        with open(folder / PROGRESS_FILE, "w", buffering=1) as progress:
            tokens = embed(starts, lambda: progress.write("chunk\n"))
        self._results["tokens"] = str(folder / "tokens.npy")
        np.save(self._results["tokens"], tokens)

    def _embed_in_worker(self, starts: list[int], on_chunk: Callable[[], object]) -> np.ndarray:
        from swift_bids.steps.embedding_worker import embed_in_worker

        self._results["kernel"] = "torch"
        return embed_in_worker(
            self.inputs.workers,
            self.inputs.matrix,
            self.inputs.index,
            starts,
            self.inputs.statistics["background"],
            on_chunk,
            self.inputs.chunk_volumes,
        )

    def _embed_here(self, starts: list[int], on_chunk: Callable[[], object]) -> np.ndarray:
        import torch

        from swift_bids.network.compiled import kernel_name
        from swift_bids.network.device import choose_devices
        from swift_bids.steps.embed import embed_chunks

        torch.set_num_threads(self.inputs.threads)
        device = choose_devices(self.inputs.device)[0][0]  # a cluster's machine may have no GPU
        weights = Weights(**self.inputs.weights)
        network = load_network(weights.file, weights.sha256, device, self.inputs.compiled)
        self._results["kernel"] = kernel_name(network, self.inputs.precision, self.inputs.compiled)
        return embed_chunks(
            MatrixFile(self.inputs.matrix),
            np.load(self.inputs.index),
            starts,
            self.inputs.statistics["background"],
            network,
            self.inputs.batch_size if isdefined(self.inputs.batch_size) else None,
            self.inputs.precision,
            on_chunk,
            self.inputs.chunk_volumes,
        )


class _AggregateInput(BaseInterfaceInputSpec):
    matrix = File(exists=True, mandatory=True)
    index = File(exists=True, mandatory=True)
    tokens = File(exists=True, mandatory=True)
    kernel = traits.Str(mandatory=True)
    chunks = File(exists=True, mandatory=True)
    statistics = traits.Dict(mandatory=True)
    coverage = traits.Dict(mandatory=True)
    parcels = File(exists=True, mandatory=True)
    volumes = File(exists=True, mandatory=True)
    atlas = File(exists=True, mandatory=True)
    confounds_strategy = traits.Enum(*STRATEGIES, usedefault=True)
    run = traits.Dict(mandatory=True, desc="fields of Run")
    provenance = traits.Dict(mandatory=True, desc="fields of Provenance")
    fingerprints = traits.Dict(mandatory=True, desc="BIDS URI of each input file -> fingerprint")
    keep_tokens = traits.Bool(True, usedefault=True)
    keep_matrix = traits.Bool(False, usedefault=True)
    output_dir = traits.Directory(mandatory=True)


class _AggregateOutput(TraitedSpec):
    pass


class Aggregate(Step):
    """Tokens -> embeddings, figures and the run's BIDS-Derivatives."""

    input_spec, output_spec = _AggregateInput, _AggregateOutput

    def _run_step(self, folder: Path) -> None:
        run = Run.from_dict(self.inputs.run)
        sidecar = output_path(self.inputs.output_dir, run.name, run.label, "embedding", ".json")
        # the outputs must not be a mixture of two calls
        with exclusive(sidecar.parent, run.name):
            sidecar.unlink(missing_ok=True)  # without it the run counts as unfinished
            self._write(run)

    def _write(self, run: Run) -> None:
        from swift_bids.reports.figures import draw_run

        provenance = Provenance.from_dict(self.inputs.provenance | {"kernel": self.inputs.kernel})
        tokens = np.load(self.inputs.tokens)
        statistics = Normalisation(**self.inputs.statistics)
        volumes = Volumes.load(self.inputs.volumes)
        matrix, index = MatrixFile(self.inputs.matrix), np.load(self.inputs.index)
        frame = FRAMES[provenance.settings.frame]
        of_volumes = volume_table(run, volumes)
        embeddings = aggregate(tokens, pd.read_csv(self.inputs.chunks, sep="\t"), run.label)
        files = draw_run(
            self.inputs.output_dir,
            run,
            embeddings,
            volumes,
            of_volumes,
            matrix[0:1][0],
            index,
            statistics.background,
            provenance.settings.fd_threshold,
            frame,
        )
        files += write_parcels(
            self.inputs.output_dir,
            run,
            provenance,
            read_atlas(self.inputs.atlas),
            self.inputs.confounds_strategy,
            np.load(self.inputs.parcels),
            volumes.faults.any,
        )
        files += write_volumes(self.inputs.output_dir, run, provenance, of_volumes)
        write_run(
            self.inputs.output_dir,
            run,
            provenance,
            embeddings,
            statistics,
            Coverage(**self.inputs.coverage),
            volumes,
            tokens if self.inputs.keep_tokens else None,
            Conformed(matrix, index, statistics.background, frame.affine)
            if self.inputs.keep_matrix
            else None,
            self.inputs.fingerprints,
            files,
        )


@lru_cache(maxsize=1)
def load_network(file: str, sha256: str, device: str, compiled: bool) -> Skeleton:
    """Load the network, and keep it for all runs that this process embeds."""
    from swift_bids.network.load import network_from_file

    network = network_from_file(file, device)
    if compiled:
        network.compile()
    return network
