"""examples/babs.yaml, and the command that BABS makes of it."""

import json
import os
import subprocess
from pathlib import Path

import yaml
from app import ROOT, require_program

from swift_bids import __version__
from swift_bids.base.errors import Problem, report_problems
from swift_bids.cli.parse import parse_arguments

#: BABS' own Python runs this code, because its versions of numpy and pandas conflict with ours.
MAKE_SCRIPTS = """
import sys
from babs.container import Container
from babs.input_datasets import InputDatasets
from babs.system import System
file, folder = sys.argv[1:]
container = Container("containers", "swift_bids-image", file)
datasets = InputDatasets("subject", container.config["input_datasets"])
datasets.update_abs_paths(folder)
container.generate_bash_run_bidsapp(folder + "/run.sh", datasets, "subject")
container.generate_bash_participant_job(folder + "/job.sh", datasets, "subject", System("slurm"))
"""
#: Replaces Singularity and 7z, and records how it was called.
RECORDER = """#!/usr/bin/env python3
import json, sys
with open("calls", "a") as file:
    file.write(json.dumps(sys.argv) + "\\n")
"""


def test_babs_makes_a_command_that_the_app_accepts(tmp_path):
    babs = Path(require_program("babs")).resolve()
    python = babs.with_name("python")
    made = subprocess.run(
        [python, "-c", MAKE_SCRIPTS, ROOT / "examples" / "babs.yaml", tmp_path],
        capture_output=True,
        text=True,
    )
    assert made.returncode == 0, made.stderr
    job = (tmp_path / "job.sh").read_text()
    assert "#SBATCH --cpus-per-task=4\n#SBATCH --mem=6G\n" in job

    for name in ("singularity", "7z"):
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(RECORDER)
        program.chmod(0o755)
    analysis = tmp_path / "analysis"
    (analysis / "inputs" / "data" / "fmriprep").mkdir(parents=True)
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    subprocess.run(
        ["bash", tmp_path / "run.sh", "sub-01", "inputs/data/fmriprep/sub-01_fmriprep-25.zip"],
        cwd=analysis,
        check=True,
        capture_output=True,
        env=os.environ | {"PATH": path},
    )
    call = json.loads((analysis / "calls").read_text())
    image = "containers/.datalad/environments/swift_bids-image/image"
    place = call.index(image)
    assert call[1:place] == ["run", "-B", str(analysis), "--containall", "--cleanenv"]
    args = parse_arguments(call[place + 1 :])
    assert args.bids_dir == analysis / "inputs" / "data" / "fmriprep" / "fmriprep"
    assert args.output_dir == analysis / "outputs" / "swift_bids"
    assert (args.analysis_level, args.participant_label) == ("participant", ["01"])
    assert (args.nprocs, args.variant) == (4, "contrastive")
    assert args.work_dir == analysis / ".git" / "tmp" / "wkdir"


def test_the_name_of_the_zips_contains_the_version():
    text = (ROOT / "examples" / "babs.yaml").read_text()
    assert f'swift_bids: "{__version__.replace(".", "-")}"' in text


def test_alerts_match_what_the_app_prints(caplog):
    """An alert for words that the app no longer printed used to stay silent."""
    alerts = yaml.safe_load((ROOT / "examples" / "babs.yaml").read_text())["alert_log_messages"]
    report_problems([Problem("1", "sub-1", "has no brain mask")])
    (words,) = alerts["stdout"]
    assert words in caplog.messages[0]
    assert alerts["stderr"] == ["swift-bids: error"]
