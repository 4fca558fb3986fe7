"""Stages that run the network alone."""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
import platform
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.backbone import deviation
from benchmarks.gpu.stage import ROOT, Stage
from swift_bids.network.neurostorm import NeuroSTORM
from swift_bids.network.precision import PRECISIONS, at_precision
from swift_bids.network.released import RELEASED_CONFIG
from swift_bids.network.swift import SwiFT
from swift_bids.steps.embed import embed_chunks

#: Network -> folder with its reference.
DATA = {
    SwiFT: ROOT / "tests" / "data" / "parity",
    NeuroSTORM: ROOT / "tests" / "data" / "neurostorm",
}
#: Largest deviation from the reference that rounding in float32 explains.
EXACT = 1e-5


def device(stage: Stage) -> None:
    """Machine, versions, and whether the app can be imported."""
    stage.add("python", platform.python_version())
    stage.add("torch", torch.__version__)
    stage.add("cpus", len(os.sched_getaffinity(0)))
    if stage.is_gpu:
        properties = torch.cuda.get_device_properties(0)
        stage.add("name", properties.name)
        stage.add("gpus", torch.cuda.device_count())
        stage.add("memory_gb", properties.total_memory / 1e9)
        stage.add("cuda", torch.version.cuda)
    done = subprocess.run(
        [sys.executable, ROOT / "run.py", "--version"], capture_output=True, text=True
    )
    stage.add("app", (done.stdout + done.stderr).strip())
    done.check_returncode()


def recipe_of(kind: type) -> Any:
    """How weights and inputs of a reference are made (recipe.py in its folder)."""
    spec = importlib.util.spec_from_file_location("recipe", DATA[kind] / "recipe.py")
    recipe = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(recipe)
    return recipe


def parity(stage: Stage) -> None:
    """Deviation from the original's outputs, max-abs over max-abs, in every number format."""
    make_input = recipe_of(SwiFT).make_input
    exact = True
    cases = itertools.product((SwiFT, NeuroSTORM), ("tiny", "tiny_windowed", "full"))
    for kind, case in cases:
        recipe = recipe_of(kind)
        config, inputs, expected, *_ = recipe.load_case(case)
        shapes = json.loads((DATA[kind] / f"{case}.json").read_text())["parameters"]
        state = recipe.make_state_dict(shapes, inputs["weights_seed"])
        network = kind(**config).eval()
        network.load_state_dict({name: torch.from_numpy(value) for name, value in state.items()})
        network.to(stage.device)
        volumes = torch.from_numpy(make_input(inputs["shape"], inputs["input_seed"]))
        volumes = volumes.to(stage.device)
        for precision in (*PRECISIONS, "tf32"):
            if precision in ("tf32", "fp16") and not stage.is_gpu:
                continue
            torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
            context = (
                nullcontext() if precision == "tf32" else at_precision(precision, stage.device)
            )
            with torch.inference_mode(), context:
                output = network(volumes)
            off = deviation(output, torch.from_numpy(expected))
            stage.add(f"{kind.title} {case} {precision}", off)
            exact &= precision != "float32" or off <= EXACT
    if not exact:
        raise SystemExit(f"float32 deviates from the original by more than {EXACT:g}")


def speed(stage: Stage) -> None:
    """Chunks per second of our network and of the original, and memory per chunk."""
    ours = stage.network()
    networks: dict[str, torch.nn.Module] = {"ours": ours}
    networks["NeuroSTORM"] = NeuroSTORM(**RELEASED_CONFIG).eval().to(stage.device)
    if stage.reference:
        networks["original"] = load_reference(stage.reference, stage.device)
    for name, network in networks.items():
        for batch in (1, 2) if stage.quick else (1, 2, 4, 8, 16, 32):
            with out_of_memory_is_a_figure(stage, f"{name} {stage.precision} batch {batch}"):
                measure_batch(stage, name, network, batch, stage.precision)
    for precision in set(PRECISIONS) - {stage.precision, "fp16"}:
        measure_batch(stage, "ours", ours, 2 if stage.quick else 16, precision)
    if stage.is_gpu:
        torch.backends.cuda.enable_cudnn_sdp(True)
        measure_batch(stage, "ours with cuDNN's attention", ours, 16, stage.precision)


def measure_batch(
    stage: Stage, name: str, network: torch.nn.Module, batch: int, precision: str
) -> None:
    """Measure a network on a batch."""
    volumes = stage.volumes(batch)
    with torch.inference_mode(), at_precision(precision, stage.device):
        measure(stage, f"{name} {precision} batch {batch}", batch, lambda: network(volumes))


def measure(
    stage: Stage, label: str, batch: int, work: Callable[[], object], rounds: int = 5
) -> None:
    """Add chunks per second and memory per chunk of work on a batch."""
    if stage.is_gpu:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    seconds = stage.seconds(work, rounds)
    stage.add(f"{label}, chunks per s", batch / seconds)
    if stage.is_gpu:
        used = torch.cuda.max_memory_allocated() - before
        stage.add(f"{label}, MB per chunk", used / batch / 1e6)


def load_reference(file: Path, device: str) -> torch.jit.ScriptModule:
    """Load the traced original; the trace has the CPU as a constant, which is replaced.

    Without TorchScript's fuser, which would compile kernels for every batch size, it runs the
    operators of the original.
    """
    torch._C._jit_set_texpr_fuser_enabled(False)
    network = torch.jit.load(file, map_location=device).eval()
    for module in network.modules():
        if module._c._has_method("forward"):
            for node in module.graph.findAllNodes("prim::Constant", recurse=True):
                if node.output().type().str() == "Device":
                    node.s_("value", device)
    return network


@contextmanager
def out_of_memory_is_a_figure(stage: Stage, label: str) -> Iterator[None]:
    """Record that a batch does not fit, and go on."""
    try:
        yield
    except RuntimeError as error:  # TorchScript has no error of its own for this
        if "out of memory" not in str(error):
            raise
        stage.add(label, "does not fit")
    if stage.is_gpu:
        torch.cuda.empty_cache()


def memory(stage: Stage) -> None:
    """The batch that the app chooses by itself, and what it does on a card that is almost full."""
    rng = np.random.default_rng(0)
    matrix = rng.standard_normal((400, 2000)).astype(np.float16)
    index, starts = rng.permutation(96**3)[:2000], list(range(0, 400, 20))
    starts = starts[:2] if stage.quick else starts
    network, sizes = stage.network(), []
    network.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))

    def embed(**options: Any) -> torch.Tensor:
        sizes.clear()
        return torch.from_numpy(embed_chunks(matrix, index, starts, -1.0, network, **options))

    expected = embed(batch_size=1)
    if stage.is_gpu:
        per_chunk = torch.cuda.max_memory_allocated()
        stage.add("MB for one chunk, with the network", per_chunk / 1e6)
    embed()
    stage.add("batches chosen", sizes[:])
    if stage.is_gpu:
        torch.cuda.empty_cache()
        free, _ = torch.cuda.mem_get_info()
        filled = torch.empty(free - 3 * per_chunk, dtype=torch.uint8, device=stage.device)
        output = embed(batch_size=16)
        stage.add("batches on a full card", sizes[:])
        stage.add("deviation on a full card", deviation(output, expected))
        del filled


#: Kind of work -> what the names of its kernels (GPU) or operators (CPU) contain.
KERNELS = {
    "attention": r"fmha|flash|sdpa|attention|softmax",
    "matrix products": r"gemm|nvjet|cutlass|xmma|addmm|::mm$|::bmm$|baddbmm|linear",
    "gather and scatter": r"index|gather|scatter",
    "copies": r"memcpy|memset|copy|cat|clone|fill",
}


def profile(stage: Stage) -> None:
    """Share of the device's time in each kind of work."""
    network, volumes = stage.network(), stage.volumes(1 if stage.quick else 8)
    kinds = torch.profiler.ProfilerActivity
    activities = [kinds.CPU, kinds.CUDA] if stage.is_gpu else [kinds.CPU]
    with torch.inference_mode(), at_precision(stage.precision, stage.device):
        elapsed = stage.seconds(lambda: network(volumes))
        with torch.profiler.profile(activities=activities) as profiler:
            network(volumes)
            stage.wait()
    spent: Counter[str] = Counter()
    top: Counter[str] = Counter()
    for event in profiler.key_averages():
        seconds = event.self_device_time_total if stage.is_gpu else event.self_cpu_time_total
        if stage.is_gpu and event.device_type == torch.autograd.DeviceType.CPU:
            continue  # an operator, whose time is that of its kernels
        of_kind = (kind for kind, names in KERNELS.items() if re.search(names, event.key, re.I))
        spent[next(of_kind, "other")] += seconds / 1e6
        top[event.key[:90]] += seconds / 1e6
    total = sum(spent.values())
    if total == 0:
        raise SystemExit("the profiler saw no kernels; it may not be allowed in this container")
    for kind, seconds in spent.most_common():
        stage.add(f"share of {kind}", seconds / total)
    if stage.is_gpu:
        stage.add("busy share, time in kernels over the time of a pass", total / elapsed)
    stage.add("longest, ms", {name: round(1e3 * s, 3) for name, s in top.most_common(12)})


def compile(stage: Stage) -> None:
    """torch.compile on and off."""
    network = stage.network()
    batch = 1 if stage.quick else 8
    volumes = stage.volumes(batch)
    with torch.inference_mode(), at_precision(stage.precision, stage.device):
        expected = network(volumes).float().cpu()
        stage.add("off, chunks per s", batch / stage.seconds(lambda: network(volumes)))
        start = time.perf_counter()
        network.compile()
        output = network(volumes).float()
        stage.wait()
        stage.add("seconds to compile", time.perf_counter() - start)
        stage.add("deviation", deviation(output, expected))
        stage.add("on, chunks per s", batch / stage.seconds(lambda: network(volumes)))


def graphs(stage: Stage) -> None:
    """CUDA graphs on and off."""
    if not stage.is_gpu:
        stage.add("note", "needs a GPU")
        return
    network = stage.network()
    for batch in (1, 4, 16):
        volumes = stage.volumes(batch)
        with torch.inference_mode(), at_precision(stage.precision, stage.device):
            expected = network(volumes).float().cpu()
            off = stage.seconds(lambda volumes=volumes: network(volumes))
            graph = torch.cuda.CUDAGraph()
            # a cast weight that autocast keeps must not be made inside the graph
            torch.clear_autocast_cache()
            with torch.cuda.graph(graph):
                output = network(volumes)
            on = stage.seconds(graph.replay)
        stage.add(f"batch {batch} off, chunks per s", batch / off)
        stage.add(f"batch {batch} on, chunks per s", batch / on)
        stage.add(f"batch {batch}, deviation", deviation(output.float(), expected))
