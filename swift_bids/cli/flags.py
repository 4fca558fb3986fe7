"""The flags of the app, and the values that each of them accepts."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from swift_bids import __version__
from swift_bids.cli.resource_flags import (
    add_cluster_flags,
    add_group_flags,
    add_network_flags,
    add_resource_flags,
)
from swift_bids.cli.run_flags import (
    add_chunk_flags,
    add_data_flags,
    add_raw_flags,
    add_run_flags,
)

_EPILOG = """\
bids_dir is either fMRIPrep's output folder, or data of HCP, ABCD or UK Biobank as they are
distributed, or a raw BIDS dataset together with -d PATH for one of these. The first line of the log
says how the app interpreted bids_dir.

swift-bids weights {fetch,convert,verify} prepares weights for machines without internet.
swift-bids sensitivity measures how much the embedding of a run depends on its preprocessing.

exit codes: 0 success, 1 something failed (see the summary at the end), 2 the command is wrong or
there is nothing to do, 130 interrupted, 143 terminated.
"""


class _Version(argparse.Action):
    """Prints the version and exits."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: Any, *_: Any) -> None:
        print(f"swift_bids {__version__}")
        if namespace.verbose:
            from swift_bids.network.compiled import kernel_name

            print(f"network on the CPU: {kernel_name()}")
        parser.exit()


def build_parser() -> argparse.ArgumentParser:
    """Define the flags, with hyphens; `parse_arguments` also accepts underscores."""
    parser = argparse.ArgumentParser(
        prog="swift-bids",
        description="Embeddings of preprocessed fMRI by SwiFT or NeuroSTORM.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "bids_dir",
        type=Path,
        help="fMRIPrep output, HCP, ABCD or UK Biobank data, or a raw dataset with -d",
    )
    parser.add_argument("output_dir", type=Path, help="folder for the BIDS-Derivatives")
    parser.add_argument(
        "analysis_level",
        choices=("participant", "group"),
        help="participant: embed runs; group: compare all runs embedded so far",
    )
    parser.add_argument(
        "--version",
        action=_Version,
        nargs=0,
        help="print the version; with -v before it, also what runs the network on the CPU",
    )
    parser.add_argument(
        "--config-file",
        type=Path,
        metavar="FILE",
        help="settings of an earlier call (sub-XX/log/<call>/swift_bids.toml); flags override them",
    )
    parser.add_argument(
        "-v",
        "--verbose",
        action="count",
        default=0,
        help="log more (-v: debug messages; -vv: also nipype's messages)",
    )

    add_run_flags(parser)
    add_raw_flags(parser)
    add_network_flags(parser)
    add_data_flags(parser)
    add_chunk_flags(parser)
    add_group_flags(parser)
    add_resource_flags(parser)
    add_cluster_flags(parser)
    return parser
