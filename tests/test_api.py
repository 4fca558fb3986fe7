"""The Python interface: same results as the app, and the examples of docs/python.md."""

import re

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from app import ROOT, run_app
from make_data import write_derivative
from safetensors.numpy import load_file

from swift_bids import SwiFT, embed
from swift_bids.base.errors import InputError, UsageError

RUN = "sub-02/ses-1/func/sub-02_ses-1_task-rest_run-1_space-MNI152NLin6Asym_res-2_desc-"


def test_files_and_images_give_the_same_result_as_the_app(demo):
    bold, mask = (demo / "fmriprep" / f"{RUN}{n}.nii.gz" for n in ("preproc_bold", "brain_mask"))
    network = SwiFT.from_pretrained(demo / "weights", random_weights=True).train()
    images = embed(nib.load(bold), nib.load(mask), tr=0.8, dummy_scans=2, weights=network)
    assert network.training  # unchanged
    files = embed(bold, mask, tr=0.8, dummy_scans=2, weights=demo / "weights", random_weights=True)
    tokens = load_file(demo / "swift_bids" / f"{RUN}swift_tokens.safetensors")["tokens"]
    table = pd.read_csv(demo / "swift_bids" / f"{RUN}swift_embedding.tsv", sep="\t")
    for run in (images, files):
        np.testing.assert_allclose(run.tokens, tokens, atol=1e-5 * np.abs(tokens).max())
        expected = table.filter(regex=r"^swift\d").to_numpy()[0]
        np.testing.assert_allclose(run.embedding, expected, atol=1e-5)
        assert run.chunks["onset"].tolist() == [1.6, 17.6]
        assert list(run.chunks.columns[:4]) == ["start", "stop", "onset", "duration"]
    with torch.inference_mode():
        again = network.eval()(images.volumes(1)).numpy()
    np.testing.assert_allclose(again[0], tokens[1], atol=1e-5 * np.abs(tokens).max())
    padded = embed(bold, mask, tr=0.8, dummy_scans=2, weights=network, tail="pad")
    assert padded.chunks["padded"].tolist() == [0, 0, 12]
    volumes = padded.volumes(2)
    assert torch.equal(volumes[..., 8], volumes[..., 6])  # reflected at the last volume, 7


def test_other_grids_are_interpolated_as_in_the_app(tmp_path, small_bundle):
    bold = write_derivative(tmp_path / "in", "sub-01_task-a")
    mask = str(bold).replace("desc-preproc_bold", "desc-brain_mask")
    for interpolation in ("cubic", "linear"):
        out = tmp_path / interpolation
        flags = ("--weights", small_bundle, "--interpolation", interpolation)
        assert run_app(tmp_path / "in", out, "participant", *flags).returncode == 0
        (file,) = out.rglob("*_tokens.safetensors")
        done = embed(bold, mask, tr=0.8, weights=small_bundle, interpolation=interpolation)
        np.testing.assert_array_equal(done.tokens, load_file(file)["tokens"])
    (other,) = (tmp_path / "cubic").rglob("*_tokens.safetensors")
    assert not np.array_equal(done.tokens, load_file(other)["tokens"])


def test_wrong_inputs_and_settings_are_refused(demo):
    bold, mask = (demo / "fmriprep" / f"{RUN}{n}.nii.gz" for n in ("preproc_bold", "brain_mask"))
    with pytest.raises(UsageError, match="accept them with --random-weights"):
        embed(bold, mask, tr=0.8, weights=demo / "weights")
    for wrong, message in (
        ({"normalisation": "voxel"}, "'voxel' is not valid; choose one of global, voxel"),
        ({"interpolation": "nearest"}, "'nearest' is not valid; choose one of cubic, linear"),
        ({"statistics": "brain"}, "'brain' is not valid; choose one of mask, core"),
        ({"statistics": "core", "normalisation": "voxel+global"}, "works only with"),
        ({"frame": "fsl"}, "'fsl' is not valid; choose one of auto, hcp, ukb"),
        ({"precision": "float64"}, "choose one of float32, bf16, fp16"),
        ({"target_tr": "fast"}, "target_tr is 'fast'; give it in seconds, 0.05 to 30"),
        ({"target_tr": float("nan")}, "target_tr is nan; give it in seconds"),
        ({"dummy_scans": -3}, "dummy_scans is -3; give a whole number of at least 0"),
        ({"chunk_stride": 2.5}, "chunk_stride is 2.5; give a whole number of at least 1"),
    ):
        with pytest.raises(UsageError, match=message):
            embed(bold, mask, tr=0.8, **wrong)
    image = nib.load(bold)
    short = image.slicer[..., :12]
    network = SwiFT.from_pretrained(demo / "weights", random_weights=True)
    with pytest.raises(InputError, match="too short"):
        embed(short, mask, tr=0.8, weights=network)


def test_the_examples_in_docs_python_md_run(demo, tmp_path, monkeypatch):
    """All blocks of the page run in order, on the demo's data."""
    (tmp_path / "demo").symlink_to(demo)
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    names: dict = {}
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "python.md").read_text(), re.S)
    assert len(blocks) == 5
    for block in blocks:
        exec(block, names)
    run = names["run"]
    assert run.tokens.shape == (2, 288, 2, 2, 2, 20)
    assert run.embedding.shape == (288,)
    assert len(names["losses"]) == 4
    saliency = nib.load("saliency.nii.gz")
    brain = nib.load(names["mask"])
    assert saliency.shape == brain.shape == (91, 109, 91)
    np.testing.assert_array_equal(saliency.affine, brain.affine)
    values = saliency.get_fdata()
    assert np.isfinite(values).all()
    inside = np.asarray(brain.dataobj) > 0
    assert np.abs(values[~inside]).max() == 0  # the background is the baseline
    assert np.abs(values[inside]).max() > 0
    # a voxel of the input has the same position as in the image
    place = np.unravel_index(run.index[0], (96, 96, 96))
    world = nib.affines.apply_affine(run.affine, place)
    voxel = nib.affines.apply_affine(np.linalg.inv(brain.affine), world)
    assert inside[tuple(voxel.round().astype(int))]
