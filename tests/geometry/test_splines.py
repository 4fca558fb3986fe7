"""Weights of splines against scipy's interpolation."""

import numpy as np
import pytest
from scipy.ndimage import map_coordinates, spline_filter

from swift_bids.geometry.splines import spline_knots, spline_weights


@pytest.mark.parametrize("order", [1, 3])
@pytest.mark.parametrize("shape", [(40, 33, 21), (7, 8, 6), (5, 1, 9), (4, 3, 2)])
def test_weights_interpolate_as_scipy(shape, order):
    rng = np.random.default_rng(0)
    volume = rng.normal(size=shape)
    last = np.array(shape) - 1
    corners = np.stack(np.meshgrid(*[(0, n) for n in last], indexing="ij"), -1).reshape(-1, 3)
    position = np.concatenate([corners, rng.random((500, 3)) * last, rng.normal(0, 9, (200, 3))])
    knots = spline_knots(volume) if order > 1 else volume
    if order > 1:
        assert knots == pytest.approx(spline_filter(volume, order), abs=2e-5)
    expected = map_coordinates(volume, position.T, order=order)
    found = spline_weights(shape, position, order) @ knots.reshape(-1)
    assert found == pytest.approx(expected, abs=2e-5)
    assert (found[:8] != 0).all()
    assert (found[-200:] == 0).sum() > 50  # outside


@pytest.mark.parametrize("order", [1, 3])
def test_the_last_voxel_is_inside_despite_rounding_errors(order):
    volume = np.random.default_rng(0).normal(size=(6, 7, 8)).astype(np.float32)
    knots = spline_knots(volume) if order > 1 else volume
    position = np.array([[5 + 1e-9, 6 + 1e-12, 7], [-1e-9, 0, -1e-12]])
    found = spline_weights(volume.shape, position, order) @ knots.reshape(-1)
    assert found == pytest.approx([volume[5, 6, 7], volume[0, 0, 0]], abs=2e-5)
