"""Fixtures: the reference data, small fMRIPrep trees, and one run of the whole app on the demo."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import NoReturn

import nibabel as nib
import numpy as np
import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
PARITY = ROOT / "tests" / "data" / "parity"


def _load_recipe():
    spec = importlib.util.spec_from_file_location("recipe", PARITY / "recipe.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def recipe():
    """How weights, inputs and runs of the reference are made (tests/data/parity/recipe.py)."""
    return _load_recipe()


@pytest.fixture(scope="session")
def parity_shapes():
    """Case name -> {parameter name: shape} of the reference."""
    return lambda name: json.loads((PARITY / f"{name}.json").read_text())["parameters"]


@pytest.fixture(autouse=True)
def paths_of_python(monkeypatch):
    """The app sets these for its children; a test that calls it in this process must not for those
    of the next."""
    for name in ("PYTHONSAFEPATH", "PYTHONPATH"):
        monkeypatch.setenv(name, os.environ.get(name, ""))


def require_program(name: str) -> str:
    """Path of a system program; without it the test skips, or fails where CI promises it."""
    places = [str(Path(sys.executable).parent), *os.get_exec_path()]  # some come as wheels
    path = shutil.which(name, path=os.pathsep.join(places))
    return path or missing(f"{name} is not installed")


def missing(reason: str) -> NoReturn:
    """Skip, or fail where CI promises that everything is there."""
    if os.environ.get("SWIFT_BIDS_REQUIRE_SYSTEM_PROGRAMS"):
        pytest.fail(reason)
    pytest.skip(reason)


def run_app(*arguments, cwd=None, **environment) -> subprocess.CompletedProcess:
    """Run the app as a user does, in a process of its own."""
    return subprocess.run(
        [sys.executable, str(ROOT / "run.py"), *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        timeout=600,
        env=os.environ | {"HF_HUB_OFFLINE": "1"} | environment,
    )


def start_job(
    folder: Path, bundle: Path, n_volumes: int, processes: int = 2, **options
) -> subprocess.Popen:
    """Start the app on two runs (`in`, `out`), which is seconds of work for the network, and wait
    until a run is read."""
    volume = np.arange(91 * 109 * 91, dtype=np.int16).reshape(91, 109, 91) % 200 + 900
    data = volume[..., None] + np.arange(n_volumes, dtype=np.int16) % 7
    for label in "12":
        write_derivative(folder / "in", f"sub-{label}_task-a", data=data)
    call = [sys.executable, ROOT / "run.py", folder / "in", folder / "out", "participant"]
    job = subprocess.Popen(
        [*map(str, call), "--nprocs", str(processes), "--weights", str(bundle)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **options,
    )
    deadline = time.monotonic() + 60
    read = (folder / "out").glob
    while not list(read(".swift_bids_work/**/matrix.npy")) and time.monotonic() < deadline:
        time.sleep(0.05)
    return job


def somebody_is_left(session: int) -> bool:
    """Whether processes of a session are there; its first one's number is the session's."""
    try:
        os.killpg(session, 0)
    except ProcessLookupError:
        return False
    return True


def write_bundle(folder: Path, state: dict, config: dict, **marks) -> Path:
    """Weights in the layout of the Hub bundles."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    save_file(state, folder / "model.safetensors")
    content = {"_ilex": {"constructor_kwargs": config}} | marks
    (folder / "config.json").write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="session")
def reference_state(recipe, parity_shapes):
    """Case name -> state dict of torch tensors with the reference's weights."""
    import torch

    def make(name):
        _, spec, _ = recipe.load_case(name)
        state = recipe.make_state_dict(parity_shapes(name), spec["weights_seed"])
        return {key: torch.from_numpy(value) for key, value in state.items()}

    return make


@pytest.fixture(scope="session")
def reference_bundle(tmp_path_factory, recipe, reference_state):
    """The `full` network of the reference as a Hub bundle."""
    config, _, _ = recipe.load_case("full")
    return write_bundle(tmp_path_factory.mktemp("weights"), reference_state("full"), config)


SPACE = "space-MNI152NLin6Asym_res-2"
FSL_AFFINE = np.array([[-2.0, 0, 0, 90], [0, 2, 0, -126], [0, 0, 2, -72], [0, 0, 0, 1]])


def write_derivative(
    root: Path,
    run: str,
    space: str = SPACE,
    shape=(91, 109, 91),
    n_volumes: int = 22,
    affine=FSL_AFFINE,
    tr: float = 0.8,
    mask: bool = True,
    confounds: str | None = None,
    data: np.ndarray | None = None,
) -> Path:
    """Lay out one run as fMRIPrep does; returns the BOLD file. `data` is (X, Y, Z, volume)."""
    parts = dict(entity.split("-", 1) for entity in run.split("_"))
    folder = root / f"sub-{parts['sub']}"
    folder = folder / f"ses-{parts['ses']}" / "func" if "ses" in parts else folder / "func"
    folder.mkdir(parents=True, exist_ok=True)
    description = root / "dataset_description.json"
    if not description.exists():
        content = {"Name": "test", "BIDSVersion": "1.8.0", "DatasetType": "derivative"}
        description.write_text(json.dumps(content))
    brain = np.zeros(shape, np.uint8)
    brain[tuple(slice(n // 4, 3 * n // 4) for n in shape)] = 1
    if data is None:
        rng = np.random.default_rng(0)
        data = rng.integers(900, 1100, (*shape, n_volumes)).astype(np.int16)
    stem = f"{run}_{space}" if space else run
    image = nib.Nifti1Image(data, affine)
    image.header.set_zooms((*image.header.get_zooms()[:3], tr))
    bold = folder / f"{stem}_desc-preproc_bold.nii.gz"
    image.to_filename(bold)
    (folder / f"{stem}_desc-preproc_bold.json").write_text(json.dumps({"RepetitionTime": tr}))
    if mask:
        nib.Nifti1Image(brain, affine).to_filename(folder / f"{stem}_desc-brain_mask.nii.gz")
    if confounds is not None:
        (folder / f"{run}_desc-confounds_timeseries.tsv").write_text(confounds)
    return bold


@pytest.fixture(scope="session")
def demo(tmp_path_factory):
    """The demo as `make demo` runs it, relative paths included: fmriprep, weights, swift_bids."""
    folder = tmp_path_factory.mktemp("demo")
    subprocess.run([sys.executable, "-m", "swift_bids.demo", folder], check=True, cwd=ROOT)
    inputs = sorted(p for p in folder.rglob("*") if p.is_file())
    before = {p: p.stat().st_mtime_ns for p in inputs}
    call = ("fmriprep", "swift_bids")
    weights = ("--weights", "weights", "--random-weights")
    participant = run_app(*call, "participant", *weights, "-w", "work", cwd=folder)
    assert participant.returncode == 0, participant.stdout + participant.stderr
    group = run_app(*call, "group", cwd=folder)
    assert group.returncode == 0, group.stdout + group.stderr
    assert {p: p.stat().st_mtime_ns for p in inputs} == before, "the input was written to"
    (folder / "participant.log").write_text(participant.stdout)
    (folder / "group.log").write_text(group.stdout)
    return folder


@pytest.fixture(scope="session")
def distributions(tmp_path_factory):
    """Folder with the source distribution and the wheel made from it."""
    folder = tmp_path_factory.mktemp("build")
    source = shutil.copytree(
        ROOT,
        folder / "source",
        ignore=shutil.ignore_patterns(".git", ".venv", "demo", "*.egg-info", "build", "tests"),
    )
    call = [sys.executable, "-m", "build", "--no-isolation", "--outdir", folder / "dist", source]
    done = subprocess.run(call, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Package would be ignored" not in done.stdout + done.stderr
    return folder / "dist"


@pytest.fixture(scope="session")
def installation(tmp_path_factory, distributions):
    """`bin` of an environment that holds the wheel, what requirements.lock names, and torch.

    torch is linked from here, since another copy of it takes minutes and gigabytes.
    """
    folder = tmp_path_factory.mktemp("installation") / "venv"
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    pip = [folder / "bin" / "python", "-m", "pip", "install", "--quiet"]
    lock = ["--require-hashes", "-r", ROOT / "requirements.lock"]
    subprocess.run([*pip, *lock], check=True, stderr=subprocess.DEVNULL)
    (packages,) = (folder / "lib").glob("python*/site-packages")
    here = metadata.distribution("torch")
    needs = {Requirement(text).name for text in here.requires or []}
    for distribution in metadata.distributions():
        if distribution.name == "torch" or distribution.name in needs:
            for top in {Path(*file.parts[:1]) for file in distribution.files or []}:
                if top.name not in ("..", "__pycache__") and not (packages / top).exists():
                    (packages / top).symlink_to(distribution.locate_file(top))
    (wheel,) = distributions.glob("*.whl")
    subprocess.run([*pip, "--no-index", wheel], check=True)  # everything it needs is there
    return folder / "bin"
