"""Scattering into the 96^3 input, batches, precisions and devices."""

import numpy as np
import pytest
import torch

from swift_bids import SwiFT
from swift_bids.base.errors import InputError, UsageError
from swift_bids.network.device import choose_devices
from swift_bids.network.precision import at_precision
from swift_bids.steps.chunk_queue import ChunkQueue, QueuedRun
from swift_bids.steps.embed import Embedder, ModelInput, batch_that_fits, embed_chunks


def test_fill_puts_voxels_in_their_positions():
    rows = torch.arange(2 * 20 * 2, dtype=torch.float16).view(2, 20, 2)  # (B, T, voxel)
    places = [(1, 2, 3), (95, 0, 94)]
    index = np.array([np.ravel_multi_index(p, (96, 96, 96)) for p in places])
    run = QueuedRun(np.empty((20, 2)), index, [0], background=-2.5)
    other = QueuedRun(np.empty((20, 2)), index + 7, [0], background=9.0)
    inputs = ModelInput(batch_size=2)
    inputs.fill([run, other], rows + 100)  # an earlier batch
    volumes = inputs.fill([run, run], rows)
    assert volumes.shape == (2, 1, 96, 96, 96, 20)
    assert volumes.dtype == torch.float32
    for voxel, place in enumerate(places):
        assert torch.equal(volumes[:, 0][(slice(None), *place)], rows[..., voxel].float())
    assert int((volumes == -2.5).sum()) == volumes.numel() - rows.numel()
    assert torch.equal(inputs.fill([run], rows[1:]), volumes[1:])


class Recorder(torch.nn.Module):
    """Records batch sizes and returns the mean of its input; only `room` chunks fit in memory."""

    def __init__(self, room=100):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.batches, self.room = [], room

    def forward(self, x):
        self.batches.append(len(x))
        if len(x) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return x.mean(dim=(2, 3, 4), keepdim=True)


def check_means_of_chunks(network, **options):
    """Embed five chunks of random numbers and compare the tokens with the means of the input."""
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


def test_chunks_report_progress():
    network, seen = Recorder(), []
    check_means_of_chunks(network, batch_size=2, on_chunk=lambda: seen.append(len(network.batches)))
    assert network.batches == [2, 2, 1]
    assert len(seen) == 5


def test_the_cpu_gets_one_chunk_per_batch():
    network = Recorder()
    check_means_of_chunks(network)
    assert network.batches == [1] * 5


def test_full_memory_halves_the_batch(caplog):
    """No chunk is lost or embedded twice, and the log has a line for each halving."""
    network, seen = Recorder(room=1), []
    check_means_of_chunks(network, batch_size=4, on_chunk=lambda: seen.append("chunk"))
    assert network.batches == [4, 2, 1, 1, 1, 1, 1]
    assert len(seen) == 5
    assert [record.message for record in caplog.records] == [
        "cpu has no memory left: continuing with 2 chunk(s) per batch",
        "cpu has no memory left: continuing with 1 chunk(s) per batch",
    ]
    with pytest.raises(InputError, match="cpu has no memory left for even one chunk"):
        check_means_of_chunks(Recorder(room=0), batch_size=2)


def test_a_batch_has_chunks_of_several_runs():
    """Each run has its own mask and background; a run that cannot be read fails alone."""
    rng = np.random.default_rng(0)
    queue, runs, expected = ChunkQueue(), [], []
    for n_voxels, background in ((50, -1.0), (30, 2.0), (40, 0.5)):
        matrix = rng.standard_normal((60, n_voxels)).astype(np.float16)
        runs.append(QueuedRun(matrix, rng.permutation(96**3)[:n_voxels], [0, 20, 40], background))
        sums = matrix.astype(float).reshape(3, 20, -1).sum(2) + background * (96**3 - n_voxels)
        expected.append(sums / 96**3)
        queue.put(runs[-1])
    queue.close()
    runs[1].read_rows = lambda *_: open("/nowhere")
    network = Recorder()
    Embedder(network, batch_size=4).embed(queue)
    assert sum(network.batches) == 6
    assert max(network.batches) > 1
    for run, means in zip(runs[::2], expected[::2]):
        np.testing.assert_allclose(run.tokens()[:, 0, 0, 0, 0], means, rtol=1e-5)
    with pytest.raises(FileNotFoundError):
        runs[1].tokens()


@pytest.mark.parametrize(("free", "expected"), [(0, 1), (3.0, 2), (10.0, 7), (1000.0, 16)])
def test_batch_size_from_free_memory(monkeypatch, free, expected):
    """A chunk needs 1 GB while the network runs and 0.07 GB for its input; batches may fill 80 % of
    the free memory."""
    gb = 10**9
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (int(free * gb), 80 * gb))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _: int(1.1 * gb))
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: int(0.1 * gb))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: int(0.1 * gb))
    assert batch_that_fits(torch.device("cuda"), 20) == expected


def test_the_cpu_is_chosen_without_a_warning():
    assert choose_devices("cpu") == (["cpu"], None)


@pytest.mark.skipif(torch.cuda.is_available(), reason="torch sees a CUDA GPU")
def test_the_error_for_a_missing_gpu_says_what_to_do():
    with pytest.raises(UsageError, match=r"--gpus all .*--nv .*--device cpu"):
        choose_devices("cuda")
    assert choose_devices("auto")[0] == ["cpu"]


def test_several_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert choose_devices("auto") == choose_devices("cuda")
    assert choose_devices("cuda") == (["cuda:0", "cuda:1", "cuda:2"], None)
    assert choose_devices("cuda:2,0,2") == (["cuda:2", "cuda:0"], None)
    with pytest.raises(UsageError, match=r"cuda:1,3: torch sees 3 GPU\(s\), numbered from 0"):
        choose_devices("cuda:1,3")


def test_bfloat16_stays_close_to_float32(recipe, reference_state):
    """bfloat16 has 8 bits of precision: a few blocks stay within a few percent of float32."""
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
def test_the_gpu_result_equals_that_of_the_cpu(recipe, reference_state, precision, bound):
    config, spec, expected = recipe.load_case("full")
    network = SwiFT(**config).eval()
    network.load_state_dict(reference_state("full"))
    volumes = torch.from_numpy(recipe.make_input(spec["shape"], spec["input_seed"]))
    device = choose_devices("auto")[0][0]
    with torch.inference_mode(), at_precision(precision, device):
        output = network.to(device)(volumes.to(device)).float().cpu().numpy()
    assert np.abs(output - expected).max() / np.abs(expected).max() <= bound


@pytest.mark.gpu
@needs_gpu
def test_the_gpu_gets_one_chunk_and_then_larger_batches():
    for _ in range(2):  # the memory of an earlier run does not count
        network = Recorder().cuda()
        check_means_of_chunks(network)
        # the first chunk alone, to measure its memory, and meanwhile the second was read
        assert network.batches == [1, 1, 3]
