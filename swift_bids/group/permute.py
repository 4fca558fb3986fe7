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
    """Logarithm of the number of different ways to assign participants to runs within strata."""
    pairs = pd.DataFrame({"stratum": strata, "code": codes}).value_counts()
    of_stratum = pairs.groupby("stratum").sum()
    return float(gammaln(of_stratum + 1).sum() - gammaln(pairs + 1).sum())
