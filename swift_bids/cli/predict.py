"""swift-bids predict PROBES OUTPUT_DIR: predict new participants with saved probes."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from swift_bids.cli.embedded_runs import (
    add_probes,
    add_run_filter,
    parse_command,
    run_filter_of,
)


def build_parser() -> argparse.ArgumentParser:
    """The command line of `swift-bids predict`."""
    parser = argparse.ArgumentParser(
        prog="swift-bids predict",
        description="Predict participants with the probes that a group level has saved, or with a "
        "fine-tuned network. Weights and settings of the embeddings must be the same.",
        allow_abbrev=False,
    )
    add_probes(parser, "embeddings of the participants; the table is written here")
    parser.add_argument(
        "--target", nargs="+", metavar="COLUMN", help="columns to predict (default: all)"
    )
    add_run_filter(parser)
    return parser


def run_predict_command(argv: Sequence[str]) -> int:
    """Run `swift-bids predict`; raise UsageError if the probes do not fit the embeddings."""
    args = parse_command(build_parser(), argv)
    from swift_bids.group.predict import run_predict

    return run_predict(args.probes, args.output_dir, run_filter_of(args), args.target)
