"""Results of the group level -> group.html, a self-contained HTML file."""

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
from swift_bids.group.figures import COLOURS, METRIC_NAMES, evenly_spaced, similarity_figure, svg
from swift_bids.group.mask_effects import VOLUME
from swift_bids.group.outliers import OUTLIER_P, principal_components
from swift_bids.group.probes.scores import EMBEDDING, main_metric
from swift_bids.group.tables import PROBES_FIGURE, GroupResults
from swift_bids.reports.participant_page import ENVIRONMENT

#: Most runs on the map, and most in the table of the page.
MAX_POINTS, MAX_ROWS = 3000, 500
#: Results with a larger p are called no better than chance.
_MAX_P = 0.05
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


def _map(results: GroupResults, known: pd.DataFrame, points: np.ndarray) -> dict[str, Any]:
    """Data for the script: positions and names of the runs, and columns to colour them by."""
    table = results.runs.table
    layouts = {"Principal components": _principal_components(results.runs.features)}
    if importlib.util.find_spec("umap") and len(table) > 3:
        layouts["UMAP"] = _umap(results.runs.features)
    names = [c for c in (*_COLOUR_COLUMNS, *known.columns[1:]) if c in table]
    columns = {name: _colour_column(table[name].iloc[points]) for name in names}
    return {
        "names": table["name"].iloc[points].tolist(),
        "layouts": {
            name: {
                "x": positions[points, 0].round(4).tolist(),
                "y": positions[points, 1].round(4).tolist(),
                "xlabel": labels[0],
                "ylabel": labels[1],
            }
            for name, (positions, labels) in layouts.items()
        },
        "columns": {name: column for name, column in columns.items() if column},
        "colours": COLOURS,
    }


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


def _colour_column(column: pd.Series) -> dict[str, Any] | None:
    """Values or classes of a column; None if all runs have the same class."""
    as_column = as_target(str(column.name), column)
    values = [None if np.isnan(v) else float(f"{v:.6g}") for v in as_column.values]
    if not as_column.classes:
        return {"values": values} if as_column.known.any() else None
    if len(as_column.classes) == 1:
        return None
    many = len(as_column.classes) > MAX_IN_LEGEND
    return {"classes": as_column.classes, "codes": values, "many": many}


def _sentences(results: GroupResults) -> list[tuple[bool, str]]:
    """Explain the results: (good, sentence); good is False if the user should check something."""
    sentences = []
    if results.n_kinds > 1:
        sentences.append(
            (False, f"The tables mix {results.n_kinds} kinds of embeddings; do not compare them.")
        )
    if results.missing:
        sentences.append(
            (False, f"{len(results.missing)} participants of the input lack embeddings.")
        )
    if len(results.duplicates):
        sentences.append(
            (
                False,
                f"{len(results.duplicates)} pair(s) of runs from two participants are nearly "
                "identical; check whether files were mixed up.",
            )
        )
    n_outliers = int(results.runs.table["outlier"].sum())
    if results.n_components:
        expected = OUTLIER_P * len(results.runs.table)
        advice = " Look at their participants' pages." if n_outliers else ""
        sentences.append(
            (
                n_outliers <= 3 * max(1.0, expected),
                f"{n_outliers} run(s) lie far from the others (outliers); {expected:.1f} would be "
                f"expected by chance.{advice}",
            )
        )
    sentences += [(False, f"{note}.") for note in results.notes]
    sentences += _condition_sentences(results)
    sentences += _identification_sentences(results.identification)
    sentences += _probe_sentences(results.probes)
    sentences += _mask_sentences(results)
    return sentences


def _condition_sentences(results: GroupResults) -> list[tuple[bool, str]]:
    """Name the conditions that the embeddings contain, with a correction for their number."""
    table = results.conditions
    sentences = []
    for row in table.itertuples() if len(table) else ():
        is_column = row.condition in results.participants.table
        advice = "use it as --covariate or --group-by" if is_column else "choose runs that share it"
        if row.p * len(table) <= _MAX_P:
            sentences.append(
                (
                    False,
                    f"Embeddings contain {row.condition}: for {row.value:.0%} of the runs, the "
                    f"most similar run of another participant has the same {row.condition} (chance "
                    f"{row.chance:.0%}, p = {row.p:.3f}). To compare participants who differ in "
                    f"it, {advice}.",
                )
            )
    return sentences


def _identification_sentences(table: pd.DataFrame) -> list[tuple[bool, str]]:
    if table.empty:
        return []
    rank1 = table[table["metric"] == "rank1"].set_index("features")
    own = rank1.loc["embedding"]
    others = ", ".join(
        f"{name} {rank1.loc[name, 'value']:.0%}" for name in rank1.index if name != "embedding"
    )
    within = own["conditions"]
    chance = f"chance {own['chance']:.0%}, p = {own['p']:.3f}"
    if within:
        chance += f", from permutations within {within}"
    if not own["n_permutations"]:
        chance = "p is unknown, because there are too few runs"
        chance += f" of different participants with the same {within}" * bool(within)
    sentence = (
        f"{own['value']:.0%} of the runs are most similar to a run of the same participant "
        f"({chance}{others and '; ' + others})"
    )
    motion = rank1.loc["motion", "value"] if "motion" in rank1.index else 0.0
    good = own["p"] <= _MAX_P and own["value"] > motion
    if not own["n_permutations"]:
        return [(False, sentence + ".")]
    if 1 / (1 + own["n_permutations"]) > _MAX_P:
        sentence += "; there are too few permutations to rule out chance"
    elif own["p"] > _MAX_P:
        sentence += "; the embeddings do not identify participants better than chance"
    elif own["value"] <= motion:
        sentence += "; head motion alone identifies participants equally well or better"
    return [(good, sentence + ".")]


def _mask_sentences(results: GroupResults) -> list[tuple[bool, str]]:
    sentences = []
    probes = results.probes
    if len(probes):
        rows = probes[(probes["target"] == VOLUME) & (probes["metric"] == "r2")]
        rows = rows[rows["features"] == EMBEDDING]
        if len(rows):
            own = rows.iloc[0]
            sentence = (
                f"The embeddings predict the volume of the brain mask with R² {own['value']:.2f} "
                f"(p = {own['p']:.3f})"
            )
            if _too_few_permutations(own):
                sentence += "; there are too few permutations to rule out chance"
            elif own["p"] > _MAX_P:
                sentence += ", no better than chance"
            sentences.append((True, sentence + "."))
    for name, how in results.mask_related.items():
        sentences.append(
            (
                False,
                f"{name} is associated with the volume of the brain mask ({how}), which the "
                f"network sees. Correct for it with --covariate {VOLUME}, or embed all runs with "
                f"--mask template.",
            )
        )
    return sentences


def _too_few_permutations(row: pd.Series) -> bool:
    return bool(np.isnan(row["p"]) or 1 / (1 + row["n_permutations"]) > _MAX_P)


def _probe_sentences(probes: pd.DataFrame) -> list[tuple[bool, str]]:
    sentences = []
    for target, rows in probes.groupby("target", sort=False) if len(probes) else ():
        if target == VOLUME:
            continue
        metric = main_metric(rows)
        rows = rows[rows["metric"] == metric].set_index("features")
        own = rows.loc["embedding"]
        value = f"{METRIC_NAMES[metric]} {own['value']:.2f}"
        sentence = f"{target}: {value} from embeddings (p = {own['p']:.3f})"
        no_better = [
            f"{other} ({rows.loc[other, 'value']:.2f})"
            for other in ("connectivity", "motion", "mask")
            if other in rows.index and not rows.loc[other, "gain_low"] > 0
        ]
        if _too_few_permutations(own):
            sentence += "; there are too few permutations to rule out chance"
        elif own["p"] > _MAX_P:
            sentence += ", no better than chance"
        elif no_better:
            sentence += "; not clearly better than " + " and ".join(no_better)
        else:
            sentence += ", better than every baseline"
        sentences.append((own["p"] <= _MAX_P and not no_better, sentence + "."))
    return sentences
