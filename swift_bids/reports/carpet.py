"""Volumes and chunks of a run -> its carpet plot, with the signals of the volumes above it."""

from __future__ import annotations

import io
from pathlib import Path

import matplotlib
import nibabel as nib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, ScalarFormatter
from PIL import Image

from swift_bids.geometry.frames import MODEL_SHAPE
from swift_bids.inputs.run import Run
from swift_bids.steps.volume_signals import Volumes
from swift_bids.steps.voxel_statistics import median_and_spread

#: Colour-blind-safe colours (Okabe and Ito).
BLUE, ORANGE, SKY = "#0072B2", "#D55E00", "#56B4E9"
#: Columns of the carpet. From longer ones, nilearn would leave volumes out.
_MAX_COLUMNS = 800
#: Grey values span this many robust standard deviations on either side.
_GREY_RANGE = 2.5
#: Opacities of the bars of chunks, by turns.
_OPACITIES = (0.25, 0.45)
#: Numbers of chunks that fit side by side.
_MAX_NUMBERS = 30


@matplotlib.rc_context({"font.size": 12})  # readable on a narrow page, too
def carpet_figure(
    run: Run,
    volumes: Volumes,
    table: pd.DataFrame,
    chunks: pd.DataFrame,
    index: np.ndarray,
    fd_threshold: float,
) -> Figure:
    """Draw brain voxels of a run over time; above them, its chunks and the signals of its volumes.

    Parameters
    ----------
    volumes, table
        What `normalise` found, and what `swift_bids.outputs.volumes.volume_table` made of it.
    chunks
        The table of chunks.
    index
        (brain voxel,) flat positions in 96^3.
    fd_threshold
        Framewise displacement in mm above which a volume is censored.
    """
    figure = Figure(figsize=(12, 7.4), layout="constrained")
    strip, *signals, carpet = figure.subplots(
        5, 1, sharex=True, height_ratios=(0.5, 1, 1, 1, 4), gridspec_kw={"hspace": 0}
    )
    for axis, column, label in zip(
        signals,
        ("global_signal", "std_dvars", "framewise_displacement"),
        ("global\nsignal", "DVARS", "FD (mm)"),
    ):
        _draw_signal(axis, run, table[column], label)
    ordinary = ~volumes.faults.any & (np.arange(run.n_volumes) >= run.first_volume)
    level, dvars, displacement = signals
    level.set_ylim(*_limits(table["global_signal"], ordinary))
    dvars.set_ylim(0, _limits(table["std_dvars"], ordinary)[1])
    highest = table["framewise_displacement"].max()
    displacement.set_ylim(0, 1.1 * np.fmax(highest, 1.2 * fd_threshold))
    displacement.axhline(fd_threshold, color=ORANGE, linestyle="--", linewidth=1)
    _draw_carpet(carpet, run, volumes, ordinary, index)
    _draw_chunks(strip, chunks)
    # A run has up to a hundred chunks and any number of faulty volumes: one artist for each kind.
    borders = np.unique([*chunks["onset"], *(chunks["onset"] + chunks["duration"])])
    faulty = np.flatnonzero(volumes.faults.any) * run.repetition_time
    for axis in (*signals, carpet):
        across = axis.get_xaxis_transform()
        axis.vlines(borders, 0, 1, color=BLUE, linewidth=0.7, transform=across)
        low = 0.96 if axis is carpet else 0
        axis.bar(
            faulty, 1 - low, run.repetition_time, low, align="edge", color=ORANGE, transform=across
        )
        axis.axvspan(0, run.first_volume * run.repetition_time, color="0.7", alpha=0.5, linewidth=0)
    carpet.set(xlim=(0, run.n_volumes * run.repetition_time), xlabel="time (s)")
    carpet.xaxis.set_major_locator(MaxNLocator(10))
    carpet.xaxis.set_major_formatter(ScalarFormatter())
    return figure


def save_in_few_colours(figure: Figure, file: Path, n_greys: int = 8) -> None:
    """Save a carpet plot or a mosaic as PNG in few colours: its noise takes a fifth of the
    bytes."""
    drawn = io.BytesIO()
    figure.savefig(drawn, format="rgba", dpi=100)
    width, height = (round(inches * 100) for inches in figure.get_size_inches())
    picture = Image.frombytes("RGBA", (width, height), drawn.getvalue()).convert("RGB")
    few = picture.quantize(palette=_palette(n_greys), dither=Image.Dither.NONE)
    few.save(file, format="png", optimize=True)


def _palette(n_greys: int) -> Image.Image:
    """Greys, and the colours of carpet plots and mosaics."""
    greys = np.linspace(0, 255, n_greys)[:, None].repeat(3, axis=1)
    blue, orange, sky = (
        np.array([int(c[i : i + 2], 16) for i in (1, 3, 5)]) for c in (BLUE, ORANGE, SKY)
    )
    blues = [255 + opacity * (blue - 255) for opacity in (*_OPACITIES, 1)]
    # thin lines are blended with what is behind them
    lines = [
        behind + opacity * (colour - behind)
        for colour in (orange, sky)
        for opacity in (0.4, 0.7, 1)
        for behind in (0, 128, 255)
    ]
    palette = Image.new("P", (1, 1))
    colours = np.concatenate([greys, blues, lines])
    palette.putpalette(colours.round().astype(np.uint8).tobytes())
    return palette


def _draw_signal(axis: Axes, run: Run, values: pd.Series, label: str) -> None:
    middles = (np.arange(run.n_volumes) + 0.5) * run.repetition_time
    axis.plot(middles, values, color="black", linewidth=1)
    axis.set_ylabel(label, rotation=0, ha="right", va="center")
    axis.spines[["top", "right"]].set_visible(False)
    axis.locator_params(axis="y", nbins=3)
    if values.isna().all():
        axis.text(0.5, 0.35, "unknown", transform=axis.transAxes, ha="center", va="center")


def _limits(values: pd.Series, ordinary: np.ndarray) -> tuple[float, float]:
    """Range of a signal that leaves room around the ordinary volumes; others may exceed it."""
    low, high = np.nanpercentile(values[ordinary], [1, 99]) if values.notna().any() else (0, 1)
    room = 2 * (high - low) or 1
    return float(np.fmax(values.min(), low - room)), float(np.fmin(values.max(), high + room))


def _draw_chunks(axis: Axes, chunks: pd.DataFrame) -> None:
    """Draw a bar for each chunk: blue if it is included, with its number and its faulty volumes."""
    colours = [
        (BLUE if chunk.included else "0.6", _OPACITIES[chunk.Index % 2])
        for chunk in chunks.itertuples()
    ]
    axis.bar(chunks["onset"], 1, chunks["duration"], align="edge", color=colours, linewidth=0)
    every = -(-len(chunks) // _MAX_NUMBERS)
    for chunk in chunks.itertuples():
        middle = chunk.onset + chunk.duration / 2
        if chunk.Index % every == 0:
            axis.text(middle, 0.5, str(chunk.Index), ha="center", va="center")
        if chunk.n_faulty:
            axis.plot(middle, 1, "v", color=ORANGE, markersize=9, clip_on=False)
    axis.set(ylim=(0, 1), yticks=[])
    axis.set_ylabel("chunks", rotation=0, ha="right", va="center")
    axis.spines[:].set_visible(False)


def _draw_carpet(
    axis: Axes, run: Run, volumes: Volumes, ordinary: np.ndarray, index: np.ndarray
) -> None:
    """Draw the carpet, with the deepest voxels at the top."""
    from nilearn.plotting import plot_carpet  # slow to import

    depth = _depth(index)[volumes.carpet_columns]
    rows = _comparable(volumes.carpet, ordinary)[np.argsort(-depth, kind="stable")]
    together = -(-rows.shape[1] // _MAX_COLUMNS)
    starts = np.arange(0, rows.shape[1], together)
    columns = np.add.reduceat(rows, starts, axis=1)
    columns /= np.diff(np.append(starts, rows.shape[1]))
    image = nib.Nifti1Image(columns[:, None, None, :].astype(np.float32), np.eye(4))
    everywhere = nib.Nifti1Image(np.ones(image.shape[:3], np.uint8), np.eye(4))
    plot_carpet(
        image,
        everywhere,
        t_r=run.repetition_time,
        detrend=False,
        axes=axis,
        vmin=-_GREY_RANGE,
        vmax=_GREY_RANGE,
    )
    # in seconds, as the other axes
    axis.images[0].set_extent((0, run.n_volumes * run.repetition_time, len(rows), 0))
    axis.set(ylim=(len(rows), 0))
    axis.set_ylabel("voxels:\ncentre\nto edge", rotation=0, ha="right", va="center")
    axis.spines[["left", "bottom"]].set_position(("outward", 0))


def _comparable(carpet: np.ndarray, good: np.ndarray) -> np.ndarray:
    """Voxels (row, volume) without mean and linear trend, in robust standard deviations. Only good
    volumes decide on these; values without signal count as 0."""
    rows = np.nan_to_num(carpet.astype(np.float64))
    times = np.linspace(-1, 1, len(rows))
    design = np.stack([np.ones_like(times), times], axis=1)
    rows -= design @ np.linalg.lstsq(design[good], rows[good], rcond=None)[0]
    _, spread = median_and_spread(rows[good], axis=0, method="linear")
    return (rows / np.where(spread > 0, spread, np.inf)).T


def _depth(index: np.ndarray) -> np.ndarray:
    """Distance of each brain voxel from the edge of the mask, in voxels."""
    from scipy.ndimage import distance_transform_edt

    brain = np.zeros(MODEL_SHAPE, dtype=bool)
    brain.reshape(-1)[index] = True
    box = tuple(
        slice(max(0, at.min() - 1), at.max() + 2) for at in np.unravel_index(index, MODEL_SHAPE)
    )
    depth = np.zeros(MODEL_SHAPE)
    depth[box] = distance_transform_edt(brain[box])
    return depth.reshape(-1)[index]
