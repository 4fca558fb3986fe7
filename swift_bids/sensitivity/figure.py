"""Table of changes -> a figure that compares them with the distances between runs."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from swift_bids.sensitivity.yardstick import BETWEEN, WITHIN

#: Colour-blind-safe colours (Okabe and Ito).
_COLOURS = {"mask": "#0072B2", "core": "#D55E00"}
_LINES = {WITHIN: ("#009E73", ":"), BETWEEN: ("#009E73", "--")}


def sensitivity_figure(table: pd.DataFrame, random_weights: bool) -> Figure:
    """Draw the distances that whole changes cause, for both choices of `--statistics`.

    Parameters
    ----------
    table
        Rows of `swift_bids.sensitivity.changes.measure` and of
        `swift_bids.sensitivity.yardstick.yardstick`.
    random_weights
        Whether the distances are those of a network with random weights, which the figure says.
    """
    whole = table[table["effect"] == "all"]
    names = list(dict.fromkeys(whole["change"]))
    height = np.arange(len(names))[::-1]
    figure = Figure(figsize=(11, 1.4 + 0.36 * len(names)), layout="constrained")
    for axis, column in zip(figure.subplots(1, 2, sharey=True), ("tokens", "embedding")):
        for statistics, colour in _COLOURS.items():
            rows = whole[whole["statistics"] == statistics]
            label = f"--statistics {statistics}"
            axis.plot(100 * rows[column], height, "o", color=colour, label=label)
        for name, (colour, style) in _LINES.items():
            known = table.loc[table["change"] == name, column].dropna()
            if len(known):
                x = 100 * known.iloc[0]
                axis.axvline(x, color=colour, linestyle=style, linewidth=1, label=name)
        axis.set(xlabel=f"distance of the {column} (%)", xlim=(0, None))
        axis.set_yticks(height, names)
        axis.grid(axis="x", color="0.9")
        axis.spines[["top", "right"]].set_visible(False)
    handles, labels = axis.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=4, frameon=False)
    if random_weights:
        note = "Random weights: these are not the distances of a trained network."
        figure.supxlabel(note, fontsize=9, color="#D55E00")
    return figure
