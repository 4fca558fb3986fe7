"""Command line and settings file -> parsed arguments."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from swift_bids.cli import values as flag_types
from swift_bids.cli.flags import build_parser
from swift_bids.execution.workers import count_cpus

_PLUGINS = ("--use-plugin", "--nipype-plugin-file", "--slurm", "--slurm-graph")


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the arguments, and bring all accepted notations into one form."""
    argv = sys.argv[1:] if argv is None else argv
    argv = [_with_hyphens(argument) for argument in _joined(argv)]
    parser = build_parser()
    config_file = _config_file(argv)
    if config_file is not None:
        # Let the parser check the settings as if they were flags. It insists on positional
        # arguments, so pass placeholders.
        flags = flag_types.config_file_flags(config_file, parser)
        settings = vars(parser.parse_args(["bids_dir", "output_dir", "participant", *flags]))
        if any(argument.split("=")[0] in _PLUGINS for argument in argv):  # they exclude each other
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
            labels = [label for given in labels for label in flag_types.parse_labels(given)]
            if paths := [label for label in labels if "/" in label]:
                parser.error(f"{paths[0]} is a path, not a participant's label")
        setattr(args, name, labels and [label.removeprefix(prefix) for label in labels])
    for name, reason in (
        ("batch", "the group level needs all participants"),
        ("reports_only", "the group level always rebuilds its page"),
    ):
        if args.analysis_level == "group" and getattr(args, name):
            if config_file is None:
                parser.error(f"--{name.replace('_', '-')} is for the participant level; {reason}")
            setattr(args, name, None)  # the settings file may come from the participant level
    args.nprocs = args.nprocs or count_cpus()
    return args


def _config_file(argv: Sequence[str]) -> Path | None:
    """Return the file given with --config-file; the full parser reports mistakes later."""
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
    """`--sbatch-args --time=9` -> `--sbatch-args=--time=9`, because argparse treats a value that
    starts with a dash as a flag."""
    joined: list[str] = []
    for argument in argv:
        if joined and joined[-1].replace("_", "-") in ("--sbatch-args", "--sbatch-network-args"):
            joined[-1] += f"={argument}"
        else:
            joined.append(argument)
    return joined
