"""Parcels: their positions, their mean signals, and the denoising of these signals."""

import json

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from app import run_app
from make_data import FSL_AFFINE, write_derivative

from swift_bids.base.errors import InputError
from swift_bids.geometry.frames import FRAMES, FSL_SHAPE
from swift_bids.geometry.grid import template_brain
from swift_bids.group.baselines import connectivity
from swift_bids.outputs.parcels import find_parcels
from swift_bids.steps.parcels import ParcelMeans, cubes, denoise, read_atlas


@pytest.mark.parametrize(("frame", "count"), [("ukb", 128), ("hcp", 131)])
def test_cubes_cover_the_brain_and_do_not_cross_the_midline(frame, count):
    parcels = cubes(FRAMES[frame])
    assert len(parcels.names) == len(set(parcels.names)) == parcels.numbers.max() == count
    numbers = parcels.numbers.reshape(FSL_SHAPE)
    left = set(np.unique(numbers[45:])) - {0}  # x grows to the left, the midline is voxel 45
    right = set(np.unique(numbers[:45])) - {0}
    assert left.isdisjoint(right)
    brain = template_brain()
    assert (numbers[brain] > 0).mean() > 0.85
    # the cube of the voxel at MNI (-30, -20, 50)
    voxel = np.linalg.inv(FSL_AFFINE) @ [-30, -20, 50, 1]
    number = numbers[tuple(voxel[:3].round().astype(int))]
    centre = parcels.descriptions[number - 1].split("(")[1].split(")")[0]
    distance = np.abs(np.array(centre.split(","), float) - [-30, -20, 50])
    assert (distance <= 12).all()


def test_faulty_volumes_are_left_out_of_denoising():
    rng = np.random.default_rng(0)
    means = rng.normal(1000, 10, (40, 3))
    faulty = np.isin(np.arange(40), [7, 20])
    spoiled = means.copy()
    spoiled[7], spoiled[20] = np.nan, 3000
    table = pd.DataFrame({"trans_x": rng.standard_normal(40), "csf": rng.standard_normal(40)})
    found, used = denoise(spoiled, table, faulty)
    assert used == ["trans_x", "csf"]
    assert np.flatnonzero(np.isnan(found).all(axis=1)).tolist() == [7, 20]
    design = np.column_stack([np.ones(40), np.arange(40), table])[~faulty]
    good = means[~faulty]
    rest = good - design @ np.linalg.lstsq(design, good, rcond=None)[0]
    np.testing.assert_allclose(found[~faulty], rest / rest.std(axis=0), atol=1e-9)


def test_cubes_follow_the_grid_of_the_network_input():
    parcels = cubes(FRAMES["ukb"])
    voxel = np.array([50, 60, 40])
    model = voxel + FRAMES["ukb"].offset
    name = "x{}y{}z{}".format(*(model // 12))
    number = parcels.numbers.reshape(FSL_SHAPE)[tuple(voxel)]
    assert parcels.names[number - 1] == name


def test_means_match_numpy_and_ignore_missing_values():
    rng = np.random.default_rng(0)
    values = rng.normal(1000, 50, (7, 500)).astype(np.float32)
    numbers = rng.integers(0, 4, 500)
    values[2, numbers == 3] = np.nan
    values[4, :100] = np.nan
    means = ParcelMeans(numbers, 4)  # the fourth parcel has no voxel
    means.add(values[:3])
    means.add(values[3:])
    expected = np.full((7, 4), np.nan)
    for parcel in range(3):
        for volume in range(7):
            of_parcel = values[volume, numbers == parcel + 1].astype(np.float64)
            if not np.isnan(of_parcel).all():
                expected[volume, parcel] = np.nanmean(of_parcel)
    np.testing.assert_allclose(means.values, expected, rtol=1e-6)


def confounds_of(rng, n):
    table = pd.DataFrame(rng.standard_normal((n, 3)), columns=["trans_x", "csf", "cosine00"])
    table["trans_x_derivative1"] = table["trans_x"].diff()
    table["dvars"] = rng.standard_normal(n)
    return table


def test_denoise_removes_confounds_and_keeps_the_signal():
    rng = np.random.default_rng(0)
    n = 100
    table = confounds_of(rng, n)
    signal = np.sin(np.arange(n) / 5)
    means = np.stack(
        [
            1000 + 5 * signal + 30 * table["trans_x"] + np.linspace(0, 50, n),
            1000 + 5 * table["csf"] - 3 * table["cosine00"],  # confounds only
            np.full(n, 7.0),
            np.where(np.arange(n) == 3, np.nan, signal),
        ],
        axis=1,
    )
    denoised, used = denoise(means, table)
    assert used == ["trans_x", "csf", "cosine00", "trans_x_derivative1"]
    assert np.isnan(denoised[:, 1:]).all()
    assert denoised[:, 0].std() == pytest.approx(1)
    design = np.column_stack([np.ones(n), np.arange(n), table[used].fillna(0)])
    expected = signal - design @ np.linalg.lstsq(design, signal, rcond=None)[0]
    np.testing.assert_allclose(denoised[:, 0], expected / expected.std(), atol=1e-6)


def test_short_runs_use_few_regressors():
    rng = np.random.default_rng(0)
    table = confounds_of(rng, 8)
    _, used = denoise(rng.standard_normal((8, 2)), table)
    assert used == ["trans_x", "csf"]
    assert denoise(rng.standard_normal((8, 2)), None)[1] == []


def write_atlas(path, labels, table=None):
    nib.Nifti1Image(labels, FSL_AFFINE).to_filename(path)
    if table is not None:
        table_file = path.with_name(path.name.removesuffix(".nii.gz") + ".tsv")
        table_file.write_text(table)
    return path


def test_read_atlas_with_and_without_a_table(tmp_path):
    labels = np.zeros(FSL_SHAPE, np.int16)
    labels[20:40, 40:60, 40:60], labels[50:70, 40:60, 40:60] = 7, 12
    name = "tpl-MNI152NLin6Asym_atlas-Mine_res-02_dseg.nii.gz"
    file = write_atlas(tmp_path / name, labels, "index\tname\n7\tright\n12\tleft\n")
    parcels = read_atlas(file)
    assert (parcels.label, parcels.names) == ("Mine", ("right", "left"))
    assert np.bincount(parcels.numbers).tolist() == [labels.size - 16000, 8000, 8000]
    assert len(parcels.sha256) == 64
    (tmp_path / name.replace(".nii.gz", ".tsv")).unlink()
    assert read_atlas(file).names == ("7", "12")


def test_an_atlas_on_another_grid_is_resampled(tmp_path):
    affine = np.diag([3.0, 3, 3, 1])
    affine[:3, 3] = -90, -126, -72
    labels = np.zeros((61, 73, 61), np.int64)
    labels[:30], labels[31:] = 1, 2  # x grows to the right here
    file = tmp_path / "thirds.nii.gz"
    nib.Nifti1Image(labels, affine, dtype=np.int32).to_filename(file)
    numbers = read_atlas(file).numbers.reshape(FSL_SHAPE)
    assert set(np.unique(numbers[:40])) == {2}
    assert set(np.unique(numbers[50:])) == {1}


def test_tables_of_another_resolution_do_not_match(tmp_path):
    """`seg-*` used to match `seg-cubes24mm_res-2`, so embedding one run deleted another's table."""
    end = "desc-denoised_timeseries.tsv"
    other = tmp_path / f"sub-1_task-a_space-X_seg-cubes24mm_res-2_{end}"
    other.touch()
    assert find_parcels(tmp_path, "sub-1_task-a_space-X") is None
    own = tmp_path / f"sub-1_task-a_space-X_seg-cubes24mm_{end}"
    own.touch()
    assert find_parcels(tmp_path, "sub-1_task-a_space-X") == own
    assert find_parcels(tmp_path, "sub-1_task-a_space-X_res-2") == other


@pytest.mark.parametrize(
    ("labels", "table", "message"),
    [
        (np.ones(FSL_SHAPE, np.float32) * 0.5, None, "3D image of whole numbers"),
        (np.zeros(FSL_SHAPE, np.int16), None, "has 0 parcel"),
        (np.zeros((*FSL_SHAPE, 2), np.int16), None, "3D image of whole numbers"),
        (np.indices(FSL_SHAPE)[0].astype(np.int16), "index\tname\n1\ta\n", "a row for every"),
        (np.indices(FSL_SHAPE)[0].astype(np.int16) // 31, "index\tname\n1\ta\n2\ta\n", "same name"),
    ],
)
def test_read_atlas_refuses_wrong_labels_and_tables(tmp_path, labels, table, message):
    file = write_atlas(tmp_path / "a.nii.gz", labels, table)
    with pytest.raises(InputError, match=message) as error:
        read_atlas(file)
    assert str(tmp_path) in str(error.value)


def test_read_atlas_refuses_images_that_cannot_be_an_atlas(tmp_path):
    """Each of these files used to cause a traceback."""
    labels = np.zeros(FSL_SHAPE, [(c, "u1") for c in "RGB"])
    file = tmp_path / "rgb.nii.gz"
    nib.Nifti1Image(labels, FSL_AFFINE).to_filename(file)
    with pytest.raises(InputError, match="3D image of whole numbers"):
        read_atlas(file)
    image = nib.Nifti1Image(np.ones((5, 5, 5), np.int16), FSL_AFFINE)
    image.header["srow_x"] = 0
    image.header["qform_code"], image.header["sform_code"] = 0, 1
    raw = image.header.binaryblock + bytes(4) + bytes(250)
    (tmp_path / "singular.nii").write_bytes(raw)
    with pytest.raises(InputError, match="its affine is not valid"):
        read_atlas(tmp_path / "singular.nii")
    image.header["dim"][1:4] = 30000
    (tmp_path / "bomb.nii").write_bytes(image.header.binaryblock + bytes(254))
    with pytest.raises(InputError, match="which cannot be a brain image"):
        read_atlas(tmp_path / "bomb.nii")


def test_connectivity_is_fishers_z_of_the_correlation(tmp_path):
    rng = np.random.default_rng(0)
    series = rng.standard_normal((50, 3))
    series[:, 2] += series[:, 0]
    table = pd.DataFrame(series, columns=list("abc")).assign(d=np.nan)
    table.to_csv(tmp_path / "x.tsv", sep="\t", na_rep="n/a", index=False)
    edges, names = connectivity(tmp_path / "x.tsv")
    z = np.arctanh(np.corrcoef(series.T) - np.eye(3))
    assert names == list("abcd")
    expected = [z[0, 1], z[0, 2], np.nan, z[1, 2], np.nan, np.nan]
    np.testing.assert_allclose(edges, expected, rtol=1e-4)


def test_the_app_writes_time_series_of_cubes_or_of_an_atlas(tmp_path, small_bundle):
    """Only used volumes count, at the BOLD's TR; a second atlas replaces the first."""
    rng = np.random.default_rng(0)
    data = rng.integers(900, 1100, (*FSL_SHAPE, 24)).astype(np.int16)
    columns = "trans_x\tframewise_displacement\tnon_steady_state_outlier00\n"
    rows = "".join(f"{rng.standard_normal():.4f}\t0.1\t{int(t == 0)}\n" for t in range(24))
    bold = write_derivative(tmp_path / "in", "sub-1_task-a", data=data, confounds=columns + rows)
    call = (tmp_path / "in", tmp_path / "out", "participant", "--weights", small_bundle)
    assert run_app(*call).returncode == 0
    folder = tmp_path / "out" / "sub-1" / "func"
    name = "sub-1_task-a_space-MNI152NLin6Asym_res-2"
    file = find_parcels(folder, name)
    assert file.name == (
        "sub-1_task-a_space-MNI152NLin6Asym_seg-cubes24mm_res-2_desc-denoised_timeseries.tsv"
    )
    table = pd.read_csv(file, sep="\t", na_values="n/a")
    mask = np.asarray(nib.load(str(bold).replace("preproc_bold", "brain_mask")).dataobj) != 0
    parcels = cubes(FRAMES["ukb"])
    number = parcels.names.index("x3y4z3") + 1
    inside = mask & (parcels.numbers.reshape(FSL_SHAPE) == number)
    means = data[inside].mean(axis=0)[1:, None]
    confounds = pd.read_csv(
        tmp_path / "in/sub-1/func/sub-1_task-a_desc-confounds_timeseries.tsv", sep="\t"
    )
    expected, used = denoise(means, confounds.iloc[1:])
    assert used == ["trans_x"]
    np.testing.assert_allclose(table["x3y4z3"], expected[:, 0], atol=1e-3)
    about = json.loads(file.with_suffix(".json").read_text())
    assert about["Regressors"] == ["mean", "linear trend", "trans_x"]
    assert about["DummyScansRemoved"] == 1
    assert set(table.columns) < set(about)

    labels = np.zeros(FSL_SHAPE, np.int16)
    labels[30:45, 40:60, 40:60], labels[45:60, 40:60, 40:60] = 1, 2
    atlas = write_atlas(tmp_path / "halves.nii.gz", labels)
    assert run_app(*call, "--atlas", atlas).returncode == 0
    assert find_parcels(folder, name).name.split("_")[3] == "seg-halves"
    assert len(list(folder.glob("*_desc-denoised_timeseries.*"))) == 2
    wrong = run_app(*call, "--atlas", tmp_path / "absent.nii.gz")
    assert wrong.returncode == 2
    assert "absent.nii.gz: the atlas cannot be read" in wrong.stderr
