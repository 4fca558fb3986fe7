"""Scattering into the 96^3 input, batches, devices."""

import numpy as np
import pytest
import torch

from swift_bids import SwiFT
from swift_bids.base.errors import UsageError
from swift_bids.network.precision import at_precision
from swift_bids.steps.embed import ModelInput, batch_that_fits, choose_device, embed_chunks


def test_voxels_land_in_their_places():
    rows = torch.arange(2 * 20 * 2, dtype=torch.float16).view(2, 20, 2)  # (B, T, voxel)
    places = [(1, 2, 3), (95, 0, 94)]
    index = torch.tensor([np.ravel_multi_index(p, (96, 96, 96)) for p in places])
    inputs = ModelInput(index, background=-2.5, batch_size=2)
    inputs.fill(rows + 100)  # another batch before
    volumes = inputs.fill(rows)
    assert volumes.shape == (2, 1, 96, 96, 96, 20)
    assert volumes.dtype == torch.float32
    for voxel, place in enumerate(places):
        assert torch.equal(volumes[:, 0][(slice(None), *place)], rows[..., voxel].float())
    assert int((volumes == -2.5).sum()) == volumes.numel() - rows.numel()
    assert torch.equal(inputs.fill(rows[1:]), volumes[1:])


class Recorder(torch.nn.Module):
    """Returns the mean of its input, to see what it is given; `room`: chunks that fit in memory."""

    def __init__(self, room=100):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.batches, self.room = [], room

    def forward(self, x):
        self.batches.append(len(x))
        if len(x) > self.room:
            raise torch.OutOfMemoryError("full")
        return x.mean(dim=(2, 3, 4), keepdim=True)


def means_of_chunks(network, **options):
    """Tokens of five chunks of random numbers, compared with their means."""
    rng = np.random.default_rng(0)
    matrix = rng.standard_normal((110, 50)).astype(np.float16)
    index = rng.permutation(96**3)[:50]
    starts = [3, 23, 43, 63, 83]
    tokens = embed_chunks(matrix, index, starts, -1.0, network, **options)
    total = 96**3
    assert len(tokens) == 5
    for chunk, start in enumerate(starts):
        expected = (matrix[start : start + 20].astype(float).sum(1) - (total - 50)) / total
        np.testing.assert_allclose(tokens[chunk, 0, 0, 0, 0], expected, rtol=1e-5)


def test_batches_and_progress():
    network, seen = Recorder(), []
    means_of_chunks(network, batch_size=2, on_chunks=seen.append)
    assert network.batches == seen == [2, 2, 1]


def test_one_chunk_at_a_time_on_the_cpu():
    network = Recorder()
    means_of_chunks(network)
    assert network.batches == [1] * 5


def test_a_full_memory_halves_the_batch(caplog):
    """Nothing done is lost or done again, and the log has a line for each halving."""
    network, seen = Recorder(room=1), []
    means_of_chunks(network, batch_size=4, on_chunks=seen.append)
    assert network.batches == [4, 2, 1, 1, 1, 1, 1]
    assert seen == [1] * 5
    assert [record.message for record in caplog.records] == [
        "the memory of cpu is full: going on with 2 chunk(s) at once",
        "the memory of cpu is full: going on with 1 chunk(s) at once",
    ]
    with pytest.raises(torch.OutOfMemoryError):
        means_of_chunks(Recorder(room=0), batch_size=2)


@pytest.mark.parametrize(("free", "expected"), [(0, 1), (3.0, 2), (10.0, 8), (1000.0, 16)])
def test_batch_size_from_free_memory(monkeypatch, free, expected):
    """1 GB a chunk, of which the network keeps none; 80 % of what is free may be filled."""
    gb = 10**9
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (int(free * gb), 80 * gb))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _: int(1.1 * gb))
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: int(0.1 * gb))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: int(0.1 * gb))
    assert batch_that_fits(torch.device("cuda")) == expected


def test_the_cpu_needs_nothing():
    assert choose_device("cpu") == ("cpu", None)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_names_the_remedy():
    with pytest.raises(UsageError, match=r"--gpus all .*--nv .*--device cpu"):
        choose_device("cuda")
    assert choose_device("auto")[0] == "cpu"


def test_precisions(recipe, reference_state):
    """bfloat16 has 8 bits: a network of some blocks stays within some percent of float32."""
    config, spec, expected = recipe.load_case("tiny")
    network = SwiFT(**config).eval()
    network.load_state_dict(reference_state("tiny"))
    volumes = torch.from_numpy(recipe.make_input(spec["shape"], spec["input_seed"]))
    deviations = {}
    for precision in ("float32", "bf16"):
        with torch.inference_mode(), at_precision(precision, "cpu"):
            output = network(volumes).float().numpy()
            residuals = network.patch_embed(volumes, network.pos_embeds[0])
            assert network.layers[0].blocks[0](residuals).dtype == torch.float32
        deviations[precision] = np.abs(output - expected).max() / np.abs(expected).max()
    assert deviations["float32"] <= 1e-5
    assert 1e-4 < deviations["bf16"] < 5e-2
    with pytest.raises(UsageError, match="fp16 needs a GPU"):
        at_precision("fp16", "cpu")


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA GPU")


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize(
    ("precision", "bound"), [("float32", 1e-5), ("fp16", 1e-2), ("bf16", 5e-2)]
)
def test_the_gpu_equals_the_cpu(recipe, reference_state, precision, bound):
    config, spec, expected = recipe.load_case("full")
    network = SwiFT(**config).eval()
    network.load_state_dict(reference_state("full"))
    volumes = torch.from_numpy(recipe.make_input(spec["shape"], spec["input_seed"]))
    device, _ = choose_device("auto")
    with torch.inference_mode(), at_precision(precision, device):
        output = network.to(device)(volumes.to(device)).float().cpu().numpy()
    assert np.abs(output - expected).max() / np.abs(expected).max() <= bound


@pytest.mark.gpu
@needs_gpu
def test_batches_on_the_gpu():
    network = Recorder().cuda()
    means_of_chunks(network)
    assert network.batches == [1, 4]  # one to see what it takes, then all the others
