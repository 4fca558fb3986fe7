"""Results of the group level -> group.html; only the slices of runs are in other files."""

from __future__ import annotations

import importlib.util
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pandas as pd

from swift_bids import __version__
from swift_bids.base.backbones import NETWORKS
from swift_bids.base.files import write_text
from swift_bids.group.columns import as_target
from swift_bids.group.figures import (
    COLOURS,
    evenly_spaced,
    reliability_figure,
    similarity_figure,
    svg,
)
from swift_bids.group.outliers import OUTLIER_P, principal_components
from swift_bids.group.probes.features import MAX_FOR_TANGENT
from swift_bids.group.reliability import RATINGS
from swift_bids.group.tables import PROBES_FIGURE, GroupResults
from swift_bids.group.verdicts import sentences_of
from swift_bids.outputs.paths import figure_path
from swift_bids.reports.participant_page import ENVIRONMENT

#: Most runs on the map, and most in the table of the page.
MAX_POINTS, MAX_ROWS = 3000, 500
#: With more classes, the map has no legend and shows the class of the run under the pointer.
MAX_IN_LEGEND = 16
#: Columns of runs by which the map can be coloured, in addition to those of participants.tsv.
_COLOUR_COLUMNS = (
    "participant_id",
    "session_id",
    "task_id",
    "mean_fd",
    "censored",
    "template_share",
    "mask_volume",
    "mean_intensity",
    "tsnr",
    "n_warnings",
    "n_included",
    "outlier_distance",
    "space_id",
    "denoising",
    "mask",
    "weights_sha256",
)
#: Measures of quality and their labels.
_QUALITY = {
    "mean_fd": "mean FD (mm)",
    "censored": "share censored",
    "tsnr": "temporal SNR",
    "template_share": "brain covered (share)",
    "mask_volume": "mask volume (mL)",
    "outlier_distance": "outlier distance",
}


def write_group_report(output_dir: Path, results: GroupResults, known: pd.DataFrame) -> Path:
    """Write the page. Call `write_group_tables` first, because the page embeds its probes figure.

    Parameters
    ----------
    known
        Columns of participants.tsv, `participant_id` first, by which the map can be coloured.

    Returns
    -------
    Path
        `group.html`.
    """
    table = results.runs.table
    points = _chosen(results, MAX_POINTS)
    html = ENVIRONMENT.get_template("group.html.j2").render(
        results=results,
        table=table,
        network=NETWORKS[results.runs.label],
        compared_network=results.compared and NETWORKS[results.compared.runs.label],
        version=__version__,
        random_weights=results.random_weights,
        outlier_p=OUTLIER_P,
        max_for_tangent=MAX_FOR_TANGENT,
        map=_map(output_dir, results, known, points),
        n_points=len(points),
        similarity=svg(similarity_figure(results.runs.features, table["participant_id"]))
        if len(table) > 1
        else None,
        reliability=svg(reliability_figure(results.reliability))
        if len(results.reliability)
        else None,
        ratings=[word for _, word in RATINGS],
        probes_figure=results.file(output_dir, PROBES_FIGURE).read_text(encoding="utf-8")
        if len(results.probes)
        else None,
        sentences=sentences_of(results),
        rows=table.iloc[_chosen(results, MAX_ROWS)].to_dict("records"),
        scripts=[
            resources.files("swift_bids").joinpath(f"data/{name}").read_text(encoding="utf-8")
            for name in ("vendor/plotly-basic.min.js", "vendor/sortable.auto.min.js", "group.js")
        ],
    )
    page = output_dir / "group.html"
    write_text(page, html)
    return page


def _chosen(results: GroupResults, limit: int) -> np.ndarray:
    """Rows of at most `limit` runs: outliers and duplicates first, then others spread evenly."""
    table = results.runs.table
    of_pairs = set(results.duplicates["name"]) | set(results.duplicates["other"])
    first = (table["outlier"] | table["name"].isin(of_pairs)).to_numpy()
    marked, others = np.flatnonzero(first)[:limit], np.flatnonzero(~first)
    return np.sort(
        np.concatenate([marked, others[evenly_spaced(len(others), limit - len(marked))]])
    )


def _map(
    output_dir: Path, results: GroupResults, known: pd.DataFrame, points: np.ndarray
) -> dict[str, Any]:
    """Data for the script: positions, names and pictures of the runs, and columns to colour them
    by."""
    table = results.runs.table
    layouts = {"Principal components": _principal_components(results.runs.features)}
    if importlib.util.find_spec("umap") and len(table) > 3:
        layouts["UMAP"] = _umap(results.runs.features)
    names = [c for c in (*_COLOUR_COLUMNS, *known.columns[1:]) if c in table]
    columns = {name: _colour_column(table[name].iloc[points]) for name in names}
    return {
        "names": table["name"].iloc[points].tolist(),
        "pictures": [_picture(output_dir, name) for name in table["name"].iloc[points]],
        "layouts": {
            name: {
                "x": positions[points, 0].round(4).tolist(),
                "y": positions[points, 1].round(4).tolist(),
                "xlabel": labels[0],
                "ylabel": labels[1],
            }
            for name, (positions, labels) in layouts.items()
        },
        "quality": {
            name: {"label": label, **column}
            for name, label in _QUALITY.items()
            if (column := _numbers(table[name].iloc[points]))
        },
        "outliers": table["outlier"].iloc[points].tolist(),
        "columns": {name: column for name, column in columns.items() if column},
        "colours": COLOURS,
    }


def _picture(output_dir: Path, run_name: str) -> str | None:
    """Address of the mosaic of a run, relative to the page; None if there is none."""
    file = figure_path(output_dir, run_name, "input")
    return quote(file.relative_to(output_dir).as_posix()) if file.exists() else None


def _principal_components(features: np.ndarray) -> tuple[np.ndarray, tuple[str, str]]:
    if not np.ptp(features, axis=0).any():  # one run, or identical runs
        return np.zeros((len(features), 2)), ("component 1", "component 2")
    count = min(2, *features.shape)
    positions, pca = principal_components(features, count)
    positions = np.pad(positions, ((0, 0), (0, 2 - count)))
    share = np.pad(pca.explained_variance_ratio_, (0, 2 - count))
    x, y = (f"component {i + 1} ({share[i]:.0%} of the variance)" for i in range(2))
    return positions, (x, y)


def _umap(features: np.ndarray) -> tuple[np.ndarray, tuple[str, str]]:
    import umap

    neighbours = min(15, len(features) - 1)
    positions = umap.UMAP(n_neighbors=neighbours, random_state=0, n_jobs=1).fit_transform(features)
    return np.asarray(positions, dtype=np.float64), ("UMAP 1", "UMAP 2")


def _numbers(column: pd.Series) -> dict[str, Any] | None:
    """Values of a column of numbers; None if all are missing."""
    values = [None if np.isnan(v) else float(f"{v:.6g}") for v in column.astype(float)]
    return {"values": values} if any(v is not None for v in values) else None


def _colour_column(column: pd.Series) -> dict[str, Any] | None:
    """Values or classes of a column; None if all runs have the same class."""
    as_column = as_target(str(column.name), column)
    numbers = pd.Series(as_column.values)
    if not as_column.classes:
        return _numbers(numbers)
    if len(as_column.classes) == 1:
        return None
    many = len(as_column.classes) > MAX_IN_LEGEND
    codes = [None if np.isnan(code) else int(code) for code in numbers]
    return {"classes": as_column.classes, "codes": codes, "many": many}
