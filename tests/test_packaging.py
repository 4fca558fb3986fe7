"""Wheel and source distribution: they are complete, and the app runs from them."""

import re
import subprocess
import tarfile
import tomllib
import zipfile

import pytest
from app import ROOT
from packaging.requirements import Requirement
from packaging.version import Version

from swift_bids import __version__


def test_data_files_are_in_both_distributions(distributions):
    (wheel,) = distributions.glob("*.whl")
    (source,) = distributions.glob("*.tar.gz")
    data = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "swift_bids").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".so"
    }
    sources = {name for name in data if name.startswith("swift_bids/network/kernel/")}
    assert len(sources) == 10
    in_wheel = set(zipfile.ZipFile(wheel).namelist())
    assert data - sources <= in_wheel
    assert not sources & in_wheel
    with tarfile.open(source) as files:
        names = {name.partition("/")[2] for name in files.getnames()}
    assert data | {"setup.py", "version", "README.md", "LICENSE", "NOTICE"} <= names


@pytest.mark.long
def test_installation(installation, tmp_path):
    """An environment with only the wheel and the locked dependencies, as pipx creates it."""
    version = f"swift_bids {__version__}\n"
    for call in (["swift-bids"], ["python", "-m", "swift_bids"]):
        assert output_of(installation / call[0], *call[1:], "--version", cwd=tmp_path) == version
    assert (
        output_of(installation / "pip", "check", cwd=tmp_path) == "No broken requirements found.\n"
    )
    code = (
        "import swift_bids.geometry.grid, swift_bids.outputs.run as o; "
        "print(swift_bids.__file__, swift_bids.geometry.grid.template_brain().sum(), "
        "len(o.column_descriptions(['age'])))"
    )
    file, size, columns = output_of(installation / "python", "-c", code, cwd=tmp_path).split()
    assert file.startswith(str(installation.parent))
    assert (size, columns) == ("228483", "1")


def output_of(*command, cwd):
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, cwd=cwd)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def locked():
    """Name -> version in requirements.lock."""
    lock = (ROOT / "requirements.lock").read_text()
    pins = dict(re.findall(r"^([a-z0-9-]+)==(\S+) \\$", lock, re.MULTILINE))
    assert len(re.findall(r"^ {4}--hash=sha256:", lock, re.MULTILINE)) > 2 * len(pins)
    return pins


def required():
    """Name -> requirement in pyproject.toml."""
    dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    return {requirement.name: requirement for requirement in map(Requirement, dependencies)}


def test_the_lock_satisfies_pyproject():
    """To update the lock: make lock. test_installation checks that the lock is complete."""
    pins = locked()
    requirements = {name: r for name, r in required().items() if name != "torch"}
    assert requirements.keys() <= pins.keys()
    for name, requirement in requirements.items():
        assert requirement.specifier.contains(pins[name]), requirement


def test_no_version_with_known_vulnerabilities():
    """docs/security.md lists the lowest safe versions."""
    page = (ROOT / "docs" / "security.md").read_text()
    bounds = dict(re.findall(r"^\| ([a-z0-9-]+) \| ([\d.]+) \|", page, re.MULTILINE))
    assert len(bounds) >= 9
    assert str(required()["torch"].specifier) == f">={bounds.pop('torch')}"
    for name, bound in bounds.items():
        assert Version(locked()[name]) >= Version(bound), name


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("Dockerfile", f'org.opencontainers.image.version="{__version__}"'),
        ("Singularity.def", f"FROM=swiftbids/swift_bids:{__version__}"),
        ("docs/platforms.md", f"swift_bids-{__version__.replace('.', '-')}"),
        ("CHANGES.md", f"## {__version__}"),
    ],
)
def test_all_files_have_the_same_version(name, text):
    assert text in (ROOT / name).read_text()
