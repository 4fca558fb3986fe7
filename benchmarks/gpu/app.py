"""Stages that run tests and the whole app."""

from __future__ import annotations

import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.gpu.stage import ROOT, Stage
from benchmarks.pipeline import write_dataset
from benchmarks.throughput import give_names
from swift_bids.network.bundles import write_random_bundle


def tests(stage: Stage) -> None:
    """The tests marked `gpu`."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "tests/steps"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    said = done.stdout + done.stderr
    stage.add("said", said.strip().splitlines()[-1])
    if done.returncode:
        stage.add("output", said[-3000:])
    done.check_returncode()


def app(stage: Stage) -> None:
    """Runs a minute of the whole app, and the busy share of the GPU, with more and more readers."""
    n_volumes, readers = (40, (1, 2)) if stage.quick else (300, (1, 4, 8, 16))
    n_runs = 4 * max(readers)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        start = time.perf_counter()
        write_dataset(folder / "in", n_volumes)
        give_names(folder / "in", n_runs)
        weights = write_random_bundle(folder / "weights")
        stage.add("seconds to make the data", time.perf_counter() - start)
        for n_readers in reversed(readers):
            some = [f"{number:02d}" for number in range(1, 4 * n_readers + 1)]
            command = [sys.executable, ROOT / "run.py", folder / "in", folder / "out"]
            command += [
                "participant",
                "--weights",
                weights,
                "--random-weights",
                "--device",
                stage.device,
            ]
            command += ["--nprocs", n_readers, "--precision", stage.precision, "-v", "--force"]
            command += ["--participant-label", *some]
            with busy_share(stage, folder) as busy:
                start = time.perf_counter()
                done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
                seconds = time.perf_counter() - start
            label = f"{n_readers} processes, {len(some)} runs"
            if done.returncode:
                stage.add(f"{label}, output", (done.stdout + done.stderr)[-2000:])
            done.check_returncode()
            stage.add(f"{label}, runs per minute", 60 * len(some) / seconds)
            if busy:
                stage.add(f"{label}, GPU busy", busy)
            steps = re.findall(r": (\w+) took ([\d.]+) s", done.stdout + done.stderr)
            for step in dict(steps):
                took = [float(s) for other, s in steps if other == step]
                stage.add(f"{label}, {step}, median s", statistics.median(took))


@contextmanager
def busy_share(stage: Stage, folder: Path) -> Iterator[dict[str, float]]:
    """Sample how busy the GPU is; the shares of the samples are filled in at the end."""
    busy: dict[str, float] = {}
    if not stage.is_gpu or shutil.which("nvidia-smi") is None:
        yield busy
        return
    command = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
    with open(folder / "busy", "w+") as samples:
        sampler = subprocess.Popen([*command, "--loop-ms=200"], stdout=samples)
        try:
            yield busy
        finally:
            sampler.terminate()
            sampler.wait()
        samples.seek(0)
        shares = [int(line) / 100 for line in samples if line.strip().isdecimal()]
    if shares:
        busy["mean"] = round(statistics.fmean(shares), 3)
        busy["samples above 0"] = round(statistics.fmean(share > 0 for share in shares), 3)
