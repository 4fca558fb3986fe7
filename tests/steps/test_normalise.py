"""z-scores, background and statistics of a run, and inputs that `normalise` refuses."""

import gzip
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from make_data import FSL_AFFINE, write_derivative
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

from swift_bids.base.errors import InputError, OutputError
from swift_bids.geometry.frames import FRAMES, FSL_SHAPE
from swift_bids.geometry.grid import brain_voxels
from swift_bids.geometry.resample_time import Series, resample
from swift_bids.inputs.brain_mask import functional_mask
from swift_bids.inputs.transforms import GridWarp
from swift_bids.steps import kept_rows
from swift_bids.steps.crop import crop
from swift_bids.steps.locate_warped import locate_warped
from swift_bids.steps.normalise import MatrixFile, normalise
from swift_bids.steps.voxel_statistics import VoxelMoments
from swift_bids.steps.z_scores import METHODS


def files(tmp_path, data, affine=FSL_AFFINE, shape=FSL_SHAPE):
    bold = write_derivative(tmp_path, "sub-1_task-a", data=data, affine=affine, shape=shape)
    return bold, str(bold).replace("preproc_bold", "brain_mask")


def native(n_volumes, first=0):
    return Series(n_volumes, 0.8, first, 0.8)


@pytest.fixture(scope="module")
def noise():
    """(X, Y, Z, volume) float32 with offset 500."""
    rng = np.random.default_rng(5)
    return (500 + 30 * rng.standard_normal((*FSL_SHAPE, 19))).astype(np.float32)


def column_of(brain, voxel):
    """Return the column of the matrix for a voxel of the FSL grid."""
    fsl = brain_voxels(brain, FSL_AFFINE, FRAMES["ukb"]).fsl_index
    return int(np.flatnonzero(fsl == np.ravel_multi_index(voxel, FSL_SHAPE))[0])


@pytest.mark.parametrize("gaps", [False, True])
def test_moments_of_blocks_equal_those_of_the_whole(gaps):
    values = (1e4 + np.random.default_rng(0).standard_normal((1000, 7))).astype(np.float32)
    if gaps:
        values[np.random.default_rng(1).random(values.shape) < 0.1] = np.nan
        values[:, 3] = np.nan
        values[1:, 4] = np.nan
    values[:, 5] = 7
    moments = VoxelMoments(7)
    for block in np.split(values, [1, 17, 500]):
        moments.add(block)
    exact = values.astype(np.float64)
    assert moments.count.tolist() == (~np.isnan(exact)).sum(0).tolist()
    known = moments.count > 0
    np.testing.assert_allclose(moments.mean[known], np.nanmean(exact[:, known], 0), rtol=1e-14)
    several = moments.count > 1
    expected = np.nanstd(exact[:, several], axis=0, ddof=1)
    np.testing.assert_allclose(moments.std[several], expected, rtol=1e-9)
    assert (moments.std[~several] == 0).all()
    assert moments.low[known].tolist() == np.nanmin(values[:, known], axis=0).tolist()
    assert moments.high[known].tolist() == np.nanmax(values[:, known], axis=0).tolist()
    assert moments.constant.tolist() == [False, False, False, False, gaps, True, False]
    mean, std = moments.overall()
    everything = exact[~np.isnan(exact)]
    assert mean == pytest.approx(everything.mean(), rel=1e-13)
    assert std == pytest.approx(everything.std(ddof=1), rel=1e-11)


def test_global_z_scores_match_numpy(tmp_path, noise):
    bold, mask = files(tmp_path, noise)
    done = normalise(bold, mask, FRAMES["ukb"], native(19, 2), tmp_path / "m.npy")
    brain = nib.load(mask).get_fdata() > 0
    used = noise[brain][:, 2:].astype(np.float64)
    assert done.mean == pytest.approx(used.mean(), rel=1e-12)
    assert done.std == pytest.approx(used.std(ddof=1), rel=1e-12)
    assert done.background == np.float16((used.min() - used.mean()) / used.std(ddof=1))
    assert (done.n_volumes, done.n_zero, done.n_nonfinite, done.n_constant) == (17, 0, 0, 0)
    assert not done.interpolated
    assert done.tsnr == pytest.approx(np.median(used.mean(1) / used.std(1, ddof=1)), rel=1e-9)
    z_of_mean = (used.mean(1) - used.mean()) / used.std(ddof=1)
    assert done.z_percentiles == pytest.approx(np.percentile(z_of_mean, [1, 50, 99]))
    assert done.negative == 0
    matrix = np.load(tmp_path / "m.npy")
    assert matrix.dtype == np.float16
    voxels = brain_voxels(brain, FSL_AFFINE, FRAMES["ukb"]).fsl_index
    expected = (noise.reshape(-1, 19)[voxels].T[2:] - done.mean) / done.std
    np.testing.assert_allclose(matrix, expected, rtol=1e-3, atol=1e-3)
    file = MatrixFile(tmp_path / "m.npy")
    assert file.shape == matrix.shape
    np.testing.assert_array_equal(file[3:7], matrix[3:7])


@pytest.mark.parametrize("model_tr", [0.8, 0.4])
def test_robust_normalisation_leaves_faulty_volumes_out(tmp_path, noise, model_tr):
    """At half the TR, the volumes that are interpolated from a faulty one are left out, too."""
    data = noise.copy()
    data[..., 7] *= 3
    bold, mask = files(tmp_path, data)
    series = Series(19, 0.8, 2, model_tr)
    done = normalise(bold, mask, FRAMES["ukb"], series, tmp_path / "m.npy", robust=True)
    brain = nib.load(mask).get_fdata() > 0
    used = np.concatenate(list(resample([data[brain].T], series))).astype(np.float64)
    positions = series.positions(0, series.length)
    good = used[np.abs(positions - 5) >= 1]
    assert len(good) == series.length - (1 if model_tr == 0.8 else 3)
    assert done.robust
    assert done.mean == pytest.approx(good.mean(), rel=1e-9)
    assert done.std == pytest.approx(good.std(ddof=1), rel=1e-9)
    assert done.background == np.float16((good.min() - good.mean()) / good.std(ddof=1))
    plain = normalise(bold, mask, FRAMES["ukb"], series, tmp_path / "p.npy")
    assert plain.std == pytest.approx(used.std(ddof=1), rel=1e-9)
    assert plain.std > 3 * done.std


def test_robust_normalisation_of_a_clean_run_changes_nothing(tmp_path, noise):
    bold, mask = files(tmp_path, noise)
    plain = normalise(bold, mask, FRAMES["ukb"], native(19), tmp_path / "a.npy")
    robust = normalise(bold, mask, FRAMES["ukb"], native(19), tmp_path / "b.npy", robust=True)
    assert asdict(robust) == asdict(plain) | {"robust": True}
    assert (tmp_path / "a.npy").read_bytes() == (tmp_path / "b.npy").read_bytes()


def test_robust_normalisation_of_a_run_that_is_kept_in_a_file(tmp_path, noise, monkeypatch):
    data = noise.copy()
    data[..., 7] *= 3
    bold, mask = files(tmp_path, data)
    expected = normalise(bold, mask, FRAMES["ukb"], native(19), tmp_path / "a.npy", robust=True)
    monkeypatch.setattr(kept_rows, "MAX_BYTES_IN_MEMORY", 1_000_000)
    done = normalise(bold, mask, FRAMES["ukb"], native(19), tmp_path / "b.npy", robust=True)
    assert done == expected
    assert (tmp_path / "a.npy").read_bytes() == (tmp_path / "b.npy").read_bytes()


def test_where_there_is_no_signal(tmp_path, noise):
    data = noise.copy()
    data[:46] = 0
    bold, mask = files(tmp_path, data)
    done = normalise(bold, mask, FRAMES["ukb"], native(19), tmp_path / "m.npy")
    missing = (nib.load(mask).get_fdata() > 0)[:46].sum()
    assert (done.n_without_signal, done.n_zero) == (missing, 19 * missing)
    assert done.part_without_signal == "the right hemisphere"


def test_voxel_global_z_scores_match_numpy(tmp_path, noise):
    data = noise.copy()
    data[45, 54, 45] = 600  # constant
    data[46, 54, 45, 3] = 0
    bold, mask = files(tmp_path, data)
    done = normalise(bold, mask, FRAMES["ukb"], native(19), tmp_path / "m.npy", "voxel+global")
    brain = nib.load(mask).get_fdata() > 0
    voxels = brain_voxels(brain, FSL_AFFINE, FRAMES["ukb"]).fsl_index
    values = data.reshape(-1, 19)[voxels].T.astype(np.float64)
    values[values == 0] = np.nan
    with np.errstate(invalid="ignore"):
        z = (values - np.nanmean(values, 0)) / np.nanstd(values, 0, ddof=1)
    z = (z - np.nanmean(z)) / np.nanstd(z, ddof=1)
    expected = np.where(np.isnan(z), np.nanmin(z), z)
    matrix = np.load(tmp_path / "m.npy")
    np.testing.assert_allclose(matrix, expected, rtol=1e-3, atol=1e-3)
    assert done.background == pytest.approx(np.nanmin(z), rel=1e-3)
    assert (done.n_constant, done.n_zero) == (1, 1)
    assert (matrix[:, column_of(brain, (45, 54, 45))] == done.background).all()


def test_global_counts_and_keeps_a_constant_voxel(tmp_path, noise):
    data = noise.copy()
    data[45, 54, 45] = 600
    bold, mask = files(tmp_path, data)
    done = normalise(bold, mask, FRAMES["ukb"], native(19), tmp_path / "m.npy")
    assert done.n_constant == 1
    brain = nib.load(mask).get_fdata() > 0
    column = np.load(tmp_path / "m.npy")[:, column_of(brain, (45, 54, 45))]
    assert (column == np.float16((600 - done.mean) / done.std)).all()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("in_memory", [0, 1_000_000])
def test_a_long_run_that_does_not_fit_into_memory(tmp_path, noise, method, in_memory, monkeypatch):
    """The same result, and no file left."""
    data = noise.copy()
    data[45, 54, 45, 3], data[46, 54, 45, 4] = 0, np.nan
    bold, mask = files(tmp_path, data)
    series = Series(19, 2.0, 2, 0.8)
    kept = normalise(bold, mask, FRAMES["hcp"], series, tmp_path / "a.npy", method)
    monkeypatch.setattr(kept_rows, "MAX_BYTES_IN_MEMORY", in_memory)
    before = set(tmp_path.iterdir())
    assert normalise(bold, mask, FRAMES["hcp"], series, tmp_path / "b.npy", method) == kept
    assert (tmp_path / "a.npy").read_bytes() == (tmp_path / "b.npy").read_bytes()
    assert set(tmp_path.iterdir()) == before | {tmp_path / "b.npy"}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="writes to Linux's /dev/full")
@pytest.mark.parametrize("full", ["matrix", "temporary file"])
def test_a_full_disk_does_not_count_as_a_damaged_file(tmp_path, noise, monkeypatch, full):
    bold, mask = files(tmp_path, noise)
    matrix = tmp_path / "m.npy"
    if full == "matrix":
        matrix = "/dev/full"
    else:
        monkeypatch.setattr(kept_rows, "MAX_BYTES_IN_MEMORY", 0)
        monkeypatch.setattr(kept_rows, "TemporaryFile", lambda dir: open("/dev/full", "wb"))
    with pytest.raises((OSError, OutputError), match="No space left on device"):
        normalise(bold, mask, FRAMES["hcp"], Series(19, 2.0, 2, 0.8), matrix)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's /proc")
def test_memory_does_not_grow_with_the_run(tmp_path):
    """160 volumes need hardly more peak memory than 32: a few blocks that a thread reads ahead."""
    code = (
        "import re, sys; from swift_bids.steps import kept_rows, normalise as n; "
        "from swift_bids.geometry.frames import FRAMES; "
        "from swift_bids.geometry.resample_time import Series; "
        "kept_rows.MAX_BYTES_IN_MEMORY = 0; bold, mask, out, volumes = sys.argv[1:]; "
        "n.normalise(bold, mask, FRAMES['ukb'], Series(int(volumes), 0.8, 0, 0.8), out); "
        "print(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1])"
    )
    peaks = []
    for volumes in (32, 160):
        still = np.arange(np.prod(FSL_SHAPE), dtype=np.int16).reshape(*FSL_SHAPE, 1) % 99
        data = still + np.arange(1, volumes + 1, dtype=np.int16)
        bold, mask = files(tmp_path / str(volumes), data)
        call = [sys.executable, "-c", code, bold, mask, tmp_path / "m.npy", str(volumes)]
        done = subprocess.run(call, capture_output=True, text=True, check=True)
        peaks.append(int(done.stdout))
    more = (160 - 32) * np.prod(FSL_SHAPE) * 4 / 1024  # kB that the additional volumes would take
    assert peaks[1] - peaks[0] < more / 8
    assert peaks[0] < 400_000


def test_zeros_and_nans_count_as_background(tmp_path, noise):
    data = noise.copy()
    data[45, 54, 45, 3], data[46, 54, 45, 4], data[46, 54, 45, 5] = 0, np.nan, np.inf
    data[45, 54, 45, 0] = 0  # a dummy scan, not counted
    bold, mask = files(tmp_path, data)
    done = normalise(bold, mask, FRAMES["ukb"], native(19, 1), tmp_path / "m.npy")
    assert (done.n_zero, done.n_nonfinite) == (1, 2)
    brain = nib.load(mask).get_fdata() > 0
    values = data[brain][:, 1:]
    values = values[np.isfinite(values) & (values != 0)].astype(np.float64)
    assert done.mean == pytest.approx(values.mean(), rel=1e-12)
    matrix = np.load(tmp_path / "m.npy")
    assert np.isfinite(matrix).all()
    column = column_of(brain, (45, 54, 45))
    assert matrix[2, column] == done.background
    assert matrix[1, column] != done.background


def test_statistics_are_computed_after_interpolation_in_time(tmp_path, noise):
    bold, mask = files(tmp_path, noise)
    series = Series(19, 2.0, 1, 0.8)
    done = normalise(bold, mask, FRAMES["ukb"], series, tmp_path / "m.npy")
    voxels = brain_voxels(nib.load(mask).get_fdata(), FSL_AFFINE, FRAMES["ukb"]).fsl_index
    rows = noise.reshape(-1, 19)[voxels].T[1:].astype(np.float64)
    place = np.arange(series.length) * 0.4
    low = np.minimum(place.astype(int), 16)
    values = rows[low] + (place - low)[:, None] * (rows[low + 1] - rows[low])
    assert series.length == 43
    assert done.mean == pytest.approx(values.mean(), rel=1e-7)
    assert done.std == pytest.approx(values.std(ddof=1), rel=1e-6)
    as_recorded = np.median(rows.mean(0) / rows.std(0, ddof=1))  # interpolation reduces noise
    assert done.tsnr == pytest.approx(as_recorded, rel=1e-7)
    expected = (values - done.mean) / done.std
    np.testing.assert_allclose(np.load(tmp_path / "m.npy"), expected, rtol=1e-3, atol=1e-3)


@pytest.fixture(scope="module")
def run_hcp(recipe):
    """Case, data, mask and affine of the run in parity/run_hcp."""
    case, _, _ = recipe.load_run_case("run_hcp")
    return case, *recipe.make_bold(case["n_volumes"], case["seed"])


def _stored(folder, run_hcp, axes, name, kind):
    """Write that run with another axis order, file type and data type."""
    _, data, mask, affine = run_hcp
    turn = ornt_transform(io_orientation(affine), axcodes2ornt(tuple(axes)))
    data = 2 * data if kind == "scaled" else data.astype(kind)
    images = [nib.Nifti1Image(x, affine).as_reoriented(turn) for x in (data, mask)]
    assert "".join(nib.aff2axcodes(images[0].affine)) == axes
    paths = folder / name, folder / "mask.nii.gz"
    for image, path in zip(images, paths):
        image.to_filename(path)
    if kind == "scaled":  # scl_slope and scl_inter of the header
        content = bytearray(paths[0].read_bytes())
        content[112:120] = np.array([0.5, 0.0], np.float32).tobytes()
        paths[0].write_bytes(content)
        assert nib.load(paths[0]).dataobj.slope == 0.5
    return paths


@pytest.fixture(scope="module")
def reference_input(run_hcp, tmp_path_factory):
    """Matrix, index and statistics of the unchanged run in parity/run_hcp.

    test_workflow compares them with those of the original.
    """
    folder = tmp_path_factory.mktemp("las")
    paths = _stored(folder, run_hcp, "LAS", "bold.nii.gz", "int16")
    case = run_hcp[0]
    done = normalise(*paths, FRAMES["hcp"], native(case["n_volumes"]), folder / "m.npy")
    assert done.mean == pytest.approx(case["global_mean"], rel=1e-12)
    assert done.background == case["background"]
    crop(paths[1], FRAMES["hcp"], folder / "i.npy")
    return (folder / "m.npy").read_bytes(), np.load(folder / "i.npy"), done


@pytest.mark.parametrize(
    ("axes", "name", "kind"),
    [
        ("RAS", "bold.nii.gz", "int16"),
        ("LPI", "bold.nii", "int16"),
        ("PIR", "bold.nii.gz", "float32"),
        ("LAS", "bold.nii", "scaled"),
        ("RAS", "bold.nii", "float64"),
        ("LAS", "bold.nii.gz", ">i2"),
    ],
)
def test_storage_does_not_change_the_result(tmp_path, run_hcp, reference_input, axes, name, kind):
    paths = _stored(tmp_path, run_hcp, axes, name, kind)
    matrix, index, expected = reference_input
    series = native(expected.n_volumes)
    done = normalise(*paths, FRAMES["hcp"], series, tmp_path / "m.npy")
    crop(paths[1], FRAMES["hcp"], tmp_path / "i.npy")
    for name, value in asdict(expected).items():  # different blocks are summed in a different order
        assert getattr(done, name) == (
            value if isinstance(value, str) else pytest.approx(value, 1e-12)
        )
    assert (tmp_path / "m.npy").read_bytes() == matrix
    np.testing.assert_array_equal(np.load(tmp_path / "i.npy"), index)


def test_slope_and_intercept_are_applied(tmp_path, noise):
    """int16 with a slope and an intercept that float32 cannot represent exactly."""
    stored = np.round(noise).astype(np.int16)
    _, mask = files(tmp_path, stored)
    image = nib.Nifti1Image(stored, FSL_AFFINE)
    image.to_filename(tmp_path / "scaled.nii")
    with open(tmp_path / "scaled.nii", "r+b") as file:
        file.seek(112)
        file.write(np.array([0.1, -3.3], np.float32).tobytes())
    done = normalise(tmp_path / "scaled.nii", mask, FRAMES["ukb"], native(19), tmp_path / "m.npy")
    expected = nib.load(tmp_path / "scaled.nii").get_fdata()[nib.load(mask).get_fdata() > 0]
    assert done.mean == pytest.approx(expected.mean(), rel=1e-7)
    assert done.std == pytest.approx(expected.std(ddof=1), rel=1e-6)
    assert done.n_zero == 0  # no value is 0 after scaling


def test_a_run_on_another_grid_is_resampled(tmp_path):
    """Values that are linear in space on a 4 mm grid stay the same on the 2 mm grid."""
    affine = np.diag([4.0, 4, 4, 1])
    affine[:3, 3] = [-88, -124, -70]
    x = -88 + 4 * np.arange(45)
    data = np.broadcast_to((1000 + x)[:, None, None, None], (45, 54, 45, 20)).astype(np.int16)
    data = data + np.arange(20, dtype=np.int16) % 2
    bold, mask = files(tmp_path, data, affine, (45, 54, 45))
    with pytest.raises(TypeError, match="needs points"):
        normalise(bold, mask, FRAMES["ukb"], native(20), tmp_path / "m.npy")
    image, points = locate_warped(bold, functional_mask(mask), GridWarp(), FRAMES["ukb"])
    image.to_filename(tmp_path / "located.nii")
    done = normalise(
        bold,
        tmp_path / "located.nii",
        FRAMES["ukb"],
        native(20),
        tmp_path / "m.npy",
        points=points,
    )
    assert done.interpolated
    voxels = brain_voxels(image.get_fdata(), image.affine, FRAMES["ukb"]).fsl_index
    left = np.unravel_index(voxels, FSL_SHAPE)[0]
    expected = (1000 + 90 - 2 * left - done.mean) / done.std
    np.testing.assert_allclose(np.load(tmp_path / "m.npy")[0], expected, atol=2e-3)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda b: b.write_bytes(b.read_bytes()[:-2000]), "damaged or incomplete"),
        (lambda b: b.write_bytes(b.read_bytes()[:2000] + b"x" * 500), "damaged or incomplete"),
        (lambda b: b.write_bytes(b""), "damaged or incomplete"),
        (lambda b: b.write_bytes(gzip.compress(b"no image" * 100)), "damaged or incomplete"),
        (lambda b: b.unlink(), "No such file or directory"),
    ],
)
def test_the_error_names_a_damaged_file(tmp_path, damage, message):
    bold, mask = files(tmp_path, None)
    damage(bold)
    with pytest.raises(InputError, match=message) as caught:
        normalise(bold, mask, FRAMES["ukb"], native(22), tmp_path / "m.npy")
    assert str(bold) in str(caught.value)


def test_data_that_do_not_vary_in_time_are_refused(tmp_path):
    still = np.random.default_rng(0).integers(1, 99, (*FSL_SHAPE, 1)).astype(np.int16)
    bold, mask = files(tmp_path, np.repeat(still, 3, axis=3))
    with pytest.raises(InputError, match="do not vary"):
        normalise(bold, mask, FRAMES["ukb"], native(3), tmp_path / "m.npy")
    bold, mask = files(tmp_path, np.zeros((*FSL_SHAPE, 2), np.int16))
    with pytest.raises(InputError, match="do not vary"):
        normalise(bold, mask, FRAMES["ukb"], native(2), tmp_path / "m.npy")


def test_a_series_of_another_length_is_refused(tmp_path, noise):
    bold, mask = files(tmp_path, noise)
    with pytest.raises(InputError, match="has 19 volumes, but 20 were expected"):
        normalise(bold, mask, FRAMES["ukb"], native(20), tmp_path / "m.npy")


def test_nifti_2_and_a_mask_with_a_fourth_axis_are_accepted(tmp_path, noise):
    bold, mask = files(tmp_path, noise)
    expected = normalise(bold, mask, FRAMES["ukb"], native(19), tmp_path / "a.npy")
    nib.Nifti2Image(noise, FSL_AFFINE).to_filename(tmp_path / "two.nii.gz")
    brain = np.asarray(nib.load(mask).dataobj)[..., None]
    nib.Nifti1Image(brain, FSL_AFFINE).to_filename(tmp_path / "mask.nii.gz")
    two = (tmp_path / "two.nii.gz", tmp_path / "mask.nii.gz")
    assert normalise(*two, FRAMES["ukb"], native(19), tmp_path / "b.npy") == expected
    assert (tmp_path / "a.npy").read_bytes() == (tmp_path / "b.npy").read_bytes()


@pytest.mark.filterwarnings("error")
def test_numbers_beyond_float32_count_as_infinite(tmp_path, noise):
    data = noise.astype(np.float64)
    data[45, 54, 45, 3] = 1e300
    bold, mask = files(tmp_path, data)
    done = normalise(bold, mask, FRAMES["ukb"], native(19), tmp_path / "m.npy")
    assert done.n_nonfinite == 1


def test_complex_data_are_refused(tmp_path):
    bold, mask = files(tmp_path, np.ones((*FSL_SHAPE, 2), np.complex64))
    with pytest.raises(InputError, match="must be real numbers"):
        normalise(bold, mask, FRAMES["ukb"], native(2), tmp_path / "m.npy")


def test_a_mask_on_another_grid_is_refused(tmp_path, noise):
    bold, _ = files(tmp_path, noise)
    other = tmp_path / "mask.nii.gz"
    nib.Nifti1Image(np.ones((45, 54, 45), np.uint8), FSL_AFFINE).to_filename(other)
    with pytest.raises(InputError, match="not on the grid"):
        normalise(bold, other, FRAMES["ukb"], native(19), tmp_path / "m.npy")
    shifted = FSL_AFFINE.copy()
    shifted[0, 3] += 2
    nib.Nifti1Image(np.ones(FSL_SHAPE, np.uint8), shifted).to_filename(other)
    with pytest.raises(InputError, match="not on the grid"):
        normalise(bold, other, FRAMES["ukb"], native(19), tmp_path / "m.npy")
