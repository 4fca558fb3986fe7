"""Results of the group level -> figures: similarity of runs, probes and their baselines."""

from __future__ import annotations

import io

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from swift_bids.group.probes.scores import (
    ACQUISITION,
    COMPARED,
    CONNECTIVITY,
    DUMMY,
    EMBEDDING,
    FINE_TUNED,
    MOTION,
    NOT_HARMONISED,
    POSITIONS,
    TOKENS,
    main_metric,
)
from swift_bids.group.reliability import RATINGS
from swift_bids.group.similarity import centred

#: Colour-blind-safe colours (Okabe and Ito), in the order in which classes use them.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
_SETS = {
    EMBEDDING: COLOURS[0],
    FINE_TUNED: COLOURS[6],
    COMPARED: COLOURS[6],
    NOT_HARMONISED: COLOURS[5],
    POSITIONS: COLOURS[5],
    TOKENS: COLOURS[2],
    CONNECTIVITY: COLOURS[1],
    MOTION: COLOURS[4],
    ACQUISITION: COLOURS[3],
    DUMMY: "#777777",
}
#: Display names of the main metrics of probes.
METRIC_NAMES = {"auroc": "AUROC", "r2": "R²"}
#: Most runs in the picture of the similarity matrix, and in the histogram of pairs.
MAX_IN_MATRIX, MAX_IN_HISTOGRAM = 400, 2000


def svg(figure: Figure) -> str:
    """Return a figure as an SVG element; equal figures give equal text."""
    text = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "swift_bids"}):
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    return text.getvalue()


def similarity_figure(features: np.ndarray, participants: pd.Series) -> Figure:
    """Draw the similarity of runs, ordered by participant, and its distribution within and between
    participants."""
    codes, _ = pd.factorize(participants, sort=True)
    chosen = evenly_spaced(len(codes), MAX_IN_HISTOGRAM)
    codes = codes[chosen]
    order = np.argsort(codes, kind="stable")
    rows = centred(features)[chosen][order]
    similarity = np.clip(rows @ rows.T, -1, 1)
    same = codes[order][:, None] == codes[order]
    np.fill_diagonal(same, False)
    different = ~(codes[order][:, None] == codes[order])
    figure = Figure(figsize=(10.5, 3.9), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.35))
    shown_runs = evenly_spaced(len(order), MAX_IN_MATRIX)
    shown = left.imshow(
        similarity[np.ix_(shown_runs, shown_runs)],
        cmap="cividis",
        vmin=-1,
        vmax=1,
        interpolation="nearest",
    )
    figure.colorbar(shown, ax=left, label="similarity")
    left.set(xlabel="run, ordered by participant", ylabel="run")
    bins = np.linspace(-1, 1, 61)
    for pairs, label, colour in (
        (different, "of two participants", COLOURS[1]),
        (same, "of one participant", COLOURS[0]),
    ):
        if pairs.any():
            values = similarity[pairs]
            right.hist(
                values,
                bins,
                density=True,
                histtype="stepfilled",
                alpha=0.55,
                color=colour,
                label=f"{label}, mean {values.mean():.2f}",
            )
    right.set(xlabel="similarity of two runs (cosine, centred)", ylabel="density", xlim=(-1, 1))
    right.legend(frameon=False, loc="upper left", fontsize=9)
    right.spines[["top", "right"]].set_visible(False)
    return figure


def reliability_figure(table: pd.DataFrame) -> Figure:
    """Draw how many features have which intraclass correlation, and the ratings."""
    figure = Figure(figsize=(10.5, 2.8), layout="constrained")
    axis = figure.subplots()
    icc = table["icc"].dropna().clip(-0.25, 1)
    axis.hist(icc, np.linspace(-0.25, 1, 51).tolist(), color=COLOURS[0])
    top = axis.get_ylim()[1]
    limits = [limit for limit, _ in RATINGS if np.isfinite(limit)]
    for limit in limits:
        axis.axvline(limit, color="0.5", linestyle="--", linewidth=1)
    for left, (_, word) in zip([*limits, -0.25], RATINGS):
        axis.text(left + 0.008, top, word, va="top", fontsize=10, color="0.3")
    axis.set(xlim=(-0.25, 1), xlabel="intraclass correlation", ylabel="features")
    axis.spines[["top", "right"]].set_visible(False)
    return figure


def probes_figure(probes: pd.DataFrame) -> Figure:
    """Draw the main metric of each probe, with 95 % intervals, for embedding and baselines."""
    targets = list(dict.fromkeys(probes["target"]))
    sets = [name for name in _SETS if name in set(probes["features"])]
    per_row = min(3, len(targets))
    n_rows = -(-len(targets) // per_row)
    figure = Figure(
        figsize=(3.6 * per_row + 0.6, 0.9 + (0.45 * len(sets) + 0.9) * n_rows), layout="constrained"
    )
    axes = figure.subplots(n_rows, per_row, squeeze=False)
    for axis in axes.flat[len(targets) :]:
        axis.set_visible(False)
    main = pd.concat([_main_rows(rows) for _, rows in probes.groupby("target", sort=False)])
    limits = {metric: _limits(rows) for metric, rows in main.groupby("metric")}
    for axis, target in zip(axes.flat, targets):
        rows = main[main["target"] == target].set_index("features")
        metric = rows["metric"].iloc[0]
        left, right = limits[metric]
        for position, name in enumerate(sets):
            if name not in rows.index:
                continue
            row = rows.loc[name]
            low, value, high = row[["low", "value", "high"]].clip(left, right)
            axis.plot([low, high], [position] * 2, color=_SETS[name], linewidth=2)
            marker = "<" if row["value"] < left else "o"
            axis.plot(value, position, marker, color=_SETS[name], markersize=7, clip_on=False)
        axis.set_xlim(left, right)
        axis.axvline(0.5 if metric == "auroc" else 0, color="0.5", linestyle="--", linewidth=1)
        axis.set_yticks(range(len(sets)), sets)
        axis.set_ylim(len(sets) - 0.5, -0.5)
        axis.set_xlabel(METRIC_NAMES[metric])
        axis.set_title(shortened(target), fontsize=10)
        axis.spines[["top", "right"]].set_visible(False)
    return figure


def _main_rows(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of the main metric of one target."""
    return rows[rows["metric"] == main_metric(rows)]


def _limits(rows: pd.DataFrame) -> tuple[float, float]:
    """Range of a metric for all targets, so that their panels can be compared.

    It leaves out values below -1: one participant whose value is far from all others makes R²
    arbitrarily negative.
    """
    low, high = rows[["low", "value"]].min(axis=None), rows[["high", "value"]].max(axis=None)
    low, high = np.nan_to_num(low, nan=0.0), np.nan_to_num(high, nan=1.0)
    margin = 0.05 * (high - max(low, -1.0)) or 0.1
    return max(float(low - margin), -1.0), float(high + margin)


def shortened(text: str, max_length: int = 32) -> str:
    """Shorten a text for a title and escape `$`, which Matplotlib reads as mathematics."""
    text = text if len(text) <= max_length else text[: max_length - 1] + "…"
    return text.replace("$", r"\$")


def evenly_spaced(count: int, limit: int) -> np.ndarray:
    """At most `limit` indices that are spread evenly over `range(count)`."""
    return np.linspace(0, count - 1, min(count, limit)).round().astype(int)
