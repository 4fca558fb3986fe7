"""--keep-matrix: the network's input of a run, from which its tokens follow exactly."""

import json

import h5py
import numpy as np
import pandas as pd
import pytest
from app import run_app
from make_data import write_run
from safetensors.numpy import load_file

from swift_bids import SwiFT
from swift_bids.base.errors import InputError
from swift_bids.geometry.frames import FRAMES
from swift_bids.outputs.matrix import KeptMatrix
from swift_bids.steps.embed import embed_chunks


def test_the_tokens_follow_from_the_kept_matrix(tmp_path, small_bundle):
    write_run(tmp_path / "in", "1", n_volumes=46)
    out = tmp_path / "out"
    call = (tmp_path / "in", out, "participant", "--weights", small_bundle)
    assert run_app(*call).returncode == 0
    assert list(out.rglob("*_matrix.*")) == []
    again = run_app(*call, "--keep-matrix")
    assert again.returncode == 0, again.stdout + again.stderr
    assert "embedding again: it has no matrix, but this command has --keep-matrix" in again.stdout
    (file,) = out.rglob("*_desc-swift_matrix.h5")
    matrix = KeptMatrix(file)
    assert matrix.shape[0] == 46
    np.testing.assert_array_equal(matrix.affine, FRAMES["ukb"].affine)
    np.testing.assert_allclose(matrix.mean(), matrix[0:46].astype(np.float64).mean(axis=0))
    stem = str(file).removesuffix("_matrix.h5")
    starts = pd.read_csv(f"{stem}_timeseries.tsv", sep="\t")["model_start"].tolist()
    assert starts == [0, 20]
    network = SwiFT.from_file(small_bundle / "model.safetensors")
    tokens = embed_chunks(matrix, matrix.index, starts, matrix.background, network)
    np.testing.assert_array_equal(tokens, load_file(f"{stem}_tokens.safetensors")["tokens"])
    about = json.loads(file.with_suffix(".json").read_text())
    assert about["Sources"][0].startswith("bids:fmriprep:sub-1/func/")
    recorded = json.loads((file.with_name(f"{file.name[:-10]}_embedding.json")).read_text())
    assert recorded["Files"][file.relative_to(out).as_posix()] == file.stat().st_size
    # without the flag, the finished run is left alone; embedded again, it loses the old matrix
    assert "already done" in run_app(*call).stdout
    assert file.exists()
    assert run_app(*call, "--force").returncode == 0
    assert list(out.rglob("*_matrix.*")) == []


def test_other_files_are_no_matrices(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["other"] = [1]
    (tmp_path / "y.h5").write_text("no HDF5")
    for name in ("x.h5", "y.h5"):
        with pytest.raises(InputError, match=rf"{name}: is not a matrix of --keep-matrix"):
            KeptMatrix(tmp_path / name)
