"""Fixtures: the reference data and networks, the demo's outputs, and an installation."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path

# Before nipype is imported: it reads its settings then, and would print a line for every node.
_NIPYPE = tempfile.mkdtemp(prefix="swift_bids_tests_")
os.environ.update(NIPYPE_CONFIG_DIR=_NIPYPE, NIPYPE_NO_ET="1", NO_ET="1")
# Threads of torch that wait for each other would keep the CPUs from the other tests: a network took
# ten times as long.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# The many processes that tests start need not compile the modules each time.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
Path(_NIPYPE, "nipype.cfg").write_text(
    "[logging]\n"
    + "".join(f"{kind}_level = CRITICAL\n" for kind in ("workflow", "interface", "utils"))
)

import pytest
from app import ROOT, run_process
from filelock import FileLock
from make_data import write_bundle
from packaging.requirements import Requirement

PARITY = ROOT / "tests" / "data" / "parity"


def pytest_sessionfinish():
    shutil.rmtree(_NIPYPE, ignore_errors=True)


@pytest.fixture(scope="session", autouse=True)
def one_thread_in_each_process():
    """Tests run side by side; threads on top of that only make them wait for each other."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        import torch

        torch.set_num_threads(1)


@pytest.fixture(scope="session")
def made_once(tmp_path_factory):
    """Make a folder once for all processes of pytest-xdist: `made_once(name, make)`."""
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent

    def get(name, make):
        folder = root / f"once_{name}"
        with FileLock(f"{folder}.lock"):
            if not Path(f"{folder}.done").exists():
                folder.mkdir()
                make(folder)
                Path(f"{folder}.done").touch()
        return folder

    return get


def _module(file):
    spec = importlib.util.spec_from_file_location(file.stem, file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def recipe():
    """How weights, inputs and runs of the reference are made (tests/data/parity/recipe.py)."""
    return _module(PARITY / "recipe.py")


@pytest.fixture(scope="session")
def neurostorm_recipe():
    """The same for NeuroSTORM (tests/data/neurostorm/recipe.py)."""
    return _module(PARITY.parent / "neurostorm" / "recipe.py")


@pytest.fixture(scope="session")
def parity_shapes():
    """Case name -> {parameter name: shape} of the reference."""
    return lambda name: json.loads((PARITY / f"{name}.json").read_text())["parameters"]


@pytest.fixture(autouse=True)
def paths_of_python(monkeypatch):
    """The app sets these for its children; they must not reach the next test."""
    for name in ("PYTHONSAFEPATH", "PYTHONPATH"):
        monkeypatch.setenv(name, os.environ.get(name, ""))


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


@pytest.fixture(scope="session")
def small_bundle(tmp_path_factory):
    """A network with the input and output of the released one, ten times as fast: for tests of
    everything but the network."""
    import torch

    from swift_bids import SwiFT
    from swift_bids.network.released import RELEASED_CONFIG

    config = RELEASED_CONFIG | {
        "patch_size": (12, 12, 12, 1),
        "embed_dim": 72,
        "depths": (1, 1, 1),
        "num_heads": (6, 12, 24),
    }
    torch.manual_seed(0)
    return write_bundle(tmp_path_factory.mktemp("small"), SwiFT(**config).state_dict(), config)


@pytest.fixture(scope="session")
def demo(made_once):
    """The demo as `make demo` runs it, relative paths included: fmriprep, weights, swift_bids."""
    return made_once("demo", _make_demo)


def _make_demo(folder):
    subprocess.run(
        [sys.executable, "-m", "swift_bids.demo", "--small", folder], check=True, cwd=ROOT
    )
    inputs = sorted(p for p in folder.rglob("*") if p.is_file())
    before = {p: p.stat().st_mtime_ns for p in inputs}
    call = ("fmriprep", "swift_bids")
    weights = ("--weights", "weights", "--random-weights")
    participant = run_process(*call, "participant", *weights, "-w", "work", cwd=folder)
    assert participant.returncode == 0, participant.stdout + participant.stderr
    group = run_process(*call, "group", cwd=folder)
    assert group.returncode == 0, group.stdout + group.stderr
    assert {p: p.stat().st_mtime_ns for p in inputs} == before, "the input was written to"
    (folder / "participant.log").write_text(participant.stdout)
    (folder / "group.log").write_text(group.stdout)


@pytest.fixture(scope="session")
def distributions(made_once):
    """Folder with the source distribution and the wheel made from it."""
    return made_once("build", _make_distributions) / "dist"


def _make_distributions(folder):
    source = shutil.copytree(
        ROOT,
        folder / "source",
        ignore=shutil.ignore_patterns(".git", ".venv", "demo", "*.egg-info", "build", "tests"),
    )
    call = [sys.executable, "-m", "build", "--no-isolation", "--outdir", folder / "dist", source]
    done = subprocess.run(call, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Package would be ignored" not in done.stdout + done.stderr


@pytest.fixture(scope="session")
def installation(made_once, distributions):
    """`bin` of an environment that holds the wheel, what requirements.lock names, and torch.

    torch is linked from here, since another copy of it takes minutes and gigabytes.
    """
    folder = made_once("installation", lambda folder: _make_installation(folder, distributions))
    return folder / "venv" / "bin"


def _make_installation(folder, distributions):
    venv = folder / "venv"
    subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    pip = [venv / "bin" / "python", "-m", "pip", "install", "--quiet"]
    lock = ["--require-hashes", "--no-deps", "-r", ROOT / "requirements.lock"]
    subprocess.run([*pip, *lock], check=True, stderr=subprocess.DEVNULL)
    (packages,) = (venv / "lib").glob("python*/site-packages")
    here = metadata.distribution("torch")
    needs = {Requirement(text).name for text in here.requires or []}
    for distribution in metadata.distributions():
        if distribution.name == "torch" or distribution.name in needs:
            for top in {Path(*file.parts[:1]) for file in distribution.files or []}:
                if top.name not in ("..", "__pycache__") and not (packages / top).exists():
                    (packages / top).symlink_to(distribution.locate_file(top))
    (wheel,) = distributions.glob("*.whl")
    subprocess.run([*pip, "--no-index", wheel], check=True)  # everything it needs is there
