"""Call the app: in this process, in a process of its own, or as a job that a test disturbs."""

import contextlib
import fnmatch
import io
import logging
import os
import shutil
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest
from make_data import write_derivative

from swift_bids.cli.main import main

ROOT = Path(__file__).resolve().parent.parent
#: Seconds after which a test gives up waiting for something that never comes. No test may depend on
#: the speed of the machine, so this is far longer than anything takes.
PATIENCE = 600


def require_program(name: str) -> str:
    """Path of a system program; without it the test skips, or fails where CI promises it."""
    places = [str(Path(sys.executable).parent), *os.get_exec_path()]  # some come as wheels
    path = shutil.which(name, path=os.pathsep.join(places))
    return path or missing(f"{name} is not installed")


def missing(reason: str) -> NoReturn:
    """Skip, or fail where CI promises that everything is installed."""
    if os.environ.get("SWIFT_BIDS_REQUIRE_SYSTEM_PROGRAMS"):
        pytest.fail(reason)
    pytest.skip(reason)


def run_app(*arguments, cwd=None, **environment) -> subprocess.CompletedProcess:
    """Run the app in this process, and its nodes too, which saves seconds of imports a call.

    Calls with worker processes, jobs or an environment of their own get a process of their own.
    """
    argv = list(map(str, arguments))
    if "--nprocs" not in argv:
        levels = {"participant", "group", "finetune", "explain"}
        argv += ["--nprocs", "1"] if levels & set(argv) else []
    elif argv[argv.index("--nprocs") + 1] != "1":
        return run_process(*argv, cwd=cwd, **environment)
    if environment or {"--slurm", "--slurm-graph", "--use-plugin"} & set(argv):
        return run_process(*argv, cwd=cwd, **environment)
    out, errors = io.StringIO(), io.StringIO()
    before = Path.cwd()
    with (
        _untouched_process(),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(errors),
    ):
        os.chdir(cwd or before)
        try:
            code = main(argv)
        except SystemExit as end:  # argparse
            code = end.code
        finally:
            os.chdir(before)
    return subprocess.CompletedProcess(argv, code, out.getvalue(), errors.getvalue())


@contextlib.contextmanager
def _untouched_process():
    """Undo what a call changes in its process, and let it log and warn as in one of its own."""
    import signal

    root, log = logging.getLogger(), logging.getLogger("swift_bids")
    handlers, level, own_level = root.handlers[:], root.level, log.level
    root.handlers[:] = []
    environment, unraisable = dict(os.environ), sys.unraisablehook
    os.environ["HF_HUB_OFFLINE"] = "1"
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    signals = {number: signal.getsignal(number) for number in numbers}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("default")
            warnings.showwarning = _print_warning
            yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        log.setLevel(own_level)
        sys.unraisablehook = unraisable
        os.environ.clear()
        os.environ.update(environment)
        for number, handler in signals.items():
            signal.signal(number, handler)


def _print_warning(message, category, filename, lineno, file=None, line=None):
    sys.stderr.write(warnings.formatwarning(message, category, filename, lineno, line))


def run_process(*arguments, cwd=None, **environment) -> subprocess.CompletedProcess:
    """Run the app in a process of its own, with workers if it wants them."""
    return subprocess.run(
        [sys.executable, str(ROOT / "run.py"), *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        timeout=PATIENCE,
        env=os.environ | {"HF_HUB_OFFLINE": "1"} | environment,
    )


def start_process(*arguments, **options) -> subprocess.Popen:
    """Start the app in a process of its own."""
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True} | options
    command = [sys.executable, str(ROOT / "run.py"), *map(str, arguments)]
    return subprocess.Popen(command, **options)


def start_job(
    folder: Path, bundle: Path, n_volumes: tuple[int, int], processes: int = 2, **options
) -> subprocess.Popen:
    """Start the app on two runs (`in` -> `out`) and wait until one of them is read.

    The second run should be so long that the app is still at work when the test disturbs it.
    """
    rng = np.random.default_rng(0)
    for label, length in zip("12", n_volumes):
        still = rng.integers(900, 1100, (23, 28, 23, 1))
        data = (still + np.arange(length) % 7).astype(np.int16)
        write_derivative(folder / "in", f"sub-{label}_task-a", data=data)
    call = (folder / "in", folder / "out", "participant")
    job = start_process(*call, "--nprocs", processes, "--weights", bundle, **options)
    wait_for(lambda: files_in(folder / "out", "matrix.npy"), job)
    return job


def files_in(folder: Path, pattern: str = "*") -> list[Path]:
    """Files in a folder and below it, also while a call removes some of them."""
    return [
        Path(parent, name)
        for parent, _, names in os.walk(folder)
        for name in fnmatch.filter(names, pattern)
    ]


def wait_for(condition, job: subprocess.Popen | None = None):
    """Wait until a condition holds, and return its value; fail when the job ends before."""
    deadline = time.monotonic() + PATIENCE
    while not (value := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        assert job is None or job.poll() is None, f"the app ended first: {job.stdout.read()}"
        time.sleep(0.01)
    return value


def somebody_is_left(session: int) -> bool:
    """Whether processes of a session are alive; its number is that of its first process."""
    try:
        os.killpg(session, 0)
    except ProcessLookupError:
        return False
    return True


def query(bids_dir, derivatives=None, raw=None, participants=None, **selection):
    """The runs that the app finds, and name -> reason of its problems."""
    from swift_bids.inputs.dataset import find_derivatives
    from swift_bids.inputs.query import find_runs
    from swift_bids.inputs.selection import Selection

    dataset = find_derivatives(bids_dir, derivatives, raw)
    labels, problems = dataset.choose(participants)
    runs, unusable = find_runs(dataset, labels, Selection(**selection))
    return runs, {problem.name: problem.reason for problem in [*problems, *unusable]}
