"""Time the backbone and the original forward pass alternately in one process.

    python -m benchmarks.backbone --reference reference_forward.pt
    python -m benchmarks.backbone --networks

The reference is a TorchScript trace of the original network. The benchmark loads its weights into
our network, so both do the same work, and prints their largest difference next to the times. For
memory, each network runs in a separate process, and the loaded network and its input do not count.
`--precision` prints how far each number format is from float32, on the CPU and on a GPU if there is
one. `--networks` times SwiFT and NeuroSTORM in turn, in each way to run them on this CPU.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import re
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from swift_bids.network.compiled import kernel
from swift_bids.network.neurostorm import NeuroSTORM
from swift_bids.network.precision import PRECISIONS, at_precision
from swift_bids.network.released import RELEASED_CONFIG
from swift_bids.network.swift import SwiFT


def seconds(work: Callable[[torch.Tensor], object], x: torch.Tensor) -> float:
    """Time `work(x)` in seconds."""
    start = time.perf_counter()
    work(x)
    if x.is_cuda:
        torch.cuda.synchronize(x.device)
    return time.perf_counter() - start


def load(reference: str) -> tuple[torch.nn.Module, SwiFT, torch.Tensor]:
    """The reference, our network with the same weights, and a chunk (1, 1, 96, 96, 96, 20)."""
    theirs = torch.jit.load(reference).eval()
    ours = SwiFT(**RELEASED_CONFIG).eval()
    ours.load_state_dict(theirs.state_dict())
    generator = torch.Generator().manual_seed(0)
    return theirs, ours, torch.randn(1, 1, 96, 96, 96, 20, generator=generator)


def peak_memory(reference: str, which: int, threads: int) -> float:
    """Peak memory of a forward pass in MB, minus the memory in use before it (Linux)."""
    torch.set_num_threads(threads)
    *networks, volumes = load(reference)

    def status(field: str) -> float:
        text = Path("/proc/self/status").read_text()
        return int(re.search(rf"{field}:\s+(\d+) kB", text).group(1)) / 1024

    Path("/proc/self/clear_refs").write_text("5")  # resets the peak (man 5 proc)
    before = status("VmRSS")
    with torch.inference_mode():
        networks[which](volumes)
    return status("VmHWM") - before


def available_kernels() -> list[str]:
    """Instruction sets for which this package has a kernel and this processor the instructions."""
    found = []
    for name in ("AVX2", "AVX-512", "NEON"):
        os.environ["SWIFT_BIDS_KERNEL"] = name
        if kernel() is not None:
            found.append(name)
    return found


def matmul_peak() -> float:
    """Speed of a large float32 matrix product in GFLOP/s."""
    a = torch.randn(2048, 2048)
    return 2 * 2048**3 / min(seconds(a.matmul, a) for _ in range(5)) / 1e9


def deviation(output: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest absolute difference divided by the largest absolute expected value."""
    return float((output.cpu().float() - expected).abs().max() / expected.abs().max())


def print_precisions(network: SwiFT, volumes: torch.Tensor) -> None:
    """Print time and deviation from float32 for every number format of each device."""
    with torch.inference_mode():
        expected = network(volumes)
    print("\nprecision  device  seconds  deviation of tokens  of the embedding")
    for device in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
        moved_network, moved = network.to(device), volumes.to(device)
        for precision in PRECISIONS:
            if device == "cpu" and precision == "fp16":
                continue  # fp16 is not faster on any CPU
            with torch.inference_mode(), at_precision(precision, device):
                output = moved_network(moved).float()
                took = statistics.median(seconds(moved_network, moved) for _ in range(5))
            pooled = (t.cpu().mean(dim=(2, 3, 4, 5)) for t in (output, expected))
            print(
                f"{precision:9}  {device:6}  {took:7.3f}  {deviation(output, expected):19.1e}  "
                f"{deviation(*pooled):16.1e}"
            )


def print_networks(rounds: int) -> None:
    """Print the time of both networks for each way to run them, and their ratio."""
    generator = torch.Generator().manual_seed(0)
    volumes = torch.randn(1, 1, 96, 96, 96, 20, generator=generator)
    swift, neurostorm = (kind(**RELEASED_CONFIG).eval() for kind in (SwiFT, NeuroSTORM))
    print("runs in    SwiFT, s  NeuroSTORM, s  ratio (median of pairs)")
    for path in ["torch", *available_kernels()]:
        os.environ["SWIFT_BIDS_KERNEL"] = path
        with torch.inference_mode():
            pairs = [
                (seconds(swift, volumes), seconds(neurostorm, volumes)) for _ in range(rounds + 1)
            ][1:]  # the first is the warm-up
        first, second = (statistics.median(times) for times in zip(*pairs))
        ratio = statistics.median(b / a for a, b in pairs)
        print(f"{path:9}  {first:8.3f}  {second:13.3f}  {ratio:23.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.backbone", description=__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--reference", help="traced original forward pass of SwiFT")
    what.add_argument("--networks", action="store_true", help="time both networks")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--precision", action="store_true", help="also compare the number formats")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.networks:
        print_networks(args.rounds)
        return

    reference, ours, volumes = load(args.reference)
    paths = ["torch", *available_kernels()]
    taken: dict[str, list[float]] = {path: [] for path in ["original", *paths]}
    off = {}
    with torch.inference_mode():
        expected = reference(volumes)
        for path in paths:
            os.environ["SWIFT_BIDS_KERNEL"] = path
            off[path] = deviation(ours(volumes), expected)  # also the warm-up
        for _ in range(args.rounds):
            taken["original"].append(seconds(reference, volumes))
            for path in paths:
                os.environ["SWIFT_BIDS_KERNEL"] = path
                taken[path].append(seconds(ours, volumes))
    # With gradients, the network does the same work with operators that the counter knows.
    attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    count = {attention: lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v)}
    with FlopCounterMode(display=False, custom_mapping=count) as counter:
        ours(volumes)
    flop = counter.get_total_flops() / 1e9
    spawn = multiprocessing.get_context("spawn")
    print(f"one chunk (20 volumes), float32, {args.threads} threads, {args.rounds} rounds, medians")
    print("runs in    seconds  ratio (median of pairs)  deviation  GFLOP/s  peak memory, MB")
    for path, times in taken.items():
        os.environ["SWIFT_BIDS_KERNEL"] = path
        with spawn.Pool(1, maxtasksperchild=1) as pool:
            which = 0 if path == "original" else 1
            memory = pool.apply(peak_memory, (args.reference, which, args.threads))
        ratio = statistics.median(a / b for a, b in zip(taken["original"], times))
        speed = flop / statistics.median(times) if path in paths else float("nan")
        print(
            f"{path:9}  {statistics.median(times):7.3f}  {ratio:23.2f}  {off.get(path, 0):9.1e}  "
            f"{speed:7.0f}  {memory:15.0f}"
        )
    print(f"ours does {flop:.1f} GFLOP; a large matrix product: {matmul_peak():.0f} GFLOP/s")
    os.environ["SWIFT_BIDS_KERNEL"] = paths[-1]
    if args.precision:
        print_precisions(ours, volumes)


if __name__ == "__main__":
    main()
