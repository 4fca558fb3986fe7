"""Scattering into the 96^3 input, batches, devices."""

import numpy as np
import pytest
import torch

from swift_bids import SwiFT
from swift_bids.embed import choose_device, embed, scatter_to_grid
from swift_bids.errors import UsageError


def test_voxels_land_in_their_places():
    rows = torch.arange(2 * 3 * 2, dtype=torch.float16).view(2, 3, 2)  # (B, T, voxel)
    places = [(1, 2, 3), (95, 0, 94)]
    index = torch.tensor([np.ravel_multi_index(p, (96, 96, 96)) for p in places])
    volumes = scatter_to_grid(rows, index, background=-2.5)
    assert volumes.shape == (2, 1, 96, 96, 96, 3)
    assert volumes.dtype == torch.float32
    for voxel, place in enumerate(places):
        assert torch.equal(volumes[:, 0][(slice(None), *place)], rows[..., voxel].float())
    assert int((volumes == -2.5).sum()) == volumes.numel() - rows.numel()


class Recorder(torch.nn.Module):
    """A network that returns the mean of its input, to see what it is given."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.batches = []

    def forward(self, x):
        self.batches.append(len(x))
        return x.mean(dim=(2, 3, 4), keepdim=True)


def test_batches_and_progress():
    rng = np.random.default_rng(0)
    matrix = rng.standard_normal((110, 50)).astype(np.float16)
    index = rng.permutation(96**3)[:50]
    network, seen = Recorder(), []
    starts = [3, 23, 43, 63, 83]
    tokens = embed(matrix, index, starts, -1.0, network, batch_size=2, on_chunks=seen.append)
    assert network.batches == seen == [2, 2, 1]
    total = 96**3
    for chunk, start in enumerate(starts):
        expected = (matrix[start : start + 20].astype(float).sum(1) - (total - 50)) / total
        np.testing.assert_allclose(tokens[chunk, 0, 0, 0, 0], expected, rtol=1e-5)


def test_the_cpu_needs_nothing():
    assert choose_device("cpu") == ("cpu", None)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_names_the_remedy():
    with pytest.raises(UsageError, match=r"--gpus all .*--nv .*--device cpu"):
        choose_device("cuda")
    assert choose_device("auto")[0] == "cpu"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA GPU")
def test_the_gpu_equals_the_cpu(recipe, reference_state):
    config, spec, expected = recipe.load_case("full")
    network = SwiFT(**config).eval()
    network.load_state_dict(reference_state("full"))
    volumes = torch.from_numpy(recipe.make_input(spec["shape"], spec["input_seed"]))
    device, _ = choose_device("auto")
    with torch.inference_mode():
        output = network.to(device)(volumes.to(device)).cpu().numpy()
    assert np.abs(output - expected).max() / np.abs(expected).max() <= 1e-5
