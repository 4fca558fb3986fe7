"""swift-bids sensitivity, against runs of the app with the changed settings."""

import json
import shutil

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from app import run_app
from make_data import AFFINE, SHAPE, file_of, write_run
from safetensors.numpy import load_file

from swift_bids.sensitivity.changes import distance, pooled
from swift_bids.sensitivity.read import smoothed
from swift_bids.sensitivity.yardstick import BETWEEN, yardstick

NAME = "sub-1_task-a_space-MNI152NLin6Asym"


def write_brain(root, label, n_volumes, seed):
    """A run whose intensity falls towards the edge, on the grid of 8 mm."""
    rng = np.random.default_rng(seed)
    points = nib.affines.apply_affine(AFFINE, np.moveaxis(np.indices(SHAPE), 0, -1))
    radius = np.linalg.norm((points - [0, -18, 10]) / [68, 86, 62], axis=-1)
    still = 1000 / (1 + np.exp(12 * (radius - 1))) * (1 + 0.2 * rng.random(SHAPE))
    data = still[..., None] * (1 + 0.02 * rng.standard_normal((*SHAPE, n_volumes)))
    bold = write_run(root, label, n_volumes, data=(data + 5).astype(np.float32), affine=AFFINE)
    mask = nib.Nifti1Image((radius < 1).astype(np.uint8), AFFINE)
    mask.to_filename(file_of(bold, "mask"))


@pytest.fixture(scope="module")
def measured(made_once):
    folder = made_once("sensitivity", _measure)
    (file,) = folder.glob("out/sub-1/func/*_desc-swift_sensitivity.tsv")
    return folder, pd.read_csv(file, sep="\t", na_values="n/a")


def _measure(folder):
    write_brain(folder / "in", "1", 45, seed=0)
    write_brain(folder / "in", "2", 25, seed=1)
    flags = {
        "out": (),
        "template": ("--mask", "template"),
        "linear": ("--interpolation", "linear"),
        "core": ("--statistics", "core"),
        "template_core": ("--mask", "template", "--statistics", "core"),
    }
    for name, changed in flags.items():
        call = (folder / "in", folder / name, "participant", "--random-weights")
        some = () if name == "out" else ("--participant-label", "1")
        assert run_app(*call, *changed, *some).returncode == 0
    done = run_app("sensitivity", folder / "in", folder / "out", "sub-1_task-a", "--random-weights")
    assert done.returncode == 0, done.stdout + done.stderr
    (folder / "log").write_text(done.stdout)


def tokens_of(folder, name, label="1"):
    (file,) = folder.glob(f"{name}/sub-{label}/func/*_tokens.safetensors")
    return load_file(file)["tokens"]


@pytest.mark.parametrize(
    ("change", "statistics", "changed", "base"),
    [
        ("template mask", "mask", "template", "out"),
        ("linear instead of cubic interpolation", "mask", "linear", "out"),
        ("template mask", "core", "template_core", "core"),
    ],
)
def test_distances_are_those_between_outputs_of_the_app(
    measured, change, statistics, changed, base
):
    folder, table = measured
    row = table[(table["change"] == change) & (table["statistics"] == statistics)]
    (row,) = row[row["effect"] == "all"].to_dict("records")
    before, after = tokens_of(folder, base), tokens_of(folder, changed)
    # The app's statistics are those of all 45 volumes, the command's those of the two chunks.
    assert row["tokens"] == pytest.approx(distance(after, before), rel=0.02)
    assert row["embedding"] == pytest.approx(distance(pooled(after), pooled(before)), rel=0.02)
    assert row["tokens"] > 0.01


def test_the_effect_of_a_mask_is_divided_into_parts(measured):
    _, table = measured
    for change in ("mask eroded by one voxel", "mask dilated by one voxel"):
        of_change = table[table["change"] == change].set_index(["effect", "statistics"])["tokens"]
        assert set(of_change.index) == {
            ("all", "mask"),
            ("all", "core"),
            ("statistics and background", "mask"),
            ("background", "mask"),
            ("voxels", "mask"),
        }
        assert of_change["voxels", "mask"] < of_change["all", "mask"]
        assert 0 < of_change["background", "mask"]


def test_distances_between_participants_stand_beside(measured):
    folder, table = measured
    (row,) = table[table["change"] == "a run of another participant"].to_dict("records")
    of_other = tokens_of(folder, "out", "2")  # one chunk
    expected = distance(tokens_of(folder, "out")[:1], of_other)
    assert row["tokens"] == pytest.approx(expected)
    log = (folder / "log").read_text()
    assert f"a run of another participant             tokens {100 * expected:6.2f} %" in log
    assert "another run of the participant" not in log


def test_what_the_files_say(measured):
    folder, table = measured
    (file,) = folder.glob("out/sub-1/func/*_desc-swift_sensitivity.json")
    about = json.loads(file.read_text())
    assert about["Chunks"] == 2
    assert about["Model"]["RandomWeights"] is True
    assert about["Preprocessing"]["Frame"] == "ukb"
    assert set(table) <= set(about)
    figure = folder / f"out/sub-1/figures/{NAME}_desc-sensitivity_bold.png"
    assert figure.read_bytes().startswith(b"\x89PNG")


def test_changes_that_a_run_allows(measured):
    _, table = measured
    assert list(dict.fromkeys(table["change"])) == [
        "mask eroded by two voxels",
        "mask eroded by one voxel",
        "mask dilated by one voxel",
        "template mask",
        "mask carried by nearest neighbour",
        "linear instead of cubic interpolation",
        "moved by one voxel",
        "smoothed, 4 mm FWHM",
        "a run of another participant",
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("sub-3",), "sub-3: "),
        (("sub-1_task-b",), f"is not the name of one run; choose from {NAME}"),
        (("sub-1", "--normalisation", "voxel+global"), "works only with --normalisation global"),
        (("sub-1", "--dry-run", "--tail=pad"), "--dry-run, --tail has no effect here"),
        (("sub-1", "--robust-normalisation"), "--robust-normalisation has no effect here"),
        (("sub-3_task-a",), "sub-3: "),
    ],
)
def test_wrong_calls(measured, tmp_path, arguments, message):
    folder, _ = measured
    done = run_app("sensitivity", folder / "in", tmp_path / "out", *arguments, "--random-weights")
    assert done.returncode == 2
    assert message in done.stderr
    assert not (tmp_path / "out").exists()


def test_damaged_files_get_one_sentence(measured, tmp_path):
    folder, _ = measured
    root = shutil.copytree(folder / "in", tmp_path / "in")
    (bold,) = root.glob("sub-1/func/*_bold.nii.gz")
    bold.write_bytes(bold.read_bytes()[:-2000])
    done = run_app("sensitivity", root, tmp_path / "out", "sub-1", "--random-weights")
    assert done.returncode == 1
    assert f"swift-bids: error: {bold}: cannot be read" in done.stderr
    assert "Traceback" not in done.stderr


def test_only_runs_of_the_same_kind_are_the_yardstick(measured, tmp_path):
    """Neither another mask, nor the same run in another space; damaged tokens are left out."""
    folder, _ = measured
    out = tmp_path / "out"
    for name in ("out", "template"):
        shutil.copytree(folder / name, out, dirs_exist_ok=True)
    like = {"mask": "functional", "frame": "ukb"}
    shutil.copytree(folder / "out", out, dirs_exist_ok=True)
    assert list(yardstick(out, like, 2)["change"]) == [BETWEEN]
    assert yardstick(out, like | {"mask": "template"}, 2).empty
    for file in out.glob("sub-1/func/*_desc-swift_*"):
        shutil.copy(file, file.with_name(file.name.replace("6Asym", "2009cAsym")))
    (row,) = yardstick(out, like, 2).to_dict("records")
    assert row["change"] == BETWEEN
    for file in out.glob("sub-2/func/*_tokens.safetensors"):
        file.write_bytes(b"damaged")
    (row,) = yardstick(out, like, 2).to_dict("records")
    assert np.isnan(row["tokens"])
    assert row["embedding"] > 0


def test_the_help(capsys):
    done = run_app("sensitivity", "--help")
    assert done.returncode == 0
    assert "swift-bids sensitivity bids_dir output_dir run [flags]" in done.stdout
    assert run_app("sensitivity", "a", "--weights", "w").returncode == 2


def test_smoothing_has_the_width_it_says():
    """A point spreads to half of its height at half of the width."""
    index = np.arange(91 * 109 * 91)
    volume = np.zeros((1, 91, 109, 91), dtype=np.float32)
    volume[0, 45, 54, 45] = 1
    after = smoothed(volume.reshape(1, -1), index, fwhm=8).reshape(91, 109, 91)
    assert after[47, 54, 45] == pytest.approx(after[45, 54, 45] / 2, rel=0.01)
    assert after.sum() == pytest.approx(1, abs=1e-4)
