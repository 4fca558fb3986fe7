"""Results of the group level -> group.html, a page without any file or network beside it."""

from __future__ import annotations

import importlib.util
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from swift_bids import __version__
from swift_bids.base.files import write_text
from swift_bids.group.columns import as_target
from swift_bids.group.figures import COLOURS, METRIC_NAMES, similarity_figure, svg, thin
from swift_bids.group.outliers import OUTLIER_P, principal_components
from swift_bids.group.probes.scores import main_metric
from swift_bids.group.tables import PROBES_FIGURE, GroupResults
from swift_bids.reports.participant_page import ENVIRONMENT

#: Runs in the map and in the table of the page: at most.
MOST_POINTS, MOST_ROWS = 3000, 500
#: Above it, a result is told to be no better than chance.
_SMALL_P = 0.05
#: Classes beyond so many have no legend; the names under the pointer tell them.
MOST_IN_LEGEND = 16
#: Columns of runs that the map can be coloured by, beside those of participants.tsv.
_COLOURED = (
    "participant_id",
    "session_id",
    "task_id",
    "mean_fd",
    "censored",
    "template_share",
    "tsnr",
    "n_warnings",
    "n_included",
    "outlier_distance",
    "space_id",
    "weights_sha256",
)


def write_group_report(output_dir: Path, results: GroupResults, known: pd.DataFrame) -> Path:
    """Write the page, when `write_group_tables` has written the tables and the probes' figure.

    Parameters
    ----------
    known
        The participants' columns, `participant_id` first, which runs can be coloured by too.

    Returns
    -------
    Path
        `group.html`.
    """
    table = results.runs.table
    points = _chosen(results, MOST_POINTS)
    html = ENVIRONMENT.get_template("group.html.j2").render(
        results=results,
        table=table,
        version=__version__,
        random_weights=bool(table["random_weights"].any()),
        outlier_p=OUTLIER_P,
        map=_map(results, known, points),
        n_points=len(points),
        similarity=svg(similarity_figure(results.runs.features, table["participant_id"]))
        if len(table) > 1
        else None,
        probes_figure=(output_dir / PROBES_FIGURE).read_text(encoding="utf-8")
        if len(results.probes)
        else None,
        sentences=_sentences(results),
        rows=table.iloc[_chosen(results, MOST_ROWS)].to_dict("records"),
        scripts=[
            resources.files("swift_bids").joinpath(f"data/{name}").read_text(encoding="utf-8")
            for name in ("vendor/plotly-basic.min.js", "vendor/sortable.auto.min.js", "group.js")
        ],
    )
    page = output_dir / "group.html"
    write_text(page, html)
    return page


def _chosen(results: GroupResults, most: int) -> np.ndarray:
    """Places of at most so many runs: those to look at, then others spread evenly."""
    table = results.runs.table
    of_pairs = set(results.duplicates["name"]) | set(results.duplicates["other"])
    first = (table["outlier"] | table["name"].isin(of_pairs)).to_numpy()
    marked, others = np.flatnonzero(first)[:most], np.flatnonzero(~first)
    return np.sort(np.concatenate([marked, others[thin(len(others), most - len(marked))]]))


def _map(results: GroupResults, known: pd.DataFrame, points: np.ndarray) -> dict[str, Any]:
    """What the script draws: places of the runs, their names, and columns to colour them by."""
    table = results.runs.table
    layouts = {"Principal components": _principal_components(results.runs.features)}
    if importlib.util.find_spec("umap") and len(table) > 3:
        layouts["UMAP"] = _umap(results.runs.features)
    names = [c for c in (*_COLOURED, *known.columns[1:]) if c in table]
    columns = {name: _colour_column(table[name].iloc[points]) for name in names}
    return {
        "names": table["name"].iloc[points].tolist(),
        "layouts": {
            name: {
                "x": places[points, 0].round(4).tolist(),
                "y": places[points, 1].round(4).tolist(),
                "xlabel": labels[0],
                "ylabel": labels[1],
            }
            for name, (places, labels) in layouts.items()
        },
        "columns": {name: column for name, column in columns.items() if column},
        "colours": COLOURS,
    }


def _principal_components(features: np.ndarray) -> tuple[np.ndarray, tuple[str, str]]:
    if not np.ptp(features, axis=0).any():  # one run, or all the same
        return np.zeros((len(features), 2)), ("component 1", "component 2")
    count = min(2, *features.shape)
    places, pca = principal_components(features, count)
    places = np.pad(places, ((0, 0), (0, 2 - count)))
    share = np.pad(pca.explained_variance_ratio_, (0, 2 - count))
    x, y = (f"component {i + 1} ({share[i]:.0%} of the variance)" for i in range(2))
    return places, (x, y)


def _umap(features: np.ndarray) -> tuple[np.ndarray, tuple[str, str]]:
    import umap

    neighbours = min(15, len(features) - 1)
    places = umap.UMAP(n_neighbors=neighbours, random_state=0, n_jobs=1).fit_transform(features)
    return np.asarray(places, dtype=np.float64), ("UMAP 1", "UMAP 2")


def _colour_column(column: pd.Series) -> dict[str, Any] | None:
    """Numbers, or classes; None where there is one value only."""
    as_column = as_target(str(column.name), column)
    values = [None if np.isnan(v) else float(f"{v:.6g}") for v in as_column.values]
    if not as_column.classes:
        return {"values": values} if as_column.known.any() else None
    if len(as_column.classes) == 1:
        return None
    many = len(as_column.classes) > MOST_IN_LEGEND
    return {"classes": as_column.classes, "codes": values, "many": many}


def _sentences(results: GroupResults) -> list[tuple[bool, str]]:
    """What the results mean, in plain words: (good, sentence)."""
    found = []
    if results.n_kinds > 1:
        found.append(
            (False, f"{results.n_kinds} kinds of embeddings are mixed here; do not compare them.")
        )
    if results.missing:
        found.append((False, f"{len(results.missing)} participants of the input are missing."))
    if len(results.duplicates):
        found.append(
            (
                False,
                f"{len(results.duplicates)} pair(s) of runs of two participants are nearly "
                "identical: check whether files were mixed up.",
            )
        )
    n_outliers = int(results.runs.table["outlier"].sum())
    if results.n_components:
        expected = OUTLIER_P * len(results.runs.table)
        found.append(
            (
                n_outliers <= 3 * max(1.0, expected),
                f"{n_outliers} run(s) lie far from the others (outliers); by chance {expected:.1f} "
                "would. Look at their pages.",
            )
        )
    found += _identification_sentences(results.identification)
    found += _probe_sentences(results.probes)
    return found


def _identification_sentences(table: pd.DataFrame) -> list[tuple[bool, str]]:
    if table.empty:
        return []
    rank1 = table[table["metric"] == "rank1"].set_index("features")
    own = rank1.loc["embedding"]
    others = ", ".join(
        f"{name} {rank1.loc[name, 'value']:.0%}" for name in rank1.index if name != "embedding"
    )
    told = f"{own['value']:.0%} of the runs are most similar to a run of the same participant " + (
        f"(chance {own['chance']:.0%}, p = {own['p']:.3f}" + (f"; {others})" if others else ")")
    )
    motion = rank1.loc["motion", "value"] if "motion" in rank1.index else 0.0
    good = own["p"] <= _SMALL_P and own["value"] > motion
    if 1 / (1 + own["n_permutations"]) > _SMALL_P:
        told += ": too few permutations to tell whether that is chance"
    elif own["p"] > _SMALL_P:
        told += ": the embeddings do not tell participants apart"
    elif own["value"] <= motion:
        told += ": head motion alone tells participants apart as well"
    return [(good, told + ".")]


def _probe_sentences(probes: pd.DataFrame) -> list[tuple[bool, str]]:
    found = []
    for target, rows in probes.groupby("target", sort=False) if len(probes) else ():
        metric = main_metric(rows)
        rows = rows[rows["metric"] == metric].set_index("features")
        own = rows.loc["embedding"]
        value = f"{METRIC_NAMES[metric]} {own['value']:.2f}"
        told = f"{target}: {value} from embeddings (p = {own['p']:.3f})"
        no_better = [
            f"{other} ({rows.loc[other, 'value']:.2f})"
            for other in ("connectivity", "motion")
            if other in rows.index and not rows.loc[other, "gain_low"] > 0
        ]
        if np.isnan(own["p"]) or 1 / (1 + own["n_permutations"]) > _SMALL_P:
            told += "; too few permutations to tell whether that is chance"
        elif own["p"] > _SMALL_P:
            told += ", no better than chance"
        elif no_better:
            told += "; not clearly better than " + " and ".join(no_better)
        else:
            told += ", better than every baseline"
        found.append((own["p"] <= _SMALL_P and not no_better, told + "."))
    return found
