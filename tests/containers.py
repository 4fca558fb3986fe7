"""Run the app's image in tests, with docker, podman or Apptainer."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from app import PATIENCE, ROOT, missing, require_program

IMAGE = os.environ.get("SWIFT_BIDS_IMAGE", "swift_bids")
SIF = Path(os.environ.get("SWIFT_BIDS_SIF", ROOT / "swift_bids.sif"))


def call(*command, **options) -> subprocess.CompletedProcess:
    """Run a program; podman gets settings for test machines."""
    os.environ.setdefault("CONTAINERS_CONF", str(ROOT / "docker" / "containers.conf"))
    return subprocess.run([*map(str, command)], capture_output=True, text=True, **options)


def engine_with_image() -> str:
    """`docker` if its engine runs, else `podman`; the test is skipped without the image."""
    program = "docker"
    if not shutil.which("docker") or call("docker", "info").returncode:
        program = Path(require_program("podman")).name
    if call(program, "image", "inspect", IMAGE).returncode:
        missing(f"{program} has no image {IMAGE}: make image")
    return program


def run_image(program: str, *arguments, mounts=(), options=(), entrypoint=None):
    """Run the image as on the strictest host: no network, no writable folder except the mounts, an
    unknown user, no HOME, 2 GB of memory.

    `mounts` are (path, `ro` or `rw`); the container sees them at the same path.
    """
    strict = ["--network", "none", "--read-only", "--user", "4242:4242", "--memory", "2g"]
    strict += ["--cap-drop", "ALL", "--security-opt", "no-new-privileges"]
    if program == "podman":  # or it mounts a tmpfs on /tmp and others; docker does not
        strict += ["--read-only-tmpfs=false"]
    volumes = [option for path, mode in mounts for option in ("-v", f"{path}:{path}:{mode}")]
    command = ["-u", "HOME", entrypoint or "/opt/app/entry", *arguments]
    return call(
        *(program, "run", "--rm", *strict, *volumes, *options, "--entrypoint", "env", IMAGE),
        *command,
        timeout=PATIENCE,
        cwd=tempfile.gettempdir(),  # podman writes a file `oom` here when memory runs out
    )


def run_files(folder: Path) -> dict[str, bytes]:
    """Relative path -> content of the files in an output folder, without logs and status."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and "log" not in path.relative_to(folder).parts
        and path.name != "status.tsv"
    }


def place_sif(folder: Path) -> None:
    """Put swift_bids.sif into a folder that everybody may write to: Apptainer may run as another
    user. The test is skipped if the file or Apptainer is missing."""
    require_program("apptainer")
    if not SIF.exists():
        missing(f"there is no {SIF}: make sif")
    try:
        os.link(SIF, folder / "swift_bids.sif")
    except OSError:  # another file system
        shutil.copy(SIF, folder / "swift_bids.sif")
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o777)
