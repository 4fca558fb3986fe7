"""The steps that read a run: locate, normalise, crop, chunk."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    File,
    TraitedSpec,
    isdefined,
    traits,
)

from swift_bids.geometry.frames import FRAMES
from swift_bids.geometry.resample_time import Series
from swift_bids.inputs.brain_mask import BrainMask
from swift_bids.inputs.confounds import displacement_in, read_confounds
from swift_bids.inputs.run_confounds import motion_confounds
from swift_bids.inputs.transforms import transforms_from_dict
from swift_bids.interfaces.step import Step
from swift_bids.steps.bold_points import BoldPoints
from swift_bids.steps.chunk import SHORT_RUNS, TAILS, plan_chunks
from swift_bids.steps.crop import crop
from swift_bids.steps.locate_run import locate_run
from swift_bids.steps.normalise import normalise
from swift_bids.steps.parcels import read_atlas
from swift_bids.steps.volume_signals import Volumes
from swift_bids.steps.z_scores import METHODS, STATISTICS


class _LocateInput(BaseInterfaceInputSpec):
    bold = File(exists=True, mandatory=True)
    mask = traits.Dict(mandatory=True, desc="fields of Run.mask")
    transforms = traits.Dict(desc="fields of Run.transforms; unset: not interpolated")
    files = traits.List(File(exists=True), mandatory=True, desc="of mask and transforms")
    frame = traits.Enum(*FRAMES, mandatory=True)


class _LocateOutput(TraitedSpec):
    mask = File(exists=True, desc="brain mask on the FSL 2 mm grid")
    points = File(exists=True, desc="where its voxels are in a run to resample, .npz")


class Locate(Step):
    """BOLD + mask + transforms -> brain mask in the template, and its voxels in the run."""

    input_spec, output_spec = _LocateInput, _LocateOutput

    def _run_step(self, folder: Path) -> None:
        transforms = None
        if isdefined(self.inputs.transforms):
            transforms = transforms_from_dict(self.inputs.transforms)
        bold, mask = self.inputs.bold, BrainMask.from_dict(self.inputs.mask)
        located, points = locate_run(bold, mask, transforms, FRAMES[self.inputs.frame])
        self._results["mask"] = str(folder / "mask.nii.gz")
        located.to_filename(self._results["mask"])
        if points is not None:
            self._results["points"] = str(folder / "points.npz")
            points.save(self._results["points"])


class _NormaliseInput(BaseInterfaceInputSpec):
    bold = File(exists=True, mandatory=True)
    mask = File(exists=True, mandatory=True)
    points = File(exists=True, desc="where the brain voxels are in a run to resample")
    frame = traits.Enum(*FRAMES, mandatory=True)
    series = traits.Dict(mandatory=True, desc="fields of Series")
    method = traits.Enum(*METHODS, usedefault=True)
    statistics = traits.Enum(*STATISTICS, usedefault=True, desc="voxels that decide")
    robust = traits.Bool(False, usedefault=True, desc="leave faulty volumes out")
    quantisation = traits.Enum("none", "int8", usedefault=True)
    atlas = File(exists=True, mandatory=True, desc="image of parcels")


class _NormaliseOutput(TraitedSpec):
    matrix = File(exists=True, desc="(volume of the series, brain voxel) z-scores, .npy")
    statistics = traits.Dict(desc="fields of Normalisation")
    parcels = File(exists=True, desc="(used volume of the BOLD file, parcel) means, .npy")
    volumes = File(exists=True, desc="fields of Volumes, .npz")


class Normalise(Step):
    """BOLD + mask -> matrix of z-scores, mean signals of parcels, and faults of volumes."""

    input_spec, output_spec = _NormaliseInput, _NormaliseOutput

    def _run_step(self, folder: Path) -> None:
        matrix, parcels, volumes = (
            str(folder / name) for name in ("matrix.npy", "parcels.npy", "volumes.npz")
        )
        statistics = normalise(
            self.inputs.bold,
            self.inputs.mask,
            FRAMES[self.inputs.frame],
            Series(**self.inputs.series),
            matrix,
            self.inputs.method,
            self.inputs.statistics,
            read_atlas(self.inputs.atlas),
            parcels,
            BoldPoints.load(self.inputs.points) if isdefined(self.inputs.points) else None,
            self.inputs.robust,
            volumes,
            self.inputs.quantisation,
        )
        self._results |= {
            "matrix": matrix,
            "statistics": dataclasses.asdict(statistics),
            "parcels": parcels,
            "volumes": volumes,
        }


class _CropInput(BaseInterfaceInputSpec):
    mask = File(exists=True, mandatory=True)
    frame = traits.Enum(*FRAMES, mandatory=True)


class _CropOutput(TraitedSpec):
    index = File(exists=True, desc="(brain voxel,) positions in 96^3, .npy")
    coverage = traits.Dict(desc="fields of Coverage")


class Crop(Step):
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
    volumes = File(exists=True, mandatory=True, desc="fields of Volumes, .npz")
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


class Chunk(Step):
    """Timing and faults of volumes + confounds -> table of chunks."""

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
            Volumes.load(self.inputs.volumes).faults,
            self.inputs.fd_threshold,
            self.inputs.max_censored,
            self.inputs.stride,
            self.inputs.tail,
            self.inputs.short_runs,
        )
        self._results["chunks"] = str(folder / "chunks.tsv")
        table.to_csv(self._results["chunks"], sep="\t", index=False)
