"""Predictions of a probe -> metrics, intervals and p-values, per set of features and metric."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from scipy.stats import rankdata
from sklearn.metrics import mean_absolute_error, r2_score

from swift_bids.group.columns import Target
from swift_bids.group.probes.design import Design

N_BOOTSTRAPS = 500
#: Names of sets of features. The dummy has none: it predicts from the targets of the training part
#: alone (scikit-learn's dummy models), and is unrelated to dummy scans.
EMBEDDING, DUMMY = "embedding", "dummy"


def metrics(y: np.ndarray, predicted: np.ndarray, design: Design) -> dict[str, float]:
    """Compute the metrics of one set of predictions; NaN if a metric is undefined.

    The area under the ROC curve follows from the sum of ranks (Hanley and McNeil 1982). Thousands
    of bootstraps and permutations call this function, and scikit-learn's checks of the input would
    take most of their time.
    """
    if not design.classes:
        flat = np.ptp(predicted) < 1e-12 or np.ptp(y) == 0
        return {
            "r2": r2_score(y, predicted) if np.ptp(y) else np.nan,
            "mae": mean_absolute_error(y, predicted),
            "pearson_r": np.nan if flat else np.corrcoef(y, predicted)[0, 1],
        }
    of_class = y[:, None] == np.arange(len(design.classes))
    n_of_class = of_class.sum(axis=0)
    if not n_of_class.all():
        return {"balanced_accuracy": np.nan, "auroc": np.nan}
    correct = of_class[predicted[:, 0] == y].sum(axis=0)
    rank_sum = (rankdata(predicted[:, 1:], axis=0) * of_class).sum(axis=0)
    pairs = n_of_class * (len(y) - n_of_class)
    return {
        "balanced_accuracy": (correct / n_of_class).mean(),
        "auroc": ((rank_sum - n_of_class * (n_of_class + 1) / 2) / pairs).mean(),
    }


def main_metric(rows: pd.DataFrame) -> str:
    """The metric of a probe that figures and sentences show."""
    return "auroc" if "auroc" in set(rows["metric"]) else "r2"


def probe_table(
    target: Target,
    design: Design,
    sets: Mapping[str, np.ndarray],
    predicted: Mapping[str, list[np.ndarray]],
    nulls: Mapping[str, list[dict[str, float]]],
) -> pd.DataFrame:
    """Build the table that `fit_probe` returns, with one row per set of features and metric.

    Parameters
    ----------
    sets
        Name -> (participant, feature).
    predicted
        Name -> predictions of each repetition: (participant,) numbers; or (participant, 1 + class),
        the index of the class and a score for each class.
    nulls
        Name -> metrics of each permutation; empty for the dummy.
    """
    drawn = _bootstraps(design, predicted)
    rows = []
    for name, repetitions in predicted.items():
        scores = pd.DataFrame([metrics(design.y, p, design) for p in repetitions])
        null = pd.DataFrame(nulls[name], columns=scores.columns)
        if name == DUMMY:  # its correlation only reflects differences between the training means
            scores = scores.drop(columns="pearson_r", errors="ignore")
        for metric in scores:
            sign = -1 if metric == "mae" else 1
            # A permutation with an undefined metric counts against the features.
            no_worse = (~(sign * null[metric] < sign * scores[metric].iloc[0] - 1e-12)).sum()
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
                    "p": (1 + no_worse) / (1 + len(null))
                    if len(null) and np.isfinite(value)
                    else np.nan,
                    "chance": null[metric].mean() if len(null) else np.nan,
                    "gain_low": gain.quantile(0.025) if is_baseline else np.nan,
                    "gain_high": gain.quantile(0.975) if is_baseline else np.nan,
                    "n_participants": len(design.y),
                    "classes": ", ".join(f"{k}: {n}" for k, n in target_counts(design).items()),
                    "n_features": 0 if name == DUMMY else sets[name].shape[1],
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


def _bootstraps(
    design: Design, predicted: Mapping[str, list[np.ndarray]]
) -> dict[str, pd.DataFrame]:
    """Metrics of resampled participants (or groups), each in a random repetition, per set."""
    rng = np.random.default_rng(0)
    n_repetitions = len(predicted[EMBEDDING])
    block = np.arange(len(design.y)) if design.groups is None else design.groups
    members = [np.flatnonzero(block == number) for number in np.unique(block)]
    drawn: dict[str, list[dict[str, float]]] = {name: [] for name in predicted}
    for _ in range(N_BOOTSTRAPS):
        chosen = rng.integers(len(members), size=len(members))
        sample = np.concatenate([members[number] for number in chosen])
        repetition = rng.integers(n_repetitions)
        for name, repetitions in predicted.items():
            drawn[name].append(metrics(design.y[sample], repetitions[repetition][sample], design))
    return {name: pd.DataFrame(values) for name, values in drawn.items()}
