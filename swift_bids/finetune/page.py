"""Scores and losses of a fine-tuning -> finetune.html, a self-contained page."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from swift_bids import __version__
from swift_bids.base.backbones import NETWORKS
from swift_bids.base.files import write_text
from swift_bids.finetune.cohort import Cohort
from swift_bids.finetune.figures import curves_figure
from swift_bids.finetune.settings import FineTuneSettings
from swift_bids.group.figures import METRIC_NAMES, probes_figure, svg
from swift_bids.group.probes.scores import (
    ACQUISITION,
    CONNECTIVITY,
    DUMMY,
    EMBEDDING,
    FINE_TUNED,
    MOTION,
    main_metric,
)
from swift_bids.network.weights import Weights
from swift_bids.reports.participant_page import ENVIRONMENT

#: Features without the network that a fine-tuned network must beat.
_BASELINES = (DUMMY, MOTION, ACQUISITION, CONNECTIVITY)


def write_page(
    folder: Path,
    cohort: Cohort,
    scores: pd.DataFrame,
    n_folds: int,
    curves: pd.DataFrame,
    weights: Weights,
    settings: FineTuneSettings,
) -> Path:
    """Write the page and return its path.

    Parameters
    ----------
    scores, n_folds, curves
        As the table `scores.tsv`, the number of folds behind it, and as `curves.tsv`.
    """
    html = ENVIRONMENT.get_template("finetune.html.j2").render(
        version=__version__,
        network=NETWORKS[cohort.runs.label],
        cohort=cohort,
        weights=weights,
        settings=settings,
        training=settings.training,
        n_folds=n_folds,
        rows=scores.to_dict("records"),
        sentences=sentences_of(scores, curves, settings),
        notes=cohort.notes,
        scores_figure=svg(probes_figure(scores)) if len(scores) else None,
        curves_figure=svg(curves_figure(curves)),
    )
    page = folder / "finetune.html"
    write_text(page, html)
    return page


def sentences_of(
    scores: pd.DataFrame, curves: pd.DataFrame, settings: FineTuneSettings
) -> list[tuple[bool, str]]:
    """Explain the results: (good, sentence); good is False if the user should check something."""
    sentences = []
    if len(scores):
        metric = main_metric(scores)
        rows = scores[scores["metric"] == metric].set_index("features")
        label = METRIC_NAMES[metric]
        tuned, frozen = rows.loc[FINE_TUNED], rows.loc[EMBEDDING]
        shown = {
            name: f"{label} {row['value']:.2f} (95 %: {row['low']:.2f} to {row['high']:.2f})"
            for name, row in (("tuned", tuned), ("frozen", frozen))
        }
        # the table has the embedding minus the fine-tuned network; + 0.0 avoids -0.00
        gain, low, high = (-tuned[c] + 0.0 for c in ("gain", "gain_high", "gain_low"))
        verdict = "It is uncertain whether fine-tuning helps"
        if low > 0 or high < 0:
            verdict = "Fine-tuning helps" if low > 0 else "Fine-tuning makes it worse"
        sentences.append(
            (
                low > 0,
                f"Fine-tuned, the network predicts {settings.target} with {shown['tuned']}; the "
                f"probe of its embedding before that, with {shown['frozen']}. "
                f"{verdict}: the difference is {gain:.2f} ({low:.2f} to {high:.2f}).",
            )
        )
        better = [
            f"{name} ({label} {rows.loc[name, 'value']:.2f})"
            for name in _BASELINES
            if name in rows.index and rows.loc[name, "value"] >= tuned["value"]
        ]
        if better:
            sentences.append(
                (False, f"As good or better without the network: {', '.join(better)}.")
            )
    else:
        sentences.append((False, "No participants were held out (--folds 0): no scores."))
    last = curves.groupby("training", sort=False)["epoch"].max()
    best = curves[curves["best"]].set_index("training")["epoch"]
    unfinished = [n for n in last.index if best[n] == last[n] == settings.training.epochs]
    if unfinished:
        sentences.append(
            (
                False,
                f"The validation loss was still falling at the last epoch ({len(unfinished)} of "
                f"{len(last)} trainings): more --epochs may help.",
            )
        )
    return sentences
