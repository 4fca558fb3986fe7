"""Whole runs through NeuroSTORM: the app against the original's preprocessing and network."""

import json

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from app import run_app
from make_data import file_of, write_bundle, write_derivative
from safetensors.numpy import load_file
from test_workflow import SPACE

from swift_bids import NeuroSTORM, SwiFT, embed, from_pretrained
from swift_bids.base.errors import UsageError
from swift_bids.geometry.frames import FSL_AFFINE
from swift_bids.steps.chunk_queue import QueuedRun
from swift_bids.steps.embed import ModelInput
from swift_bids.steps.voxel_statistics import VoxelMoments
from swift_bids.steps.z_scores import ZScores
from swift_bids.workflow import WORKFLOW_NAME

NAME = f"sub-1_task-a_{SPACE}"


@pytest.fixture(scope="session")
def neurostorm_bundle(tmp_path_factory, neurostorm_recipe):
    """The `full` network of the reference as a Hub bundle."""
    config, spec, _, shapes = neurostorm_recipe.load_case("full")
    state = neurostorm_recipe.make_state_dict(shapes, spec["weights_seed"])
    tensors = {name: torch.from_numpy(value) for name, value in state.items()}
    return write_bundle(tmp_path_factory.mktemp("neurostorm"), tensors, config)


@pytest.fixture(scope="session")
def reference(neurostorm_recipe, recipe):
    """The case, its arrays, and the run: BOLD times mask."""
    case, arrays = neurostorm_recipe.load_run_case("run_hcp")
    bold, mask = recipe.make_bold(case["n_volumes"], case["seed"])[:2]
    return case, arrays, bold * mask[..., None].astype(bool), mask.astype(np.uint8)


@pytest.fixture(scope="session")
def finished(tmp_path_factory, reference, neurostorm_bundle):
    """Folder with the input, and the outputs of both storages in `none` and `int8`."""
    folder = tmp_path_factory.mktemp("neurostorm")
    case, _, bold, mask = reference
    file = write_derivative(folder / "in", "sub-1_task-a", data=bold, tr=case["tr"])
    nib.Nifti1Image(mask, FSL_AFFINE).to_filename(file_of(file, "mask"))
    for quantisation in ("none", "int8"):
        call = (folder / "in", folder / quantisation, "participant", "--dummy-scans", "0")
        call += ("--weights", neurostorm_bundle, "--variant", "neurostorm-mae")
        call += ("--quantisation", quantisation, "-w", folder / f"work_{quantisation}")
        done = run_app(*call)
        assert done.returncode == 0, done.stdout + done.stderr
    return folder


def output(finished, quantisation, suffix):
    folder = finished / quantisation / "sub-1" / "func"
    return folder / f"{NAME}_desc-neurostorm_{suffix}"


@pytest.mark.parametrize(("quantisation", "kind"), [("none", "float16"), ("int8", "int8")])
def test_model_input_equals_the_reference(finished, reference, quantisation, kind):
    """At most one step of the storage apart, at one voxel in a thousand."""
    _, arrays, _, _ = reference
    nodes = finished / f"work_{quantisation}" / WORKFLOW_NAME / f"{NAME.replace('-', '_')}_wf"
    matrix = np.load(nodes / "normalise" / "matrix.npy")
    assert matrix.dtype == {"none": np.float16, "int8": np.float32}[quantisation]
    qc = json.loads(output(finished, quantisation, "qc.json").read_text())
    chunks = pd.read_csv(output(finished, quantisation, "timeseries.tsv"), sep="\t")
    assert chunks["model_start"].tolist() == [0, 20]
    run = QueuedRun(
        matrix,
        np.load(nodes / "crop" / "index.npy"),
        chunks["model_start"].tolist(),
        qc["Normalised"]["background"],
    )
    largest = np.abs(matrix).max()
    for chunk, expected in enumerate(arrays[f"chunks_{kind}"]):
        volumes = ModelInput(1).fill([run], [run.read_rows(chunk)])[0, 0].numpy()
        found = volumes[2::4, 2::4, 2::4].astype(np.float16).astype(np.float32)
        step = largest / 127 if kind == "int8" else 2.0**-10
        assert np.abs(found - expected).max() <= 1.01 * step
        assert (found == expected).mean() >= 0.999


@pytest.mark.parametrize(
    ("quantisation", "kind", "limit"), [("none", "float16", 1e-4), ("int8", "int8", 5e-4)]
)
def test_embedding_equals_the_reference(finished, reference, quantisation, kind, limit):
    """In int8, the few values that are rounded the other way are a whole step of 0.023 apart."""
    expected = reference[1][f"embedding_{kind}"]
    tokens = load_file(output(finished, quantisation, "tokens.safetensors"))["tokens"]
    assert np.abs(tokens - expected).max() / np.abs(expected).max() <= limit
    pooled = expected.astype(float).mean(axis=(2, 3, 4, 5))
    chunks = pd.read_csv(output(finished, quantisation, "timeseries.tsv"), sep="\t")
    features = chunks.filter(regex=r"^neurostorm\d{3}$")
    assert features.shape == (2, 288)
    np.testing.assert_allclose(features, pooled, atol=20 * limit)


def test_the_sidecar_says_what_made_it(finished):
    for quantisation in ("none", "int8"):
        sidecar = json.loads(output(finished, quantisation, "embedding.json").read_text())
        model, how = sidecar["Model"], sidecar["Preprocessing"]
        assert (model["Name"], model["Variant"]) == ("NeuroSTORM", "neurostorm-mae")
        assert how["Quantisation"] == quantisation
        assert how["NegativeValues"] == "set to 0"
        assert (how["Frame"], how["ChunkVolumes"]) == ("neurostorm", 20)
        assert how["ModelRepetitionTime"] == 0.8
        assert how["TemporalInterpolation"].startswith("linear, at the middles")
        feature = sidecar["neurostorm287"]["Description"]
        assert feature.startswith("Feature 287 of the NeuroSTORM embedding")
    qc = json.loads(output(finished, "none", "qc.json").read_text())
    assert not qc["DiffersFromTraining"]["TR"]
    chunks = pd.read_csv(output(finished, "none", "timeseries.tsv"), sep="\t")
    # 47 volumes of 52 x 0.72 s / 47
    np.testing.assert_allclose(chunks["duration"], 20 * 52 * 0.72 / 47)
    np.testing.assert_allclose(chunks["onset"], [0, 20 * 52 * 0.72 / 47])
    page = (finished / "none" / "sub-1.html").read_text()
    assert "NeuroSTORM embeddings" in page
    assert "Wang et al. 2026" in page
    assert "SwiFT" not in page
    assert "Wang C." in (finished / "none" / "logs" / "CITATION.md").read_text()
    about = json.loads((finished / "none" / "dataset_description.json").read_text())
    assert about["Name"] == "NeuroSTORM embeddings"
    assert "neurostorm000-287" in (finished / "none" / "README.md").read_text()


def test_demeaned_data(tmp_path, neurostorm_bundle):
    """Half of the values become 0, which the page says."""
    rng = np.random.default_rng(0)
    data = rng.normal(0, 100, (23, 28, 23, 22)).round().astype(np.int16)
    write_derivative(tmp_path / "in", "sub-1_task-a", data=data, shape=(23, 28, 23))
    call = (tmp_path / "in", tmp_path / "out", "participant", "--variant", "neurostorm-mae")
    call += ("--weights", neurostorm_bundle, "--dummy-scans", "0", "--no-tokens")
    assert run_app(*call, "--target-tr", "native").returncode == 0
    (file,) = (tmp_path / "out").rglob("*_qc.json")
    qc = json.loads(file.read_text())
    assert 0.4 < qc["Normalised"]["negative"] < 0.6
    assert "the network reads negative values as 0" in " ".join(qc["Warnings"])
    assert "have been demeaned or filtered" in " ".join(qc["Warnings"])
    text = (tmp_path / "out" / "logs" / "CITATION.md").read_text()
    assert "Negative values were set to 0." in text
    (bold,) = (tmp_path / "in").rglob("*_bold.nii.gz")
    nib.Nifti1Image(-abs(data) - 1, nib.load(bold).affine).to_filename(bold)
    done = run_app(*call, "--interpolation", "linear")  # splines overshoot
    assert done.returncode == 1
    assert "no value within the brain mask is above 0" in done.stdout + done.stderr


def test_quantisation_covers_all_values(tmp_path):
    """Also where the background is a constant, and where faulty volumes are left out."""
    moments = VoxelMoments(4)
    rows = np.array([[1, 2, 3, -40], [2, 3, 5, 60]], np.float32)
    moments.add(rows)
    core = np.array([True, True, True, False])
    exact = ZScores(moments, "global", core)
    rounded = ZScores(moments, "global", core, limits=moments)
    step = float(np.abs(exact.apply(rows.copy())).max()) / 127
    found, expected = rounded.apply(rows.copy()), exact.apply(rows.copy()).astype(np.float32)
    assert np.abs(found - expected).max() <= 0.51 * step
    assert found.dtype == np.float32
    assert rounded.background == pytest.approx(-4, abs=0.51 * step)
    voxelwise = ZScores(moments, "voxel+global", limits=moments)
    assert np.abs(voxelwise.apply(rows.copy())).max() < 2


def test_another_network_is_refused(finished, neurostorm_bundle, small_bundle):
    done = run_app(finished / "in", finished / "none", "participant", "--weights", small_bundle)
    assert done.returncode == 2
    assert "contains embeddings of NeuroSTORM; choose another folder" in done.stderr
    page = finished / "none" / "sub-1.html"
    page.unlink()
    done = run_app(finished / "in", finished / "none", "participant", "--reports-only")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "NeuroSTORM" in page.read_text()
    done = run_app(finished / "in", finished / "none", "participant", "--dry-run")
    assert done.returncode == 2
    assert "contains embeddings of NeuroSTORM" in done.stderr
    done = run_app(finished / "in", finished / "new", "participant", "--weights", neurostorm_bundle)
    assert done.returncode == 2
    assert "weights of NeuroSTORM, but --variant contrastive is SwiFT; use --variant" in done.stderr
    assert "neurostorm-mae" in done.stderr
    call = (finished / "in", finished / "new", "participant", "--weights", small_bundle)
    done = run_app(*call, "--quantisation", "int8")
    assert done.returncode == 2
    assert "SwiFT (contrastive) was trained without it" in done.stderr


def test_three_calls_in_python_for_both_networks(finished, reference, neurostorm_bundle):
    case, _, bold, mask = reference
    network = from_pretrained(neurostorm_bundle)
    assert isinstance(network, NeuroSTORM)
    result = embed(bold, mask, affine=FSL_AFFINE, tr=case["tr"], weights=network)
    assert (result.variant, result.frame, result.quantisation) == (
        "neurostorm-mae",
        "neurostorm",
        "none",
    )
    tokens = load_file(output(finished, "none", "tokens.safetensors"))["tokens"]
    np.testing.assert_allclose(result.tokens, tokens, atol=1e-5 * np.abs(tokens).max())
    with torch.inference_mode():
        again = network(result.volumes(1)).numpy()
    np.testing.assert_allclose(again[0], tokens[1], atol=1e-5 * np.abs(tokens).max())
    with pytest.raises(UsageError, match="'contrastive' is not one of NeuroSTORM"):
        embed(bold, mask, affine=FSL_AFFINE, tr=0.8, weights=network, variant="contrastive")
    with pytest.raises(UsageError, match="SwiFT"):
        SwiFT.from_pretrained(neurostorm_bundle)


def test_random_weights_of_neurostorm(finished):
    call = (finished / "in", finished / "random", "participant", "--variant", "neurostorm-mae")
    done = run_app(*call, "--random-weights", "--dummy-scans", "20", "--no-tokens")
    assert done.returncode == 0, done.stdout + done.stderr
    (sidecar,) = (finished / "random").rglob("*_desc-neurostorm_embedding.json")
    model = json.loads(sidecar.read_text())["Model"]
    assert (model["Name"], model["RandomWeights"]) == ("NeuroSTORM", True)
