"""Command line -> participant or group level. Slow imports wait until the arguments are parsed."""

from __future__ import annotations

import argparse
import io
import logging
import os
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from multiprocessing.util import Finalize
from pathlib import Path

from swift_bids import __version__
from swift_bids.base.errors import (
    InputError,
    OutputError,
    PlainFormatter,
    UsageError,
    describe_os_error,
    escape_control_characters,
)
from swift_bids.base.signals import handle_signals, ignore_signals, signal_received
from swift_bids.cli.explain import run_explain_command
from swift_bids.cli.finetune import run_finetune_command
from swift_bids.cli.parse import flags_without_effect, parse_arguments
from swift_bids.cli.predict import run_predict_command
from swift_bids.cli.sensitivity import split_run
from swift_bids.cli.weights import ACTIONS, run_weights
from swift_bids.execution.work_folder import check_work_dir, work_folder
from swift_bids.execution.workers import share_import_path, start_server
from swift_bids.inputs.dataset import Dataset, find_derivatives


def main(argv: Sequence[str] | None = None) -> int:
    """Run the app and return its exit code."""
    argv = sys.argv[1:] if argv is None else list(argv)
    handler = _set_up_log()
    log = logging.getLogger("swift_bids")
    interpretation = None
    handle_signals()
    share_import_path()
    try:
        command, run = _command(argv), None
        if command == "sensitivity":
            run, argv = split_run(argv[1:])
        elif command is not None:
            return _COMMANDS[command](argv[1:])
        args = parse_arguments(argv)
        if args.dry_run == "json":  # standard output is for the JSON alone
            handler.setStream(sys.stderr)
        log.setLevel(logging.DEBUG if args.verbose else logging.INFO)
        if ignored := flags_without_effect(argv, args.analysis_level):
            log.warning("no effect at the %s level: %s", args.analysis_level, ", ".join(ignored))
        dataset = find_derivatives(args.bids_dir, args.derivatives, args.raw, args.input_type)
        interpretation = dataset.interpretation
        log.info("swift_bids %s: %s", __version__, interpretation)
        with _cache_folder(args, dataset) as caches:
            _configure_libraries(caches, args.verbose)
            return _run_level(args, dataset, run)
    except (UsageError, InputError, OutputError, OSError) as error:
        reason = (
            describe_os_error(error, error.filename or "a file")
            if isinstance(error, OSError)
            else error
        )
        context = f" ({interpretation})" if interpretation else ""
        print(escape_control_characters(f"swift-bids: error: {reason}{context}"), file=sys.stderr)
        log.debug("", exc_info=True)
        return 2 if isinstance(error, UsageError) else 1
    except (KeyboardInterrupt, SystemExit) as end:
        code = 130 if isinstance(end, KeyboardInterrupt) else end.code
        if signal_received() and isinstance(code, int):
            ignore_signals()
            return code
        raise


#: Name of a command -> what runs it; `sensitivity` is a participant level with one more argument.
_COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "weights": run_weights,
    "predict": run_predict_command,
    "finetune": partial(run_finetune_command, app=main),
    "explain": partial(run_explain_command, app=main),
}


def _command(argv: Sequence[str]) -> str | None:
    """The name of the command that a call asks for; None for a dataset folder of that name."""
    name = argv[0] if argv else None
    if name == "weights":
        return name if argv[1:] == [] or argv[1] in (*ACTIONS, "-h", "--help") else None
    if {"participant", "group"} & set(argv[2:3]):
        return None
    return name if name in _COMMANDS or name == "sensitivity" else None


def _run_level(args: argparse.Namespace, dataset: Dataset, run: str | None) -> int:
    if args.analysis_level == "group":
        from threadpoolctl import threadpool_limits

        from swift_bids.cli.settings import group_settings
        from swift_bids.group.level import run_group_level

        settings = group_settings(args)
        with threadpool_limits(settings.processes):
            return run_group_level(settings, dataset)
    if run is not None:
        from swift_bids.cli.settings import participant_settings
        from swift_bids.sensitivity.level import run_sensitivity

        return run_sensitivity(participant_settings(args, dataset), dataset, run)
    if args.nprocs > 1 and not args.dry_run:
        start_server()  # first, so that it imports while this process does
    from swift_bids.cli.settings import participant_settings
    from swift_bids.participant import run_participant_level

    return run_participant_level(participant_settings(args, dataset), dataset)


def _set_up_log() -> logging.StreamHandler:
    """Print plain lines to standard output."""
    logging.raiseExceptions = False  # the reader of the log may have ended, as `head` does
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal may lack characters of file names
            stream.reconfigure(errors="backslashreplace")
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(PlainFormatter("%(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    logging.getLogger("swift_bids").setLevel(logging.INFO)
    return handler


@contextmanager
def _cache_folder(args: argparse.Namespace, dataset: Dataset) -> Iterator[str]:
    """A folder for this call's caches (a few kB), removed at the end.

    It is a temporary folder, or lies in the work folder if the container has no writable temporary
    folder or the steps run on other machines.
    """
    try:
        tempfile.gettempdir()
        has_temporary_folder = True
    except FileNotFoundError:
        has_temporary_folder = False
    if has_temporary_folder and not (args.use_plugin or args.slurm or args.slurm_graph):
        with tempfile.TemporaryDirectory(prefix="swift_bids_") as folder:
            yield folder
        return
    from swift_bids.outputs.dataset import check_output_dir

    output_dir = check_output_dir(args.output_dir, dataset)
    check_work_dir(args.work_dir, output_dir)
    stack = ExitStack()
    parent = args.work_dir or output_dir
    folder = str(stack.enter_context(work_folder(None, parent, uuid.uuid4().hex[:12])))
    if not has_temporary_folder:
        os.environ["TMPDIR"] = folder  # for multiprocessing, here and in worker processes
    # after multiprocessing's own clean-up, whose priority is -100
    Finalize(None, stack.close, exitpriority=-200)
    yield folder


def _configure_libraries(folder: str, verbosity: int) -> None:
    """Keep the libraries' caches and settings out of HOME, which a container may lack, and set
    nipype's log level."""
    os.environ.setdefault("MPLCONFIGDIR", folder)
    os.environ["NIPYPE_CONFIG_DIR"] = folder  # not the user's: the file below is written to it
    os.environ.setdefault("NIPYPE_NO_ET", "1")
    os.environ.setdefault("NO_ET", "1")
    # worker processes read nipype's settings from this file only
    level = "INFO" if verbosity > 1 else "CRITICAL"
    levels = "".join(f"{kind}_level = {level}\n" for kind in ("workflow", "interface", "utils"))
    Path(folder, "nipype.cfg").write_text(f"[logging]\n{levels}")
