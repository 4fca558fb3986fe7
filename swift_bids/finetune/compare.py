"""Outputs of the networks of all folds -> their scores, beside probes of the same folds."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from swift_bids.finetune.cohort import Cohort
from swift_bids.group.probes.design import Design, Folds
from swift_bids.group.probes.features import Table
from swift_bids.group.probes.predict import one_thread_each, predict
from swift_bids.group.probes.probe import shares
from swift_bids.group.probes.scores import DUMMY, EMBEDDING, FINE_TUNED, probe_table


def compare(cohort: Cohort, folds: Folds, outputs: np.ndarray) -> pd.DataFrame:
    """Score the outputs of the fine-tuned networks beside probes of the same folds.

    Parameters
    ----------
    outputs
        (participant, output) of the network that has not seen the participant.
    """
    design = cohort.design
    predicted: dict[str, list[np.ndarray]] = {}
    chosen: dict[str, str | None] = {}
    nothing = np.empty((0, len(design.y)))
    sets = cohort.baselines | {DUMMY: Table(np.zeros((len(design.y), 0)))}
    with one_thread_each() as threads:
        for name, features in sets.items():
            predicted[name], _, versions = predict(features, design, [folds], nothing, threads)
            chosen[name] = shares(versions)
            if name == EMBEDDING:  # beside it in the table
                predicted[FINE_TUNED] = [_as_predictions(outputs, design, folds)]
                chosen[FINE_TUNED] = None
    n_features = {name: features.n_features for name, features in sets.items()}
    n_features[FINE_TUNED] = n_features[EMBEDDING]
    return probe_table(cohort.target, design, n_features, chosen, predicted, {})


def _as_predictions(outputs: np.ndarray, design: Design, folds: Folds) -> np.ndarray:
    """Outputs as `swift_bids.group.probes.predict.predict` returns them: scores of classes are
    ranks within the fold, since the networks of the folds differ in scale."""
    if not design.classes:
        return outputs[:, 0]
    scores = outputs.copy()
    if all(len(np.unique(design.y[tested])) == len(design.classes) for _, tested in folds):
        for _, tested in folds:
            scores[tested] = rankdata(outputs[tested], axis=0) / len(tested)
    return np.concatenate([outputs.argmax(axis=1)[:, None], scores], axis=1)
