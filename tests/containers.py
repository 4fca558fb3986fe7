"""The image of the app for tests: docker or podman, and how a user's call of it looks."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from app import PATIENCE, ROOT, missing, require_program

IMAGE = os.environ.get("SWIFT_BIDS_IMAGE", "swift_bids")
SIF = Path(os.environ.get("SWIFT_BIDS_SIF", ROOT / "swift_bids.sif"))


def call(*command, **options) -> subprocess.CompletedProcess:
    """Run a program; podman finds settings that suit a machine of tests."""
    os.environ.setdefault("CONTAINERS_CONF", str(ROOT / "docker" / "containers.conf"))
    return subprocess.run([*map(str, command)], capture_output=True, text=True, **options)


def engine_with_image() -> str:
    """`docker` where its engine runs, else `podman`; without the image the test skips."""
    program = "docker"
    if not shutil.which("docker") or call("docker", "info").returncode:
        program = Path(require_program("podman")).name
    if call(program, "image", "inspect", IMAGE).returncode:
        missing(f"{program} has no image {IMAGE}: make image")
    return program


def run_image(program: str, *arguments, mounts=(), options=(), entrypoint=None):
    """Run the image as the strictest host would: no network, nothing that can be written but
    what is mounted, a user that does not exist, no HOME, 2 GB of memory.

    `mounts` are (path, `ro` or `rw`), in the container where they are here.
    """
    strict = ["--network", "none", "--read-only", "--user", "4242:4242", "--memory", "2g"]
    strict += ["--cap-drop", "ALL", "--security-opt", "no-new-privileges"]
    if program == "podman":  # else it puts a tmpfs on /tmp and the like, as docker does not
        strict += ["--read-only-tmpfs=false"]
    volumes = [option for path, mode in mounts for option in ("-v", f"{path}:{path}:{mode}")]
    command = ["-u", "HOME", entrypoint or "/opt/app/entry", *arguments]
    return call(
        *(program, "run", "--rm", *strict, *volumes, *options, "--entrypoint", "env", IMAGE),
        *command,
        timeout=PATIENCE,
        cwd=tempfile.gettempdir(),  # podman leaves a file `oom` there, where memory ran out
    )


def run_files(folder: Path) -> dict[str, bytes]:
    """Relative path -> content of an output folder, without what is of single calls."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and "log" not in path.relative_to(folder).parts
        and path.name != "status.tsv"
    }


def place_sif(folder: Path) -> None:
    """Put swift_bids.sif into a folder and let anybody write there: Apptainer may be somebody else.
    Without it, or without Apptainer, the test skips."""
    require_program("apptainer")
    if not SIF.exists():
        missing(f"there is no {SIF}: make sif")
    try:
        os.link(SIF, folder / "swift_bids.sif")
    except OSError:  # another file system
        shutil.copy(SIF, folder / "swift_bids.sif")
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o777)
