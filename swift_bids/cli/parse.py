"""The command line as the app takes it: flags in all their forms, and settings files."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from swift_bids.cli import values as arguments
from swift_bids.cli.flags import build_parser
from swift_bids.execution.workers import count_cpus

_PLUGINS = ("--use-plugin", "--nipype-plugin-file", "--slurm", "--slurm-graph")


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse, and make one form of what may be written in several."""
    argv = sys.argv[1:] if argv is None else argv
    argv = [_with_hyphens(argument) for argument in _joined(argv)]
    parser = build_parser()
    config_file = _config_file(argv)
    if config_file is not None:
        # Through the parser, as if they had been typed behind some positional arguments.
        typed = ["bids_dir", "output_dir", "participant", *arguments.typed_in(config_file, parser)]
        settings = vars(parser.parse_args(typed))
        if any(argument.split("=")[0] in _PLUGINS for argument in argv):  # of which one is used
            settings |= {"use_plugin": None, "slurm": False, "slurm_graph": False}
        parser.set_defaults(**settings)
    args = parser.parse_args(argv)
    for name, prefix in (
        ("participant_label", "sub-"),
        ("exclude_participant_label", "sub-"),
        ("session_label", "ses-"),
        ("task_id", "task-"),
        ("run_id", "run-"),
        ("echo_idx", "echo-"),
        ("space", "space-"),
        ("res", "res-"),
    ):
        labels = getattr(args, name)
        if labels is not None and name.endswith("participant_label"):
            labels = [label for given in labels for label in arguments.labels_of(given)]
            if paths := [label for label in labels if "/" in label]:
                parser.error(f"{paths[0]} is no participant's label, but a path")
        setattr(args, name, labels and [label.removeprefix(prefix) for label in labels])
    for name, why in (
        ("batch", "the group level needs everybody"),
        ("reports_only", "group makes its page anew anyway"),
    ):
        if args.analysis_level == "group" and getattr(args, name):
            if config_file is None:
                parser.error(f"--{name.replace('_', '-')} is of the participant level; {why}")
            setattr(args, name, None)  # of the call whose settings these are
    args.nprocs = args.nprocs or count_cpus()
    return args


def _config_file(argv: Sequence[str]) -> Path | None:
    """The file that --config-file names; other mistakes are the whole parser's to find."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--config-file", type=Path)
    return first.parse_known_args(argv)[0].config_file


def _with_hyphens(argument: str) -> str:
    """`--participant_label=a_b` -> `--participant-label=a_b`."""
    if not argument.startswith("--"):
        return argument
    flag, equals, value = argument.partition("=")
    flag = flag.replace("_", "-")
    if flag == "--dry-run" and not equals:
        return "--dry-run=text"
    return flag + equals + value


def _joined(argv: Sequence[str]) -> list[str]:
    """`--sbatch-args --time=9` -> `--sbatch-args=--time=9`: argparse takes no value with a dash."""
    joined: list[str] = []
    for argument in argv:
        if joined and joined[-1].replace("_", "-") in ("--sbatch-args", "--sbatch-network-args"):
            joined[-1] += f"={argument}"
        else:
            joined.append(argument)
    return joined
