"""The Brainmarks plug-in: the app's chunks from Brainmarks' samples, and Brainmarks' own check."""

import os
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from app import ROOT, missing
from make_data import write_bundle
from torch.utils.data import default_collate

from swift_bids import NeuroSTORM, SwiFT, embed
from swift_bids.base.backbones import BACKBONES
from swift_bids.geometry.frames import FRAMES, MODEL_SHAPE
from swift_bids.geometry.grid import template_brain
from swift_bids.network.known_weights import HUB_IDS
from swift_bids.network.load import class_of
from swift_bids.network.released import RELEASED_CONFIG
from swift_bids.platforms.brainmarks import Encoder, Transform, make_model, voxels_in_frame

#: Where .ci/install puts Brainmarks, apart from our packages, with which its own conflict.
BRAINMARKS = Path("/opt/brainmarks")
#: The 2 mm grid of TemplateFlow, and of Brainmarks: x to the right.
RAS = np.array([[2.0, 0, 0, -90], [0, 2, 0, -126], [0, 0, 2, -72], [0, 0, 0, 1]])
SMALL = {"patch_size": (12, 12, 12, 1), "embed_dim": 12, "depths": (1, 1, 1)}
SMALL |= {"num_heads": (1, 2, 4)}


@pytest.fixture(scope="module")
def brain():
    """The mask in RAS, bool (91, 109, 91)."""
    return template_brain()[::-1]


def make_run(brain, n_volumes, tr):
    """BOLD (91, 109, 91, volume) with negative and varied voxels, and the sample of Brainmarks."""
    rng = np.random.default_rng(0)
    bold = np.zeros((*brain.shape, n_volumes), np.float32)
    voxels = rng.normal(200, 300, (int(brain.sum()), 1)) + 50 * rng.standard_normal(n_volumes)
    bold[brain] = voxels + 20 * rng.standard_normal(voxels.shape)
    # read_mni152_2mm_data of Brainmarks: (volume, z, y, x), then the voxels of the mask
    rows = bold.T[:, brain.T]
    mean, std = rows.mean(0, keepdims=True), rows.std(0, keepdims=True)
    z_scores = (rows - mean) / std
    sample = {"bold": z_scores, "mean": mean, "std": std}
    return bold, {name: torch.from_numpy(v) for name, v in sample.items()} | {"tr": tr}


def network_of(variant):
    torch.manual_seed(0)
    kind = class_of(BACKBONES[variant].network)
    return kind(**RELEASED_CONFIG | SMALL).eval()


@pytest.mark.parametrize("frame", FRAMES)
def test_each_voxel_is_placed_by_its_coordinates(brain, frame):
    """No voxel of the template's brain is outside a frame."""
    z, y, x = np.nonzero(brain.T)
    world = nib.affines.apply_affine(RAS, np.stack([x, y, z], axis=-1))
    to_voxel = np.linalg.inv(FRAMES[frame].affine)
    places = nib.affines.apply_affine(to_voxel, world).round().astype(int)
    columns, index = voxels_in_frame(frame)
    np.testing.assert_array_equal(columns, np.arange(228_483))
    np.testing.assert_array_equal(index, np.ravel_multi_index(tuple(places.T), MODEL_SHAPE))


@pytest.mark.parametrize("variant", BACKBONES)
@pytest.mark.parametrize(("n_volumes", "tr"), [(45, 0.8), (30, 1.5)])
def test_tokens_equal_those_of_the_app(brain, variant, n_volumes, tr):
    bold, sample = make_run(brain, n_volumes, tr)
    network, transform = network_of(variant), Transform(variant)
    images = nib.Nifti1Image(bold, RAS), nib.Nifti1Image(brain.astype(np.uint8), RAS)
    expected = embed(*images, tr=tr, weights=network, variant=variant).tokens
    batch = default_collate([transform(sample | {"target": 1})] * 2)
    assert batch.pop("target").tolist() == [1, 1]  # as Brainmarks does
    with torch.inference_mode():
        tokens = Encoder(network, transform.index).tokens(batch)
    assert torch.equal(tokens[0], tokens[1])
    expected = np.moveaxis(expected, 1, -1).reshape(-1, expected.shape[1])
    assert tokens[0].shape == expected.shape
    assert np.abs(tokens[0].numpy() - expected).max() <= 2e-3 * np.abs(expected).max()


def test_voxelwise_z_scores_and_quantised_values(brain):
    bold, sample = make_run(brain, 25, 0.8)
    images = nib.Nifti1Image(bold, RAS), nib.Nifti1Image(brain.astype(np.uint8), RAS)
    variant, network = "neurostorm-mae", network_of("neurostorm-mae")
    for settings in ({"normalisation": "voxel+global"}, {"quantisation": "int8"}):
        expected = embed(*images, tr=0.8, weights=network, **settings).volumes(0)
        transform = Transform(variant, **settings)
        done = transform(sample)
        chunks, background = done["bold"], float(done["background"])
        found = Encoder(network, transform.index)._volumes(chunks, background)
        different = (found - expected).abs() > 0.01
        assert different.float().mean() < 1e-3
        assert chunks.dtype == (torch.float32 if "quantisation" in settings else torch.float16)
    with pytest.raises(ValueError, match="choose global or voxel"):
        Transform(variant, normalisation="voxel")


def test_short_samples_are_reflected_and_long_ones_are_cut(brain):
    _, sample = make_run(brain, 12, 0.8)
    chunks = Transform("contrastive")(sample)["bold"]
    assert chunks.shape[:2] == (1, 20)
    assert torch.equal(chunks[0, 12], chunks[0, 10])
    assert torch.equal(chunks[0, 19], chunks[0, 3])
    _, sample = make_run(brain, 65, 0.8)
    assert Transform("contrastive")(sample)["bold"].shape[0] == 3
    first_two = Transform("contrastive", max_chunks=2)(sample)["bold"]
    assert first_two.shape[0] == 2


def test_the_model_is_frozen_and_can_be_trained(brain, tmp_path):
    write_bundle(tmp_path / "w", network_of("neurostorm-mae").state_dict(), RELEASED_CONFIG | SMALL)
    transform, model = make_model("neurostorm-mae", Encoder, weights=tmp_path / "w", max_chunks=1)
    assert isinstance(model.network, NeuroSTORM)
    assert not any(parameter.requires_grad for parameter in model.parameters())
    batch = default_collate([transform(make_run(brain, 20, 0.8)[1])])
    assert not model.tokens(batch).requires_grad
    model.requires_grad_(True)
    model.tokens(batch).mean().backward()
    assert model.network.patch_embed.fc.weight.grad.abs().max() > 0


@pytest.mark.long
def test_brainmarks_own_check(tmp_path):
    """`test_models` of the real package, with 16 and 160 volumes; its import of pycortex, which
    draws surfaces, is replaced by an empty module."""
    if not (BRAINMARKS / "brainmarks").is_dir():
        missing("Brainmarks is not installed")
    (tmp_path / "cortex.py").touch()
    torch.manual_seed(0)
    for hub_id in HUB_IDS.values():
        kind = NeuroSTORM if "neurostorm" in hub_id else SwiFT
        folder = tmp_path / "weights" / hub_id.rpartition("/")[2]
        write_bundle(folder, kind(**RELEASED_CONFIG).state_dict(), RELEASED_CONFIG)
    paths = os.pathsep.join(map(str, (ROOT, BRAINMARKS, tmp_path)))
    done = subprocess.run(
        [sys.executable, "-m", "brainmarks.models.test_models", "contrastive", "neurostorm_mae"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": paths, "SWIFT_BIDS_WEIGHTS": str(tmp_path / "weights")},
    )
    assert "4 passed" in done.stdout, done.stdout + done.stderr
    assert "swift_bids failed" not in done.stderr
