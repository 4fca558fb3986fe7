"""swift-bids explain PROBES OUTPUT_DIR: its flags."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from swift_bids.cli import values as flag_types
from swift_bids.cli.embedded_runs import (
    add_network,
    add_probes,
    add_run_filter,
    choose_device,
    embed_again,
    parse_command,
    run_filter_of,
    weights_of_call,
)
from swift_bids.explain import BASELINES
from swift_bids.inputs.parcel_defaults import SHIPPED_ATLAS


def build_parser() -> argparse.ArgumentParser:
    """The command line of `swift-bids explain`."""
    parser = argparse.ArgumentParser(
        prog="swift-bids explain",
        description="Show where in the brain the predictions of a saved probe, or of a fine-tuned "
        "network, come from: Integrated Gradients for each voxel, and occlusion of each parcel.",
        allow_abbrev=False,
    )
    add_probes(parser, "embeddings of the runs to explain; results are written here")
    parser.add_argument("--target", metavar="COLUMN", help="which probe (default: the only one)")
    parser.add_argument(
        "--baseline",
        choices=BASELINES,
        default="mean",
        help="compare runs with their mean, or with an input of background alone (default: mean)",
    )
    parser.add_argument(
        "--max-runs",
        type=flag_types.positive,
        default=10,
        metavar="N",
        help="explain at most N of the runs, spread evenly (default: 10)",
    )
    parser.add_argument(
        "--max-chunks",
        type=flag_types.positive,
        default=1,
        metavar="N",
        help="explain at most N chunks of a run, spread evenly (default: 1)",
    )
    parser.add_argument(
        "--atlas",
        type=Path,
        default=SHIPPED_ATLAS,
        metavar="FILE",
        help="image of parcels in MNI space (default: Schaefer 2018, 200 parcels)",
    )
    parser.add_argument(
        "--no-occlusion", action="store_true", help="omit the occlusion of parcels, to save time"
    )
    add_network(parser)
    add_run_filter(parser)
    return parser


def run_explain_command(argv: Sequence[str], app: Callable[[Sequence[str]], int]) -> int:
    """Run `swift-bids explain`.

    Parameters
    ----------
    app
        The app, to embed runs again whose matrix was not kept.

    Raises
    ------
    UsageError
        The probe, the embeddings and the weights do not belong together.
    """
    args = parse_command(build_parser(), argv)
    from swift_bids.explain.level import ExplainSettings, run_explain

    output_dir, device = args.output_dir.absolute(), choose_device(args)
    with weights_of_call(output_dir, args.weights) as weights:
        settings = ExplainSettings(
            probes=args.probes,
            output_dir=output_dir,
            run_filter=run_filter_of(args),
            target=args.target,
            baseline=args.baseline,
            max_runs=args.max_runs,
            max_chunks=args.max_chunks,
            atlas=args.atlas,
            with_occlusion=not args.no_occlusion,
            weights=weights,
            device=device,
        )
        return run_explain(settings, partial(embed_again, output_dir, app=app))
