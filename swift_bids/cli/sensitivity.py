"""swift-bids sensitivity BIDS_DIR OUTPUT_DIR RUN: its arguments."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

_EPILOG = """\
Flags of the participant level say where the run is, how it is prepared and what embeds it, such as
--derivatives, --space, --mask, --interpolation, --weights and --device; see swift-bids --help.
"""
#: The flags of the participant level that matter here.
_FLAGS = """
    -d --derivatives --raw --input-type --ica-fix --space --res --echo-idx --bids-filter-file
    --bids-database-dir --from-raw --slice-timing --jacobian --mask --statistics --template-warp
    --template-xfm --interpolation --normalisation --normalization --dummy-scans --target-tr --frame
    --variant --weights --random-weights --device --batch-size --precision --nprocs --n-cpus
    --omp-nthreads --config-file -v -vv --verbose
""".split()


def build_parser() -> argparse.ArgumentParser:
    """The positional arguments of `swift-bids sensitivity`."""
    parser = argparse.ArgumentParser(
        prog="swift-bids sensitivity",
        usage="%(prog)s bids_dir output_dir run [flags]",
        description="Measure how far changes of the mask, the interpolation and the position move "
        "the embedding of a run, beside the distances between the runs in output_dir.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("bids_dir", help="as for the participant level")
    parser.add_argument("output_dir", help="where table and figure are written")
    parser.add_argument("run", help="name of the run, such as sub-01_task-rest")
    return parser


def split_run(argv: Sequence[str]) -> tuple[str, list[str]]:
    """Return the name of the run, and the arguments of the same call at the participant level."""
    parser = build_parser()
    first, flags = argv[:3], argv[3:]
    given = [word.split("=")[0].replace("_", "-") for word in flags if word.startswith("-")]
    if len(first) < 3 or any(word.startswith("-") for word in first):
        parser.parse_args([*first, *flags])  # prints the help or what is missing
        parser.error("give bids_dir, output_dir and run before the flags")
    if unused := [flag for flag in given if flag not in _FLAGS]:
        parser.error(f"{', '.join(unused)} has no effect here; leave it out")
    return first[2], [first[0], first[1], "participant", *flags]
