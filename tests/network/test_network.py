"""The backbone against outputs of the original, and windows against a plain Swin block."""

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from swift_bids import SwiFT
from swift_bids.network import fused_linear as linear
from swift_bids.network.attention import Attention
from swift_bids.network.block import Block
from swift_bids.network.released import RELEASED_CONFIG
from swift_bids.network.windows import window_pieces

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


def deviation(output, expected) -> float:
    return float(np.abs(output - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("case", ["full", "tiny", "tiny_windowed"])
def test_outputs_equal_those_of_the_original(case, recipe, parity_shapes, reference_state):
    config, spec, expected = recipe.load_case(case)
    network = SwiFT(**config).eval()
    shapes = {name: list(tensor.shape) for name, tensor in network.state_dict().items()}
    assert shapes == parity_shapes(case)
    network.load_state_dict(reference_state(case))
    volumes = torch.from_numpy(recipe.make_input(spec["shape"], spec["input_seed"]))
    with torch.inference_mode():
        output = network(volumes).numpy()
    assert output.shape == expected.shape
    assert deviation(output, expected) <= 1e-5


def test_the_released_network_has_the_published_size():
    network = SwiFT(**RELEASED_CONFIG)
    assert sum(p.numel() for p in network.parameters()) == 4_315_212


def test_block_size_and_gradients_do_not_change_the_result(monkeypatch):
    torch.manual_seed(0)
    network = SwiFT(**TINY).double().eval()
    volumes = torch.randn(2, 1, 12, 12, 12, 5, dtype=torch.float64)
    with torch.inference_mode():
        whole = network(volumes)
        monkeypatch.setattr(Attention, "tokens_per_pass", 32)
        parts = network(volumes)
    assert deviation(parts.numpy(), whole.numpy()) < 1e-12
    assert deviation(network(volumes).detach().numpy(), whole.numpy()) < 1e-12


@pytest.mark.parametrize("n_times", [1, 3, 4, 7, 20])
def test_batches_of_any_length_equal_single_samples(n_times):
    """The result of a sample does not depend on its batch, with or without gradients."""
    torch.manual_seed(4)
    network = SwiFT(**TINY | {"img_size": (12, 12, 12, 20)}).double().eval()
    volumes = torch.randn(3, 1, 12, 12, 12, n_times, dtype=torch.float64)
    with torch.inference_mode():
        together = network(volumes)
        alone = torch.cat([network(volume[None]) for volume in volumes])
    assert together.shape == (3, 8, 2, 2, 2, n_times)
    assert deviation(together.numpy(), alone.numpy()) < 1e-12
    assert deviation(network(volumes).detach().numpy(), alone.numpy()) < 1e-12


@pytest.mark.parametrize("full_msa", [False, True])
@pytest.mark.parametrize("window", [(2, 2, 2, 4), (3, 3, 3, 3), (8, 8, 8, 8)])
def test_networks_with_other_windows_equal_the_plain_block(window, full_msa):
    """Grids that are not multiples of the window, and windows larger than the grid."""
    torch.manual_seed(5)
    config = TINY | {"window_size": window, "first_window_size": window}
    network = SwiFT(**config | {"last_layer_full_MSA": full_msa}).double().eval()
    volumes = torch.randn(1, 1, 12, 12, 12, 5, dtype=torch.float64)
    with torch.inference_mode():
        x = network.patch_embed(volumes, network.pos_embeds[0])
        for position, stage in zip([None, *network.pos_embeds[1:]], network.layers):
            x = x if position is None else position(x)
            for block in stage.blocks:
                x = plain_swin_block(block, x)
            x = x if stage.downsample is None else stage.downsample(x)
        output = network(volumes).numpy()
    assert deviation(output, x.permute(0, 5, 1, 2, 3, 4).numpy()) < 1e-12
    assert [b.shifted for b in network.layers[-1].blocks] == [False, not full_msa]


def test_patch_voxels_are_in_the_order_of_the_original():
    """A token is its flattened patch (px, py, pz) times the weights, plus bias, place and time."""
    torch.manual_seed(6)
    network = SwiFT(**TINY).double().eval()
    volumes = torch.randn(2, 1, 12, 12, 12, 5, dtype=torch.float64)
    embed, position = network.patch_embed, network.pos_embeds[0]
    with torch.inference_mode():
        output = embed(volumes, position)
        for b, x, y, z, t in [(0, 0, 0, 0, 0), (1, 3, 1, 2, 4)]:
            patch = volumes[b, 0, 3 * x : 3 * x + 3, 3 * y : 3 * y + 3, 3 * z : 3 * z + 3, t]
            expected = embed.fc.weight @ patch.reshape(-1) + embed.fc.bias
            expected += position.pos_embed[0, :, x, y, z, 0] + position.time_embed[0, :, 0, 0, 0, t]
            assert torch.allclose(output[b, x, y, z, t], expected, rtol=1e-12)


def test_the_result_is_the_same_without_onednn(monkeypatch):
    torch.manual_seed(7)
    network = SwiFT(**TINY).eval()
    volumes = torch.randn(1, 1, 12, 12, 12, 5)
    with torch.inference_mode():
        fused = network(volumes).numpy()
        monkeypatch.setattr(linear, "_FUSED", None)
        plain = network(volumes).numpy()
    assert deviation(plain, fused) < 1e-5


@pytest.mark.filterwarnings("ignore:Dynamo detected a call to a `functools.lru_cache`")
@pytest.mark.long
def test_a_compiled_network_gives_the_same_result():
    torch.manual_seed(8)
    network = SwiFT(**TINY).eval()
    volumes = torch.randn(1, 1, 12, 12, 12, 5)
    with torch.inference_mode():
        expected = network(volumes).numpy()
        network.compile(backend="aot_eager")  # torch.compile without code generation
        assert deviation(network(volumes).numpy(), expected) < 1e-5


def test_gradients_equal_finite_differences():
    torch.manual_seed(1)
    network = SwiFT(**TINY).double().eval()
    volumes = torch.randn(1, 1, 12, 12, 12, 3, dtype=torch.float64)
    weights = network.layers[0].blocks[1].attn.qkv.weight
    loss = network(volumes).square().sum()
    loss.backward()
    step = 1e-5
    for place in [(0, 0), (5, 2), (11, 3)]:
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                weights[place] += sign * step
                values.append(float(network(volumes).square().sum()))
                weights[place] -= sign * step
        expected = (values[0] - values[1]) / (2 * step)
        assert float(weights.grad[place]) == pytest.approx(expected, rel=1e-5)


def test_drop_rates_have_an_effect_in_training_only():
    torch.manual_seed(2)
    network = SwiFT(**TINY, drop_rate=0.2, attn_drop_rate=0.2, drop_path_rate=0.5)
    volumes = torch.randn(2, 1, 12, 12, 12, 5)
    network.train()
    assert not torch.equal(network(volumes), network(volumes))
    network.eval()
    assert torch.equal(network(volumes), network(volumes))


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 1, 12, 12, 11, 5), "must be"),
        ((1, 1, 12, 12, 12, 6), "1 to 5"),
        ((1, 12, 12, 12, 5), "must be"),
    ],
)
def test_inputs_of_other_shapes_are_refused(shape, message):
    with pytest.raises(ValueError, match=message):
        SwiFT(**TINY)(torch.zeros(shape))


def test_a_grid_that_cannot_be_merged_is_refused():
    with pytest.raises(ValueError, match="patches"):
        SwiFT(**TINY | {"img_size": (9, 12, 12, 5)})


def plain_swin_block(block: Block, x: torch.Tensor) -> torch.Tensor:
    """Compute a Swin block as the papers describe it, for x (1, x, y, z, t, C).

    Pad, roll, cut into windows, mask with -100, attend, and undo the roll.
    """
    grid, dim = x.shape[1:5], x.shape[5]
    window = [min(g, w) for g, w in zip(grid, block.window)]
    shift = [w // 2 if block.shifted and g > w else 0 for g, w in zip(grid, block.window)]
    pads = [(-g) % w for g, w in zip(grid, window)]
    y = F.pad(block.norm1(x), (0, 0, *itertools.chain(*((0, p) for p in reversed(pads)))))
    padded = y.shape[1:5]
    y = y.roll([-s for s in shift], dims=(1, 2, 3, 4))
    region = torch.zeros(padded)
    for count, parts in enumerate(
        itertools.product(
            *(
                [slice(0, -w), slice(-w, -s), slice(-s, None)] if s else [slice(None)]
                for w, s in zip(window, shift)
            )
        )
    ):
        region[parts] = count
    output = torch.empty_like(y)
    for corner in itertools.product(*(range(0, n, w) for n, w in zip(padded, window))):
        cut = tuple(slice(c, c + w) for c, w in zip(corner, window))
        tokens = y[0][cut].reshape(-1, dim)
        labels = region[cut].reshape(-1)
        mask = torch.where(labels[:, None] == labels[None, :], 0.0, -100.0).to(x.dtype)
        heads = block.attn.num_heads
        q, k, v = block.attn.qkv(tokens).view(-1, 3, heads, dim // heads).permute(1, 2, 0, 3)
        weights = (q @ k.transpose(1, 2) / math.sqrt(dim // heads) + mask).softmax(-1)
        attended = block.attn.proj((weights @ v).transpose(0, 1).reshape(-1, dim))
        output[0][cut] = attended.view(*window, dim)
    output = output.roll(shift, dims=(1, 2, 3, 4))
    x = x + output[:, : grid[0], : grid[1], : grid[2], : grid[3]]
    return x + block.mlp.linear2(F.gelu(block.mlp.linear1(block.norm2(x))))


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize(
    ("grid", "window"),
    [
        ((4, 4, 4, 4), (2, 2, 2, 2)),
        ((5, 4, 3, 7), (2, 2, 2, 4)),  # not multiples of the window
        ((3, 2, 2, 6), (4, 4, 4, 4)),  # window larger than the grid in space
        ((4, 4, 4, 1), (2, 2, 2, 2)),
        ((6, 5, 4, 9), (4, 4, 4, 4)),
    ],
)
def test_pieces_equal_rolled_and_masked_windows(grid, window, shifted):
    torch.manual_seed(3)
    rates = dict.fromkeys(("drop", "attn_drop", "drop_path"), 0.0)
    sizes = {"window": window, "shifted": shifted, "mlp_ratio": 2.0, "qkv_bias": True}
    block = SwiFT.make_block(6, 2, **sizes, **rates).double().eval()
    torch.nn.init.normal_(block.attn.qkv.bias)
    x = torch.randn(1, *grid, 6, dtype=torch.float64)
    with torch.no_grad():
        expected = plain_swin_block(block, x)
        output = block(x.clone())
    assert deviation(output.numpy(), expected.numpy()) < 1e-12


def test_every_token_is_in_exactly_one_piece():
    pieces = window_pieces((5, 4, 3, 7), (2, 2, 2, 4), (1, 1, 1, 2))
    tokens = np.concatenate([p.index.ravel() for p in pieces])
    assert sorted(tokens[tokens >= 0]) == list(range(5 * 4 * 3 * 7))
    assert all(p.padded == (p.index < 0).any() for p in pieces)
