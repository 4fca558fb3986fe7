"""Wheel and source distribution: whole, and the app runs from them."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile

import pytest
from conftest import ROOT

from swift_bids import __version__


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The wheel made from the source distribution, and both."""
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


def test_files_that_are_no_code_are_in_both(built):
    (wheel,) = built.glob("*.whl")
    (source,) = built.glob("*.tar.gz")
    data = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "swift_bids").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert data <= set(zipfile.ZipFile(wheel).namelist())
    with tarfile.open(source) as files:
        names = {name.partition("/")[2] for name in files.getnames()}
    assert data | {"version", "README.md", "LICENSE", "NOTICE"} <= names


def test_the_app_runs_from_the_wheel(built, tmp_path):
    (wheel,) = built.glob("*.whl")
    target = tmp_path / "installed"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, "--target", target, wheel], check=True, capture_output=True)
    alone = {"PYTHONPATH": str(target), "PYTHONSAFEPATH": "1"}
    for call in ([sys.executable, "-m", "swift_bids"], [target / "bin" / "swift-bids"]):
        answer = subprocess.run(
            [*call, "--version"], capture_output=True, text=True, env=os.environ | alone
        )
        assert answer.stdout == f"swift_bids {__version__}\n", answer.stderr
    code = (
        "import swift_bids.grid, swift_bids.outputs as o; "
        "print(swift_bids.__file__, swift_bids.grid.template_brain().sum(), "
        "len(o.column_descriptions(['age'])))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | alone
    )
    assert answer.stdout.split() == [str(target / "swift_bids" / "__init__.py"), "235375", "1"], (
        answer.stderr
    )
