"""Masks of participants -> what the embeddings may know of them, and targets that go with them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.stats import kruskal, spearmanr

from swift_bids.group.columns import Target, as_target

#: Probability, over all targets of a call, of calling a target associated that is not.
_ALPHA = 0.05
#: Column of the mask's volume, and name of its probe.
VOLUME = "mask_volume"


def volume_target(table: pd.DataFrame) -> Target:
    """The volume of the masks as a target, since a network sees the shape of a mask."""
    return as_target(VOLUME, table[VOLUME])


def associated_with_mask(targets: Sequence[Target], table: pd.DataFrame) -> dict[str, str]:
    """Return the targets that go with the volume of the mask, and how.

    A number is tested with Spearman's rank correlation, classes with the test of Kruskal and
    Wallis; p is multiplied by the number of targets (Bonferroni).
    """
    # The mean over runs leaves rounding errors, which ranks must not see.
    volume = table[VOLUME].to_numpy(np.float64).round(3)
    found = {}
    for target in targets:
        if target.name == VOLUME:
            continue
        kept = target.known & ~np.isnan(volume)
        y, x = target.values[kept], volume[kept]
        if len(y) < 3 or np.ptp(y) == 0 or np.ptp(x) == 0:
            continue
        if target.classes:
            groups = [x[y == number] for number in np.unique(y)]
            p = kruskal(*groups).pvalue
            how = ", ".join(
                f"{target.classes[int(number)]} {np.median(group):.0f} mL"
                for number, group in zip(np.unique(y), groups)
            )
        else:
            rho, p = spearmanr(x, y)
            how = f"Spearman's rho {rho:.2f}"
        p = min(1.0, float(p) * len(targets))
        if p < _ALPHA:
            found[target.name] = f"{how}; " + (f"p = {p:.3f}" if p >= 0.001 else "p < 0.001")
    return found
