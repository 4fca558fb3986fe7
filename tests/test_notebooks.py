"""What notebooks give to `embed`: networks, devices, arrays and numbers of all kinds."""

import nibabel as nib
import numpy as np
import pytest
import torch
from make_data import AFFINE, SHAPE
from torch import nn

from swift_bids import SwiFT, embed
from swift_bids.base.errors import InputError, UsageError
from swift_bids.network.released import RELEASED_CONFIG

N_VOLUMES = 22


@pytest.fixture(scope="module")
def data():
    """BOLD and mask as arrays."""
    rng = np.random.default_rng(0)
    mask = np.zeros(SHAPE, dtype=bool)
    mask[5:18, 6:22, 5:18] = True
    return rng.normal(1000, 100, (*SHAPE, N_VOLUMES)).astype(np.float32), mask


@pytest.fixture(scope="module")
def small():
    """A network that is quickly run."""
    torch.manual_seed(0)
    config = RELEASED_CONFIG | {"embed_dim": 6, "depths": (1,) * 4, "num_heads": (1,) * 4}
    return SwiFT(**config).eval()


@pytest.fixture(scope="module")
def images(data):
    bold, mask = data
    return nib.Nifti1Image(bold, AFFINE), nib.Nifti1Image(mask.astype(np.uint8), AFFINE)


@pytest.fixture(scope="module")
def expected(images, small):
    return embed(*images, tr=0.8, weights=small).tokens


@pytest.mark.parametrize(
    "convert",
    [
        lambda image: np.asarray(image.dataobj),
        lambda image: torch.from_numpy(np.array(image.dataobj)),
        lambda image: nib.Nifti2Image(np.asarray(image.dataobj), AFFINE),
        lambda image: nib.MGHImage(np.asarray(image.dataobj), AFFINE.astype(np.float32)),
        lambda image: np.asarray(image.dataobj).astype(np.float64),
    ],
)
def test_arrays_and_images_of_all_kinds(images, small, expected, convert):
    bold, mask = map(convert, images)
    run = embed(bold, mask, tr=0.8, affine=AFFINE, weights=small)
    np.testing.assert_array_equal(run.tokens, expected)


def test_masks_of_booleans(images, data, small, expected):
    run = embed(images[0], data[1], tr=0.8, affine=AFFINE, weights=small)
    np.testing.assert_array_equal(run.tokens, expected)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"mask": None}, "mask is NoneType; give a file, an image of nibabel, or an array"),
        ({"bold": 5}, "bold is int; give a file"),
        ({"bold": np.zeros((4, 4, 4, 25))}, "bold is an array without a position in space; add"),
        ({"bold": np.zeros((4, 4, 4, 25)), "affine": np.eye(3)}, r"has the shape \(3, 3\)"),
        ({"tr": 800}, "tr is 800; give it in seconds, 0.05 to 30"),
        ({"tr": "0.8"}, "tr is '0.8'; give it in seconds"),
        ({"tr": None}, "tr is None; give it in seconds"),
        ({"tr": 0}, "tr is 0; give it in seconds"),
        ({"tr": float("inf")}, "tr is inf; give it in seconds"),
        ({"target_tr": 800}, "target_tr is 800; give it in seconds"),
        ({"batch_size": 0}, "batch_size is 0; give a whole number of at least 1"),
        ({"batch_size": -1}, "batch_size is -1; give a whole number"),
        ({"batch_size": "2"}, "batch_size is '2'; give a whole number"),
        ({"dummy_scans": 1.5}, "dummy_scans is 1.5; give a whole number of at least 0"),
        ({"device": "gpu"}, "--device gpu: there is no such device; choose auto, cpu, cuda"),
        ({"device": "mps"}, "--device mps: there is no such device; choose auto, cpu, cuda"),
        ({"device": 99}, "--device cuda:99: torch sees"),
        ({"weights": 5}, "weights is int; give a network, its state_dict"),
        ({"weights": {"a": 5}}, "weights is a dictionary, but not a state_dict of tensors"),
        (
            {"weights": nn.Linear(2, 2)},
            "this Linear contains 0 networks of SwiFT or NeuroSTORM; give one",
        ),
        ({"weights": {"a": torch.zeros(2)}}, "weights: does not say what its network is like"),
        ({"weights": "no/where/x.pt"}, "no such file or folder"),
    ],
)
def test_mistakes_get_one_sentence(images, small, wrong, message):
    bold, mask = images
    call = {"bold": bold, "mask": mask, "tr": 0.8, "weights": small} | wrong
    with pytest.raises(UsageError, match=message):
        embed(**call)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda network: torch.compile(network),
        nn.DataParallel,
        nn.Sequential,
        lambda network: nn.ModuleDict({"backbone": network, "head": nn.Linear(2, 2)}),
    ],
)
def test_networks_in_wrappers(images, small, expected, wrap):
    run = embed(*images, tr=0.8, weights=wrap(small))
    np.testing.assert_array_equal(run.tokens, expected)


def test_networks_that_cannot_be_used(images, small):
    torch.manual_seed(1)
    half = SwiFT(**RELEASED_CONFIG | {"embed_dim": 6, "depths": (1,) * 4, "num_heads": (1,) * 4})
    with pytest.raises(UsageError, match=r"the network is in float16; give network\.float\(\)"):
        embed(*images, tr=0.8, weights=half.half())
    with pytest.raises(
        UsageError, match="this ModuleList contains 2 networks of SwiFT or NeuroSTORM; give one"
    ):
        embed(*images, tr=0.8, weights=nn.ModuleList([small, half]))


def test_a_state_dict_of_the_released_network(images):
    torch.manual_seed(0)
    network = SwiFT(**RELEASED_CONFIG).eval()
    state = {f"_orig_mod.{name}": tensor for name, tensor in network.state_dict().items()}
    by_state = embed(*images, tr=0.8, weights=state)
    np.testing.assert_array_equal(by_state.tokens, embed(*images, tr=0.8, weights=network).tokens)


@pytest.mark.parametrize("device", [torch.device("cpu"), "cpu", None, torch.device("cpu", 0)])
def test_devices(images, small, expected, device):
    run = embed(*images, tr=0.8, weights=small, device=device)
    np.testing.assert_array_equal(run.tokens, expected)


@pytest.mark.parametrize(
    "numbers",
    [
        {"tr": np.float32(0.8), "batch_size": np.int64(2)},
        {"tr": np.float64(0.8), "dummy_scans": np.int32(0)},
    ],
)
def test_numbers_of_numpy(images, small, expected, numbers):
    run = embed(*images, **{"tr": 0.8, "weights": small} | numbers)
    np.testing.assert_allclose(run.tokens, expected, atol=1e-5)


def test_float32_is_kept_whatever_the_notebook_has_set(images, small, expected):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        run = embed(*images, tr=0.8, weights=small)
    np.testing.assert_array_equal(run.tokens, expected)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        run = embed(*images, tr=0.8, weights=small)
    finally:
        torch.set_default_dtype(before)
    np.testing.assert_array_equal(run.tokens, expected)
    assert run.tokens.dtype == np.float32


def test_a_bundle_is_read_in_float32(tmp_path, small_bundle):
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        network = SwiFT.from_pretrained(small_bundle, random_weights=True)
    finally:
        torch.set_default_dtype(before)
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}


def test_messages_name_what_the_user_gave(images, small, tmp_path):
    bold, mask = images
    other = nib.Nifti1Image(np.zeros(SHAPE, np.uint8), AFFINE)
    with pytest.raises(InputError) as error:
        embed(bold, other, tr=0.8, weights=small)
    assert str(error.value).startswith("mask: the brain mask has no voxel")
    elsewhere = nib.Nifti1Image(np.asarray(mask.dataobj), AFFINE + np.diag([1, 0, 0, 0]))
    with pytest.raises(InputError, match=r"^mask: .* is not on the grid of bold \("):
        embed(bold, elsewhere, tr=0.8, weights=small)
    file = tmp_path / "my_mask.nii.gz"
    other.to_filename(file)
    with pytest.raises(InputError, match=r"my_mask\.nii\.gz: the brain mask has no voxel"):
        embed(bold, nib.load(file), tr=0.8, weights=small)
    assert bold.get_filename() is None  # the user's image is left as it was
    constant = nib.Nifti1Image(np.ones((*SHAPE, N_VOLUMES), np.float32), AFFINE)
    with pytest.raises(InputError, match=r"^bold: the data do not vary"):
        embed(constant, mask, tr=0.8, weights=small)
