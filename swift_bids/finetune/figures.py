"""Losses of all trainings -> a figure."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from swift_bids.group.figures import COLOURS


def curves_figure(curves: pd.DataFrame) -> Figure:
    """Draw the losses of each training by epoch, in one panel each; a ring marks the best epoch."""
    names = list(dict.fromkeys(curves["training"]))
    per_row = min(3, len(names))
    n_rows = -(-len(names) // per_row)
    figure = Figure(figsize=(3.4 * per_row + 0.4, 2.5 * n_rows), layout="constrained")
    axes = figure.subplots(n_rows, per_row, squeeze=False, sharex=True, sharey=True)
    for axis in axes.flat[len(names) :]:
        axis.set_visible(False)
    for axis, name in zip(axes.flat, names):
        rows = curves[curves["training"] == name]
        axis.plot(rows["epoch"], rows["train"], color=COLOURS[4], label="training chunks")
        axis.plot(
            rows["epoch"], rows["validation"], color=COLOURS[0], label="validation participants"
        )
        best = rows[rows["best"]]
        axis.plot(
            best["epoch"], best["validation"], "o", color=COLOURS[0], fillstyle="none", markersize=9
        )
        axis.set_title(name, fontsize=10)
        axis.spines[["top", "right"]].set_visible(False)
        axis.xaxis.get_major_locator().set_params(integer=True)
    axes[0, 0].legend(frameon=False, fontsize=8)
    figure.supxlabel("epoch", fontsize=10)
    figure.supylabel("loss", fontsize=10)
    return figure
