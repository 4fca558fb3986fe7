"""The Apptainer image, run by an ordinary user."""

import subprocess

import pytest
from app import PATIENCE
from containers import place_sif

from swift_bids import __version__

pytestmark = pytest.mark.long


@pytest.fixture
def apptainer(tmp_path):
    """Run Apptainer in a folder that everybody may write to and that contains `swift_bids.sif`."""
    place_sif(tmp_path)

    def call(*arguments):
        return subprocess.run(
            ["apptainer", *arguments],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )

    return call


def test_self_test(apptainer):
    """`%test` compares the embedding of one chunk with the recorded one."""
    done = apptainer("test", "swift_bids.sif")
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("recorded embedding: OK\n")
    assert f"swift_bids {__version__}, torch" in done.stdout


def test_run_script_and_help(apptainer):
    closed = ("--cleanenv", "--containall", "--no-home")
    done = apptainer("run", *closed, "swift_bids.sif", "--version")
    assert done.stdout == f"swift_bids {__version__}\n"
    done = apptainer(
        "run", *closed, "swift_bids.sif", "/in", "/out", "participant", "--device=cuda"
    )
    assert done.returncode == 2
    assert "--device cuda: this container sees no GPU" in done.stderr
    assert (
        "SwiFT embeddings of fMRIPrep derivatives."
        in apptainer("run-help", "swift_bids.sif").stdout
    )


def test_image_labels(apptainer):
    labels = apptainer("inspect", "swift_bids.sif").stdout
    assert f"org.opencontainers.image.version: {__version__}" in labels
    assert "org.swift-bids.from:" in labels
