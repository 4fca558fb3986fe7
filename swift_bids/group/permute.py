"""Permutations that do not mix strata, and how many of them there are."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.special import gammaln

#: Fewest different permutations for a p-value.
MIN_DIFFERENT = 19


def permute_within(strata: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Permutation of positions that stays within strata, (position,)."""
    order = np.empty(len(strata), dtype=int)
    order[np.argsort(strata, kind="stable")] = np.lexsort((rng.random(len(strata)), strata))
    return order


def n_permutations_within(strata: np.ndarray, codes: np.ndarray) -> float:
    """Logarithm of the number of different ways to divide runs among participants within strata.

    Participants with equal numbers of runs in each stratum can be exchanged without any effect.
    """
    counts = pd.crosstab(codes, strata)  # (participant, stratum)
    alike = counts.value_counts()
    return float(
        gammaln(counts.sum() + 1).sum()
        - gammaln(counts.to_numpy() + 1).sum()
        - gammaln(alike + 1).sum()
    )
