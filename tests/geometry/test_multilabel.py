"""Shortcuts of the MultiLabel rule against the rule itself."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from swift_bids.geometry import multilabel


@pytest.mark.parametrize("seed", range(12))
def test_shortcuts_do_not_change_the_mask(seed):
    """Masks of all shapes, cut off at the border of their grid, also where it is thin."""
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(3, 30, 3))
    mask = gaussian_filter(rng.normal(size=shape), rng.uniform(0.5, 3)) > 0
    position = rng.uniform(-2, 1, 3) + rng.random((20_000, 3)) * (np.array(shape) + 3)
    within = ((position >= -0.5) & (position <= np.array(shape) - 0.5)).all(axis=1)
    expected = within.copy()
    expected[within] = multilabel._weigh(mask, position[within])
    assert (multilabel.carry_mask(mask, position) == expected).all()
    assert 0.05 < expected[within].mean() < 0.95
