"""The reference run through the app's own nodes, and runs that fail beside others."""

import json
import os
import re
import signal

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from app import PATIENCE, run_app, somebody_is_left, start_job, wait_for
from make_data import SPACE, write_derivative, write_run
from safetensors.numpy import load_file

from swift_bids.network.compiled import kernel_name
from swift_bids.steps.chunk_queue import QueuedRun
from swift_bids.steps.embed import ModelInput
from swift_bids.workflow import WORKFLOW_NAME


@pytest.fixture(scope="module")
def reference_run(tmp_path_factory, recipe, reference_bundle):
    """The run of parity/run_hcp, embedded by `run.py participant`; returns folder and case."""
    folder = tmp_path_factory.mktemp("run_hcp")
    case, chunks, embedding = recipe.load_run_case("run_hcp")
    data, mask, affine = recipe.make_bold(case["n_volumes"], case["seed"])
    bold = write_derivative(folder / "in", "sub-1_task-a", data=data, affine=affine)
    nib.Nifti1Image(mask, affine).to_filename(
        str(bold).replace("desc-preproc_bold", "desc-brain_mask")
    )
    call = (folder / "in", folder / "out", "participant", "--weights", reference_bundle)
    done = run_app(*call, "--variant", "hcp-sex", "-w", folder / "work", "--nprocs", "1")
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, case, chunks, embedding


def output(folder, suffix, task="a"):
    return folder / "out" / "sub-1" / "func" / f"sub-1_task-{task}_{SPACE}_desc-swift_{suffix}"


def test_model_input_equals_the_reference(reference_run):
    folder, case, expected, _ = reference_run
    nodes = folder / "work" / WORKFLOW_NAME / f"sub_1_task_a_{SPACE.replace('-', '_')}_wf"
    run = QueuedRun(
        np.load(nodes / "normalise" / "matrix.npy"),
        np.load(nodes / "crop" / "index.npy"),
        case["chunk_starts"],
        case["background"],
    )
    qc = json.loads(output(folder, "qc.json").read_text())
    assert qc["Normalised"]["mean"] == pytest.approx(case["global_mean"], rel=1e-12)
    assert qc["Normalised"]["std"] == pytest.approx(case["global_std"], rel=1e-12)
    assert qc["Normalised"]["background"] == case["background"]
    assert qc["Preprocessing"]["Frame"] == "hcp"
    assert qc["Model"]["Kernel"] == kernel_name()
    for chunk, (reference, total) in enumerate(zip(expected, case["chunk_sums_float64"])):
        volumes = ModelInput(1).fill([run], [run.read_rows(chunk)])[0, 0].numpy()
        assert float(volumes.sum(dtype=np.float64)) == pytest.approx(total, rel=1e-12)
        np.testing.assert_array_equal(volumes[2::4, 2::4, 2::4].astype(np.float16), reference)
        occupied = np.argwhere((volumes != case["background"]).any(-1))
        assert occupied.min(0).tolist() == case["first_brain_index"]
        assert occupied.max(0).tolist() == case["last_brain_index"]


def test_embedding_equals_the_reference(reference_run):
    folder, case, _, expected = reference_run
    tokens = load_file(output(folder, "tokens.safetensors"))["tokens"]
    assert tokens.shape == expected.shape
    assert np.abs(tokens - expected).max() / np.abs(expected).max() <= 1e-5
    chunks = pd.read_csv(output(folder, "timeseries.tsv"), sep="\t")
    assert chunks["start"].tolist() == case["chunk_starts"]
    pooled = expected.astype(float).mean(axis=(2, 3, 4, 5))
    np.testing.assert_allclose(chunks.filter(regex=r"^swift\d"), pooled, atol=1e-5)
    run = pd.read_csv(output(folder, "embedding.tsv"), sep="\t")
    np.testing.assert_allclose(run.filter(regex=r"^swift\d").loc[0], pooled.mean(0), atol=1e-5)


@pytest.mark.parametrize("processes", ["1", "2"])
def test_bad_runs_do_not_stop_the_good_one(tmp_path, small_bundle, processes):
    root = tmp_path / "in"
    good = write_derivative(root, "sub-1_task-good")
    truncated = write_derivative(root, "sub-1_task-truncated")
    truncated.write_bytes(truncated.read_bytes()[:-5000])
    write_derivative(root, "sub-1_task-short", n_volumes=19)
    write_derivative(root, "sub-2_task-nomask", mask=False)
    write_derivative(root, "sub-2_task-native", space="space-T1w")
    rows = "framewise_displacement\n" + "much\n" * 22
    write_derivative(root, "sub-2_task-other", confounds=rows)
    call = (root, tmp_path / "out", "participant", "--weights", small_bundle)
    asked = ("--participant-label", "1", "2", "3", "--nprocs", processes)
    # nipype's settings of the user are not the app's, whose workers say nothing of their own
    done = run_app(*call, *asked, NIPYPE_CONFIG_DIR=str(tmp_path))
    assert done.returncode == 1
    assert "Traceback" not in done.stdout + done.stderr
    recap = done.stdout[done.stdout.index("done: 1 run(s)") :].splitlines()
    said = {line.split(":")[0].strip(): line for line in recap[2:]}
    assert recap[1].startswith("failed: 6 (bids_dir ")
    assert "no such participant" in said["sub-3"]
    assert "damaged or incomplete" in said[f"sub-1_task-truncated_{SPACE}"]
    assert str(truncated) in said[f"sub-1_task-truncated_{SPACE}"]
    assert "has 19 volumes" in said[f"sub-1_task-short_{SPACE}"]
    assert "no brain mask" in said[f"sub-2_task-nomask_{SPACE}"]
    assert "(available: T1w)" in said["sub-2_task-native"]
    assert "contains text instead of numbers" in said[f"sub-2_task-other_{SPACE}"]

    written = tmp_path / "out"
    finished = sorted(p.name for p in written.rglob("*_embedding.tsv"))
    assert finished == [good.name.replace("preproc_bold.nii.gz", "swift_embedding.tsv")]
    crashes = list(written.glob("sub-*/log/*/crash-*.txt"))
    assert len(crashes) == 2  # the others were found out before any work
    page = (written / "sub-1.html").read_text()
    assert "sub-1_task-truncated" in page
    assert "damaged or incomplete" in page
    assert "no brain mask" in (written / "sub-2.html").read_text()
    assert not (written / "sub-3.html").exists()
    assert not list(written.rglob("*.part"))
    assert not (written / ".swift_bids_work").exists()


@pytest.mark.parametrize("processes", ["1", "2"])
def test_stop_on_first_crash(tmp_path, small_bundle, processes):
    """Runs that have not started say why; without the flag all runs but one are embedded."""
    root, out = tmp_path / "in", tmp_path / "out"
    for label in "12345":
        bold = write_run(root, label)
        if label == "1":  # which nobody sees before all of it is read
            bold.write_bytes(bold.read_bytes()[:-4] + b"0000")
    call = (root, out, "participant", "--weights", small_bundle, "--nprocs", processes)
    done = run_app(*call, "--stop-on-first-crash")
    assert done.returncode == 1
    assert "Traceback" not in done.stdout + done.stderr
    recap = done.stdout[done.stdout.index("failed: ") :].splitlines()[1:]
    (crashed,) = (line for line in recap if "damaged or incomplete" in line)
    assert crashed.startswith("  sub-1_")
    not_begun = [line for line in recap if line != crashed]
    assert len(not_begun) >= 2  # of two processes one may have gone on
    assert {line.split(": ", 1)[1] for line in not_begun} == {
        "not processed: --stop-on-first-crash ended the call"
    }
    assert len(list(out.rglob("*_embedding.json"))) == 4 - len(not_begun)
    assert not (out / ".swift_bids_work").exists()
    rest = run_app(*call)
    assert rest.returncode == 1
    assert len(list(out.rglob("*_embedding.json"))) == 4


def test_every_setting_is_used_and_recorded(tmp_path, small_bundle):
    """A run with a TR of 2 s, a short run, and other runs in the work folder."""
    root, out, work = tmp_path / "in", tmp_path / "out", tmp_path / "work"
    rng = np.random.default_rng(0)
    data = rng.integers(900, 1100, (91, 109, 91, 32)).astype(np.int16)
    data[45, 54, 45, 7] = 0
    moved = "framewise_displacement\tnon_steady_state_outlier00\n" + "0.1\t0\n" * 32
    write_derivative(root, "sub-1_task-long", data=data, tr=2.0, confounds=moved)
    write_derivative(root, "sub-1_task-short", n_volumes=12)
    call = (root, out, "participant", "--weights", small_bundle, "--no-tokens")
    settings = ("--normalization", "voxel+global", "--chunk-stride", "25", "--tail", "overlap")
    other = work / "swift_bids_0_0_1_wf" / "sub_2_task_long_wf"
    stale = other.with_name(f"sub_1_task_long_{SPACE.replace('-', '_')}_wf")
    for folder in (other, stale):
        folder.mkdir(parents=True)
    done = run_app(*call, *settings, "--short-runs", "pad", "-w", work, "--clean-workdir")
    assert done.returncode == 0, done.stdout
    assert [p.name for p in work.glob("*/*_wf")] == [other.name]  # another run's stays

    chunks = pd.read_csv(output(tmp_path, "timeseries.tsv", "long"), sep="\t")
    # 31 volumes after the dummy scan are 60 s, 76 volumes of 0.8 s
    assert chunks["model_start"].tolist() == [0, 25, 50, 56]
    assert chunks["start"].tolist() == [1, 11, 21, 23]
    assert chunks["onset"].tolist() == pytest.approx([2, 22, 42, 46.8])
    about = json.loads(output(tmp_path, "embedding.json", "long").read_text())
    assert about["RepetitionTime"] == 2.0
    expected = {
        "Normalisation": "voxel+global",
        "TargetTR": "auto",
        "DummyScans": "auto",
        "DummyScansRemoved": 1,
        "ModelRepetitionTime": 0.8,
        "TemporalInterpolation": "linear",
        "SpatialInterpolation": "none",
        "ChunkStride": 25,
        "Tail": "overlap",
        "ShortRuns": "pad",
    }
    assert {key: about["Preprocessing"][key] for key in expected} == expected
    qc = json.loads(output(tmp_path, "qc.json", "long").read_text())
    assert qc["Normalised"]["n_zero"] == 1
    assert qc["Normalised"]["method"] == "voxel+global"
    # (volume) 0 is a dummy scan; chunks at 0-15.2, 20-35.2, 40-55.2 and 44.8-60 s leave out two
    assert qc["Volumes"] == {
        "total": 32,
        "dummy": 1,
        "used": 29,
        "unused": 2,
        "series": 76,
        "padded": 0,
    }
    short = json.loads(output(tmp_path, "qc.json", "short").read_text())
    assert short["Volumes"]["padded"] == 8
    assert any("8 volumes of the last chunk are reflections" in w for w in short["Warnings"])
    assert run_app(root, out, "group").returncode == 0
    table = pd.read_csv(out / "group_desc-swift_embedding.tsv", sep="\t")
    assert table["normalisation"].tolist() == ["voxel+global"] * 2
    assert table[["repetition_time", "model_tr"]].values.tolist() == [[2.0, 0.8], [0.8, 0.8]]


@pytest.mark.parametrize(
    ("processes", "at_once"), [pytest.param("1", 1, marks=pytest.mark.long), ("2", 4)]
)
def test_runs_finish_before_others_start(tmp_path, small_bundle, processes, at_once):
    """Otherwise the matrices of all runs would fill the disk, and an interruption lose them all."""
    for label in "123456":
        write_derivative(tmp_path / "in", f"sub-{label}_task-a")
    call = (tmp_path / "in", tmp_path / "out", "participant", "--weights", small_bundle)
    done = run_app(*call, "--nprocs", processes, "-v")
    assert done.returncode == 0, done.stdout
    steps = re.findall(r"^sub-(\d)\S*: (normalise|aggregate) took", done.stdout, re.MULTILINE)
    assert len(steps) == 12
    under_way, most = set(), 0
    for label, step in steps:
        (under_way.add if step == "normalise" else under_way.remove)(label)
        most = max(most, len(under_way))
    assert most <= at_once
    assert steps[0] in [(label, "normalise") for label in "12"[: int(processes)]]


def test_reruns_remove_outdated_files(tmp_path, small_bundle):
    """--no-tokens removes old tokens; a failed rerun says that the old embedding is still there."""
    root, out = tmp_path / "in", tmp_path / "out"
    bold = write_derivative(root, "sub-1_task-a")
    call = (root, out, "participant", "--weights", small_bundle)
    assert run_app(*call).returncode == 0
    assert len(list(out.rglob("*_tokens.*"))) == 2
    assert run_app(*call, "--no-tokens").returncode == 0
    assert list(out.rglob("*_tokens.*")) == []
    bold.write_bytes(bold.read_bytes()[:-5000])
    again = run_app(*call)
    assert again.returncode == 1
    assert "its embedding from an earlier call is still there" in again.stdout
    assert len(list(out.rglob("*_embedding.tsv"))) == 1


def test_commands_that_cannot_run_write_nothing(tmp_path, small_bundle):
    root, out = tmp_path / "in", tmp_path / "out"
    write_derivative(root, "sub-1_task-a")
    call = (root, out, "participant", "--weights", small_bundle)
    assert run_app(*call, "--participant-label", "2").returncode == 2
    assert run_app(*call, "--device", "cuda", CUDA_VISIBLE_DEVICES="").returncode == 2
    assert run_app(*call, "--precision", "fp16").returncode == 2
    (tmp_path / "file").touch()
    wrong = run_app(*call, "-w", tmp_path / "file")
    assert wrong.returncode == 2
    assert "is a file, not a folder" in wrong.stderr
    assert not out.exists()


def test_workers_without_their_server(tmp_path, small_bundle):
    """The path of the server's socket in TMPDIR may have at most 107 characters."""
    write_derivative(tmp_path / "in", "sub-1_task-a")
    temporary = tmp_path / ("long" * 25)
    temporary.mkdir()
    call = (tmp_path / "in", tmp_path / "out", "participant", "--weights", small_bundle)
    done = run_app(*call, "--nprocs", "2", "-v", TMPDIR=str(temporary))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "cannot start the server of worker processes" in done.stdout
    assert list((tmp_path / "out").rglob("*_embedding.tsv"))
    assert not list(temporary.iterdir())


@pytest.mark.parametrize("processes", [pytest.param(1, marks=pytest.mark.long), 2])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_terminated_job_leaves_no_worker_and_no_work_folder(
    tmp_path, small_bundle, number, code, processes
):
    """In one process, nipype would take the signal for a failed step and go on."""
    out = tmp_path / "out"
    job = start_job(
        tmp_path,
        small_bundle,
        n_volumes=(800, 800),
        processes=processes,
        start_new_session=True,
        env=os.environ | {"TMPDIR": str(tmp_path)},
    )
    if number == signal.SIGINT:
        os.killpg(job.pid, number)  # a terminal's Ctrl-C reaches the workers too
    else:
        job.send_signal(number)
    said, _ = job.communicate(timeout=PATIENCE)
    assert job.returncode == code, said
    assert "Traceback" not in said
    wait_for(lambda: not somebody_is_left(job.pid))
    assert not (out / ".swift_bids_work").exists()
    assert not list(tmp_path.glob("swift_bids_*"))
    assert not list(out.rglob("*.part"))


def test_group_level_goes_on_without_damaged_outputs(tmp_path, small_bundle):
    root, out = tmp_path / "in", tmp_path / "out"
    for label in "12":
        write_derivative(root, f"sub-{label}_task-a")
    call = (root, out, "participant", "--weights", small_bundle, "--no-tokens")
    assert run_app(*call).returncode == 0
    dry = run_app(root, out, "group", "--dry-run")
    assert dry.stdout.splitlines()[1:] == [f"sub-{n}_task-a_{SPACE}" for n in "12"]
    assert not list(out.glob("group*"))
    damaged = next(out.glob("sub-1/func/*_embedding.json"))
    damaged.write_text("{")
    done = run_app(root, out, "group", "--participant-label", "1", "2", "3")
    assert done.returncode == 1
    assert f"{damaged} or its table cannot be read" in done.stdout
    assert "sub-3: has no embedding" in done.stdout
    table = pd.read_csv(out / "group_desc-swift_embedding.tsv", sep="\t")
    assert table["participant_id"].tolist() == ["sub-2"]


def test_embedding_one_participant_keeps_the_outputs_of_another(tmp_path, small_bundle):
    root, out = tmp_path / "in", tmp_path / "out"
    for label in "12":
        write_derivative(root, f"sub-{label}_task-a")
    call = (root, out, "participant", "--weights", small_bundle, "--no-tokens")
    assert run_app(*call, "--participant-label", "1").returncode == 0
    before = {p: p.read_bytes() for p in out.rglob("sub-1*") if p.is_file()}
    assert run_app(*call, "--participant-label", "2").returncode == 0
    assert {p: p.read_bytes() for p in out.rglob("sub-1*") if p.is_file()} == before
    assert not list(out.rglob("*_tokens.*"))
    assert run_app(root, out, "group").returncode == 0
    table = pd.read_csv(out / "group_desc-swift_embedding.tsv", sep="\t")
    assert table["participant_id"].tolist() == ["sub-1", "sub-2"]
    # the same BOLD and weights give the same embedding, digit for digit
    assert table.filter(regex=r"^swift\d").nunique().max() == 1
