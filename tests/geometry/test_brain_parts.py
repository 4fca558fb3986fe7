"""Words for a part of the brain."""

import numpy as np
import pytest
from nibabel.affines import apply_affine

from swift_bids.geometry.brain_parts import describe_part
from swift_bids.geometry.frames import FSL_AFFINE, FSL_SHAPE
from swift_bids.geometry.grid import template_brain

BRAIN = template_brain()
X, Y, Z = np.moveaxis(apply_affine(FSL_AFFINE, np.moveaxis(np.indices(FSL_SHAPE), 0, -1)), -1, 0)


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        (X > 0, "the right hemisphere"),
        (X < 0, "the left hemisphere"),
        (Z < 5, "the lower half of the brain"),
        (Y > -18, "the front half of the brain"),
        ((Z > 4) & (Z < 14), "slices from z = 6 to 12 mm"),
        (Z < -40, "slices from z = -64 to -42 mm"),
        ((X > 10) & (Z < -10), "the lower right part of the brain"),
        ((Y > 30) & (Z > -20), "slices from y = 32 to 68 mm"),
        (X**2 + (Y + 18) ** 2 + Z**2 < 400, "many places"),
        (np.random.default_rng(0).random(FSL_SHAPE) < 0.1, "many places"),
    ],
)
def test_parts_of_the_template(part, expected):
    brain = np.flatnonzero(BRAIN)
    assert describe_part(np.flatnonzero(BRAIN & part), brain) == expected
