"""Options, exit codes, and what `--help` imports."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import tomli_w
from app import ROOT, run_app
from make_data import write_derivative

from swift_bids import __version__
from swift_bids.base.errors import UsageError
from swift_bids.cli.flags import build_parser
from swift_bids.cli.parse import flags_without_effect, parse_arguments
from swift_bids.cli.settings import settings_file_content

CALL = ["in", "out", "participant"]


def test_version_is_that_of_the_version_file():
    assert __version__ == (ROOT / "version").read_text().strip()
    answer = run_app("--version")
    assert (answer.returncode, answer.stdout) == (0, f"swift_bids {__version__}\n")
    module = subprocess.run(
        [sys.executable, "-m", "swift_bids", "--version"], capture_output=True, text=True, cwd=ROOT
    )
    assert module.stdout == answer.stdout


def test_version_says_what_runs_the_network(monkeypatch):
    monkeypatch.setenv("SWIFT_BIDS_KERNEL", "torch")
    answer = run_app("-v", "--version")
    expected = f"swift_bids {__version__}\nnetwork on the CPU: torch\n"
    assert (answer.returncode, answer.stdout) == (0, expected)


def test_help_needs_no_heavy_import():
    """These imports make --help slow."""
    code = (
        "import sys; from swift_bids.cli.parse import build_parser; build_parser().format_help(); "
        "print([m for m in ('torch', 'numpy', 'nibabel', 'nipype', 'bids', 'pandas', 'matplotlib',"
        " 'huggingface_hub') if m in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert answer.stdout == "[]\n"


def test_a_call_with_workers_leaves_torch_to_them():
    """Importing it takes longer than everything else that the call imports."""
    code = "import sys, swift_bids.participant, swift_bids.workflow; print('torch' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert answer.stdout == "False\n"


FLAGS = {
    "--derivatives": ("x", Path("x")),
    "--input-type": ("hcp", "hcp"),
    "--ica-fix": ("on", "on"),
    "--raw": ("x", Path("x")),
    "--from-raw": (None, True),
    "--slice-timing": ("on", "on"),
    "--interpolation": ("linear", "linear"),
    "--mask": ("anat", "anat"),
    "--quantisation": ("int8", "int8"),
    "--compare": ("x", Path("x")),
    "--statistics": ("core", "core"),
    "--robust-normalisation": (None, True),
    "--template-warp": ("off", "off"),
    "--template-xfm": ("x.h5", Path("x.h5")),
    "--jacobian": (None, True),
    "--participant-label": ("01", ["01"]),
    "--exclude-participant-label": ("sub-02", ["02"]),
    "--batch": ("2/3", (2, 3)),
    "--session-label": ("a", ["a"]),
    "--task-id": ("rest", ["rest"]),
    "--run-id": ("run-1", ["1"]),
    "--echo-idx": ("2", ["2"]),
    "--space": ("T1w", ["T1w"]),
    "--res": ("res-2", ["2"]),
    "--bids-database-dir": ("x", Path("x")),
    "--bids-filter-file": ("f.json", Path("f.json")),
    "--dry-run": (None, "text"),
    "--reports-only": (None, True),
    "--variant": ("hcp-sex", "hcp-sex"),
    "--weights": ("w", "w"),
    "--random-weights": (None, True),
    "--frame": ("hcp", "hcp"),
    "--normalisation": ("voxel+global", "voxel+global"),
    "--dummy-scans": ("3", "3"),
    "--target-tr": ("0.72", "0.72"),
    "--chunk-stride": ("10", 10),
    "--tail": ("overlap", "overlap"),
    "--short-runs": ("pad", "pad"),
    "--atlas": ("a.nii.gz", Path("a.nii.gz")),
    "--target": ("age", ["age"]),
    "--covariate": ("site", ["site"]),
    "--group-by": ("site", "site"),
    "--missing-code": ("999", ["999"]),
    "--permutations": ("99", 99),
    "--harmonise": ("site", "site"),
    "--confounds-strategy": ("compcor", "compcor"),
    "--allow-mixed": (None, True),
    "--fd-threshold": ("0.3", 0.3),
    "--max-censored": ("0.4", 0.4),
    "--no-tokens": (None, True),
    "--keep-matrix": (None, True),
    "--device": ("cuda:1", "cuda:1"),
    "--batch-size": ("2", 2),
    "--precision": ("bf16", "bf16"),
    "--compile": (None, True),
    "--nprocs": ("3", 3),
    "--omp-nthreads": ("2", 2),
    "--mem": ("8G", 8.0),
    "--work-dir": ("x", Path("x")),
    "--clean-workdir": (None, True),
    "--use-plugin": ("p.yml", Path("p.yml")),
    "--slurm": (None, True),
    "--slurm-graph": (None, True),
    "--sbatch-args": ("--account my_lab --time=9", "--account my_lab --time=9"),
    "--sbatch-network-args": ("--gres=gpu:2", "--gres=gpu:2"),
    "--force": (None, True),
    "--stop-on-first-crash": (None, True),
    "--verbose": (None, 1),
}


def test_every_flag_has_a_case_in_FLAGS():
    long = {flag for a in build_parser()._actions for flag in a.option_strings if flag[:2] == "--"}
    other_names = {"--nthreads", "--n-cpus", "--nipype-plugin-file"}
    other_names |= {"--normalization", "--robust-normalization", "--harmonize", "--quantization"}
    assert long - {"--help", "--version", "--config-file"} - other_names == set(FLAGS)


@pytest.mark.parametrize("flag", FLAGS)
def test_every_long_flag_takes_hyphens_and_underscores(flag):
    given, expected = FLAGS[flag]
    name = flag[2:].replace("-", "_")
    for form in (flag, "--" + name):
        args = parse_arguments([*CALL, form, *([given] if given else [])])
        assert getattr(args, name) == expected
    assert getattr(parse_arguments(CALL), name) != expected


def test_notations_of_flag_values_are_normalised():
    args = parse_arguments(
        [*CALL, "--participant_label", "sub-01", "02", "--session-label=ses-a_b", "--mem", "8000"]
    )
    assert args.participant_label == ["01", "02"]
    assert args.session_label == ["a_b"]  # the value keeps its underscore
    assert args.mem == pytest.approx(8.0)
    assert parse_arguments([*CALL, "--mem", "1.5T"]).mem == 1500.0
    assert args.bids_dir == Path("in")
    assert parse_arguments([*CALL, "--normalization", "global"]).normalisation == "global"
    assert parse_arguments(CALL).nprocs >= 1
    assert parse_arguments(["--dry-run", *CALL]).dry_run == "text"
    assert parse_arguments(["--dry_run=json", *CALL]).dry_run == "json"


def test_settings_of_an_earlier_call(tmp_path):
    """Every flag survives swift_bids.toml, and typed flags win."""
    one_of = ("--slurm", "--slurm-graph")  # and of --use-plugin
    flags = {flag: given for flag, (given, _) in FLAGS.items() if flag not in one_of}
    argv = [part for pair in flags.items() for part in pair if part]
    before = parse_arguments([*CALL, *argv])
    file = tmp_path / "swift_bids.toml"
    file.write_text(tomli_w.dumps(settings_file_content(before)))
    after = parse_arguments(["in2", "out2", "group", "--config-file", str(file), "--tail=drop"])
    assert (str(after.bids_dir), after.analysis_level, after.tail) == ("in2", "group", "drop")
    assert {after.batch, after.reports_only} == {None}  # of the participant level
    again = parse_arguments([*CALL, "--config-file", str(file), "--tail=drop"])
    assert again.batch == before.batch
    others = {"bids_dir", "output_dir", "analysis_level", "tail", "batch", "reports_only"}
    for name in vars(before).keys() - others:
        if name in ("verbose", "config_file"):  # of the call itself
            continue
        expected = getattr(before, name)
        found = getattr(after, name)
        assert found == (expected.absolute() if isinstance(expected, Path) else expected), name


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[arguments]\ncolour = 1", "there is no flag --colour"),
        ("arguments = 3", "is not a settings file"),
        ("version = 1", "is not a settings file"),
        ("[", "is not a settings file"),
    ],
)
def test_wrong_settings_file(tmp_path, text, said):
    file = tmp_path / "c.toml"
    file.write_text(text)
    with pytest.raises(UsageError, match=said):
        parse_arguments([*CALL, "--config-file", str(file)])


def test_labels_from_a_file(tmp_path):
    file = tmp_path / "labels.txt"
    file.write_text("sub-01\n02, 03\n\n", encoding="utf-8")
    args = parse_arguments([*CALL, "--participant-label", f"@{file}", "sub-04"])
    assert args.participant_label == ["01", "02", "03", "04"]
    file.write_text("\n")
    for name in (file, tmp_path / "absent"):
        with pytest.raises(UsageError, match=r"labels cannot be read|contains no labels"):
            parse_arguments([*CALL, "--exclude-participant-label", f"@{name}"])


@pytest.mark.parametrize(
    "wrong",
    [
        ["--device", "gpu"],
        ["--batch-size", "0"],
        ["--nprocs", "-1"],
        ["--mem", "lots"],
        ["--mem", "0"],
        ["--max-censored", "1.5"],
        ["--dummy-scans", "-2"],
        ["--batch", "0/3"],
        ["--batch", "4/3"],
        ["--batch", "1"],
        ["--dry_run=yaml"],
        ["--target-tr", "-0.8"],
        ["--target-tr", "nan"],
        ["--target-tr", "fast"],
        ["--chunk-stride", "0"],
        ["--tail", "keep"],
        ["--normalisation", "none"],
        ["--fd-threshold", "-1"],
        ["--fd-threshold", "nan"],
        ["--variant", "other"],
        ["--participant-lab", "01"],
    ],
)
def test_wrong_options_exit_with_code_2(wrong, capsys):
    with pytest.raises(SystemExit) as ended:
        parse_arguments([*CALL, *wrong])
    assert ended.value.code == 2
    flag = wrong[0].split("=")[0].replace("_", "-")
    assert flag in capsys.readouterr().err


def test_missing_weights_exit_with_code_2_and_leave_nothing(tmp_path):
    write_derivative(tmp_path / "in", "sub-1_task-a", shape=(4, 5, 6), n_volumes=20)
    answer = run_app(tmp_path / "in", tmp_path / "out", "participant", HF_HOME=str(tmp_path / "hf"))
    assert answer.returncode == 2
    assert "ilex-hub/swift.contrastive.1" in answer.stderr
    assert f"bids_dir {tmp_path / 'in'} is read as fMRIPrep derivatives" in answer.stderr
    assert "--weights" in answer.stderr
    assert "Traceback" not in answer.stderr
    assert not (tmp_path / "out").exists()


def test_a_missing_gpu_exits_with_code_2(tmp_path):
    write_derivative(tmp_path / "in", "sub-1_task-a", shape=(4, 5, 6), n_volumes=20)
    call = (tmp_path / "in", tmp_path / "out", "participant", "--random-weights")
    answer = run_app(*call, "--device", "cuda", CUDA_VISIBLE_DEVICES="")
    assert answer.returncode == 2
    assert "--gpus all" in answer.stderr


def test_dry_run_lists_and_writes_nothing(tmp_path):
    write_derivative(tmp_path / "in", "sub-1_task-a", shape=(4, 5, 6), n_volumes=45)
    write_derivative(
        tmp_path / "in", "sub-1_task-a", space="space-T1w", shape=(4, 5, 6), n_volumes=45
    )
    call = (tmp_path / "in", tmp_path / "out", "participant")
    answer = run_app("--dry-run", *call, "--nprocs", "2")
    assert answer.returncode == 0
    header, row = (line.split() for line in answer.stdout.splitlines()[1:3])
    stem = "sub-1/func/sub-1_task-a_space-MNI152NLin6Asym_res-2_desc-"
    expected = {
        "bold": f"{stem}preproc_bold.nii.gz",
        "mask": "functional",
        "confounds": "no",
        "level": "full",
        "space": "MNI152NLin6Asym",
        "frame": "ukb",
        "repetition_time": "0.8",
        "model_tr": "0.8",
        "volumes": "45",
        "dummy": "0",
        "chunks": "2",
        "seconds": "1.4",
    }
    assert dict(zip(header, row)) == expected
    assert "1 run(s), about 1 minute(s) and 1.0 GB of memory on 2 CPU(s)" in answer.stdout
    answer = run_app(*call, "--dry-run=json", "--nprocs", "2")
    found = json.loads(answer.stdout)  # and nothing else
    assert found["estimate"] == {"seconds": 1, "memory_gb": 1.0, "cpus": 2}
    (run,) = found["runs"]
    assert run["mask"] == f"{stem}brain_mask.nii.gz"
    assert run["confounds"] is None
    assert run["others"] == ["sub-1_task-a_space-T1w"]
    assert "is read as fMRIPrep derivatives" in answer.stderr
    nobody = run_app(*call, "--dry-run", "--task-id", "none")
    assert nobody.returncode == 2  # as without --dry-run
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("level", "ignored"),
    [("participant", ["--missing-code", "--compare"]), ("group", ["--keep-matrix"])],
)
def test_flags_of_the_other_level_are_named(level, ignored):
    both = ["--task-id", "rest", "-d", "x", "--dry-run", "-v", "--config-file", "file.toml"]
    flags = ["--keep_matrix", "--missing_code=9", "--compare", "--keep-matrix-not-a-flag"]
    assert flags_without_effect(["in", "out", level, *both, *flags], level) == ignored


def test_the_log_names_flags_of_the_other_level(tmp_path):
    write_derivative(tmp_path / "in", "sub-1_task-a", shape=(4, 5, 6), n_volumes=20)
    call = (tmp_path / "in", tmp_path / "out", "participant", "--dry-run")
    assert "no effect" not in run_app(*call).stdout
    answer = run_app(*call, "--permutations", "9", "--allow-mixed")
    assert answer.returncode == 0
    assert "no effect at the participant level: --permutations, --allow-mixed\n" in answer.stdout


def test_group_level_without_outputs_exits_with_code_2(tmp_path):
    write_derivative(tmp_path / "in", "sub-1_task-a", shape=(4, 5, 6), n_volumes=20)
    answer = run_app(tmp_path / "in", tmp_path / "out", "group")
    assert answer.returncode == 2
    assert "run the participant level first" in answer.stderr
