"""Which voxels decide the statistics of a run (--statistics)."""

import nibabel as nib
import numpy as np
import pytest
from app import run_app
from make_data import FSL_AFFINE, write_run

from swift_bids.base.errors import InputError
from swift_bids.geometry.frames import FRAMES, FSL_SHAPE
from swift_bids.geometry.grid import template_brain
from swift_bids.geometry.resample_time import Series
from swift_bids.steps.normalise import normalise
from swift_bids.steps.z_scores import core_voxels

N_VOLUMES = 3


@pytest.fixture(scope="module")
def bold(tmp_path_factory):
    """A run on the grid of the network whose values fall towards the edge of the brain."""
    rng = np.random.default_rng(0)
    data = 200 + 800 * template_brain() * rng.random(FSL_SHAPE)
    data = (data[..., None] * rng.uniform(0.9, 1.1, N_VOLUMES)).astype(np.float32)
    file = tmp_path_factory.mktemp("bold") / "bold.nii"
    nib.Nifti1Image(data, FSL_AFFINE).to_filename(file)
    return file


def normalised(bold, brain, folder, statistics):
    mask = folder / "mask.nii"
    nib.Nifti1Image(brain.astype(np.uint8), FSL_AFFINE).to_filename(mask)
    series, matrix = Series(N_VOLUMES, 0.8, 0, 0.8), folder / "matrix.npy"
    done = normalise(bold, mask, FRAMES["ukb"], series, matrix, statistics=statistics)
    return done, np.load(matrix)


def test_the_core_is_8_mm_inside_the_template():
    core, template = core_voxels().reshape(FSL_SHAPE), template_brain()
    assert core.sum() == 153_722
    places = np.argwhere(core)
    for axis in range(3):
        for step in (-4, 4):
            moved = places.copy()
            moved[:, axis] += step
            assert template[tuple(moved.T)].all()


def test_the_core_decides_whatever_the_mask(bold, tmp_path):
    values = np.asarray(nib.load(bold).dataobj)[core_voxels().reshape(FSL_SHAPE)]
    template = template_brain()
    larger = template | np.roll(template, 2, axis=2)
    done, z = normalised(bold, template, tmp_path, "core")
    assert done.mean == pytest.approx(0.96 * values.mean(), rel=1e-5)
    assert done.std == pytest.approx(1.13 * values.std(ddof=1), rel=1e-5)
    assert done.background == -4
    again, _ = normalised(bold, larger, tmp_path, "core")
    assert (again.mean, again.std, again.background) == (done.mean, done.std, done.background)
    assert again.intensity < done.intensity  # of all brain voxels
    inside = np.asarray(nib.load(bold).dataobj)[template_brain()]
    position = np.stack(np.nonzero(template_brain()))
    kept, _ = FRAMES["ukb"].place(position)
    expected = (inside[kept].T - done.mean) / done.std
    np.testing.assert_allclose(z, expected, atol=4e-3)
    in_training = [normalised(bold, brain, tmp_path, "mask")[0] for brain in (template, larger)]
    assert in_training[0].std != pytest.approx(in_training[1].std, rel=0.01)


def test_a_mask_outside_the_core(bold, tmp_path):
    brain = template_brain() & ~core_voxels().reshape(FSL_SHAPE)
    with pytest.raises(InputError, match=r"mask\.nii: contains no signal in the inner part"):
        normalised(bold, brain, tmp_path, "core")


def test_what_outputs_say(tmp_path):
    write_run(tmp_path / "in", "1")
    out = tmp_path / "out"
    call = (tmp_path / "in", out, "participant", "--random-weights", "--statistics", "core")
    done = run_app(*call, "--normalisation", "voxel+global")
    assert done.returncode == 2
    assert "--statistics core works only with --normalisation global" in done.stderr
    assert run_app(*call).returncode == 0
    page = (out / "sub-1.html").read_text()
    assert "derived from the inner part of the template&#39;s brain (--statistics core)" in page
    assert "derived from the voxels at least 8 mm inside the template" in page
    (qc,) = out.glob("sub-1/func/*_qc.json")
    assert '"Statistics": "core"' in qc.read_text()
