"""Four participants on a one-node SLURM, with nipype's plugins and as an array job of Apptainer."""

import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from app import PATIENCE, ROOT, missing, require_program, run_app
from containers import place_sif, run_files
from make_data import write_derivative

from swift_bids.cli.parse import parse_arguments

EXAMPLE = ROOT / "examples" / "array.sbatch"
PARTICIPANTS = ("1", "2", "3", "4")


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    """A running SLURM: the machine's own, or one that this fixture starts, which needs root."""
    require_program("sbatch")
    if subprocess.run(["sinfo"], capture_output=True).returncode == 0:
        yield
        return
    if os.getuid() != 0:
        missing("no SLURM answers, and only root can start one")
    folder = tmp_path_factory.mktemp("slurm")
    started = subprocess.run([ROOT / ".ci" / "slurm", "start", folder], capture_output=True)
    assert started.returncode == 0, started.stderr
    os.environ["SLURM_CONF"] = str(folder / "slurm.conf")
    yield
    subprocess.run([ROOT / ".ci" / "slurm", "stop", folder], check=True, capture_output=True)
    del os.environ["SLURM_CONF"]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory, small_bundle):
    """Folder with `in` (one run per participant; sub-2's takes seconds) and `weights`."""
    folder = tmp_path_factory.mktemp("dataset")
    volume = np.arange(91 * 109 * 91, dtype=np.int16).reshape(91, 109, 91) % 200 + 900
    for label in PARTICIPANTS:
        n_volumes = 200 if label == "2" else 22
        data = volume[..., None] + (np.arange(n_volumes, dtype=np.int16) * int(label)) % 7
        write_derivative(folder / "in", f"sub-{label}_task-a", data=data)
    shutil.copytree(small_bundle, folder / "weights")
    return folder


@pytest.fixture(scope="module")
def expected(dataset):
    """Output files of an undisturbed call on this machine."""
    done = run_app(*call_of(dataset, "plain"))
    assert done.returncode == 0, done.stdout + done.stderr
    return run_files(dataset / "plain")


def call_of(dataset, output, *options):
    call = (dataset / "in", dataset / output, "participant", "--weights", dataset / "weights")
    return (*call, "--omp-nthreads", "1", *options)


def squeue(pattern="%j"):
    call = ["squeue", "--noheader", f"--user={os.getuid()}", f"--format={pattern}"]
    return subprocess.run(call, capture_output=True, text=True, check=True).stdout.split("\n")[:-1]


def wait_until(condition, seconds=PATIENCE):
    deadline = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < deadline, squeue("%i %j %T %r")
        time.sleep(0.2)
    return result


@pytest.mark.long
@pytest.mark.parametrize("flag", ["--slurm", "--slurm-graph"])
def test_jobs_write_the_same_bytes(slurm, dataset, expected, flag):
    done = run_app(*call_of(dataset, f"out{flag}", flag, "--sbatch-args", "--time=10"))
    assert done.returncode == 0, done.stdout + done.stderr
    plugin = {"--slurm": "SLURM", "--slurm-graph": "SLURMGraph"}[flag]
    assert f"4 run(s) on cpu, as jobs of nipype's plugin {plugin}" in done.stdout
    assert done.stdout.endswith("done: 4 run(s)\n")
    assert run_files(dataset / f"out{flag}") == expected
    assert not (dataset / f"out{flag}" / ".swift_bids_work").exists()
    assert squeue() == []


def start(dataset, output, *options):
    return subprocess.Popen(
        [sys.executable, ROOT / "run.py", *map(str, call_of(dataset, output, *options))],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def job_of(name, participant="2"):
    """Number of a participant's job; None until SLURM has it."""
    jobs = (line.split(" ", 1) for line in squeue("%i %j %o"))
    wanted = (name, f"sub_{participant}_")
    return next((number for number, job in jobs if all(w in job for w in wanted)), None)


@pytest.mark.long
@pytest.mark.parametrize("flag", ["--slurm", "--slurm-graph"])
def test_a_killed_job_only_fails_its_run(slurm, dataset, expected, flag):
    """nipype's SLURM plugin fails for all runs, and its graph plugin does not notice the kill."""
    output = f"killed{flag}"
    app = start(dataset, output, flag)
    subprocess.run(["scancel", wait_until(lambda: job_of("normalise"))], check=True)
    stdout = app.communicate(timeout=PATIENCE)[0]
    assert app.returncode == 1, stdout
    assert "done: 3 run(s)\n" in stdout
    (line,) = [line for line in stdout.splitlines() if line.startswith("  sub-2_task-a")]
    assert "the cluster ended a job early" in line
    files = run_files(dataset / output)
    assert not [name for name in files if name.startswith("sub-2_task-a")]
    again = run_app(*call_of(dataset, output, flag, "--participant-label", "2"))
    assert again.returncode == 0, again.stdout + again.stderr
    assert run_files(dataset / output) == expected


@pytest.mark.long
@pytest.mark.parametrize("flag", ["--slurm", "--slurm-graph"])
def test_an_interrupted_call_cancels_its_jobs(slurm, dataset, flag):
    app = start(dataset, f"interrupted{flag}", flag)
    number = wait_until(lambda: job_of("normalise", "2"))
    app.send_signal(signal.SIGTERM)
    stdout = app.communicate(timeout=PATIENCE)[0]
    assert app.returncode == 143, stdout
    assert [line for line in squeue("%i %T") if line.split()[1] in ("PENDING", "RUNNING")] == []
    show = ["scontrol", "show", "job", number]
    state = subprocess.run(show, capture_output=True, text=True, check=True).stdout
    assert "JobState=CANCELLED" in state
    assert not (dataset / f"interrupted{flag}" / ".swift_bids_work").exists()


@pytest.mark.long
def test_the_network_requests_a_gpu(slurm, dataset):
    """SLURM is configured with a GPU that does not exist, so the job reports that it finds none."""
    app = start(dataset, "gpu", "--slurm", "--device", "cuda", "--participant-label", "1")
    requested = wait_until(lambda: [line for line in squeue("%b %j") if "embed" in line])
    stdout = app.communicate(timeout=PATIENCE)[0]
    assert requested[0].startswith("gres:gpu:1 "), requested
    assert app.returncode == 1
    assert "sub-1_task-a_space-MNI152NLin6Asym_res-2: --device cuda: torch sees no GPU" in stdout


@pytest.mark.parametrize(
    ("tasks", "given", "expected"),
    [
        ((1, 20, 20), {}, "7/20"),
        ((7, 12, 2), {"N_TASKS": "100"}, "7/100"),
        ((1, 1, 1), {}, None),
        ((0, 19, 20), {}, None),
        ((1, 19, 10), {}, None),
    ],
)
def test_tasks_of_the_array(tmp_path, tasks, given, expected):
    """How the script converts task numbers, paths and weights, without SLURM and Apptainer."""
    program = tmp_path / "bin" / "apptainer"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    program.chmod(0o755)
    names = ("MIN", "MAX", "COUNT")
    environment = {f"SLURM_ARRAY_TASK_{n}": str(v) for n, v in zip(names, tasks)} | given
    environment |= {"SLURM_ARRAY_TASK_ID": "7", "SLURM_CPUS_PER_TASK": "4"}
    environment |= {"PATH": f"{program.parent}:/usr/bin:/bin", "SLURM_MEM_PER_NODE": "6144"}
    call = ["bash", EXAMPLE, "a b.sif", "in", "out put", "x.ckpt", "--device=cuda"]
    done = subprocess.run(call, cwd=tmp_path, env=environment, capture_output=True, text=True)
    if expected is None:
        assert done.returncode == 2
        assert "say with N_TASKS how many there are in all" in done.stderr
        return
    assert done.returncode == 0, done.stderr
    words = done.stdout.splitlines()
    assert words[:5] == ["run", "--cleanenv", "--containall", "--no-home", "--nv"]
    binds = [f"{tmp_path}/in:/data:ro", f"{tmp_path}/out put:/out"]
    binds += [f"{tmp_path}/x.ckpt:/weights/x.ckpt:ro"]
    assert words[5:11] == [word for bind in binds for word in ("-B", bind)]
    args = parse_arguments(words[12:])
    assert args.batch == tuple(map(int, expected.split("/")))
    assert (args.nprocs, args.weights, args.device) == (4, "/weights/x.ckpt", "cuda")
    assert args.mem == pytest.approx(6.144)
    call[5] = "-"  # an image that contains weights
    done = subprocess.run(call, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert "--weights" not in done.stdout


@pytest.mark.long
def test_array_job_with_apptainer(slurm, dataset, installation):
    """One task is killed and submitted again; a last call runs the group level."""
    (dataset / "array").mkdir()
    place_sif(dataset)

    def submit(*options):
        job = [EXAMPLE, "swift_bids.sif"]
        job = [*job, *(dataset / name for name in ("in", "array", "weights"))]
        limits = ["--parsable", "--cpus-per-task=1", "--mem=3G"]
        call = ["sbatch", *limits, *options, *job]
        done = subprocess.run(call, cwd=dataset, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def log(job, task):
        return (dataset / f"swift_bids_{job}_{task}.log").read_text()

    job = submit("--array=1-4")
    settings = dataset / "array" / "sub-2" / "log"
    wait_until(lambda: list(settings.glob("*/swift_bids.toml")))
    subprocess.run(["scancel", f"{job}_2"], check=True)
    wait_until(lambda: squeue() == [])
    for task in (1, 3, 4):
        assert "done: 1 run(s)" in log(job, task)
    assert "done: 1 run(s)" not in log(job, 2)
    files = run_files(dataset / "array")
    assert not [name for name in files if name.startswith("sub-2/") and name.endswith(".tsv")]

    again = submit("--array=2", "--export=ALL,N_TASKS=4")
    wait_until(lambda: squeue() == [])
    assert "done: 1 run(s)" in log(again, 2), log(again, 2)

    binds = f"{dataset / 'in'}:/data:ro,{dataset / 'array'}:/out"
    options = ["--cleanenv", "--containall", "--no-home", "-B", binds]
    call = ["apptainer", "run", *options, "swift_bids.sif", "/data", "/out", "group"]
    group = subprocess.run(call, cwd=dataset, capture_output=True, text=True)
    assert group.returncode == 0, group.stdout + group.stderr
    assert "4 run(s) of 4 participant(s): /out/group.html" in group.stdout

    plain = dataset / "plain_array"
    call = [installation / "swift-bids", dataset / "in", plain, "participant"]
    options = ["--weights", dataset / "weights", "--nprocs", "1"]
    clean = {"PATH": "/usr/bin:/bin"}  # BLAS settings change the last digits
    subprocess.run([*call, *options], check=True, capture_output=True, env=clean)
    subprocess.run([*call[:3], "group"], check=True, capture_output=True, env=clean)
    files, expected = run_files(dataset / "array"), run_files(plain)
    assert files.keys() == expected.keys()
    different = {name for name in files if files[name] != expected[name]}
    assert different == {"dataset_description.json"}  # names the container and the mounts
