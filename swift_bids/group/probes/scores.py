"""Predictions of a probe -> metrics, intervals and p-values, per set of features and metric."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from swift_bids.group.columns import Target
from swift_bids.group.probes.design import Design

N_BOOTSTRAPS = 500
#: Names of sets of features. The dummy has none: it predicts from the targets of the training part
#: alone (scikit-learn's dummy models), and is unrelated to dummy scans.
EMBEDDING, DUMMY = "embedding", "dummy"
#: Tokens averaged over time.
POSITIONS = "positions"
#: Principal components of the mean and the variation of the tokens over time.
TOKENS = "tokens"
CONNECTIVITY, MOTION, ACQUISITION = "connectivity", "motion", "acquisition"
#: The embedding of `--compare`.
COMPARED = "compared embedding"
#: The network after `swift-bids finetune`.
FINE_TUNED = "fine-tuned"
#: The embedding before harmonisation, in the probe of the site.
NOT_HARMONISED = "not harmonised"


@dataclass(frozen=True)
class PermutationTest:
    """Metrics of the true and of permuted targets.

    Attributes
    ----------
    observed, permuted
        What p compares: metrics of the first repetition, and of each permutation.
    chance
        Metrics of each permutation for the whole target, including the part that covariates
        explain, as the reported value has them.
    """

    observed: Mapping[str, np.ndarray]
    permuted: Sequence[Mapping[str, np.ndarray]]
    chance: Sequence[Mapping[str, np.ndarray]]


def metrics(
    y: np.ndarray, predicted: np.ndarray, design: Design, counts: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """Compute the metrics of one set of predictions, for all participants or for samples of them.

    Parameters
    ----------
    y, predicted
        Targets, and predictions as `probe_table` takes them.
    counts
        (sample, participant): how often a bootstrap sample has each participant; None: all of them
        once.

    Returns
    -------
    dict of numpy.ndarray
        Name of the metric -> (sample,); NaN where it is undefined.
    """
    if counts is None:
        counts = np.ones((1, len(y)))
    with np.errstate(invalid="ignore", divide="ignore"):
        return (_of_classes if design.classes else _of_numbers)(y, predicted, counts)


def _of_numbers(y: np.ndarray, predicted: np.ndarray, counts: np.ndarray) -> dict[str, np.ndarray]:
    n = counts.sum(axis=1)
    # Deviations from the means of all participants lose no digits in the squares.
    y, predicted = y - y.mean(), predicted - y.mean()
    shift = predicted.mean()
    mean_y, mean_p = counts @ y / n, counts @ (predicted - shift) / n
    variance_y = counts @ y**2 / n - mean_y**2
    variance_p = counts @ (predicted - shift) ** 2 / n - mean_p**2
    covariance = counts @ (y * (predicted - shift)) / n - mean_y * mean_p
    varies = np.ptp(np.where(counts > 0, y, y[counts.argmax(axis=1)][:, None]), axis=1) > 0
    flat = variance_p < 1e-24
    return {
        "r2": np.where(varies, 1 - counts @ (y - predicted) ** 2 / n / variance_y, np.nan),
        "mae": counts @ np.abs(y - predicted) / n,
        "pearson_r": np.where(
            varies & ~flat, covariance / np.sqrt(variance_y * variance_p), np.nan
        ),
    }


def _of_classes(y: np.ndarray, predicted: np.ndarray, counts: np.ndarray) -> dict[str, np.ndarray]:
    of_class = (y[:, None] == np.arange(predicted.shape[1] - 1)).astype(np.float64)
    n_of_class = counts @ of_class  # (sample, class)
    correct = counts @ (of_class * (predicted[:, :1] == y[:, None]))
    areas = [_area(counts, of_class[:, k], predicted[:, 1 + k]) for k in range(of_class.shape[1])]
    complete = n_of_class.all(axis=1)
    return {
        "balanced_accuracy": np.where(complete, (correct / n_of_class).mean(axis=1), np.nan),
        "auroc": np.where(complete, np.mean(areas, axis=0), np.nan),
    }


def _area(counts: np.ndarray, is_class: np.ndarray, score: np.ndarray) -> np.ndarray:
    """Area under the ROC curve of one class against the others, (sample,).

    It is the share of pairs, one of the class and one of the others, in which the one of the class
    has the higher score; ties count half (Hanley and McNeil 1982).
    """
    order = np.argsort(score, kind="stable")
    values, counts = score[order], counts[:, order]
    first = np.flatnonzero(np.diff(values, prepend=np.nan) != 0)  # of each different score
    own = np.add.reduceat(counts * is_class[order], first, axis=1)
    others = np.add.reduceat(counts * (1 - is_class[order]), first, axis=1)
    below = np.cumsum(others, axis=1) - others
    return (own * (below + others / 2)).sum(axis=1) / (own.sum(axis=1) * others.sum(axis=1))


def main_metric(rows: pd.DataFrame) -> str:
    """The metric of a probe that figures and sentences show."""
    return "auroc" if "auroc" in set(rows["metric"]) else "r2"


def probe_table(
    target: Target,
    design: Design,
    n_features: Mapping[str, int],
    chosen: Mapping[str, str | None],
    predicted: Mapping[str, list[np.ndarray]],
    tested: Mapping[str, PermutationTest],
) -> pd.DataFrame:
    """Build the table that `fit_probe` returns, with one row per set of features and metric.

    Parameters
    ----------
    n_features, chosen
        Name -> number of features; name -> versions that the folds chose.
    predicted
        Name -> predictions of each repetition: (participant,) numbers; or (participant, 1 + class),
        the index of the class and a score for each class.
    tested
        Name -> comparison with permutations; none for the dummy, or if too few differ.
    """
    drawn = _bootstraps(design, predicted)
    rows = []
    for name, repetitions in predicted.items():
        scores = _as_table([metrics(design.y, p, design) for p in repetitions])
        test = tested.get(name)
        null = _as_table(test.permuted if test else [])
        chance = _as_table(test.chance if test else [])
        if name == DUMMY:  # its correlation only reflects differences between the training means
            scores = scores.drop(columns="pearson_r", errors="ignore")
        for metric in scores:
            sign = -1 if metric == "mae" else 1
            p = np.nan
            if test and np.isfinite(scores[metric].mean()):
                # A permutation with an undefined metric counts against the features.
                worse = sign * null[metric] < sign * test.observed[metric].item() - 1e-12
                p = (1 + (~worse).sum()) / (1 + len(null))
            gain = drawn[EMBEDDING][metric] - drawn[name][metric]
            is_baseline = name != EMBEDDING
            value = scores[metric].mean()
            rows.append(
                {
                    "target": target.name,
                    "features": name,
                    "metric": metric,
                    "value": value,
                    "low": drawn[name][metric].quantile(0.025),
                    "high": drawn[name][metric].quantile(0.975),
                    "p": p,
                    "chance": chance[metric].mean() if test else np.nan,
                    "gain_low": gain.quantile(0.025) if is_baseline else np.nan,
                    "gain_high": gain.quantile(0.975) if is_baseline else np.nan,
                    "n_participants": len(design.y),
                    "classes": ", ".join(f"{k}: {n}" for k, n in target_counts(design).items()),
                    "n_features": n_features[name],
                    "chosen": chosen[name],
                    "n_permutations": len(null),
                }
            )
    table = pd.DataFrame(rows)
    of_embedding = table[table["features"] == EMBEDDING].set_index("metric")["value"]
    gain = table["metric"].map(of_embedding) - table["value"]
    table.insert(8, "gain", gain.where(table["features"] != EMBEDDING))
    return table


def target_counts(design: Design) -> dict[str, int]:
    """Number of participants in each class; empty for a numeric target."""
    return {label: int((design.y == i).sum()) for i, label in enumerate(design.classes)}


def _as_table(scores: Sequence[Mapping[str, np.ndarray]]) -> pd.DataFrame:
    """One row for each set of predictions, and each sample of it."""
    return pd.concat(map(pd.DataFrame, scores), ignore_index=True) if scores else pd.DataFrame()


def _bootstraps(
    design: Design, predicted: Mapping[str, list[np.ndarray]]
) -> dict[str, pd.DataFrame]:
    """Metrics of resampled participants (or groups), each in a random repetition, per set."""
    rng = np.random.default_rng(0)
    n_repetitions = len(predicted[EMBEDDING])
    members = np.arange(len(design.y)) if design.groups is None else design.groups
    codes = np.unique(members, return_inverse=True)[1]
    n_groups = codes.max() + 1
    chosen = rng.integers(n_groups, size=(N_BOOTSTRAPS, n_groups))
    times = np.stack([np.bincount(groups, minlength=n_groups) for groups in chosen])
    counts = times[:, codes].astype(np.float64)
    repetition = np.sort(rng.integers(n_repetitions, size=N_BOOTSTRAPS))
    return {
        name: _as_table(
            [
                metrics(design.y, own[number], design, counts[repetition == number])
                for number in range(n_repetitions)
            ]
        )
        for name, own in predicted.items()
    }
