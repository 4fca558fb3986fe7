"""An explanation -> a self-contained page: glass brain, slices, parcels and checks."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import nibabel as nib
import numpy as np
from matplotlib.figure import Figure
from nilearn.image import smooth_img

from swift_bids import __version__
from swift_bids.base.backbones import Network
from swift_bids.base.files import write_text
from swift_bids.explain.attribution import TOLERANCE
from swift_bids.explain.results import Explanation
from swift_bids.group.figures import COLOURS, svg
from swift_bids.reports.participant_page import ENVIRONMENT

#: With a larger correlation, the map says little about what the probe has learned.
_MAX_SIMILARITY = 0.5
#: Parcels in figure and table of the page, and the share of the voxels that the glass brain hides.
_N_PARCELS, _HIDDEN = 20, 0.9
#: Full width at half maximum by which the pictures are smoothed.
_SMOOTHING_MM = 6


def write_page(
    page: Path,
    explanation: Explanation,
    image: nib.Nifti1Image,
    network: Network,
    baseline: str,
    atlas: str,
) -> Path:
    """Write the page and return its path.

    Parameters
    ----------
    image
        The map in template space.
    baseline, atlas
        `--baseline`, and the label of the atlas.
    """
    from nilearn.plotting import plot_glass_brain, plot_stat_map

    shown = smooth_img(image, _SMOOTHING_MM)
    brain = np.asarray(image.dataobj) != 0
    threshold = float(np.quantile(np.abs(np.asarray(shown.dataobj)[brain]), _HIDDEN))
    html = ENVIRONMENT.get_template("explain.html.j2").render(
        version=__version__,
        explanation=explanation,
        network=network,
        baseline=baseline,
        atlas=atlas,
        sentences=sentences_of(explanation),
        glass=_brain(
            plot_glass_brain,
            shown,
            threshold,
            3,
            plot_abs=False,
            colorbar=True,
            display_mode="lyrz",
        ),
        slices=_brain(
            plot_stat_map, shown, threshold, 2.4, display_mode="z", cut_coords=6, draw_cross=False
        ),
        parcels_figure=svg(_parcels_figure(explanation)),
        parcels=explanation.parcels.iloc[:-1].head(_N_PARCELS).to_dict("records"),
        outside=explanation.parcels.iloc[-1].to_dict(),
        runs=explanation.runs.to_dict("records"),
        hidden=_HIDDEN,
        smoothing=_SMOOTHING_MM,
    )
    write_text(page, html)
    return page


def sentences_of(explanation: Explanation) -> list[tuple[bool, str]]:
    """Explain the checks: (good, sentence); good is False if the user should check something."""
    error, similarity = explanation.completeness_error, explanation.similarity
    n_wrong = int((explanation.runs["completeness_error"] > TOLERANCE).sum())
    sentences = [
        (
            n_wrong == 0,
            f"Completeness: the attributions of each run add up to the difference between its "
            f"score and that of the baseline, within {100 * error:.2g} %."
            if n_wrong == 0
            else f"Completeness: in {n_wrong} of {len(explanation.runs)} runs, the attributions "
            f"miss the difference between their score and that of the baseline by more than 1 % "
            f"(up to {100 * error:.2g} %).",
        )
    ]
    resembles = abs(similarity) > _MAX_SIMILARITY
    sentences.append(
        (
            not resembles,
            f"Randomised head: with the coefficients of the probe in random order, the map "
            f"{'still resembles' if resembles else 'does not resemble'} this one (Spearman "
            f"correlation over voxels {similarity:.2f})."
            + (
                " It shows where the runs differ from the baseline rather than what the probe "
                "has learned."
                if resembles
                else ""
            ),
        )
    )
    return sentences


def _brain(
    draw: Callable[..., object], image: nib.Nifti1Image, threshold: float, height: float, **how: Any
) -> str:
    """Draw a map with a function of nilearn; return the address of the picture."""
    figure = Figure(figsize=(10.5, height))
    draw(image, figure=figure, threshold=threshold, symmetric_cbar=True, cmap="RdBu_r", **how)
    return _png(figure)


def _parcels_figure(explanation: Explanation) -> Figure:
    """Draw the attribution of the first parcels, with standard errors, and their occlusion."""
    rows = explanation.parcels.iloc[:-1].head(_N_PARCELS)
    place = np.arange(len(rows))
    figure = Figure(figsize=(8.5, 0.28 * len(rows) + 0.9), layout="constrained")
    axis = figure.subplots()
    axis.barh(
        place,
        rows["attribution"],
        xerr=rows["attribution_se"],
        color=COLOURS[0],
        height=0.6,
        label="Integrated Gradients",
    )
    if "occlusion" in rows:
        axis.errorbar(
            rows["occlusion"],
            place,
            xerr=rows["occlusion_se"],
            fmt="o",
            color=COLOURS[1],
            markersize=5,
            label="occlusion",
        )
    axis.set_yticks(place, rows["parcel"], fontsize=8)
    axis.invert_yaxis()
    axis.axvline(0, color="0.5", linewidth=1)
    axis.set_xlabel("part of the score")
    axis.legend(frameon=False, fontsize=8)
    axis.spines[["top", "right"]].set_visible(False)
    return figure


def _png(figure: Figure) -> str:
    """A figure as the address of an image."""
    content = io.BytesIO()
    with matplotlib.rc_context({"savefig.bbox": None}):
        figure.savefig(content, format="png", dpi=110, metadata={"Software": None})
    return f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}"
