"""Flags of commands that read the outputs of the participant level, and the matrices they need."""

from __future__ import annotations

import argparse
import logging
import tempfile
import tomllib
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from swift_bids.base.errors import UsageError
from swift_bids.cli import values as flag_types
from swift_bids.execution.workers import count_cpus
from swift_bids.inputs.run_filter import RunFilter
from swift_bids.outputs.paths import run_folder

_LOG = logging.getLogger("swift_bids")
#: Argument that chooses runs -> its help; the names are those of the app.
_FILTERS = {
    "participant_label": "participants to use, with or without sub-; @FILE reads the labels from "
    "a file",
    "exclude_participant_label": "omit these; also @FILE",
    "session_label": "sessions to use, with or without ses-",
    "task_id": "tasks to use, with or without task-",
    "run_id": "runs to use, with or without run-; 1 also matches run-01",
    "space": "spaces to use",
    "res": "resolutions to use; native: files without res",
    "echo_idx": "echoes to use",
}


def add_probes(parser: argparse.ArgumentParser, embeddings: str) -> None:
    """Which probes, and which embeddings.

    Parameters
    ----------
    embeddings
        Help of `output_dir`.
    """
    parser.add_argument(
        "probes",
        type=Path,
        help="output folder of the group level, its group_desc-swift_model.safetensors, or the "
        "folder of a fine-tuned network",
    )
    parser.add_argument("output_dir", type=Path, help=embeddings)


def add_network(parser: argparse.ArgumentParser) -> None:
    """Which weights, and what runs the network."""
    network = parser.add_argument_group("network")
    network.add_argument(
        "--weights",
        metavar="ID|PATH",
        help="weights that made the embeddings (default: as recorded in the log of output_dir)",
    )
    network.add_argument(
        "--device", type=flag_types.device, default="auto", help="auto, cpu, cuda or cuda:N"
    )
    network.add_argument(
        "--nprocs",
        "--n-cpus",
        type=flag_types.positive,
        metavar="N",
        help="CPUs to use (default: all)",
    )


def choose_device(args: argparse.Namespace) -> str:
    """Return the torch device that the flags of `add_network` choose, and set its threads."""
    import torch

    from swift_bids.network.device import choose_devices

    torch.set_num_threads(args.nprocs or count_cpus())
    devices, warning = choose_devices(args.device)
    if warning:
        _LOG.warning("%s", warning)
    return devices[0]


def add_run_filter(parser: argparse.ArgumentParser) -> None:
    """Which of the embedded runs to use."""
    choice = parser.add_argument_group("which runs")
    for name, described in _FILTERS.items():
        flag = f"--{name.replace('_', '-')}"
        choice.add_argument(flag, nargs="+", metavar="LABEL", help=described)


def parse_command(parser: argparse.ArgumentParser, argv: Sequence[str]) -> argparse.Namespace:
    """Parse a command line with the flags of `add_run_filter`."""
    args = parser.parse_args([flag_types.with_hyphens(argument) for argument in argv])
    flag_types.tidy_labels(args, parser)
    return args


def run_filter_of(args: argparse.Namespace) -> RunFilter:
    """The filter that the flags of `add_run_filter` describe."""
    return RunFilter(
        participants=args.participant_label,
        excluded=args.exclude_participant_label,
        sessions=args.session_label,
        tasks=args.task_id,
        runs=args.run_id,
        spaces=args.space,
        resolutions=args.res,
        echoes=args.echo_idx,
    )


def recorded_calls(output_dir: Path, participant: str = "*") -> Iterator[dict[str, Any]]:
    """Yield the arguments of the calls that embedded runs of a participant, the last one first;
    under `file`, the settings file."""
    # the names of the folders begin with the time of the call
    files = output_dir.glob(f"{participant}/log/*/swift_bids.toml")
    for file in sorted(files, key=lambda file: file.parent.name, reverse=True):
        yield tomllib.loads(file.read_text(encoding="utf-8"))["arguments"] | {"file": file}


@contextmanager
def weights_of_call(output_dir: Path, given: str | None) -> Iterator[str | None]:
    """The weights that made the embeddings of a folder, as `--weights` takes them; None: the
    released ones.

    Parameters
    ----------
    given
        `--weights`; None: those of the last recorded call.
    """
    if given is not None:
        yield given
        return
    last = next(recorded_calls(output_dir), None)
    if last is None:
        raise UsageError(
            f"{output_dir}: has no log of a participant level that says which weights made the "
            f"embeddings; give them with --weights"
        )
    if last.get("weights") or not last["random_weights"]:
        yield last.get("weights")
        return
    from swift_bids.network.bundles import write_random_bundle

    with tempfile.TemporaryDirectory() as folder:  # the same numbers as in that call
        yield str(write_random_bundle(folder, last["variant"]))


def embed_again(
    output_dir: Path, names: Sequence[str], app: Callable[[Sequence[str]], int]
) -> None:
    """Repeat the calls that embedded runs without their matrix, with `--keep-matrix`.

    Parameters
    ----------
    names
        Names of the runs.
    app
        The app; takes a command line and returns the exit code.

    Raises
    ------
    UsageError
        No recorded call embeds a run now.
    """
    _LOG.info("%d run(s) were embedded without --keep-matrix: embedding them again", len(names))
    waiting = {name: recorded_calls(output_dir, name.split("_")[0]) for name in names}
    while waiting:
        # the last calls first, each for all of its participants
        calls: dict[str, list[str]] = defaultdict(list)
        arguments: dict[str, dict[str, Any]] = {}
        for name, recorded in waiting.items():
            if (call := next(recorded, None)) is None:
                raise UsageError(
                    f"{output_dir}: {name} has no matrix, and no recorded call ("
                    f"{name.split('_')[0]}/log) makes it; run the participant level with "
                    f"--keep-matrix"
                )
            key = call["file"].parent.name
            arguments[key] = call
            calls[key].append(name.split("_")[0])
        for key, labels in calls.items():
            flags = ["--keep-matrix", "--config-file", str(arguments[key]["file"])]
            flags += ["--batch", "1/1", "--participant-label", *dict.fromkeys(labels)]
            app([arguments[key]["bids_dir"], str(output_dir), "participant", *flags])
        waiting = {
            name: recorded for name, recorded in waiting.items() if not _matrices(output_dir, name)
        }


def _matrices(output_dir: Path, name: str) -> list[Path]:
    """The kept matrix of a run, of whichever network."""
    return list(run_folder(output_dir, name).glob(f"{name}_desc-*_matrix.h5"))
