"""z-scores, background and statistics of a run, and what is refused."""

import gzip

import nibabel as nib
import numpy as np
import pytest
from conftest import FSL_AFFINE, write_derivative

from swift_bids.errors import InputError
from swift_bids.grid import FRAMES, FSL_SHAPE, brain_voxels
from swift_bids.normalise import RunningMoments, normalise


def files(tmp_path, data, affine=FSL_AFFINE, shape=FSL_SHAPE):
    bold = write_derivative(tmp_path, "sub-1_task-a", data=data, affine=affine, shape=shape)
    return bold, str(bold).replace("preproc_bold", "brain_mask")


@pytest.fixture(scope="module")
def noise():
    """(X, Y, Z, volume) float32 with offset 500."""
    rng = np.random.default_rng(5)
    return (500 + 30 * rng.standard_normal((*FSL_SHAPE, 19))).astype(np.float32)


def test_moments_of_blocks_equal_those_of_the_whole():
    values = 1e6 + np.random.default_rng(0).standard_normal(10_000)
    moments = RunningMoments()
    for block in np.split(values, [1, 17, 17, 5000]):
        moments.add(block)
    assert moments.mean == pytest.approx(values.mean(), rel=1e-14)
    assert moments.std == pytest.approx(values.std(ddof=1), rel=1e-9)
    assert moments.minimum == values.min()


def test_z_scores(tmp_path, noise):
    bold, mask = files(tmp_path, noise)
    done = normalise(bold, mask, FRAMES["ukb"], tmp_path / "m.npy", first_volume=2)
    brain = nib.load(mask).get_fdata() > 0
    used = noise[brain][:, 2:].astype(np.float64)
    assert done.mean == pytest.approx(used.mean(), rel=1e-12)
    assert done.std == pytest.approx(used.std(ddof=1), rel=1e-12)
    assert done.background == np.float16((used.min() - used.mean()) / used.std(ddof=1))
    assert (done.n_volumes, done.n_zero, done.n_nonfinite) == (19, 0, 0)
    assert not done.interpolated
    matrix = np.load(tmp_path / "m.npy")
    assert matrix.dtype == np.float16
    voxels = brain_voxels(brain, FSL_AFFINE, FRAMES["ukb"]).fsl
    expected = (noise.reshape(-1, 19)[voxels].T - done.mean) / done.std
    np.testing.assert_allclose(matrix, expected, rtol=1e-3, atol=1e-3)


def test_zeros_and_nans_count_as_background(tmp_path, noise):
    data = noise.copy()
    data[45, 54, 45, 3], data[46, 54, 45, 4], data[46, 54, 45, 5] = 0, np.nan, np.inf
    bold, mask = files(tmp_path, data)
    done = normalise(bold, mask, FRAMES["ukb"], tmp_path / "m.npy")
    assert (done.n_zero, done.n_nonfinite) == (1, 2)
    brain = nib.load(mask).get_fdata() > 0
    values = data[brain]
    values = values[np.isfinite(values) & (values != 0)].astype(np.float64)
    assert done.mean == pytest.approx(values.mean(), rel=1e-12)
    matrix = np.load(tmp_path / "m.npy")
    assert np.isfinite(matrix).all()
    column = np.flatnonzero(
        brain_voxels(brain, FSL_AFFINE, FRAMES["ukb"]).fsl
        == np.ravel_multi_index((45, 54, 45), FSL_SHAPE)
    )
    assert matrix[3, column] == done.background
    assert matrix[2, column] != done.background


def test_scaled_integers_and_storage_order_make_no_difference(tmp_path, noise):
    whole = np.round(noise)
    plain, mask = files(tmp_path / "a", whole)
    doubled = nib.as_closest_canonical(nib.Nifti1Image((2 * whole).astype(np.int16), FSL_AFFINE))
    folder = tmp_path / "b"
    folder.mkdir()
    doubled.to_filename(folder / "bold.nii")
    with open(folder / "bold.nii", "r+b") as file:  # scl_slope and scl_inter of the header
        file.seek(112)
        file.write(np.array([0.5, 0.0], np.float32).tobytes())
    nib.as_closest_canonical(nib.load(mask)).to_filename(folder / "mask.nii")
    normalise(plain, mask, FRAMES["hcp"], tmp_path / "a.npy")
    normalise(folder / "bold.nii", folder / "mask.nii", FRAMES["hcp"], tmp_path / "b.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), np.load(tmp_path / "b.npy"))


def test_another_grid_is_resampled(tmp_path):
    """A run on a 4 mm grid whose values are linear in space keeps them on the 2 mm grid."""
    affine = np.diag([4.0, 4, 4, 1])
    affine[:3, 3] = [-88, -124, -70]
    x = -88 + 4 * np.arange(45)
    data = np.broadcast_to((1000 + x)[:, None, None, None], (45, 54, 45, 20))
    bold, mask = files(tmp_path, data.astype(np.int16), affine, (45, 54, 45))
    done = normalise(bold, mask, FRAMES["ukb"], tmp_path / "m.npy")
    assert done.interpolated
    image = nib.load(mask)
    voxels = brain_voxels(image.get_fdata(), image.affine, FRAMES["ukb"]).fsl
    left = np.unravel_index(voxels, FSL_SHAPE)[0]
    expected = (1000 + 90 - 2 * left - done.mean) / done.std
    np.testing.assert_allclose(np.load(tmp_path / "m.npy")[0], expected, atol=2e-3)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda b: b.write_bytes(b.read_bytes()[:-2000]), "damaged or incomplete"),
        (lambda b: b.write_bytes(b.read_bytes()[:2000] + b"x" * 500), "damaged or incomplete"),
        (lambda b: b.write_bytes(b""), "damaged or incomplete"),
        (lambda b: b.write_bytes(gzip.compress(b"no image" * 100)), "damaged or incomplete"),
        (lambda b: b.unlink(), "damaged or incomplete"),
    ],
)
def test_damaged_files_get_a_sentence(tmp_path, damage, said):
    bold, mask = files(tmp_path, None)
    damage(bold)
    with pytest.raises(InputError, match=said) as caught:
        normalise(bold, mask, FRAMES["ukb"], tmp_path / "m.npy")
    assert str(bold) in str(caught.value)


def test_constant_data_are_refused(tmp_path):
    bold, mask = files(tmp_path, np.full((*FSL_SHAPE, 2), 7, np.int16))
    with pytest.raises(InputError, match="do not vary"):
        normalise(bold, mask, FRAMES["ukb"], tmp_path / "m.npy")


def test_mask_of_another_grid_is_refused(tmp_path, noise):
    bold, _ = files(tmp_path, noise)
    other = tmp_path / "mask.nii.gz"
    nib.Nifti1Image(np.ones((45, 54, 45), np.uint8), FSL_AFFINE).to_filename(other)
    with pytest.raises(InputError, match="not on the grid"):
        normalise(bold, other, FRAMES["ukb"], tmp_path / "m.npy")
    shifted = FSL_AFFINE.copy()
    shifted[0, 3] += 2
    nib.Nifti1Image(np.ones(FSL_SHAPE, np.uint8), shifted).to_filename(other)
    with pytest.raises(InputError, match="not on the grid"):
        normalise(bold, other, FRAMES["ukb"], tmp_path / "m.npy")
