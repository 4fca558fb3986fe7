"""The steps as nipype interfaces, thin wrappers around plain functions."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    Bunch,
    File,
    SimpleInterface,
    TraitedSpec,
    isdefined,
    traits,
)

from swift_bids.base.errors import os_errors_as_output_errors
from swift_bids.base.locks import exclusive
from swift_bids.geometry.frames import FRAMES
from swift_bids.geometry.resample_time import Series
from swift_bids.inputs.confounds import displacement_in, read_confounds
from swift_bids.inputs.raw_header import affine_of, load_header
from swift_bids.inputs.run import Run
from swift_bids.inputs.run_confounds import motion_confounds
from swift_bids.inputs.transforms import Transforms
from swift_bids.network.precision import PRECISIONS
from swift_bids.network.weights import Weights
from swift_bids.outputs.parcels import write_parcels
from swift_bids.outputs.paths import output_path
from swift_bids.outputs.provenance import Provenance
from swift_bids.outputs.run import write_run
from swift_bids.steps.aggregate import aggregate
from swift_bids.steps.chunk import SHORT_RUNS, TAILS, plan_chunks
from swift_bids.steps.crop import Coverage, crop
from swift_bids.steps.locate import RawPoints, locate
from swift_bids.steps.normalise import METHODS, MatrixFile, Normalisation, normalise
from swift_bids.steps.parcels import Parcels, cubes, read_atlas

if TYPE_CHECKING:
    from swift_bids.network.swift import SwiFT

#: File to which the embed node writes one line per finished chunk, for the progress bar.
PROGRESS_FILE = "chunks_done"


class _Step(SimpleInterface):
    """A step that writes to its folder in the work folder; a full disk ends it with OutputError."""

    def _run_interface(self, runtime: Bunch) -> Bunch:
        with os_errors_as_output_errors(runtime.cwd):
            self._run_step(Path(runtime.cwd))
        return runtime


class _LocateInput(BaseInterfaceInputSpec):
    bold = File(exists=True, mandatory=True, desc="raw run")
    mask = File(exists=True, mandatory=True)
    transforms = traits.Dict(mandatory=True, desc="fields of Transforms")
    files = traits.List(File(exists=True), mandatory=True, desc="of the transforms")
    frame = traits.Enum(*FRAMES, mandatory=True)


class _LocateOutput(TraitedSpec):
    mask = File(exists=True, desc="brain mask on the FSL 2 mm grid")
    points = File(exists=True, desc="where its voxels are in the raw run, .npz")


class Locate(_Step):
    """Raw BOLD + transforms -> brain mask in the template, and its voxels in the run."""

    input_spec, output_spec = _LocateInput, _LocateOutput

    def _run_step(self, folder: Path) -> None:
        mask, points = locate(
            affine_of(load_header(self.inputs.bold)),
            self.inputs.mask,
            Transforms.from_dict(self.inputs.transforms),
            FRAMES[self.inputs.frame],
        )
        self._results["mask"] = str(folder / "mask.nii.gz")
        self._results["points"] = str(folder / "points.npz")
        mask.to_filename(self._results["mask"])
        points.save(self._results["points"])


class _NormaliseInput(BaseInterfaceInputSpec):
    bold = File(exists=True, mandatory=True)
    mask = File(exists=True, mandatory=True)
    points = File(exists=True, desc="where the brain voxels are in a raw run")
    frame = traits.Enum(*FRAMES, mandatory=True)
    series = traits.Dict(mandatory=True, desc="fields of Series")
    method = traits.Enum(*METHODS, usedefault=True)
    atlas = File(exists=True, desc="the user's parcels; unset: 24 mm cubes")


class _NormaliseOutput(TraitedSpec):
    matrix = File(exists=True, desc="(volume of the series, brain voxel) float16 .npy")
    statistics = traits.Dict(desc="fields of Normalisation")
    parcels = File(exists=True, desc="(used volume of the BOLD file, parcel) means, .npy")


class Normalise(_Step):
    """BOLD + mask -> matrix of z-scores and mean signals of parcels."""

    input_spec, output_spec = _NormaliseInput, _NormaliseOutput

    def _run_step(self, folder: Path) -> None:
        matrix, parcels = (str(folder / f"{n}.npy") for n in ("matrix", "parcels"))
        statistics = normalise(
            self.inputs.bold,
            self.inputs.mask,
            FRAMES[self.inputs.frame],
            Series(**self.inputs.series),
            matrix,
            self.inputs.method,
            _parcels(self.inputs.atlas, self.inputs.frame),
            parcels,
            RawPoints.load(self.inputs.points) if isdefined(self.inputs.points) else None,
        )
        self._results |= {
            "matrix": matrix,
            "statistics": dataclasses.asdict(statistics),
            "parcels": parcels,
        }


class _CropInput(BaseInterfaceInputSpec):
    mask = File(exists=True, mandatory=True)
    frame = traits.Enum(*FRAMES, mandatory=True)


class _CropOutput(TraitedSpec):
    index = File(exists=True, desc="(brain voxel,) positions in 96^3, .npy")
    coverage = traits.Dict(desc="fields of Coverage")


class Crop(_Step):
    """Mask + frame -> position of each brain voxel in the network's 96^3 input.

    Voxels outside the frame are left out, which crops the brain as in training.
    """

    input_spec, output_spec = _CropInput, _CropOutput

    def _run_step(self, folder: Path) -> None:
        index = str(folder / "index.npy")
        coverage = crop(self.inputs.mask, FRAMES[self.inputs.frame], index)
        self._results |= {"index": index, "coverage": dataclasses.asdict(coverage)}


class _ChunkInput(BaseInterfaceInputSpec):
    series = traits.Dict(mandatory=True, desc="fields of Series")
    confounds = File(exists=True)
    head_motion = File(exists=True, desc="transforms, if there is no confounds table")
    reference = File(exists=True, desc="the BOLD reference that they belong to")
    fd_threshold = traits.Float(mandatory=True)
    max_censored = traits.Float(mandatory=True)
    stride = traits.Range(low=1, mandatory=True)
    tail = traits.Enum(*TAILS, usedefault=True)
    short_runs = traits.Enum(*SHORT_RUNS, usedefault=True)


class _ChunkOutput(TraitedSpec):
    chunks = File(exists=True, desc="table of chunks, .tsv")


class Chunk(_Step):
    """Timing of volumes + confounds -> table of chunks."""

    input_spec, output_spec = _ChunkInput, _ChunkOutput

    def _run_step(self, folder: Path) -> None:
        series = Series(**self.inputs.series)
        displacement = None
        if isdefined(self.inputs.confounds):
            file = self.inputs.confounds
            displacement = displacement_in(read_confounds(file), series.n_volumes, file)
        elif isdefined(self.inputs.head_motion):
            motion = motion_confounds(self.inputs.head_motion, self.inputs.reference)
            displacement = displacement_in(motion, series.n_volumes, self.inputs.head_motion)
        table = plan_chunks(
            series,
            displacement,
            self.inputs.fd_threshold,
            self.inputs.max_censored,
            self.inputs.stride,
            self.inputs.tail,
            self.inputs.short_runs,
        )
        self._results["chunks"] = str(folder / "chunks.tsv")
        table.to_csv(self._results["chunks"], sep="\t", index=False)


class _EmbedInput(BaseInterfaceInputSpec):
    matrix = File(exists=True, mandatory=True)
    statistics = traits.Dict(mandatory=True)
    index = File(exists=True, mandatory=True)
    chunks = File(exists=True, mandatory=True)
    weights = traits.Dict(mandatory=True, desc="fields of Weights")
    device = traits.Str(mandatory=True)
    batch_size = traits.Range(low=1, desc="unset: as many chunks as fit")
    precision = traits.Enum(*PRECISIONS, usedefault=True)
    compiled = traits.Bool(False, usedefault=True, desc="run the network with torch.compile")
    threads = traits.Range(low=1, mandatory=True, nohash=True)
    use_gpu = traits.Bool(False, usedefault=True, desc="whether a job of a cluster needs a GPU")
    workers = traits.Str(nohash=True, desc="socket of processes that own the GPUs; unset: none")


class _EmbedOutput(TraitedSpec):
    tokens = File(exists=True, desc="(chunk, C, x, y, z, t) float32 .npy")
    kernel = traits.Str(desc="what ran the network: torch, or an instruction set")


class Embed(_Step):
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
    atlas = File(exists=True)
    run = traits.Dict(mandatory=True, desc="fields of Run")
    provenance = traits.Dict(mandatory=True, desc="fields of Provenance")
    fingerprints = traits.Dict(mandatory=True, desc="BIDS URI of each input file -> fingerprint")
    keep_tokens = traits.Bool(True, usedefault=True)
    output_dir = traits.Directory(mandatory=True)


class _AggregateOutput(TraitedSpec):
    pass


class Aggregate(_Step):
    """Tokens -> embeddings, figures and the run's BIDS-Derivatives."""

    input_spec, output_spec = _AggregateInput, _AggregateOutput

    def _run_step(self, folder: Path) -> None:
        run = Run.from_dict(self.inputs.run)
        sidecar = output_path(self.inputs.output_dir, run.name, "embedding", ".json")
        # the outputs must not be a mixture of two calls
        with exclusive(sidecar.parent, run.name):
            sidecar.unlink(missing_ok=True)  # without it the run counts as unfinished
            self._write(run)

    def _write(self, run: Run) -> None:
        from swift_bids.reports.figures import draw_run

        provenance = Provenance.from_dict(self.inputs.provenance | {"kernel": self.inputs.kernel})
        tokens = np.load(self.inputs.tokens)
        statistics = Normalisation(**self.inputs.statistics)
        embeddings = aggregate(tokens, pd.read_csv(self.inputs.chunks, sep="\t"))
        files = draw_run(
            self.inputs.output_dir,
            run,
            embeddings,
            MatrixFile(self.inputs.matrix)[0:1][0],
            np.load(self.inputs.index),
            statistics.background,
            provenance.settings.fd_threshold,
        )
        files += write_parcels(
            self.inputs.output_dir,
            run,
            provenance,
            _parcels(self.inputs.atlas, provenance.settings.frame),
            np.load(self.inputs.parcels),
        )
        write_run(
            self.inputs.output_dir,
            run,
            provenance,
            embeddings,
            statistics,
            Coverage(**self.inputs.coverage),
            tokens if self.inputs.keep_tokens else None,
            self.inputs.fingerprints,
            files,
        )


def _parcels(atlas: str, frame: str) -> Parcels:
    return read_atlas(atlas) if isdefined(atlas) else cubes(FRAMES[frame])


@lru_cache(maxsize=1)
def load_network(file: str, sha256: str, device: str, compiled: bool) -> SwiFT:
    """Load the network, and keep it for all runs that this process embeds."""
    from swift_bids.network.swift import SwiFT

    network = SwiFT.from_file(file, device)
    if compiled:
        network.compile()
    return network
