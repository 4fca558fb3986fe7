"""Command line and settings file -> parsed arguments."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from swift_bids.cli import values as flag_types
from swift_bids.cli.flags import build_parser
from swift_bids.cli.resource_flags import GROUP_LEVEL
from swift_bids.execution.workers import count_cpus

#: Arguments that both levels read.
_BOTH = frozenset(flag_types.LABELS) | frozenset(
    "derivatives raw input_type dry_run nprocs work_dir config_file verbose".split()
)
_PLUGINS = ("--use-plugin", "--nipype-plugin-file", "--slurm", "--slurm-graph")


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the arguments, and bring all accepted notations into one form."""
    argv = sys.argv[1:] if argv is None else argv
    argv = [_in_full(argument) for argument in _joined(argv)]
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
    flag_types.tidy_labels(args, parser)
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


def flags_without_effect(argv: Sequence[str], level: str) -> list[str]:
    """Return the flags on a command line, though not in its settings file, that a level ignores."""
    given = {flag_types.with_hyphens(argument).partition("=")[0] for argument in argv}
    ignored = []
    for group in build_parser()._action_groups:
        if (group.title == GROUP_LEVEL) != (level == "group"):
            for action in group._group_actions:
                if action.dest not in _BOTH:
                    ignored += sorted(given.intersection(action.option_strings))
    return ignored


def _config_file(argv: Sequence[str]) -> Path | None:
    """Return the file given with --config-file; the full parser reports mistakes later."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--config-file", type=Path)
    return first.parse_known_args(argv)[0].config_file


def _in_full(argument: str) -> str:
    """Return an argument with hyphens in its flag, and with the value that --dry-run may lack."""
    argument = flag_types.with_hyphens(argument)
    return "--dry-run=text" if argument == "--dry-run" else argument


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
