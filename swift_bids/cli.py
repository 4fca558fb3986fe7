"""Command line -> participant or group level. Everything slow is imported after parsing."""

from __future__ import annotations

import argparse
import io
import logging
import os
import sys
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from multiprocessing.util import Finalize
from pathlib import Path

from swift_bids import __version__
from swift_bids.atomic import work_folder
from swift_bids.dataset import Dataset, understand_dataset
from swift_bids.errors import OutputError, PlainFormatter, UsageError, refusal, visible
from swift_bids.parser import parse_arguments
from swift_bids.stopping import listen, was_asked
from swift_bids.weights_cli import ACTIONS, run_weights
from swift_bids.workers import (
    check_open_files,
    import_alike,
    possible_processes,
    start_server,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the app and return its exit code."""
    argv = sys.argv[1:] if argv is None else list(argv)
    logging.raiseExceptions = False  # of a reader of the log that went away, such as head
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(PlainFormatter("%(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    log = logging.getLogger("swift_bids")
    log.setLevel(logging.INFO)
    understood = None
    listen()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal may not have all that names have
            stream.reconfigure(errors="backslashreplace")
    import_alike()
    try:
        if argv[:1] == ["weights"] and (argv[1:] == [] or argv[1] in (*ACTIONS, "-h", "--help")):
            return run_weights(argv[1:])
        check_open_files()
        args = parse_arguments(argv)
        if args.dry_run == "json":  # alone on the standard output
            handler.setStream(sys.stderr)
        log.setLevel(logging.DEBUG if args.verbose else logging.INFO)
        dataset = understand_dataset(args.bids_dir, args.derivatives)
        understood = dataset.understood
        log.info("swift_bids %s: %s", __version__, understood)
        with _temporary_folder(args, dataset) as caches:
            _keep_libraries_out_of_home(caches, args.verbose)
            if args.analysis_level == "group":
                from swift_bids.group import run_group_level

                return run_group_level(args, dataset)
            args.nprocs = possible_processes(args.nprocs)
            if args.nprocs > 1 and not args.dry_run:
                start_server()  # before the imports of this process, so that both go on together
            from swift_bids.participant import run_participant_level

            return run_participant_level(args, dataset)
    except (UsageError, OutputError, OSError) as error:
        said = refusal(error, error.filename or "a file") if isinstance(error, OSError) else error
        read_as = f" ({understood})" if understood else ""
        print(visible(f"swift-bids: error: {said}{read_as}"), file=sys.stderr)
        log.debug("", exc_info=True)
        return 2 if isinstance(error, UsageError) else 1
    except (KeyboardInterrupt, SystemExit) as end:
        code = 130 if isinstance(end, KeyboardInterrupt) else end.code
        if was_asked() and isinstance(code, int):
            return code
        raise


@contextmanager
def _temporary_folder(args: argparse.Namespace, dataset: Dataset) -> Iterator[str]:
    """A folder for this call's caches, a few kB: among the machine's temporary files, else in the
    work folder: in a container that is read-only altogether, and for jobs on other machines."""
    try:
        tempfile.gettempdir()
        usual = True
    except FileNotFoundError:
        usual = False
    if usual and not (args.use_plugin or args.slurm or args.slurm_graph):
        with tempfile.TemporaryDirectory(prefix="swift_bids_") as folder:
            yield folder
        return
    from swift_bids.derivative import check_output_dir
    from swift_bids.preflight import check_work_dir

    output_dir = check_output_dir(args.output_dir, dataset)
    check_work_dir(args.work_dir, output_dir)
    held = ExitStack()
    where = args.work_dir or output_dir
    own = held.enter_context(work_folder(None, where, uuid.uuid4().hex[:12]))
    if not usual:
        os.environ["TMPDIR"] = str(own)  # for multiprocessing, here and in workers
    # behind multiprocessing's own tidying, which is of priority -100
    Finalize(None, held.close, exitpriority=-200)
    yield str(own)


def _keep_libraries_out_of_home(caches: str, verbosity: int) -> None:
    """A container's HOME may be missing or read-only, and a job must leave nothing in it."""
    os.environ.setdefault("MPLCONFIGDIR", caches)
    os.environ["NIPYPE_CONFIG_DIR"] = caches  # ours, for what is written into it below
    os.environ.setdefault("NIPYPE_NO_ET", "1")
    os.environ.setdefault("NO_ET", "1")
    # nipype's workers are new processes, which read its settings from this file only
    level = "INFO" if verbosity > 1 else "CRITICAL"
    levels = "".join(f"{kind}_level = {level}\n" for kind in ("workflow", "interface", "utils"))
    Path(caches, "nipype.cfg").write_text(f"[logging]\n{levels}")
