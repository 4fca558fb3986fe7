"""Parcels: their positions, their mean signals, and the denoising of these signals."""

import json

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from app import run_app
from make_data import FSL_AFFINE, write_derivative
from nilearn.interfaces.fmriprep import load_confounds_strategy
from sklearn.covariance import LedoitWolf

from swift_bids.base.errors import InputError
from swift_bids.geometry.frames import FSL_SHAPE
from swift_bids.geometry.grid import template_brain
from swift_bids.group.connectivity import covariance
from swift_bids.inputs.parcel_defaults import SHIPPED_ATLAS, STRATEGIES
from swift_bids.outputs.parcels import find_parcels
from swift_bids.steps.denoise import denoise, lacking, used_confounds
from swift_bids.steps.parcels import ParcelMeans, read_atlas


def test_the_shipped_atlas_is_schaefers(tmp_path):
    """Centres of parcels as published with the atlas (CBIG), to 3 mm."""
    parcels = read_atlas(SHIPPED_ATLAS)
    assert parcels.label == "Schaefer2018200Parcels7Networks"
    assert len(parcels.names) == len(set(parcels.names)) == 200
    numbers = parcels.numbers.reshape(FSL_SHAPE)
    for name, centre in (
        ("LH_Vis_1", (-24, -54, -10)),
        ("LH_SomMot_9", (-48, -28, 56)),
        ("LH_Default_PHC_1", (-26, -32, -18)),
        ("RH_Vis_1", (38, -34, -24)),
        ("RH_Cont_Par_2", (52, -42, 48)),
        ("RH_Default_pCunPCC_3", (6, -58, 44)),
    ):
        voxels = np.argwhere(numbers == parcels.names.index(name) + 1)
        found = nib.affines.apply_affine(FSL_AFFINE, voxels).mean(axis=0)
        np.testing.assert_allclose(found, centre, atol=3)
    assert (template_brain()[numbers > 0]).mean() > 0.95


def test_faulty_volumes_are_left_out_of_denoising():
    rng = np.random.default_rng(0)
    means = rng.normal(1000, 10, (40, 3))
    faulty = np.isin(np.arange(40), [7, 20])
    spoiled = means.copy()
    spoiled[7], spoiled[20] = np.nan, 3000
    table = pd.DataFrame({"trans_x": rng.standard_normal(40), "csf": rng.standard_normal(40)})
    denoised = denoise(spoiled, table, faulty)
    found = denoised.signals
    assert denoised.regressors == ["trans_x", "csf"]
    assert np.flatnonzero(np.isnan(found).all(axis=1)).tolist() == [7, 20]
    design = np.column_stack([np.ones(40), np.arange(40), table])[~faulty]
    good = means[~faulty]
    rest = good - design @ np.linalg.lstsq(design, good, rcond=None)[0]
    np.testing.assert_allclose(found[~faulty], rest / rest.std(axis=0), atol=1e-9)


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
    result = denoise(means, table)
    denoised, used = result.signals, result.regressors
    assert used == ["trans_x", "csf", "cosine00", "trans_x_derivative1"]
    assert np.isnan(denoised[:, 1:]).all()
    assert denoised[:, 0].std() == pytest.approx(1)
    design = np.column_stack([np.ones(n), np.arange(n), table[used].fillna(0)])
    expected = signal - design @ np.linalg.lstsq(design, signal, rcond=None)[0]
    np.testing.assert_allclose(denoised[:, 0], expected / expected.std(), atol=1e-6)


def test_short_runs_use_few_regressors():
    rng = np.random.default_rng(0)
    table = confounds_of(rng, 8)
    assert denoise(rng.standard_normal((8, 2)), table).regressors == ["trans_x", "csf"]
    assert denoise(rng.standard_normal((8, 2)), None).regressors == []


def fmriprep_confounds(folder, n=200):
    """Write a table with fMRIPrep's columns, its sidecar, and a BOLD file for nilearn."""
    rng = np.random.default_rng(1)
    names = [f"{kind}_{axis}" for kind in ("trans", "rot") for axis in "xyz"]
    names += ["csf", "white_matter", "global_signal"]
    derived = ("derivative1", "power2", "derivative1_power2")
    names += [f"{name}_{d}" for name in names for d in derived]
    names += [f"cosine{i:02d}" for i in range(3)] + [f"a_comp_cor_{i:02d}" for i in range(6)]
    table = pd.DataFrame(rng.standard_normal((n, len(names))), columns=names)
    table["framewise_displacement"] = np.where(rng.random(n) < 0.08, 0.9, 0.1)
    table["std_dvars"] = np.where(rng.random(n) < 0.05, 2.0, 1.0)
    stem = folder / "sub-1_task-rest"
    table.to_csv(f"{stem}_desc-confounds_timeseries.tsv", sep="\t", index=False, na_rep="n/a")
    about = {
        f"a_comp_cor_{i:02d}": {
            "Mask": "combined" if i < 3 else "CSF",
            "Retained": True,
            "Method": "aCompCor",
        }
        for i in range(6)
    }
    (folder / f"{stem.name}_desc-confounds_timeseries.json").write_text(json.dumps(about))
    bold = folder / f"{stem.name}_space-MNI152NLin6Asym_desc-preproc_bold.nii.gz"
    nib.Nifti1Image(np.zeros((2, 2, 2, n), np.int16), np.eye(4)).to_filename(bold)
    return table, bold


@pytest.mark.parametrize("strategy", [s for s in STRATEGIES if s != "none"])
def test_strategies_are_those_of_nilearn(tmp_path, strategy):
    table, bold = fmriprep_confounds(tmp_path)
    gsr = {"global_signal": "basic"} if strategy.endswith("+gsr") else {}
    kind = strategy.removesuffix("+gsr")
    expected, sample = load_confounds_strategy(str(bold), denoise_strategy=kind, **gsr)
    file = str(bold).replace("space-MNI152NLin6Asym_desc-preproc_bold.nii.gz", "")
    confounds = used_confounds(table, f"{file}desc-confounds_timeseries.tsv", strategy)
    means = np.random.default_rng(0).standard_normal((len(table), 4))
    found = denoise(means, confounds, strategy=strategy)
    assert set(found.regressors) == set(expected.columns)
    kept = np.arange(len(table)) if sample is None else sample
    assert np.flatnonzero(~found.scrubbed).tolist() == list(kept)
    design = np.column_stack([np.ones(len(table)), np.arange(len(table)), expected])[kept]
    rest = means[kept] - design @ np.linalg.lstsq(design, means[kept], rcond=None)[0]
    np.testing.assert_allclose(found.signals[kept], rest / rest.std(axis=0), atol=1e-6)
    assert np.isnan(np.delete(found.signals, kept, axis=0)).all()


@pytest.mark.parametrize("content", ["{", "[1]", '{"a_comp_cor_00": "combined"}'])
def test_a_damaged_sidecar_matters_only_for_compcor(tmp_path, content):
    table, _ = fmriprep_confounds(tmp_path)
    file = tmp_path / "sub-1_task-rest_desc-confounds_timeseries.tsv"
    file.with_suffix(".json").write_text(content)
    assert used_confounds(table, file, "simple") is table
    with pytest.raises(InputError, match=r"timeseries.json: cannot be read as the description"):
        used_confounds(table, file, "compcor")


def test_as_many_components_are_used_as_a_run_is_long_enough_for(tmp_path):
    """With many components, none used to be regressed out, nor the cosines."""
    rng = np.random.default_rng(0)
    names = [f"{kind}_{axis}" for kind in ("trans", "rot") for axis in "xyz"]
    names += [f"a_comp_cor_{i:02d}" for i in range(70)] + ["cosine00", "trans_x_derivative1"]
    table = pd.DataFrame(rng.standard_normal((120, len(names))), columns=names)
    found = denoise(rng.standard_normal((120, 4)), table, None, "compcor")
    assert found.regressors == [*names[:6], "cosine00", *names[6:39]]
    assert found.omitted == [*names[39:76], "trans_x_derivative1"]


def test_the_strategy_none_removes_only_the_trend(tmp_path):
    table, _ = fmriprep_confounds(tmp_path)
    found = denoise(np.random.default_rng(0).standard_normal((len(table), 4)), table, None, "none")
    assert found.regressors == []


def test_a_run_that_moves_all_the_time_has_no_signals():
    table = pd.DataFrame({"framewise_displacement": np.full(40, 2.0)})
    found = denoise(np.random.default_rng(0).standard_normal((40, 3)), table, None, "scrubbing")
    assert found.scrubbed.all()
    assert np.isnan(found.signals).all()


@pytest.mark.parametrize(
    ("strategy", "column"),
    [
        ("simple", None),
        ("none", None),
        ("compcor", "a_comp_cor_00"),
        ("scrubbing", "framewise_displacement"),
        ("simple+gsr", "global_signal"),
    ],
)
def test_a_strategy_names_the_column_that_it_lacks(strategy, column):
    assert lacking(["trans_x", "csf"], strategy) == column


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
    other = tmp_path / f"sub-1_task-a_space-X_seg-Schaefer2018200Parcels7Networks_res-2_{end}"
    other.touch()
    assert find_parcels(tmp_path, "sub-1_task-a_space-X") is None
    own = tmp_path / f"sub-1_task-a_space-X_seg-Schaefer2018200Parcels7Networks_{end}"
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


def test_the_covariance_of_a_run_is_shrunk_and_lacks_parcels_without_signal(tmp_path):
    rng = np.random.default_rng(0)
    series = rng.standard_normal((50, 3))
    series[:, 2] += series[:, 0]
    table = pd.DataFrame(series, columns=list("abc")).assign(d=np.nan)
    table.to_csv(tmp_path / "x.tsv", sep="\t", na_rep="n/a", index=False)
    matrix, names = covariance(tmp_path / "x.tsv")
    assert names == list("abcd")
    np.testing.assert_allclose(matrix[:3, :3], LedoitWolf().fit(series).covariance_, rtol=1e-5)
    assert np.isnan(matrix[3]).all()
    assert np.isnan(matrix[:, 3]).all()


def test_the_app_writes_time_series_of_the_shipped_or_another_atlas(tmp_path, small_bundle):
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
        "sub-1_task-a_space-MNI152NLin6Asym_seg-Schaefer2018200Parcels7Networks_res-2_"
        "desc-denoised_timeseries.tsv"
    )
    table = pd.read_csv(file, sep="\t", na_values="n/a")
    mask = np.asarray(nib.load(str(bold).replace("preproc_bold", "brain_mask")).dataobj) != 0
    parcels = read_atlas(SHIPPED_ATLAS)
    number = parcels.names.index("LH_SomMot_9") + 1
    inside = mask & (parcels.numbers.reshape(FSL_SHAPE) == number)
    means = data[inside].mean(axis=0)[1:, None]
    confounds = pd.read_csv(
        tmp_path / "in/sub-1/func/sub-1_task-a_desc-confounds_timeseries.tsv", sep="\t"
    )
    expected = denoise(means, confounds.iloc[1:])
    assert expected.regressors == ["trans_x"]
    np.testing.assert_allclose(table["LH_SomMot_9"], expected.signals[:, 0], atol=1e-3)
    about = json.loads(file.with_suffix(".json").read_text())
    assert about["Regressors"] == ["mean", "linear trend", "trans_x"]
    assert about["DummyScansRemoved"] == 1
    assert about["ConfoundsStrategy"] == "simple"
    other = run_app(*call, "--confounds-strategy", "compcor")
    assert other.returncode == 1
    assert (
        "confounds_timeseries.tsv lacks the column a_comp_cor_00, which --confounds-strategy "
        "compcor needs; choose another strategy"
    ) in other.stdout
    confounds_file = tmp_path / "in/sub-1/func/sub-1_task-a_desc-confounds_timeseries.tsv"
    good = confounds_file.read_text()
    confounds_file.write_text(good.replace("\t", ","))
    commas = run_app(*call, "--confounds-strategy", "scrubbing", "--dummy-scans", "1")
    assert commas.returncode == 1
    assert "its columns are not separated by tabs" in commas.stdout
    confounds_file.write_text(good)
    again = run_app(*call, "--confounds-strategy", "none")
    assert "another confounds strategy" in again.stdout
    assert json.loads(file.with_suffix(".json").read_text())["Regressors"] == [
        "mean",
        "linear trend",
    ]
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
