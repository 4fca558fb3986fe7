"""Slice timing against the formula: interpolation by Fourier series, as AFNI's 3dTshift."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from minimal_trees import copy_tree, query_tree

from swift_bids.base.errors import OutputError
from swift_bids.geometry.slice_timing import _fourier_length, shift_series
from swift_bids.inputs.bold_reader import open_bold
from swift_bids.inputs.raw_header import slice_shifts
from swift_bids.steps import slice_timing as module
from swift_bids.steps.slice_timing import corrected_blocks

TR = 2.0


def signal(seconds):
    """Slow waves that fade at both ends, so that padding with zeros is harmless."""
    window = np.exp(-(((seconds - 60) / 22) ** 2))
    waves = 9 * np.sin(seconds / 5) + 4 * np.cos(seconds / 3.3)
    return 500 + window * waves


@pytest.mark.parametrize("shift", [0.37, -0.25, 0.5])
def test_a_smooth_signal_is_shifted_in_time(shift):
    times = np.arange(60) * TR
    shifted = shift_series(np.stack([signal(times), -signal(times)], axis=1), shift)
    expected = signal(times + shift * TR)
    assert np.abs(shifted[:, 0] - expected)[4:-4].max() < 0.05
    assert shifted[:, 1] == pytest.approx(-shifted[:, 0])
    assert np.abs(signal(times) - expected).max() > 1  # it had to be shifted


def shift_by_the_formula(series, shift):
    """Cosines and sines of each frequency, summed one by one."""
    n, n_fourier = len(series), _fourier_length(len(series) + 4)
    t = np.arange(n)
    slope, intercept = np.polyfit(t, series, 1)
    rest = series - slope * t - intercept
    result = np.full(n, rest.sum() / n_fourier)
    for k in range(1, n_fourier // 2 + 1):
        angle = 2 * np.pi * k / n_fourier
        cosine, sine = rest @ np.cos(angle * t), rest @ np.sin(angle * t)
        weight = 1 if k == n_fourier // 2 else 2
        if k == n_fourier // 2:
            cosine, sine = cosine * np.cos(angle * shift), 0
            wave = cosine * np.cos(angle * t)
        else:
            later = angle * (t + shift)
            wave = cosine * np.cos(later) + sine * np.sin(later)
        result += weight * wave / n_fourier
    result = np.clip(result, rest.min(), rest.max()) + slope * t + intercept
    return np.clip(result, series.min(), series.max())


@pytest.mark.parametrize("n", [20, 45])
@pytest.mark.parametrize("shift", [-0.4, 0.13])
def test_any_signal_is_shifted_by_the_formula(n, shift):
    series = np.random.default_rng(n).normal(300, 20, (n, 3))
    shifted = shift_series(series, shift)
    for column in range(3):
        expected = shift_by_the_formula(series[:, column], shift)
        assert shifted[:, column] == pytest.approx(expected, abs=1e-9)


def test_a_trend_stays():
    """3dTshift adds it again where it was."""
    line = 100 + 3.5 * np.arange(30.0)[:, None]
    assert shift_series(line, 0.4) == pytest.approx(line)


@pytest.mark.parametrize(("least", "length"), [(5, 6), (24, 24), (25, 30), (49, 60), (61, 64)])
def test_lengths_of_the_fourier_transform(least, length):
    assert _fourier_length(least) == length


def test_shifts_of_slices():
    """The middle of the acquisition is wanted: early slices later, late ones earlier."""
    times = {"SliceTiming": [0.0, 1.0, 0.5]}
    assert slice_shifts(times, 3, TR, 0.5) == pytest.approx((0.25, -0.25, 0))
    assert slice_shifts(times | {"SliceEncodingDirection": "k-"}, 3, TR, 0.5) == pytest.approx(
        (0, -0.25, 0.25)
    )
    assert slice_shifts(times, 3, TR, 0) == pytest.approx((0, -0.5, -0.25))
    assert slice_shifts({"SliceTiming": [0.5] * 3}, 3, TR, 0.5) == ()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"SliceTiming": [0, 1]}, "does not have one value for each of the 3 slices"),
        ({"SliceTiming": None}, "the raw sidecars contain no SliceTiming"),
        ({"SliceTiming": [0, 500, 1000]}, "values other than numbers from 0 to 2 s"),
        ({"SliceTiming": [0, "a", 1]}, "values other than numbers from 0 to 2 s"),
        ({"SliceEncodingDirection": "j"}, "SliceEncodingDirection is 'j' instead of 'k' or 'k-'"),
    ],
)
def test_metadata_that_do_not_fit(changes, reason):
    with pytest.raises(ValueError, match=reason):
        slice_shifts({"SliceTiming": [0, 1, 0.5]} | changes, 3, TR, 0.5)


@pytest.mark.parametrize("dtype", [np.int16, np.float32])
def test_a_run_is_corrected_slice_by_slice(tmp_path, dtype):
    rng = np.random.default_rng(0)
    data = rng.normal(500, 50, (4, 5, 3, 30)).round().astype(dtype)
    nib.Nifti1Image(data, np.eye(4)).to_filename(tmp_path / "bold.nii.gz")
    shifts = np.array([0.3, 0.0005, -0.2])  # the second one is too small to matter
    with open_bold(tmp_path / "bold.nii.gz") as bold:
        with corrected_blocks(bold, "bold", shifts, 2, tmp_path) as blocks:
            volumes = np.concatenate(list(blocks))
    corrected = volumes.T.reshape(4, 5, 3, 30, order="F")
    assert (corrected[..., :2] == data[..., :2]).all()  # dummy scans
    assert (corrected[:, :, 1] == data[:, :, 1]).all()
    for number in (0, 2):
        series = data[:, :, number, 2:].reshape(-1, 28).T
        expected = shift_series(series, shifts[number]).T.reshape(4, 5, 28)
        expected = expected.round() if dtype == np.int16 else expected
        assert corrected[:, :, number, 2:] == pytest.approx(expected, abs=1e-3)
    assert [file.name for file in tmp_path.iterdir()] == ["bold.nii.gz"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="writes to Linux's /dev/full")
def test_a_full_disk(tmp_path, monkeypatch):
    nib.Nifti1Image(np.ones((4, 5, 3, 30), np.int16), np.eye(4)).to_filename(tmp_path / "bold.nii")
    monkeypatch.setattr(module, "TemporaryFile", lambda **_: open("/dev/full", "wb", buffering=0))
    with open_bold(tmp_path / "bold.nii") as bold:
        with pytest.raises(OutputError, match="No space left on device"):
            with corrected_blocks(bold, "bold", np.array([0.3, 0, 0]), 0, tmp_path):
                pass


def with_slice_timing(tree, ignored=None, times=None):
    """Add SliceTiming to the raw sidecar, and fMRIPrep's settings to the log folder."""
    sidecar = tree / "raw" / "sub-01" / "func" / "sub-01_task-rest_bold.json"
    times = np.linspace(0, 0.75, 22).tolist() if times is None else times
    sidecar.write_text(json.dumps(json.loads(sidecar.read_text()) | {"SliceTiming": times}))
    if ignored is not None:
        log = tree / "minimal" / "sub-01" / "log" / "20240101_x"
        log.mkdir(parents=True)
        (log / "fmriprep.toml").write_text(f"[workflow]\nignore = {json.dumps(ignored)}\n")
    return tree


@pytest.mark.parametrize(
    ("ignored", "option", "corrected"),
    [
        ([], "auto", True),
        (["slicetiming"], "auto", False),
        (None, "auto", False),  # unknown what fMRIPrep was asked to do
        (None, "on", True),
        (["slicetiming"], "on", True),
        ([], "off", False),
    ],
)
def test_when_slice_timing_is_corrected(tmp_path, ignored, option, corrected):
    tree = with_slice_timing(copy_tree("fieldmap", tmp_path), ignored)
    (run,), _ = query_tree(tree, slice_timing=option)
    unknown = ignored is None and option == "auto"
    assert len(run.warnings) == unknown
    if unknown:
        assert (
            "its slice timing is not corrected, since there is no fmriprep.toml" in run.warnings[0]
        )
    assert bool(run.transforms.slice_shifts) == corrected
    if corrected:
        assert run.transforms.slice_shifts[0] == pytest.approx(0.375 / 0.8)


def test_slice_timing_that_does_not_fit_is_a_warning(tmp_path):
    tree = with_slice_timing(copy_tree("fieldmap", tmp_path), times=[0, 1])
    (run,), _ = query_tree(tree, slice_timing="on")
    assert run.transforms.slice_shifts == ()
    (warning,) = run.warnings
    assert warning.startswith("its slice timing is not corrected: SliceTiming does not have one")


def test_settings_that_datalad_has_not_fetched(tmp_path):
    tree = with_slice_timing(copy_tree("fieldmap", tmp_path), [])
    (settings,) = tree.glob("minimal/sub-01/log/*/fmriprep.toml")
    settings.unlink()
    settings.symlink_to("../.git/annex/objects/absent")
    (run,), _ = query_tree(tree)
    assert f"since the content of {settings} is missing (datalad get " in run.warnings[0]
