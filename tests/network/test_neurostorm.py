"""NeuroSTORM's encoder against outputs of the original, and its scan against the formula."""

import platform
import sys
import types

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mambapy.mamba import MambaBlock, MambaConfig

from swift_bids import NeuroSTORM
from swift_bids.network import compiled, selective_scan
from swift_bids.network.mamba import Mamba, _scan_of_mamba_ssm
from swift_bids.network.released import RELEASED_CONFIG

KERNELS = ["torch", *(("AVX2", "AVX-512") if platform.machine() == "x86_64" else ("NEON",))]
CASES = ["full", "tiny", "tiny_windowed"]
TINY = {
    "img_size": (12, 12, 12, 5),
    "in_chans": 1,
    "embed_dim": 4,
    "window_size": (2, 2, 2, 2),
    "first_window_size": (2, 2, 2, 2),
    "patch_size": (3, 3, 3, 1),
    "depths": (2, 2),
    "num_heads": (2, 4),
    "last_layer_full_MSA": False,
}


@pytest.fixture(params=KERNELS)
def kernel(request, monkeypatch):
    """Let the network run in torch, or in the kernel for an instruction set."""
    library, name = compiled._library(), request.param
    if name != "torch" and not (library and library.swift_kernel(name.encode())):
        pytest.skip(f"no {name} in this processor, or built without a C compiler")
    monkeypatch.setenv("SWIFT_BIDS_KERNEL", name)
    return name


def deviation(output, expected) -> float:
    output, expected = (torch.as_tensor(values).detach() for values in (output, expected))
    return float((output - expected).abs().max() / expected.abs().max())


def sequential(x, delta, a, b, c):
    """The formula of the paper, one token after the other (Gu and Dao 2023, equation 2)."""
    state, y = 0, []
    for t in range(len(x)):
        decay = torch.exp(delta[t, :, :, None] * a)
        state = decay * state + (delta[t] * x[t])[..., None] * b[t, :, None]
        y.append((state * c[t, :, None]).sum(-1))
    return torch.stack(y)


def scan_input(tokens, kind, windows=3, channels=5, step=0.1):
    generator = torch.Generator().manual_seed(tokens)
    shapes = {"x": (tokens, windows, channels), "b": (tokens, windows, 16)}
    x, c = (torch.randn(shapes[n], generator=generator).to(kind) for n in ("x", "b"))
    delta = step * torch.rand(shapes["x"], generator=generator).to(kind)
    a = -16 * torch.rand(channels, 16, generator=generator).to(kind)
    return x, delta, a, torch.randn(shapes["b"], generator=generator).to(kind), c


@pytest.mark.parametrize("tokens", [1, 3, 16, 17, 32, 255, 256, 300])
@pytest.mark.parametrize(("kind", "limit"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_both_scans_equal_the_sequential_formula(tokens, kind, limit):
    values = scan_input(tokens, kind)
    expected = sequential(*values)
    assert deviation(selective_scan.step_by_step(*values), expected) <= limit
    assert deviation(selective_scan.in_segments(*values), expected) <= limit
    with torch.inference_mode():
        assert deviation(selective_scan.selective_scan(*values), expected) <= limit


def test_windows_in_several_parts(monkeypatch):
    values = scan_input(40, torch.float64, windows=7)
    monkeypatch.setattr(selective_scan, "_WINDOWS", 3)
    with torch.inference_mode():
        assert deviation(selective_scan.selective_scan(*values), sequential(*values)) <= 1e-10


@pytest.mark.gpu
@pytest.mark.parametrize(("kind", "limit"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_the_scan_on_a_gpu(kind, limit):
    if not torch.cuda.is_available():
        pytest.skip("torch sees no CUDA GPU")
    values = scan_input(256, kind, windows=40)
    with torch.inference_mode():
        found = selective_scan.selective_scan(*[tensor.cuda() for tensor in values])
    assert deviation(found.cpu(), sequential(*values)) <= limit


@pytest.mark.parametrize("step", [1e-4, 10.0, 1000.0])
def test_states_that_never_or_at_once_forget_do_not_overflow(step):
    values = scan_input(256, torch.float32, step=step)
    expected = sequential(*[tensor.double() for tensor in values])
    for scan in (selective_scan.step_by_step, selective_scan.in_segments):
        assert deviation(scan(*values).double(), expected) <= 1e-5


@pytest.mark.parametrize("tokens", [2, 16, 37])
def test_gradients_equal_those_of_the_sequential_formula(monkeypatch, tokens):
    monkeypatch.setattr(selective_scan, "_WINDOWS_BACKWARD", 3)
    grads = []
    for scan in (sequential, selective_scan.selective_scan, selective_scan.in_segments):
        values = [tensor.requires_grad_() for tensor in scan_input(tokens, torch.float64, 7)]
        y = scan(*values)
        (y.square() * torch.linspace(0, 1, y.numel(), dtype=y.dtype).view_as(y)).sum().backward()
        grads.append([tensor.grad for tensor in values])
    for expected, step_by_step, in_segments in zip(*grads):
        assert deviation(step_by_step, expected) <= 1e-10
        assert deviation(in_segments, expected) <= 1e-10


@pytest.mark.parametrize("case", CASES)
def test_outputs_equal_those_of_the_original(kernel, case, neurostorm_recipe, recipe):
    config, spec, expected, shapes = neurostorm_recipe.load_case(case)
    network = NeuroSTORM(**config).eval()
    assert {name: list(t.shape) for name, t in network.state_dict().items()} == shapes
    state = neurostorm_recipe.make_state_dict(shapes, spec["weights_seed"])
    network.load_state_dict({name: torch.from_numpy(value) for name, value in state.items()})
    volumes = torch.from_numpy(recipe.make_input(spec["shape"], spec["input_seed"]))
    with torch.inference_mode():
        assert compiled.kernel_name(network) == kernel
        output = network(volumes).numpy()
    assert np.abs(output - expected).max() / np.abs(expected).max() <= 1e-5


def test_the_released_network_has_the_published_size():
    network = NeuroSTORM(**RELEASED_CONFIG)
    assert sum(p.numel() for p in network.parameters()) == 5_173_020
    assert network.n_features == 288


def test_gradients_passes_and_batches_do_not_change_the_result(monkeypatch):
    torch.manual_seed(0)
    network = NeuroSTORM(**TINY).double().eval()
    volumes = torch.randn(3, 1, 12, 12, 12, 5, dtype=torch.float64)
    with torch.inference_mode():
        together = network(volumes)
        alone = torch.cat([network(volume[None]) for volume in volumes])
        monkeypatch.setattr(Mamba, "tokens_per_pass", 32)
        parts = network(volumes)
    assert deviation(alone, together) < 1e-12
    assert deviation(parts, together) < 1e-12
    assert deviation(network(volumes), together) < 1e-12  # with gradients


def test_every_parameter_has_a_gradient():
    torch.manual_seed(0)
    network = NeuroSTORM(**TINY).train()
    network(torch.randn(2, 1, 12, 12, 12, 5)).square().mean().backward()
    assert all(p.grad.abs().max() > 0 for p in network.parameters())


@pytest.mark.parametrize("n_volumes", range(1, 21, 3))
def test_short_inputs_and_odd_windows(kernel, n_volumes):
    """Windows that cover an axis, fit, or need padding; the tokens that pad go through the scan."""
    torch.manual_seed(0)
    config = RELEASED_CONFIG | {
        "img_size": (24, 36, 12, 20),
        "embed_dim": 12,
        "window_size": (2, 3, 2, 4),
        "first_window_size": (2, 4, 4, 6),
        "patch_size": (6, 6, 3, 1),
        "depths": (2, 2),
        "num_heads": (2, 4),
    }
    network = NeuroSTORM(**config).eval()
    volumes = torch.randn(2, 1, 24, 36, 12, n_volumes)
    with torch.inference_mode():
        output = network(volumes)
    expected = network.double()(volumes.double())
    assert deviation(output.double(), expected) < 1e-5


@pytest.mark.parametrize("dim", [12, 36, 72])
def test_a_mamba_equals_that_of_mambapy(dim):
    torch.manual_seed(0)
    settings = MambaConfig(d_model=dim, n_layers=1, d_state=16, d_conv=4, expand_factor=2)
    theirs, ours = MambaBlock(settings), Mamba(dim)
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    ours.load_state_dict(theirs.state_dict())
    u = torch.randn(3, 64, dim)  # their parallel scan works on powers of two
    with torch.no_grad():
        assert deviation(ours.proj(ours(u)), theirs(u)) <= 1e-5


def test_states_do_not_reach_earlier_tokens_or_other_windows():
    torch.manual_seed(0)
    mamba = Mamba(12).double().eval()
    u = torch.randn(2, 20, 12, dtype=torch.float64)
    changed = u.clone()
    changed[0, 10:] += 1
    with torch.inference_mode():
        before, after = mamba(u), mamba(changed)
    assert torch.equal(before[0, :10], after[0, :10])
    assert not torch.isclose(before[0, 10:], after[0, 10:]).all(dim=-1).any()
    assert torch.equal(before[1], after[1])


def test_mamba_ssm_scans_on_gpus_where_it_is_installed(monkeypatch):
    """Its scan takes (window, channel, token), applies softplus and gate, and adds D x."""

    def selective_scan_fn(u, delta, A, B, C, D, z, delta_bias, delta_softplus):
        assert delta_softplus
        u, delta, B, C, z = (tensor.permute(2, 0, 1) for tensor in (u, delta, B, C, z))
        y = sequential(u, F.softplus(delta + delta_bias), A, B, C) + D * u
        return (y * F.silu(z)).permute(1, 2, 0)

    module = types.ModuleType("mamba_ssm.ops.selective_scan_interface")
    module.selective_scan_fn = selective_scan_fn
    for name in ("mamba_ssm", "mamba_ssm.ops"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    _scan_of_mamba_ssm.cache_clear()
    try:
        torch.manual_seed(0)
        mamba = Mamba(12).double()
        u = torch.randn(2, 20, 12, dtype=torch.float64)
        expected = mamba(u)
        monkeypatch.setattr(torch.Tensor, "is_cuda", True)
        assert deviation(mamba(u), expected) <= 1e-10
    finally:
        _scan_of_mamba_ssm.cache_clear()


def test_hooks_and_adapters_are_not_bypassed():
    network = NeuroSTORM(**RELEASED_CONFIG).eval()
    with torch.inference_mode():
        x = torch.empty(0)
        known = compiled.kernel_for(network, x)
        network.layers[0].blocks[0].mamba.in_proj.register_forward_hook(lambda *_: None)
        assert compiled.kernel_for(network, x) is None
    assert known is not None or compiled.kernel() is None


def test_changed_weights_are_seen_by_the_kernel(kernel):
    torch.manual_seed(0)
    network = NeuroSTORM(**RELEASED_CONFIG | {"depths": (1, 1), "embed_dim": 12}).eval()
    x = torch.randn(1, 1, 96, 96, 96, 4)
    with torch.inference_mode():
        before = network(x)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if ".mamba." in name:
                parameter.mul_(1.3)
    with torch.inference_mode():
        after = network(x)
        assert deviation(after, before) > 1e-3
        assert deviation(after, network.double()(x.double()).float()) < 1e-5
