"""Flags of commands that read the outputs of the participant level, and the matrices they need."""

from __future__ import annotations

import argparse
import logging
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swift_bids.base.errors import UsageError

if TYPE_CHECKING:
    from swift_bids.group.run_filter import RunFilter

_LOG = logging.getLogger("swift_bids")
#: Flag -> prefix of its labels, which may be left out, and its help.
_FILTERS = {
    "participant": ("sub-", "participants to use, with or without sub-"),
    "session": ("ses-", "sessions to use, with or without ses-"),
    "task": ("task-", "tasks to use, with or without task-"),
    "run": ("run-", "runs to use, with or without run-"),
    "space": ("space-", "spaces to use"),
}
#: Filters that the app calls `--task-id`, not `--task-label`.
_ENDINGS = {"task": "-id", "run": "-id", "space": ""}


def add_run_filter(parser: argparse.ArgumentParser) -> None:
    """Which of the embedded runs to use; the flags have the names of those of the app."""
    choice = parser.add_argument_group("which runs")
    for name, (prefix, described) in _FILTERS.items():
        flag = f"--{name}{_ENDINGS.get(name, '-label')}"
        choice.add_argument(
            flag,
            *({flag.replace("-", "_").replace("__", "--")} - {flag}),
            nargs="+",
            type=lambda label, prefix=prefix: label.removeprefix(prefix),  # type: ignore[misc]
            metavar="LABEL",
            help=described,
        )


def run_filter_of(args: argparse.Namespace) -> RunFilter:
    """The filter that the flags of `add_run_filter` describe."""
    from swift_bids.group.run_filter import RunFilter

    return RunFilter(
        participants=args.participant_label,
        sessions=args.session_label,
        tasks=args.task_id,
        runs=args.run_id,
        spaces=args.space,
    )


def recorded_call(output_dir: Path, participant: str = "*") -> Path:
    """Return the settings file of the last call that embedded runs of a participant.

    Raises
    ------
    UsageError
        There is none.
    """
    # the names of the folders begin with the time of the call
    found = output_dir.glob(f"{participant}/log/*/swift_bids.toml")
    latest = max(found, key=lambda file: file.parent.name, default=None)
    if latest is None:
        raise UsageError(
            f"{output_dir}: has no log of a participant level ({participant}/log); run the "
            f"participant level first"
        )
    return latest


def recorded_arguments(file: Path) -> dict[str, Any]:
    """The arguments in a settings file."""
    import tomllib

    return tomllib.loads(file.read_text(encoding="utf-8"))["arguments"]


def make_missing_matrices(
    output_dir: Path, run_filter: RunFilter, app: Callable[[Sequence[str]], int]
) -> None:
    """Repeat the calls that embedded runs without their matrix, with `--keep-matrix`.

    Parameters
    ----------
    app
        The app; takes a command line and returns the exit code.

    Raises
    ------
    UsageError
        The log of the call is missing, or the call fails now.
    """
    from swift_bids.group.kept_runs import without_matrix
    from swift_bids.group.load import collect_runs

    runs, _ = collect_runs(output_dir, run_filter)
    lacking = without_matrix(output_dir, runs)
    participants = dict.fromkeys(name.split("_")[0] for name in lacking)
    calls: dict[str, list[str]] = defaultdict(list)
    files: dict[str, Path] = {}
    for participant in participants:
        file = recorded_call(output_dir, participant)
        calls[file.parent.name].append(participant)
        files[file.parent.name] = file
    if lacking:
        _LOG.info(
            "%d run(s) were embedded without --keep-matrix and are embedded again", len(lacking)
        )
    for name, labels in calls.items():
        bids_dir = recorded_arguments(files[name])["bids_dir"]
        flags = ["--keep-matrix", "--config-file", str(files[name]), "--batch", "1/1"]
        call = [bids_dir, str(output_dir), "participant", *flags, "--participant-label", *labels]
        if app(call) != 0:
            raise UsageError(
                f"{output_dir}: runs of {len(labels)} participant(s) cannot be embedded again with "
                f"--keep-matrix (see above); do that with the participant level first"
            )
