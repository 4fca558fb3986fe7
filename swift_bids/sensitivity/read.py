"""A run -> the values of its brain and of the voxels around it, and other masks for it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy.ndimage import binary_dilation, gaussian_filter

from swift_bids.base.backbones import CHUNK_VOLUMES
from swift_bids.geometry.frames import FSL_AFFINE, FSL_SHAPE, Frame
from swift_bids.geometry.grid import template_brain
from swift_bids.geometry.resample_time import resample
from swift_bids.inputs.bold_reader import brain_rows, open_bold
from swift_bids.inputs.brain_mask import NEAREST, BrainMask
from swift_bids.inputs.mask import inside_of, mask_voxels
from swift_bids.inputs.run import Run
from swift_bids.inputs.transforms import GridWarp
from swift_bids.steps.locate_run import locate_run
from swift_bids.steps.read_run import Gaps

#: Voxels around all masks that are read, so that smoothing finds its neighbours.
_MARGIN = 3


@dataclass(frozen=True)
class RunVoxels:
    """Values of a run in and around its brain.

    Attributes
    ----------
    frame
        Position of the FSL 2 mm grid in the network's input.
    index
        int64 (voxel,): flat C-order positions in the FSL grid.
    readings
        Way of interpolation -> float32 (volume, voxel) at the network's TR, NaN without signal.
        Always contains `chosen`, that of the run.
    masks
        Name -> bool (91, 109, 91). Always contains `chosen`, that of the run.
    chunk_volumes
        Volumes of a chunk.
    """

    frame: Frame
    index: np.ndarray
    readings: dict[str, np.ndarray]
    masks: dict[str, np.ndarray]
    chunk_volumes: int = CHUNK_VOLUMES


def read_run(
    run: Run, others: Sequence[Run], frame: Frame, n_chunks: int, folder: Path
) -> RunVoxels:
    """Read the first chunks of a run in all ways that it could be read.

    Parameters
    ----------
    others
        The same run with other masks.
    n_chunks
        Number of chunks.
    folder
        For temporary files.

    Raises
    ------
    InputError
        A file cannot be read.
    """
    masks = {"chosen": _on_fsl_grid(run, frame)}
    for other in others:
        masks[f"{other.mask.kind} mask"] = _on_fsl_grid(other, frame)
    if run.mask.kind != "template":
        masks["template mask"] = template_brain()
    warp = run.transforms
    if warp is not None and run.mask.on_grid_of_run and run.mask.rule != NEAREST:
        nearest = replace(run, mask=replace(run.mask, rule=NEAREST))
        masks["mask carried by nearest neighbour"] = _on_fsl_grid(nearest, frame)
    ways = {"chosen": run}
    if warp is not None and warp.interpolation == "cubic":
        linear = replace(run, transforms=replace(warp, interpolation="linear"))
        ways["linear instead of cubic interpolation"] = linear
    if isinstance(warp, GridWarp) and warp.steps:
        by_coordinates = replace(run, transforms=replace(warp, steps=()))
        ways["read by its coordinates, not warped"] = by_coordinates
        masks["read by its coordinates, not warped"] = _on_fsl_grid(by_coordinates, frame)
    wide = binary_dilation(np.any(list(masks.values()), axis=0), iterations=_MARGIN)
    file = folder / "wide.nii"
    nib.Nifti1Image(wide.astype(np.uint8), FSL_AFFINE).to_filename(file)
    everywhere = BrainMask("file", str(file))
    readings = {}
    for name, way in ways.items():
        index, readings[name] = _read(replace(way, mask=everywhere), frame, n_chunks, folder)
    return RunVoxels(frame, index, readings, masks, run.series.chunk_volumes)


def _on_fsl_grid(run: Run, frame: Frame) -> np.ndarray:
    """The mask of a run, bool (91, 109, 91)."""
    return inside_of(locate_run(run.bold, run.mask, run.transforms, frame)[0])


def _read(run: Run, frame: Frame, n_chunks: int, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the voxels of a run's mask, and their values in the first chunks."""
    located, points = locate_run(run.bold, run.mask, run.transforms, frame)
    index = mask_voxels(located, str(run.mask.file), frame).fsl_index
    length = min(n_chunks * run.series.chunk_volumes, run.series.length)
    stop = run.series.source(0, length)[1]
    blocks, n_read = [], 0
    with ExitStack() as stack:
        bold = stack.enter_context(open_bold(run.bold))
        if points is None:
            rows = brain_rows(bold, run.bold, index)
        else:
            rows = stack.enter_context(points.rows(bold, run.bold, run.first_volume, folder))
        for block in Gaps().mark(rows, run.first_volume):
            blocks.append(block)
            n_read += len(block)
            if n_read >= stop:
                break
    values = np.concatenate(blocks)[:stop]
    return index, np.concatenate(list(resample([values], run.series)))[:length]


def smoothed(values: np.ndarray, index: np.ndarray, fwhm: float) -> np.ndarray:
    """Smooth each volume with a Gaussian.

    Parameters
    ----------
    values, index
        As in `RunVoxels`; a voxel without signal counts as 0 for its neighbours.
    fwhm
        Full width at half maximum in mm.
    """
    sigma = fwhm / np.sqrt(8 * np.log(2)) / 2  # in voxels of 2 mm
    volume = np.zeros(FSL_SHAPE, dtype=np.float32)
    changed = np.empty_like(values)
    for row, before in zip(changed, values):
        volume.reshape(-1)[index] = np.nan_to_num(before)
        after = gaussian_filter(volume, sigma).reshape(-1)[index]
        row[:] = np.where(np.isnan(before), np.nan, after)
    return changed
