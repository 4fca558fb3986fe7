"""Signals of volumes: values against numpy and nipype, and what faulty volumes do to them."""

import nibabel as nib
import numpy as np
import pytest
from nipype.algorithms.confounds import compute_dvars

from swift_bids.geometry.frames import FSL_SHAPE
from swift_bids.steps.volume_faults import INCOMPLETE, OUTLIER
from swift_bids.steps.volume_signals import Volumes, VolumeSignals

#: A brain of 30 x 30 x 30 voxels on both sides of the midline.
SHAPE = (30, 30, 30)
INDEX = np.ravel_multi_index(np.indices(SHAPE).reshape(3, -1) + 30, FSL_SHAPE)


def signals_of(values, first_volume=0):
    """Signals of (volume, voxel) values that arrive in blocks of 7 volumes."""
    signals = VolumeSignals(INDEX, len(values), first_volume)
    for block in np.split(values.astype(np.float32), range(7, len(values), 7)):
        signals.add(block)
    return signals.finish()


@pytest.fixture(scope="module")
def clean():
    """(volume, voxel) of a run with autocorrelated noise, a drift, and no faults."""
    rng = np.random.default_rng(1)
    noise = rng.standard_normal((60, INDEX.size))
    noise[1:] += 0.4 * noise[:-1]
    anatomy = rng.uniform(600, 1400, INDEX.size)
    return (anatomy * (1 + np.linspace(0, 0.03, 60))[:, None] + 20 * noise).astype(np.float32)


def test_the_global_signal_is_the_mean_of_the_known_values(clean):
    values = clean.copy()
    values[:, :100] = np.nan
    values[12, 100:200] = np.nan
    values[20] = np.nan
    found = signals_of(values).global_signal
    assert np.flatnonzero(np.isnan(found)).tolist() == [20]
    known = np.delete(np.arange(60), 20)
    expected = np.nanmean(values[known].astype(np.float64), axis=1)
    np.testing.assert_allclose(found[known], expected, rtol=1e-9)


def test_dvars_equals_that_of_nipype(clean, tmp_path):
    """fMRIPrep's columns dvars and std_dvars come from this function."""
    nib.Nifti1Image(clean.T.reshape(*SHAPE, 60), np.eye(4)).to_filename(tmp_path / "bold.nii")
    nib.Nifti1Image(np.ones(SHAPE, np.uint8), np.eye(4)).to_filename(tmp_path / "mask.nii")
    standardised, plain, _ = compute_dvars(
        tmp_path / "bold.nii", tmp_path / "mask.nii", remove_zerovariance=True
    )
    found = signals_of(clean)
    assert np.isnan([found.dvars[0], found.std_dvars[0]]).all()
    np.testing.assert_allclose(found.dvars[1:], plain, rtol=1e-5)
    np.testing.assert_allclose(found.std_dvars[1:], standardised, rtol=1e-5)


def test_dvars_of_a_long_run_needs_only_some_of_the_voxels(clean, monkeypatch):
    exact = signals_of(clean)
    monkeypatch.setattr("swift_bids.steps.volume_signals._MAX_KEPT", 60 * 3000)
    sampled = signals_of(clean)
    np.testing.assert_allclose(sampled.dvars[1:], exact.dvars[1:], rtol=0.01)
    np.testing.assert_allclose(sampled.std_dvars[1:], exact.std_dvars[1:], rtol=0.01)
    assert sampled.global_signal.tolist() == exact.global_signal.tolist()


def test_an_empty_volume_does_not_change_dvars_of_the_others(clean):
    values = clean.copy()
    values[30] = np.nan
    found, expected = signals_of(values).std_dvars, signals_of(clean).std_dvars
    assert np.flatnonzero(np.isnan(found)).tolist() == [0, 30, 31]
    others = np.delete(np.arange(1, 60), [29, 30])
    np.testing.assert_allclose(found[others], expected[others], rtol=0.02)


def test_the_carpet_shows_evenly_chosen_voxels(clean):
    found = signals_of(clean)
    assert found.carpet.shape == (60, 300)
    np.testing.assert_array_equal(found.carpet, clean[:, found.carpet_columns])
    assert set(np.diff(found.carpet_columns)) == {90}


def test_a_missing_slab_is_described(clean):
    values = clean.reshape(60, *SHAPE).copy()
    values[25, :, :, 4:8] *= 0.1
    found = signals_of(values.reshape(60, -1))
    assert np.flatnonzero(found.faults.codes == INCOMPLETE).tolist() == [25]
    assert found.lost_part == "slices from z = -4 to 2 mm"


def test_half_of_a_brain_is_named_in_long_runs_too(clean):
    """Only some of the voxels are looked at."""
    values = np.concatenate([clean] * 4).reshape(240, *SHAPE).copy()
    values[25, 15:] = np.nan  # the left of the midline
    assert signals_of(values.reshape(240, -1)).lost_part == "the left hemisphere"


def test_what_is_saved_is_read_again(clean, tmp_path):
    values = clean.copy()
    values[40] *= 1.5
    before = signals_of(values)
    before.save(tmp_path / "volumes.npz")
    after = Volumes.load(tmp_path / "volumes.npz")
    assert np.flatnonzero(after.faults.codes == OUTLIER).tolist() == [40]
    assert (after.lost_part, after.n_unsteady) == ("", 0)
    for name in ("global_signal", "dvars", "std_dvars", "carpet", "carpet_columns"):
        np.testing.assert_array_equal(getattr(after, name), getattr(before, name))
    for name in ("codes", "deviations", "steps", "step_sizes"):
        np.testing.assert_array_equal(getattr(after.faults, name), getattr(before.faults, name))
