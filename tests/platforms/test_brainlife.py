"""A brainlife task: config.json in, folders and product.json out."""

import json
import os
import re
import shutil
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest
from app import ROOT
from containers import place_sif
from make_data import write_derivative

from swift_bids import __version__

RUN = "sub-01_ses-1_task-rest_run-1_space-MNI152NLin6Asym"


@pytest.fixture
def task(tmp_path, reference_bundle):
    """A folder with the sample's config.json and the data that it names."""
    rows = "framewise_displacement\n" + "".join(f"{0.1 * (t > 0) or 'n/a'}\n" for t in range(22))
    bold = write_derivative(tmp_path / "made", "sub-9_task-x", confounds=rows)
    (tmp_path / "testdata").mkdir()
    bold.rename(tmp_path / "testdata" / "bold.nii.gz")
    for end, name in (("brain_mask.nii.gz", "mask.nii.gz"), ("timeseries.tsv", "regressors.tsv")):
        next(bold.parent.glob(f"*{end}")).rename(tmp_path / "testdata" / name)
    config = json.loads((ROOT / "brainlife" / "config.json").read_text())
    config["weights"] = str(reference_bundle)
    (tmp_path / "config.json").write_text(json.dumps(config))
    return tmp_path


def run(folder, **environment):
    call = [sys.executable, "-m", "swift_bids.platforms.brainlife"]
    return subprocess.run(
        call,
        cwd=folder,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
    )


def test_a_brainlife_task_writes_the_expected_folders(task):
    done = run(task)
    assert done.returncode == 0, done.stdout + done.stderr
    assert_layout(task)


def test_a_brainlife_task_in_the_container_writes_the_expected_folders(task):
    """brainlife runs `main`, which calls Singularity, in a separate folder."""
    config = json.loads((task / "config.json").read_text())
    shutil.copytree(config["weights"], task / "weights")
    (task / "config.json").write_text(json.dumps(config | {"weights": "weights"}))
    place_sif(task)
    image = {"SWIFT_BIDS_IMAGE": "swift_bids.sif"}
    done = subprocess.run(
        [ROOT / "main"], cwd=task, capture_output=True, text=True, env=os.environ | image
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert_layout(task)


def assert_layout(task):
    """Check the folders of the two registered outputs, and product.json."""
    names = {file.name for file in (task / "embedding").iterdir()}
    expected = {
        f"{RUN}_desc-swift_{suffix}"
        for suffix in ("embedding.tsv", "timeseries.tsv", "qc.json", "tokens.safetensors")
    }
    assert expected < names
    page = (task / "html" / "index.html").read_text()
    assert "<title>sub-01 - SwiFT embeddings</title>" in page
    product = json.loads((task / "product.json").read_text())
    kinds = [p["type"] for p in product["brainlife"]]
    assert set(kinds) <= {"info", "warning", "plotly"}
    figure = product["brainlife"][-1]
    assert (figure["type"], figure["name"]) == ("plotly", "Chunks")
    assert figure["data"][1]["y"] == pytest.approx([0.1])
    assert (task / "product.json").stat().st_size < 20_000
    assert not (task / "work").exists()


def test_a_missing_input(task):
    (task / "testdata" / "mask.nii.gz").unlink()
    done = run(task)
    assert done.returncode == 2
    assert "testdata/mask.nii.gz does not exist" in done.stderr
    product = json.loads((task / "product.json").read_text())
    assert product["brainlife"][0]["type"] == "error"


def test_a_wrong_parameter(task):
    config = json.loads((task / "config.json").read_text())
    (task / "config.json").write_text(json.dumps(config | {"target_tr": "slow"}))
    assert run(task).returncode == 2
    product = json.loads((task / "product.json").read_text())
    assert product["brainlife"][0]["type"] == "error"


def test_a_run_that_cannot_be_embedded(task):
    nib.Nifti1Image(np.zeros((91, 109, 91, 5), np.int16), np.eye(4)).to_filename(
        task / "testdata" / "bold.nii.gz"
    )
    done = run(task)
    assert done.returncode == 1
    assert not (task / "embedding").exists()
    product = json.loads((task / "product.json").read_text())
    assert product["brainlife"][0] == {
        "type": "error",
        "msg": "The run was not embedded; see the log.",
    }


def test_main_is_what_brainlife_expects(tmp_path):
    """At the root, executable, with its resources, and calling the image of this version."""
    main = ROOT / "main"
    assert os.readlink(main) == "brainlife/main"
    text = main.read_text()
    assert os.access(main, os.X_OK)
    assert re.search(r"^#PBS -l nodes=1:ppn=\d+,vmem=\d+gb,walltime=[\d:]+$", text, re.MULTILINE)
    singularity = tmp_path / "singularity"
    singularity.write_text('#!/bin/bash\necho "$@"\n')
    singularity.chmod(0o755)
    path = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    output = subprocess.run([main], capture_output=True, text=True, env=os.environ | path).stdout
    assert output == (
        f"exec -e docker://swiftbids/swift_bids:{__version__} "
        "/opt/swift_bids/bin/python -P -m swift_bids.platforms.brainlife\n"
    )
