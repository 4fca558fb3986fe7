"""swift-bids predict PROBES OUTPUT_DIR: predict new participants with saved probes."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path


def build_parser() -> argparse.ArgumentParser:
    """The command line of `swift-bids predict`."""
    parser = argparse.ArgumentParser(
        prog="swift-bids predict",
        description="Predict participants with the probes that a group level has saved. Weights "
        "and settings of the embeddings must be the same.",
    )
    parser.add_argument(
        "probes",
        type=Path,
        help="output folder of the group level, or its group_desc-swift_model.safetensors",
    )
    parser.add_argument(
        "output_dir", type=Path, help="embeddings of the participants; the table is written here"
    )
    parser.add_argument(
        "--target", nargs="+", metavar="COLUMN", help="columns to predict (default: all)"
    )
    parser.add_argument(
        "--participant-label",
        "--participant_label",
        nargs="+",
        type=lambda label: label.removeprefix("sub-"),
        metavar="LABEL",
        help="participants to predict, with or without sub-",
    )
    return parser


def run_predict_command(argv: Sequence[str]) -> int:
    """Run `swift-bids predict`; raise UsageError if the probes do not fit the embeddings."""
    args = build_parser().parse_args(argv)
    from swift_bids.group.predict import run_predict
    from swift_bids.group.run_filter import RunFilter

    run_filter = RunFilter(participants=args.participant_label)
    return run_predict(args.probes, args.output_dir, run_filter, args.target)
