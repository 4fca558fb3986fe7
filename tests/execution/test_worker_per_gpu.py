"""One process per GPU embeds the runs of all nodes; stand-in networks on the CPU take its place."""

import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from app import PATIENCE, files_in, somebody_is_left, wait_for
from make_data import write_run

from swift_bids.base.errors import InputError, UsageError
from swift_bids.execution.worker_per_gpu import embedding_workers
from swift_bids.steps.embedding_worker import embed_in_worker

TOTAL = 96**3


class Means(torch.nn.Module):
    """Returns the mean of every volume, and refuses or dies at some values of the background."""

    def __init__(self, name="a"):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.name = name

    def forward(self, x):
        corner = x[:, 0, 0, 0, 0, 0]
        if (corner == 666).any():
            os.kill(os.getpid(), signal.SIGKILL)
        if (corner == 500).any():
            raise torch.OutOfMemoryError("CUDA out of memory")
        if (corner == 400).any():
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return x.mean(dim=(2, 3, 4), keepdim=True)


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def write_matrix(folder: Path, seed: int, background: float):
    """Write the inputs of a run of three chunks; return them and the expected tokens."""
    rng = np.random.default_rng(seed)
    n_voxels = 30 + seed
    matrix = rng.standard_normal((60, n_voxels)).astype(np.float16)
    # the first voxel stays background
    index = 1 + rng.permutation(TOTAL - 1)[:n_voxels]
    files = [folder / f"{name}{seed}.npy" for name in ("matrix", "index")]
    for file, content in zip(files, (matrix, index)):
        np.save(file, content)
    sums = matrix.astype(float).sum(1) + background * (TOTAL - n_voxels)
    return files, (sums / TOTAL).reshape(3, 20)


def embed_all(address, folder, backgrounds):
    """Embed runs at the same time; return the largest error of each, or the exception."""

    def embed(item):
        seed, background = item
        (matrix, index), expected = write_matrix(folder, seed, background)
        seen = []
        try:
            tokens = embed_in_worker(
                address, matrix, index, [0, 20, 40], background, lambda: seen.append(1)
            )
        except InputError as error:
            return error
        assert tokens.shape == (3, 1, 1, 1, 1, 20)
        assert tokens.dtype == np.float32
        assert len(seen) >= 3
        return np.abs(tokens[:, 0, 0, 0, 0] - expected).max()

    with ThreadPoolExecutor(len(backgrounds)) as pool:
        return list(pool.map(embed, enumerate(backgrounds)))


class WaitsForMatrices(torch.nn.Module):
    """Returns tokens once the matrices of some runs are in the work folder."""

    def __init__(self, work_dir, n_runs):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.work_dir, self.n_runs = work_dir, n_runs

    def forward(self, x):
        (self.work_dir / f"pid-{os.getpid()}").touch()
        wait_for(lambda: len(files_in(self.work_dir, "result_normalise.pklz")) >= self.n_runs)
        self.n_runs = 0  # from now on, folders of finished runs disappear
        features = torch.arange(288.0).view(1, 288, 1, 1, 1, 1)
        return features.expand(len(x), -1, 2, 2, 2, 20)


#: Runs the app with a worker that has `WaitsForMatrices` instead of a GPU.
PATCHED_APP = """
import dataclasses, pathlib, sys
from functools import partial
from swift_bids.cli.main import main
from swift_bids.execution import plan, worker_per_gpu
from test_worker_per_gpu import WaitsForMatrices

plan_execution = plan.plan_execution

def plan_with_worker(*arguments):
    execution, network = plan_execution(*arguments)
    return dataclasses.replace(execution, gpu_workers=1), network

plan.plan_execution = plan_with_worker
load = partial(WaitsForMatrices, pathlib.Path(sys.argv[-1]), 4)
worker_per_gpu.worker_per_gpu = lambda *_: worker_per_gpu.embedding_workers({"cpu": load})
sys.exit(main(sys.argv[1:]))
"""


def start_patched_app(folder, bundle, labels):
    for label in labels:
        write_run(folder / "in", label)
    call = [folder / "in", folder / "out", "participant", "--weights", bundle]
    call += ["--nprocs", "2", "-w", folder / "work"]
    return subprocess.Popen(
        [sys.executable, "-c", PATCHED_APP, *map(str, call)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )


def test_both_processes_read_while_runs_wait_for_the_gpu(small_bundle, tmp_path):
    """The network waits until all four runs are read: if the nodes that wait for it took the place
    of readers, two processes would never get there. One process embeds all runs."""
    job = start_patched_app(tmp_path, small_bundle, "1234")
    said, _ = job.communicate(timeout=PATIENCE)
    assert said.endswith("done: 4 run(s)\n"), said
    assert len(files_in(tmp_path / "work", "pid-*")) == 1
    for file in files_in(tmp_path / "out", "*_desc-swift_embedding.tsv"):
        table = pd.read_csv(file, sep="\t")
        assert table.filter(regex=r"^swift\d").iloc[0].tolist() == list(range(288))


def test_ctrl_c_ends_the_worker(small_bundle, tmp_path):
    """While the network is busy: it would wait for a fourth run forever."""
    job = start_patched_app(tmp_path, small_bundle, "123")
    wait_for(lambda: files_in(tmp_path / "work", "pid-*"), job)
    os.killpg(job.pid, signal.SIGINT)
    said, _ = job.communicate(timeout=PATIENCE)
    assert job.returncode == 130, said
    assert said.count("not processed: the call was interrupted or terminated") == 3
    assert "Traceback" not in said
    assert "starting it again" not in said
    wait_for(lambda: not somebody_is_left(job.pid))


def test_runs_of_several_nodes(tmp_path):
    with embedding_workers({"a": Means, "b": Means}, batch_size=4) as address:
        errors = embed_all(address, tmp_path, [-1.0, 2.0, 0.5, 0.0, 3.0, -2.0])
    assert max(errors) < 1e-5
    assert not os.path.exists(address)


def test_a_killed_worker_costs_only_the_run_that_kills_it(tmp_path, caplog):
    """The runs that were on their way through the network with it are embedded again."""
    with embedding_workers({"a": Means}, batch_size=4) as address:
        *good, killed, failed = embed_all(address, tmp_path, [-1.0, 2.0, 0.5, 0.0, 666, 400])
    assert max(good) < 1e-5
    reason = "the process that runs the network ended twice while it embedded this run"
    assert str(killed).startswith(reason)
    assert str(failed).startswith(reason)
    assert "the process that runs the network on a ended, most likely" in caplog.text


def test_memory_that_is_too_small_for_one_chunk(tmp_path):
    with embedding_workers({"a": Means}, batch_size=2) as address:
        good, bad = embed_all(address, tmp_path, [-1.0, 500])
    assert good < 1e-5
    assert "has no memory left for even one chunk" in str(bad)


def test_inputs_that_have_disappeared(tmp_path):
    with embedding_workers({"a": Means}) as address:
        with pytest.raises(InputError, match="No such file"):
            embed_in_worker(address, tmp_path / "absent.npy", "absent", [0], 0.0, list)
        (error,) = embed_all(address, tmp_path, [1.0])
    assert error < 1e-5


def test_a_node_that_is_killed(tmp_path):
    """Its run is given up, and the worker goes on."""
    from multiprocessing.connection import Client

    (matrix, index), _ = write_matrix(tmp_path, 0, 1.0)
    request = f'{{"matrix": "{matrix}", "index": "{index}", "starts": {[0] * 200}, '
    request += '"background": 1.0, "alone": false}'
    with embedding_workers({"a": Means}) as address:
        with Client(address, "AF_UNIX"):
            pass
        with Client(address, "AF_UNIX") as node:
            node.send_bytes(request.encode())
            node.recv_bytes()
        (error,) = embed_all(address, tmp_path, [1.0])
    assert error < 1e-5


def test_workers_that_cannot_start(tmp_path, caplog):
    with embedding_workers({"a": die, "b": die}) as address:
        (error,) = embed_all(address, tmp_path, [1.0])
    assert str(error) == "no process is left that runs the network; see the log"
    assert caplog.text.count("ended while it started; give the job more memory") == 2


def fail_to_load():
    raise RuntimeError("no kernel image is available for execution on the device")


def test_a_gpu_that_does_not_work(tmp_path, caplog, capfd):
    """The other one does all the work, and the reason is in the log."""
    with embedding_workers({"bad": fail_to_load, "good": Means}) as address:
        errors = embed_all(address, tmp_path, [1.0, 2.0])
        wait_for(lambda: "on bad ended while it started; see the error above" in caplog.text)
    assert max(errors) < 1e-5
    assert "RuntimeError: no kernel image is available" in capfd.readouterr().err


def test_a_temporary_folder_with_a_long_path(tmp_path, monkeypatch):
    folder = tmp_path / ("x" * 100)
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    with (
        pytest.raises(UsageError, match="set TMPDIR to a short path of a local disk"),
        embedding_workers({"a": Means}),
    ):
        pass


def test_workers_end_with_the_call(tmp_path):
    before = threading.active_count()
    with embedding_workers({"a": Means}) as address:
        embed_all(address, tmp_path, [1.0])
    assert threading.active_count() <= before
