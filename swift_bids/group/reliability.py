"""Repeated measurements of participants -> test-retest reliability of each feature."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.stats import f as f_distribution

from swift_bids.group.analysis import session_names
from swift_bids.group.average import average_runs
from swift_bids.group.load import Embedded

#: Lower ends of the ratings of Koo and Li 2016.
GOOD = 0.75
RATINGS = ((0.9, "excellent"), (GOOD, "good"), (0.5, "moderate"), (-np.inf, "poor"))
#: Fewest participants with repeated measurements.
MIN_PARTICIPANTS = 5


def reliability(runs: Embedded) -> tuple[pd.DataFrame, str | None]:
    """Intraclass correlation of each feature between sessions, or between runs.

    A measurement is the mean over the runs of a session. If fewer than five participants have two
    sessions, it is a run. Participants with one measurement are left out.

    Returns
    -------
    pandas.DataFrame
        One row per feature: `feature`, `icc`, `low`, `high` (95 %), `rating`, `repeated`
        (`session` or `run`), `n_participants`, `n_measurements`. Empty if there are too few.
    str or None
        Why it is empty.
    """
    people = runs.table["participant_id"]
    names = session_names(runs.table)
    n_sessions = names.groupby(people).nunique()
    measured, repeated = runs, "run"
    if (n_sessions > 1).sum() >= MIN_PARTICIPANTS:
        measured, repeated = average_runs(runs, names), "session"
        people = people[~names.duplicated()].reset_index(drop=True)
    counts = people.map(people.value_counts())
    kept = (counts > 1).to_numpy()
    n_people = people[kept].nunique()
    if n_people < MIN_PARTICIPANTS:
        return pd.DataFrame(), (
            f"{n_people} participants have two {repeated}s or more; the estimates need "
            f"{MIN_PARTICIPANTS}"
        )
    codes = pd.factorize(people[kept])[0]
    icc, low, high = intraclass_correlation(measured.features[kept].astype(np.float64), codes)
    return pd.DataFrame(
        {
            "feature": measured.with_features.columns[-measured.features.shape[1] :],
            "icc": icc,
            "low": low,
            "high": high,
            "rating": [rating(value) for value in icc],
            "repeated": repeated,
            "n_participants": n_people,
            "n_measurements": int(kept.sum()),
        }
    ), None


def rating(icc: float) -> str:
    """Word for an intraclass correlation (Koo and Li 2016); `n/a` for NaN."""
    return next((word for limit, word in RATINGS if icc >= limit), "n/a")


def intraclass_correlation(
    values: np.ndarray, codes: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """ICC(1,1) with its 95 % interval (Shrout and Fleiss 1979), of each column.

    One-way analysis of variance with random participants. With unequal numbers of measurements, the
    mean number is that of Donner and Wells 1986, and the interval is approximate.

    Parameters
    ----------
    values
        (measurement, feature).
    codes
        (measurement,) index of the participant, each with two measurements or more.

    Returns
    -------
    icc, low, high : numpy.ndarray
        (feature,); NaN for a feature that is the same everywhere.
    """
    size = np.bincount(codes)
    n, k = len(values), len(size)
    values = values - values.mean(axis=0)
    means = np.stack([values[codes == person].mean(axis=0) for person in range(k)])
    between = size @ np.square(means) / (k - 1)
    within = np.square(values - means[codes]).sum(axis=0) / (n - k)
    usual = (n - np.square(size).sum() / n) / (k - 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = between / within
        limits = (
            ratio / f_distribution.ppf(0.975, k - 1, n - k),
            ratio * f_distribution.ppf(0.975, n - k, k - 1),
        )
        icc, low, high = (
            np.where(np.isposinf(x), 1.0, (x - 1) / (x + usual - 1)) for x in (ratio, *limits)
        )
    return icc, low, high
