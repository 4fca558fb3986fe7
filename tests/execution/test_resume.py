"""A second call embeds changed and damaged runs again, says why, and skips the others."""

import json
import os
import shutil

import nibabel as nib
import numpy as np
import pytest
from app import run_app
from containers import run_files
from make_data import file_of, write_run

NAME = "sub-{}_task-a_space-MNI152NLin6Asym"


@pytest.fixture(scope="module")
def folder(tmp_path_factory, small_bundle):
    """`in`: five runs, the last with two chunks; `plain`: their outputs."""
    folder = tmp_path_factory.mktemp("resume")
    for label in "1234":
        write_run(folder / "in", label)
    write_run(folder / "in", "5", n_volumes=44)
    done = run_app(*call(folder, small_bundle, "plain"))
    assert done.stdout.endswith("done: 5 run(s)\n"), done.stdout + done.stderr
    return folder


def call(folder, bundle, output):
    return (folder / "in", folder / output, "participant", "--weights", bundle)


def change_voxel(file):
    """Change one voxel of one volume."""
    image = nib.load(file)
    data = np.asarray(image.dataobj).copy()
    place = (11, 14, 11, 10)[: data.ndim]
    data[place] = 0 if data[place] == 1 else data[place] + 1
    nib.Nifti1Image(data, image.affine, image.header).to_filename(file)


def gone(pattern):
    return lambda bold, out: next(out.rglob(pattern)).unlink()


def written(pattern, content):
    return lambda bold, out: next(out.rglob(pattern)).write_text(content)


def cut(pattern):
    def change(bold, out):
        file = next(out.rglob(pattern))
        file.write_bytes(file.read_bytes()[:-99])

    return change


def edited(**content):
    def change(bold, out):
        file = next(out.rglob("*_embedding.json"))
        file.write_text(json.dumps(json.loads(file.read_text()) | content))

    return change


#: What happens to participants 1 to 5, and why they are embedded again.
ROUNDS = {
    "input": [
        (lambda bold, out: change_voxel(bold), "its input has changed (sub-1_task-a_space-MNI15"),
        (
            lambda bold, out: file_of(bold, "confounds").write_text("a\tb\n" + "1\t1\n" * 22),
            "its input has changed (sub-2_task-a_desc-confounds_timeseries.tsv)",
        ),
        (
            lambda bold, out: file_of(bold, "confounds").unlink(),
            "sub-3_task-a_desc-confounds_timeseries.tsv is no longer one of its inputs",
        ),
        (lambda bold, out: change_voxel(file_of(bold, "mask")), "_desc-brain_mask.nii.gz)"),
        (lambda bold, out: change_voxel(bold), "_desc-preproc_bold.nii.gz)"),
    ],
    "absent": [
        (gone("*_qc.json"), "sub-1_task-a_space-MNI152NLin6Asym_desc-swift_qc.json is missing"),
        (gone("*.safetensors"), "_desc-swift_tokens.safetensors is missing"),
        (gone("*_seg-*.tsv"), "_desc-denoised_timeseries.tsv is missing"),
        (gone("*_seg-*.json"), "_desc-denoised_timeseries.json is missing"),
        (gone("*_desc-input_bold.png"), "_desc-input_bold.png is missing"),
    ],
    "damaged": [
        (written("*_embedding.json", "{"), "_desc-swift_embedding.json cannot be read"),
        (written("*_embedding.json", "[" * 100_000), "_desc-swift_embedding.json cannot be read"),
        (edited(GeneratedBy=[1]), "another version (unknown)"),
        (edited(Files={}), "it has no tokens by position"),  # as of an earlier version
        (edited(Files=["x"]), "_desc-swift_embedding.json cannot be read"),
    ],
    "cut": [
        (cut("*_qc.json"), "_desc-swift_qc.json is damaged: it has "),
        (cut("*_embedding.tsv"), "_desc-swift_embedding.tsv is damaged: it has "),
        (cut("*.safetensors"), "_desc-swift_tokens.safetensors is damaged: it has "),
        (
            written("*_seg-*.tsv", ""),
            "_desc-denoised_timeseries.tsv is damaged: it has 0 byt",
        ),
        (cut("*_desc-input_bold.png"), "_desc-input_bold.png is damaged: it has "),
    ],
}


@pytest.mark.parametrize("kind", ROUNDS)
def test_changed_runs_are_embedded_again(folder, tmp_path, small_bundle, kind):
    for name in ("in", "plain"):
        shutil.copytree(folder / name, tmp_path / name)
    for label, (damage, _) in enumerate(ROUNDS[kind], 1):
        (bold,) = (tmp_path / "in").glob(f"sub-{label}/func/*_bold.nii.gz")
        damage(bold, tmp_path / "plain" / f"sub-{label}")
    done = run_app(*call(tmp_path, small_bundle, "plain"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    for label, (_, why) in enumerate(ROUNDS[kind], 1):
        (told,) = (s for s in done.stdout.splitlines() if s.startswith(f"{NAME.format(label)}: e"))
        assert why in told
    assert done.stdout.endswith("done: 5 run(s)\n")
    if kind != "input":
        assert run_files(tmp_path / "plain") == run_files(folder / "plain")
    page = tmp_path / "plain" / "sub-1.html"
    made = page.read_bytes()
    page.write_text("of a call before")  # the last one was killed before it wrote the page
    os.utime(page, (0, 0))
    again = run_app(*call(tmp_path, small_bundle, "plain"))
    assert again.stdout.endswith("\ndone: 0 run(s), skipped: 5 run(s) already done\n")
    assert again.stdout.count("report: ") == 1
    assert page.read_bytes() == made


@pytest.mark.parametrize(
    ("flags", "repetition_time", "why"),
    [
        ([], 0.9, "its TR has changed"),
        (["--dummy-scans", "1"], 0.8, "it was made with other settings (DummyScans)"),
        (["--no-tokens"], 0.8, "it has tokens, but this command has --no-tokens"),
    ],
)
def test_other_settings_embed_a_run_again(
    folder, tmp_path, small_bundle, flags, repetition_time, why
):
    for name in ("in", "plain"):
        shutil.copytree(folder / name, tmp_path / name)
    command = (*call(tmp_path, small_bundle, "plain"), "--participant-label", "1")
    (sidecar,) = (tmp_path / "in" / "sub-1").rglob("*_desc-preproc_bold.json")
    before = sidecar.read_text()
    sidecar.write_text(json.dumps(json.loads(before) | {"RepetitionTime": repetition_time}))
    changed = run_app(*command, *flags)
    assert f"{NAME.format(1)}: embedding again: {why}\n" in changed.stdout
    sidecar.write_text(before)
    again = run_app(*command)
    assert f"{NAME.format(1)}: embedding again: it" in again.stdout
    assert run_files(tmp_path / "plain") == run_files(folder / "plain")
