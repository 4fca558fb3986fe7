"""The volumes that the network reads, and linear interpolation in time."""

import numpy as np
import pytest
import torch

from swift_bids.base.backbones import BACKBONES
from swift_bids.base.errors import InputError
from swift_bids.geometry.resample_time import (
    Series,
    model_repetition_time,
    refuse_too_short,
    resample,
)


@pytest.mark.parametrize(
    ("target", "tr", "read_at"),
    [
        ("auto", 0.72, 0.72),
        ("auto", 0.735, 0.735),
        ("auto", 0.8, 0.8),
        ("auto", 0.701, 0.701),
        ("auto", 0.899, 0.899),
        ("auto", 0.7, 0.8),  # 0.1 away
        ("auto", 0.9, 0.8),
        ("auto", 2.0, 0.8),
        ("native", 2.0, 2.0),
        ("0.72", 0.8, 0.72),
        ("2", 2.0, 2.0),
    ],
)
def test_model_repetition_time(target, tr, read_at):
    assert model_repetition_time(target, tr, BACKBONES["contrastive"].time) == read_at


def test_native_series():
    series = Series(65, 0.8, 3, 0.8)
    assert not series.resampled
    assert series.length == 62
    assert series.source(0, 20) == (3, 23)
    assert series.source(40, 60) == (43, 63)


@pytest.mark.parametrize(
    ("n", "tr", "length"), [(300, 2.0, 748), (21, 0.4, 11), (2, 0.8, 2), (1, 2.0, 1)]
)
def test_the_series_ends_with_the_last_volume(n, tr, length):
    series = Series(n, tr, 0, 0.8)
    assert series.length == length
    assert (length - 1) * 0.8 <= (n - 1) * tr + 1e-9 < length * 0.8
    assert Series(n, tr, n, 0.8).length == 0


def test_the_source_volumes_of_a_chunk():
    series = Series(300, 2.0, 4, 0.8)  # 2.5 volumes of the series per volume of the run
    assert series.source(0, 20) == (4, 13)  # 0 to 15.2 s: volumes 0 to 8 after the dummy scans
    assert series.source(20, 40) == (12, 21)  # 16 to 31.2 s: volumes 8 to 16


@pytest.mark.parametrize("tr", [2.0, 0.4, 0.8, 1.2, 0.72, 0.26666666, 0.53333333, 0.6222222])
@pytest.mark.parametrize("size", [1, 3, 8])
@pytest.mark.parametrize("first", [0, 4])
def test_interpolation_equals_numpys_for_any_block_size(tr, size, first):
    rows = np.random.default_rng(0).random((31, 5), dtype=np.float32)
    series = Series(31, tr, first, 0.8)
    blocks = [rows[i : i + size].copy() for i in range(0, 31, size)]
    found = np.concatenate(list(resample(blocks, series)))
    times = np.arange(series.length) * 0.8
    at = np.arange(31 - first) * tr
    expected = np.stack([np.interp(times, at, voxel) for voxel in rows[first:].T], axis=1)
    assert found.shape == (series.length, 5)
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("tr", [0.26666666, 0.53333333, 0.33333333, 0.44444444, 0.267, 1.0 / 3])
def test_repetition_times_that_are_rounded_fractions(tr):
    """Rounding of positions never requests a volume beyond the end of the run."""
    for n in range(20, 200):
        series = Series(n, tr, 0, 0.8)
        assert series.source(0, series.length)[1] <= n
        assert series.positions(0, series.length)[-1] <= n - 1
        blocks = [np.ones((min(8, n - i), 1), np.float32) for i in range(0, n, 8)]
        assert sum(map(len, resample(blocks, series))) == series.length


def test_values_interpolated_from_nan_are_nan():
    rows = np.ones((6, 2), np.float32)
    rows[3, 0] = np.nan  # at 3 s
    found = np.concatenate(list(resample([rows], Series(6, 1.0, 0, 0.5))))
    gaps = np.flatnonzero(np.isnan(found[:, 0])) * 0.5
    assert gaps.tolist() == [2.5, 3.0, 3.5]  # not 2 and 4, which coincide with volumes
    assert np.isfinite(found[:, 1]).all()


def test_interpolation_at_a_long_tr_yields_small_blocks():
    """With a TR of 30 s, 37 volumes are interpolated from one; they must not all be in memory."""
    blocks = list(resample([np.ones((8, 3), np.float32)] * 2, Series(16, 30.0, 0, 0.8)))
    assert max(map(len, blocks)) <= 9
    assert sum(map(len, blocks)) == Series(16, 30.0, 0, 0.8).length


def test_more_dummy_scans_than_volumes():
    """The message used to say that 15 of 10 volumes were dummy scans."""
    with pytest.raises(InputError, match="has 10 volumes, and 15 are omitted as dummy scans, but"):
        refuse_too_short(Series(10, 0.8, 15, 0.8), "pad")


@pytest.mark.parametrize(("n", "tr"), [(52, 0.72), (21, 2.0), (40, 0.8), (7, 2.5), (300, 0.735)])
@pytest.mark.parametrize("first", [0, 3])
@pytest.mark.parametrize("block", [1, 5, 1000])
def test_centred_series_are_interpolated_as_by_torch(n, tr, first, block):
    """NeuroSTORM's preprocessing: interpolate(mode="linear", align_corners=False)."""
    series = Series(n, tr, first, 0.8, centred=True)
    rows = np.random.default_rng(0).standard_normal((n, 4)).astype(np.float32)
    n_new = round((n - first) * tr / 0.8)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(rows[first:].T[None]), size=n_new, mode="linear", align_corners=False
    )[0].T
    blocks = [rows[start : start + block].copy() for start in range(0, n, block)]
    found = np.concatenate(list(resample(blocks, series)))
    assert len(found) == series.length == n_new
    np.testing.assert_allclose(found, expected, atol=1e-4)  # positions of torch are in float32
    assert series.volume_duration == pytest.approx((n - first) * tr / n_new)
    start, stop = series.source(0, n_new)
    assert (start, stop) == (first, n)


def test_clipped_series_interpolate_zeros_and_set_negative_values_to_0():
    series = Series(4, 0.8, 0, 0.4, clipped=True)
    rows = np.array([[2, 2, np.nan], [np.nan, -4, np.nan], [2, 2, np.nan], [1, np.inf, 1]])
    found = np.concatenate(list(resample([rows.astype(np.float32)], series)))
    nan = np.nan
    expected = [
        [2, 2, nan],
        [1, 0, nan],
        [nan, 0, nan],  # a recorded 0 is no signal, -4 becomes 0
        [1, 0, nan],
        [2, 2, nan],
        [1.5, nan, 0.5],  # nothing is interpolated from what must not be used
        [1, nan, 1],
    ]
    np.testing.assert_array_equal(found, np.array(expected, np.float32))


def test_clipping_leaves_the_caller_its_blocks():
    block = np.array([[1.0, -1.0], [np.nan, 2.0]], np.float32)
    kept = block.copy()
    for series in (Series(2, 0.8, 0, 0.8, clipped=True), Series(2, 0.8, 0, 0.4, clipped=True)):
        list(resample([block], series))
        np.testing.assert_array_equal(block, kept)


@pytest.mark.parametrize(
    ("variant", "target", "tr", "expected"),
    [
        ("contrastive", "auto", 0.72, 0.72),
        ("neurostorm-mae", "auto", 0.72, 0.8),
        ("neurostorm-mae", "auto", 0.8, 0.8),
        ("neurostorm-mae", "native", 0.72, 0.72),
        ("neurostorm-mae", "1.5", 0.8, 1.5),
    ],
)
def test_the_network_decides_what_auto_means(variant, target, tr, expected):
    assert model_repetition_time(target, tr, BACKBONES[variant].time) == expected
