"""The compiled kernel gives torch's results, on every instruction set of this processor."""

import ctypes
import os
import platform
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from app import ROOT, require_program

from swift_bids import SwiFT
from swift_bids.network import compiled
from swift_bids.network.released import RELEASED_CONFIG

SOURCES = ROOT / "swift_bids" / "network" / "kernel"
FLAGS = ["-std=gnu11", "-fno-math-errno", "-fno-trapping-math", "-fopenmp", "-Wall", "-Wextra"]
#: Windows that cover a whole axis, that fit, and that need padding; 12 features per head.
SMALL = RELEASED_CONFIG | {
    "img_size": (24, 36, 12, 20),
    "embed_dim": 24,
    "window_size": (2, 3, 2, 4),
    "first_window_size": (2, 4, 4, 6),
    "patch_size": (6, 6, 3, 1),
    "depths": (2, 2),
    "num_heads": (2, 4),
    "last_layer_full_MSA": False,
}


def available(name):
    """Whether this package has a kernel for an instruction set that this processor has."""
    library = compiled._library()
    return library is not None and bool(library.swift_kernel(name.encode()))


NAMES = ["AVX2", "AVX-512"] if platform.machine() == "x86_64" else ["NEON"]


@pytest.fixture(params=NAMES)
def kernel(request, monkeypatch):
    """Let the network run in the kernel for an instruction set."""
    if not available(request.param):
        pytest.skip(f"no {request.param} in this processor, or built without a C compiler")
    monkeypatch.setenv("SWIFT_BIDS_KERNEL", request.param)
    assert compiled.kernel_name() == request.param


def deviation(output, expected):
    return float((output - expected).abs().max() / expected.abs().max())


def with_torch(network, x):
    """The result of torch's operators."""
    with pytest.MonkeyPatch.context() as patch, torch.inference_mode():
        patch.setenv("SWIFT_BIDS_KERNEL", "torch")
        return network(x)


def small_network(**changes):
    torch.manual_seed(0)
    network = SwiFT(**(SMALL | changes)).eval()
    for parameter in network.parameters():  # no part is neutral
        torch.nn.init.normal_(parameter, std=0.3)
    return network


def small_input(n_volumes=20, batch=1):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, 1, 24, 36, 12, n_volumes, generator=generator)


def test_a_kernel_was_built():
    """Where there is a C compiler, as in CI."""
    require_program("gcc")
    assert compiled.kernel_name() in ("AVX2", "AVX-512", "NEON")


@pytest.mark.parametrize("case", ["tiny", "tiny_windowed", "full"])
def test_parity(kernel, recipe, reference_state, case):
    config, spec, expected = recipe.load_case(case)
    network = SwiFT(**config).eval()
    network.load_state_dict(reference_state(case))
    volumes = torch.from_numpy(recipe.make_input(spec["shape"], spec["input_seed"]))
    with torch.inference_mode():
        assert compiled.kernel_for(network, volumes) is not None
        output = network(volumes).numpy()
    assert np.abs(output - expected).max() / np.abs(expected).max() <= 1e-5


@pytest.mark.parametrize("n_volumes", range(1, 21))
def test_odd_windows_and_short_inputs(kernel, n_volumes):
    network, x = small_network(), small_input(n_volumes)
    with torch.inference_mode():
        output = network(x)
    assert output.shape == (1, 48, 2, 3, 2, n_volumes)
    assert deviation(output, with_torch(network, x)) < 1e-5


def test_batches_and_threads_change_no_bit(kernel):
    network, x = small_network(), small_input(batch=3)
    threads = torch.get_num_threads()
    try:
        with torch.inference_mode():
            torch.set_num_threads(1)
            one = torch.cat([network(x[i : i + 1]) for i in range(3)])
            torch.set_num_threads(2)
            assert torch.equal(network(x), one)
    finally:
        torch.set_num_threads(threads)


def test_large_values(kernel):
    """Scores for which powers of two overflow unless the largest is subtracted first."""
    network, x = small_network(), small_input()
    with torch.no_grad():
        network.layers[0].blocks[0].attn.qkv.weight *= 100
    with torch.inference_mode():
        output = network(x)
    assert torch.isfinite(output).all()
    assert deviation(output, with_torch(network, x)) < 1e-4


def test_nan_stays_nan(kernel):
    network, x = small_network(), small_input()
    x[0, 0, 3, 30, 5, 7] = torch.nan
    with torch.inference_mode():
        output = network(x)
    assert 0 < int(output.isnan().sum()) < output.numel()
    assert torch.equal(output.isnan(), with_torch(network, x).isnan())


def test_each_instruction_set_packs_the_weights_for_itself(monkeypatch):
    """In one process, as in benchmarks.backbone."""
    network, x = small_network(), small_input()
    expected = with_torch(network, x)
    for name in filter(available, NAMES):
        monkeypatch.setenv("SWIFT_BIDS_KERNEL", name)
        with torch.inference_mode():
            assert deviation(network(x), expected) < 1e-5


def test_changed_weights_have_an_effect(kernel):
    network, x = small_network(), small_input()
    with torch.inference_mode():
        before = network(x)
    with torch.no_grad():
        network.layers[1].blocks[0].mlp.linear1.weight *= 1.5
        network.patch_embed.fc.bias += 1
    with torch.inference_mode():
        after = network(x)
    assert deviation(after, before) > 1e-3
    assert deviation(after, with_torch(network, x)) < 1e-5


def test_pieces_of_1_to_300_tokens_in_float64(kernel):
    torch.manual_seed(0)
    sizes = {"window": (4, 4, 4, 4), "shifted": False, "mlp_ratio": 4.0, "qkv_bias": True}
    rates = dict.fromkeys(("drop", "attn_drop", "drop_path"), 0.0)
    block, exact = (SwiFT.make_block(24, 2, **sizes, **rates).eval() for _ in range(2))
    exact = exact.double()
    for mine, other in zip(block.parameters(), exact.parameters()):
        torch.nn.init.normal_(mine, std=0.3)
        other.data = mine.data.double()
    worst = 0.0
    for n in range(1, 301):
        x = torch.randn(1, n, 1, 1, 1, 24)
        pieces = ((torch.randperm(n)[None], False),)
        block.pieces = exact.pieces = lambda grid, device, pieces=pieces: pieces
        with torch.no_grad():
            expected = exact(x.double())
        output = x.clone()
        compiled._run_block(compiled.kernel(), block, output, 1)
        worst = max(worst, deviation(output.double(), expected))
    assert worst < 2e-6


@pytest.mark.parametrize(
    "change",
    [
        {"in_chans": 2},
        {"patch_size": (6, 6, 3, 2)},
        {"qkv_bias": False},
        {"embed_dim": 18, "num_heads": (1, 2)},
    ],
)
def test_other_networks_run_in_torch(change):
    network = small_network(**change)
    with torch.inference_mode():
        assert compiled.kernel_for(network, small_input()) is None
        assert compiled.kernel_name(network) == "torch"


def test_everything_but_plain_inference_runs_in_torch(monkeypatch):
    network, x = small_network(), small_input()
    expected = with_torch(network, x)
    with torch.inference_mode():
        assert compiled.kernel_for(network, x.double()) is None
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert compiled.kernel_for(network, x) is None
        assert compiled.kernel_name(network, "bf16") == "torch"  # as the log and the sidecars say
        assert compiled.kernel_name(network, compiled=True) == "torch"
        assert compiled.kernel_for(network.train(), x) is None
        network.eval()
        monkeypatch.setattr(compiled, "_library", lambda: None)  # built without a compiler
        assert compiled.kernel_name(network) == "torch"
        assert torch.equal(network(x), expected)
    assert compiled.kernel_for(network, x) is None  # with gradients


def test_a_library_for_another_processor(monkeypatch, tmp_path):
    (tmp_path / "_kernel.abi3.so").write_text("not for this processor")
    monkeypatch.setattr(compiled, "__file__", str(tmp_path / "compiled.py"))
    assert compiled._library.__wrapped__() is None


def test_hooks_and_adapters_are_not_bypassed(kernel):
    """The kernel would compute the network without them."""
    network, x = small_network(), small_input()
    with torch.inference_mode():
        expected = network(x)
        seen = []
        hook = network.layers[0].register_forward_hook(lambda *_: seen.append(1))
        network(x)
        assert seen == [1]
        hook.remove()
        assert torch.equal(network(x), expected)
        network.register_forward_pre_hook(lambda *_: seen.append(2))
        assert torch.equal(network(x), expected)
        assert seen == [1, 2]
    mlp = network.layers[0].blocks[0].mlp
    torch.nn.utils.parametrizations.weight_norm(mlp.linear1)
    mlp.linear1.parametrizations.weight.original0.data *= 3
    with torch.inference_mode():
        assert compiled.kernel_for(network, x) is None
        assert deviation(network(x), expected) > 1e-3


def test_structures_have_the_size_of_those_in_c(tmp_path):
    require_program("gcc")
    source = tmp_path / "sizes.c"
    source.write_text(
        f'#include "{SOURCES}/kernel.h"\n#include <stdio.h>\n'
        'int main(void) { printf("%zu %zu %zu", sizeof(struct mamba), sizeof(struct block), '
        "sizeof(struct kernel)); }\n"
    )
    subprocess.run(["gcc", source, "-o", tmp_path / "sizes"], check=True)
    said = subprocess.run([tmp_path / "sizes"], capture_output=True, text=True).stdout
    structures = compiled._Mamba, compiled._Block, compiled._Kernel
    assert list(map(int, said.split())) == list(map(ctypes.sizeof, structures))


def build_check(folder, compiler, flags, targets):
    """Build tests/network/kernel_check.c with the sources of the kernel."""
    objects = []
    for name, target in targets.items():
        command = [compiler, *FLAGS, *flags, *target, "-c", SOURCES / f"{name}.c"]
        subprocess.run([*command, "-o", folder / f"{name}.o"], check=True)
        objects.append(folder / f"{name}.o")
    sources = [ROOT / "tests" / "network" / "kernel_check.c", SOURCES / "dispatch.c"]
    command = [compiler, *FLAGS, *flags, *sources, *objects, "-lm", "-o", folder / "check"]
    subprocess.run(command, check=True)
    return folder / "check"


def results(said):
    """Lines of kernel_check -> the four numbers of each, divided by the root of the last."""
    numbers = np.array([line.split()[-4:] for line in said.splitlines()], dtype=float)
    return numbers / np.sqrt(numbers[:, 3:])


X86 = {"avx2": ["-mavx2", "-mfma"], "avx512": ["-mavx512f", "-mfma"]}


@pytest.mark.long
@pytest.mark.skipif(not available("AVX2"), reason="not an x86-64 processor with AVX2")
def test_sanitizers_find_nothing(tmp_path):
    """No address outside an array, no leak and no undefined behaviour, at odd sizes."""
    require_program("gcc")
    flags = ["-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover"]
    check = build_check(tmp_path, "gcc", flags, X86)
    said = {}
    for name in filter(available, ("AVX2", "AVX-512")):
        done = subprocess.run([check, name], capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, f"{name}\n")
        said[name] = done.stdout
        assert len(done.stdout.splitlines()) == 86
    assert len(set(said.values())) == 1  # both add in the same order


@pytest.mark.long
@pytest.mark.skipif(not available("AVX2"), reason="not an x86-64 processor with AVX2")
def test_neon_on_an_emulated_processor(tmp_path):
    require_program("aarch64-linux-gnu-gcc")
    require_program("qemu-aarch64")
    (tmp_path / "x86").mkdir()
    x86 = build_check(tmp_path / "x86", "gcc", ["-O2"], X86)
    arm = build_check(tmp_path, "aarch64-linux-gnu-gcc", ["-O3", "-static"], {"neon": []})
    expected = subprocess.run([x86, "AVX2"], capture_output=True, text=True, check=True).stdout
    done = subprocess.run(["qemu-aarch64", arm], capture_output=True, text=True, check=True)
    assert done.stderr == "NEON\n"
    np.testing.assert_allclose(results(done.stdout), results(expected), atol=1e-5)


@pytest.mark.long
@pytest.mark.parametrize("compiler", ["gcc", "/bin/false"])
def test_the_wheel_with_and_without_a_compiler(tmp_path, compiler):
    source = tmp_path / "source"
    shutil.copytree(
        ROOT / "swift_bids", source / "swift_bids", ignore=shutil.ignore_patterns("*.so")
    )
    for name in ("pyproject.toml", "setup.py", "version", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
    command += ["--no-build-isolation", "-w", tmp_path, source]
    subprocess.run(command, check=True, env=os.environ | {"CC": compiler})
    (wheel,) = tmp_path.glob("*.whl")
    names = subprocess.run(
        [sys.executable, "-m", "zipfile", "-l", wheel], capture_output=True, text=True
    ).stdout
    assert ("_kernel.abi3.so" in names) == (compiler == "gcc")
    assert "kernel/" not in names  # no sources
    assert "swift_bids/network/swift.py" in names
