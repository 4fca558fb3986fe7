"""boutiques.json: it matches the parser, and Boutiques accepts it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from app import PATIENCE, ROOT

from swift_bids.cli.flags import build_parser
from swift_bids.cli.parse import parse_arguments
from swift_bids.platforms.boutiques import descriptor

FILE = ROOT / "boutiques.json"


def bosh(*words):
    program = Path(sys.executable).with_name("bosh")
    return subprocess.run(
        [program, *map(str, words)], capture_output=True, text=True, timeout=PATIENCE
    )


def test_the_file_matches_the_parser():
    """To update it: python -m swift_bids.platforms.boutiques > boutiques.json"""
    assert json.loads(FILE.read_text()) == json.loads(json.dumps(descriptor()))


def test_the_descriptor_has_every_flag():
    flags = {i.get("command-line-flag") for i in descriptor()["inputs"]} - {None}
    long = {flag for a in build_parser()._actions for flag in a.option_strings if flag[:2] == "--"}
    other_names = {"--nthreads", "--n-cpus", "--help", "--version"}
    other_names |= {"--normalization", "--robust-normalization", "--harmonize", "--quantization"}
    other_names |= {"--nipype-plugin-file"}
    assert flags == long - other_names


def test_boutiques_validates_the_file():
    done = bosh("validate", "--bids", FILE)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "BIDS validation OK" in done.stdout


@pytest.mark.parametrize("level", ["participant", "group"])
def test_boutiques_makes_a_command_that_the_app_accepts(tmp_path, level):
    arguments = {
        "bids_dir": "/data/fmriprep",
        "output_dir_name": "/data/swift",
        "analysis_level": level,
        "participant_label": ["01", "02"],
        "max_censored": 0.3,
        "chunk_stride": 10,
        "no_tokens": True,
        "normalisation": "voxel+global",
        "dry_run": "json",
    }
    invocation = tmp_path / "call.json"
    invocation.write_text(json.dumps(arguments))
    done = bosh("exec", "simulate", FILE, "-i", invocation)
    assert done.returncode == 0, done.stdout + done.stderr
    made, call = done.stdout.splitlines()[-1].split("; ")
    assert made == "mkdir -p /data/swift"
    assert call.split()[0] == "swift-bids"
    args = parse_arguments(call.split()[1:])
    for name, value in arguments.items():
        if name != "output_dir_name":
            parsed = getattr(args, name)
            assert str(parsed) == value if isinstance(parsed, Path) else parsed == value
    assert str(args.output_dir) == "/data/swift"
