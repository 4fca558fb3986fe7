"""Does the GPU's worker keep the readers busy? Sleeps stand in for reading and for the network.

    python -m benchmarks.readers [--runs 16] [--readers 8] [--read 2.0] [--forward 0.05]

Each run is a node that sleeps as long as reading takes, and a node that sends one chunk to an
embedding worker whose network sleeps. The benchmark prints the time of all runs, and that of the
reading nodes alone; both pass through the app's nipype plugin.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
from nipype import Function, Node, Workflow

from swift_bids.execution.multiprocess import RunByRun
from swift_bids.execution.worker_per_gpu import embedding_workers
from swift_bids.execution.workers import start_method, start_server
from swift_bids.execution.workflows import NODES_PER_GPU
from swift_bids.interfaces import Embed

N_VOXELS = 100


class Sleeps(torch.nn.Module):
    """A network whose forward pass takes a fixed time."""

    def __init__(self, seconds: float):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seconds = seconds

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        time.sleep(self.seconds)
        return torch.zeros(len(x), 288, 2, 2, 2, 20)


def read(seconds: float, matrix: str) -> str:
    """Take as long as reading a run."""
    import time

    time.sleep(seconds)
    return matrix


def seconds_for_all(
    folder: Path, n_runs: int, n_readers: int, seconds: float, address: str | None
) -> float:
    """Time all runs; without an address only their reading."""
    files = {name: str(folder / f"{name}.npy") for name in ("matrix", "index")}
    np.save(files["matrix"], np.zeros((20, N_VOXELS), np.float16))
    np.save(files["index"], np.arange(N_VOXELS))
    chunks = folder / "chunks.tsv"
    chunks.write_text("model_start\n0\n")
    runs = []
    for number in range(n_runs):
        reader = Node(Function(["seconds", "matrix"], ["matrix"], read), "read")
        reader.inputs.seconds, reader.inputs.matrix = seconds, files["matrix"]
        run = Workflow(f"run{number}")
        run.add_nodes([reader])
        if address is not None:
            interface = Embed(
                index=files["index"],
                chunks=str(chunks),
                statistics={"background": 0.0},
                weights={},
                device="cpu",
                threads=1,
                workers=address,
            )
            run.connect(reader, "matrix", Node(interface, "embed", n_procs=0, mem_gb=0.1), "matrix")
        runs.append(run)
    whole = Workflow("all", base_dir=tempfile.mkdtemp(dir=folder))
    whole.config["execution"] = {"poll_sleep_duration": "0.05", "create_report": "false"}
    whole.add_nodes(runs)
    plugin = RunByRun({"n_procs": n_readers, "mp_context": start_method()}, NODES_PER_GPU)
    start = time.perf_counter()
    whole.run(plugin=plugin)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.readers", description=__doc__)
    parser.add_argument("--runs", type=int, default=16)
    parser.add_argument("--readers", type=int, default=8)
    parser.add_argument("--read", type=float, default=2.0, help="seconds")
    parser.add_argument("--forward", type=float, default=0.05, help="seconds")
    args = parser.parse_args()
    start_server()
    with tempfile.TemporaryDirectory() as name:
        options = Path(name), args.runs, args.readers, args.read
        seconds_for_all(*options, None)  # warm-up
        alone = seconds_for_all(*options, None)
        with embedding_workers({"stand-in": partial(Sleeps, args.forward)}) as address:
            both = seconds_for_all(*options, address)
    print(
        f"{args.runs} runs, {args.readers} readers of {args.read:g} s, forward {args.forward:g} s"
    )
    print(f"sleeping alone       {args.read * args.runs / args.readers:6.2f} s")
    print(f"reading              {alone:6.2f} s")
    print(f"reading and network  {both:6.2f} s, {both / alone:.2f} times as long")


if __name__ == "__main__":
    main()
