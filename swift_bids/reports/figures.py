"""Network input, carpet plot and chunks of a run -> PNG figures in sub-XX/figures."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from swift_bids.base.files import write_atomically
from swift_bids.geometry.frames import MODEL_SHAPE, Frame
from swift_bids.geometry.grid import template_brain
from swift_bids.inputs.run import Run
from swift_bids.outputs.paths import figure_path
from swift_bids.reports.carpet import ORANGE, SKY, carpet_figure, save_in_few_colours
from swift_bids.steps.aggregate import Embeddings
from swift_bids.steps.volume_signals import Volumes

#: A colour-blind-safe colour (Okabe and Ito).
_GREEN = "#009E73"
#: Slices of the mosaic along each axis, and voxels between its panels.
_N_CUTS, _GAP = 7, 4
#: With fewer chunks, a matrix of their distances says nothing.
_MIN_CHUNKS = 4


def draw_run(
    output_dir: str | Path,
    run: Run,
    embeddings: Embeddings,
    volumes: Volumes,
    of_volumes: pd.DataFrame,
    brain_voxels: np.ndarray,
    index: np.ndarray,
    background: float,
    fd_threshold: float,
    frame: Frame,
) -> list[Path]:
    """Draw the figures of a run for the participant's page and return their files.

    There are three figures; the one of the similarity of chunks needs four chunks.

    Parameters
    ----------
    volumes, of_volumes
        What `normalise` found in the volumes, and their table.
    brain_voxels
        (brain voxel,) z-scores of the first volume of the network's input.
    index, background
        Position of each brain voxel in the 96^3 input, and z-score of all other voxels, as in
        `swift_bids.steps.embed.embed_chunks`.
    fd_threshold
        Framewise displacement in mm above which a volume is censored.
    frame
        Position of the FSL 2 mm grid in the network's input.
    """
    volume = np.full(np.prod(MODEL_SHAPE), background, dtype=np.float32)
    volume[index] = brain_voxels
    brain = np.zeros(np.prod(MODEL_SHAPE), dtype=bool)
    brain[index] = True
    figures = {
        "input": model_input_mosaic(volume.reshape(MODEL_SHAPE), brain.reshape(MODEL_SHAPE), frame),
        "carpetplot": carpet_figure(
            run, volumes, of_volumes, embeddings.chunks, index, fd_threshold
        ),
    }
    if len(embeddings.chunks) >= _MIN_CHUNKS:
        figures["chunks"] = chunk_similarity(embeddings)
    else:  # a figure of an earlier call does not match the new outputs
        figure_path(output_dir, run.name, "chunks").unlink(missing_ok=True)
    files = []
    for name, figure in figures.items():
        files.append(figure_path(output_dir, run.name, name))
        write_atomically(files[-1], partial(_SAVE[name], figure))
    return files


def _save_as_png(figure: Figure, file: Path) -> None:
    """Save a figure without metadata such as the library's version, so that the same input gives
    the same bytes."""
    figure.savefig(file, format="png", dpi=110, metadata={"Software": None})


#: How to save each figure.
_SAVE: dict[str, Callable[[Figure, Path], None]] = {
    "input": partial(save_in_few_colours, n_greys=64),
    "carpetplot": save_in_few_colours,
    "chunks": _save_as_png,
}


def template_in_input(frame: Frame) -> np.ndarray:
    """Return the template's brain in the network's input, bool (96, 96, 96)."""
    brain = np.zeros(MODEL_SHAPE, dtype=bool)
    _, places = frame.place(np.stack(np.nonzero(template_brain())))
    brain[tuple(places)] = True
    return brain


def model_input_mosaic(volume: np.ndarray, brain: np.ndarray, frame: Frame) -> Figure:
    """Draw slices of one volume of the network's input with the outlines of the brain mask and,
    thin, of the template's brain.

    Parameters
    ----------
    volume, brain
        (96, 96, 96); x increases to the left, y forward, z up.
    frame
        Position of the FSL 2 mm grid in the input.
    """
    template = template_in_input(frame)
    low, high = np.percentile(volume[brain], [1, 99])
    pitch = MODEL_SHAPE[0] + _GAP
    # One image of all panels: separate axes would take most of the time that a page takes.
    slices = np.full((3 * pitch, _N_CUTS * pitch), low, dtype=np.float32)
    outlines, of_template = (np.zeros(slices.shape, dtype=bool) for _ in range(2))
    figure = Figure(figsize=(12, 12 * 3 / _N_CUTS), facecolor="black")
    panels = figure.add_axes((0, 0, 1, 1))
    for row, axis in enumerate((2, 1, 0)):  # axial, coronal, sagittal
        present = np.flatnonzero(brain.any(axis=tuple(a for a in range(3) if a != axis)))
        cuts = np.linspace(present[0], present[-1], _N_CUTS + 2).round().astype(int)[1:-1]
        for column, cut in enumerate(cuts):
            top, left = row * pitch, column * pitch
            panel = np.s_[top : top + MODEL_SHAPE[0], left : left + MODEL_SHAPE[0]]
            # x increases to the left, so the left of the brain is on the right of the panel
            slices[panel] = volume.take(cut, axis).T[::-1]
            outlines[panel] = brain.take(cut, axis).T[::-1]
            of_template[panel] = template.take(cut, axis).T[::-1]
            millimetres = frame.affine[axis, axis] * cut + frame.affine[axis, 3]
            name = f"{'xyz'[axis]} {millimetres:.0f} mm"
            panels.text(left + 1, top + 94, name, color="0.85", fontsize=10)
        if axis != 0:
            for x, side in ((3, "R"), (92, "L")):
                panels.text(x, top + 4, side, color="white", fontsize=11, ha="center", va="top")
    panels.imshow(slices, cmap="gray", vmin=low, vmax=high)
    panels.contour(of_template, levels=[0.5], colors=SKY, linewidths=0.4)
    panels.contour(outlines, levels=[0.5], colors=ORANGE, linewidths=0.7)
    panels.set_axis_off()
    return figure


def chunk_similarity(embeddings: Embeddings) -> Figure:
    """Draw the cosine distances between chunks, and from each chunk to the run's embedding."""
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.6))
    # Distances, because all similarities are close to 1.
    distances = np.maximum(1 - embeddings.similarity, 0)
    shown = left.imshow(distances, cmap="cividis_r", vmin=0)
    figure.colorbar(shown, ax=left, label="cosine distance")
    left.set(xlabel="chunk", ylabel="chunk")
    chunks = np.arange(len(embeddings.chunks))
    included = embeddings.chunks["included"].to_numpy(dtype=bool)
    colours = np.where(included, _GREEN, "0.6")
    right.bar(chunks, embeddings.chunks["distance"], color=colours)
    right.set(xlabel="chunk", ylabel="cosine distance\nfrom the run's embedding")
    for axis in (left.xaxis, left.yaxis, right.xaxis):
        axis.set_major_locator(MaxNLocator(integer=True))
    right.spines[["top", "right"]].set_visible(False)
    return figure
