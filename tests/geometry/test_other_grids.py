"""The same brain on other grids gives nearly the same tokens, and a flipped brain does not.

Interpolation smooths. The run in these tests is already smooth (a Gaussian of one voxel, 4.7 mm
full width at half maximum), so it loses little, and the remaining differences are due to geometry
and to the edge of the mask. Measured deviations (root mean square of the tokens): 0.2 to 0.8 % for
copies on other grids, 3.1 % for a brain 2 mm away, 14 % for a flipped brain.
"""

import nibabel as nib
import numpy as np
import pytest
from nibabel.affines import from_matvec
from scipy.ndimage import gaussian_filter, map_coordinates

from swift_bids import SwiFT, embed

VOLUMES = 20
#: Bounds between these deviations.
CLOSE, APART = 0.015, 0.05
TURN = nib.eulerangles.euler2mat(0.1, -0.05, 0.08) @ np.diag([-2.0, 2, 2])


@pytest.fixture(scope="module")
def network(reference_bundle):
    return SwiFT.from_pretrained(reference_bundle)


@pytest.fixture(scope="module")
def run(recipe):
    """Three smooth volumes and a brain (0 to 1) on the FSL grid; every volume mixes the three. On
    each grid, the mask is where the brain is above 0.5."""
    data, mask, affine = recipe.make_bold(3, seed=5)
    # The recipe's background is much darker than its brain. A single background voxel in a
    # resampled mask would set the smallest z-score, and thus the whole background.
    data = np.where(mask[..., None], data, 6500).astype(np.float32)
    brain = gaussian_filter(mask.astype(np.float32), 1)
    return [gaussian_filter(data[..., t], 1) for t in range(3)], brain, affine


@pytest.fixture(scope="module")
def expected(run, network):
    return embed(*on_grid(run, run[1].shape, run[2]), tr=0.8, weights=network).tokens


def on_grid(run, shape, affine):
    """Return BOLD and mask on another grid, resampled with cubic splines (unlike in the app)."""
    volumes, brain, own_affine = run
    if shape != brain.shape or not np.array_equal(affine, own_affine):
        grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
        place = nib.affines.apply_affine(np.linalg.inv(own_affine) @ affine, grid)
        place = np.moveaxis(place, -1, 0)
        volumes = [map_coordinates(v, place, order=3, output=np.float32) for v in volumes]
        brain = map_coordinates(brain, place, order=3)
    mixing = np.random.default_rng(0).dirichlet((1, 1, 1), VOLUMES).astype(np.float32)
    data = np.tensordot(np.stack(volumes, -1), mixing, axes=(3, 1))
    return nib.Nifti1Image(data, affine), nib.Nifti1Image((brain > 0.5).astype(np.uint8), affine)


def deviation(tokens, expected):
    """Root mean square of the difference, divided by that of the expected tokens."""
    return np.sqrt(np.square(tokens - expected).mean() / np.square(expected).mean())


@pytest.mark.parametrize(
    ("shape", "affine"),
    [
        # MNI152NLin2009cAsym, RAS
        ((97, 115, 97), from_matvec(np.diag([2.0, 2, 2]), [-96.5, -132.5, -78.5])),
        # shifted
        ((91, 109, 91), from_matvec(np.diag([-2.0, 2, 2]), [90.7, -126.5, -71.1])),
        # oblique
        ((110, 130, 110), from_matvec(TURN, [0, -17, 18] - TURN @ [55, 65, 55])),
        pytest.param(
            *((183, 219, 183), from_matvec(np.eye(3), [-90.5, -126.5, -72.5])),
            marks=pytest.mark.long,
        ),
    ],
    ids=["2009cAsym", "shifted", "oblique", "1mm"],
)
def test_other_grids_give_nearly_the_same_tokens(run, expected, network, shape, affine):
    tokens = embed(*on_grid(run, shape, affine), tr=0.8, weights=network).tokens
    assert 0 < deviation(tokens, expected) < CLOSE


def _flipped(volume):
    return volume[::-1].copy()


def _moved(volume):
    return np.roll(volume, 1, axis=1)


@pytest.mark.parametrize(("change", "bound"), [(_flipped, APART), (_moved, CLOSE)])
def test_a_brain_at_another_position_gives_other_tokens(run, expected, network, change, bound):
    """The brain is flipped left to right, or 2 mm further to the front."""
    volumes, brain, affine = run
    changed = [change(v) for v in volumes], change(brain), affine
    tokens = embed(*on_grid(changed, brain.shape, affine), tr=0.8, weights=network).tokens
    assert deviation(tokens, expected) > bound


def test_a_flip_of_the_storage_order_alone_changes_nothing(run, expected, network):
    """Data and affine are flipped together, so the brain stays at its position."""
    images = [
        image.as_reoriented([[0, -1], [1, 1], [2, 1]])
        for image in on_grid(run, run[1].shape, run[2])
    ]
    assert nib.aff2axcodes(images[0].affine) == ("R", "A", "S")
    np.testing.assert_array_equal(embed(*images, tr=0.8, weights=network).tokens, expected)
