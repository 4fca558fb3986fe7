"""swift-bids explain PROBES OUTPUT_DIR: its flags."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from swift_bids.cli import values as flag_types
from swift_bids.cli.embedded_runs import (
    add_run_filter,
    embed_again,
    run_filter_of,
    weights_of_call,
)
from swift_bids.execution.workers import count_cpus
from swift_bids.explain import BASELINES
from swift_bids.inputs.parcel_defaults import SHIPPED_ATLAS

_LOG = logging.getLogger("swift_bids")


def build_parser() -> argparse.ArgumentParser:
    """The command line of `swift-bids explain`."""
    parser = argparse.ArgumentParser(
        prog="swift-bids explain",
        description="Show where in the brain the predictions of a saved probe, or of a fine-tuned "
        "network, come from: Integrated Gradients for each voxel, and occlusion of each parcel.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "probes",
        type=Path,
        help="output folder of the group level, its group_desc-swift_model.safetensors, or the "
        "folder of a fine-tuned network",
    )
    parser.add_argument(
        "output_dir", type=Path, help="embeddings of the runs to explain; results are written here"
    )
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
    parser.add_argument(
        "--weights",
        metavar="ID|PATH",
        help="weights that made the embeddings (default: as recorded in the log of output_dir)",
    )
    parser.add_argument(
        "--device", type=flag_types.device, default="auto", help="auto, cpu, cuda or cuda:N"
    )
    parser.add_argument(
        "--nprocs",
        "--n-cpus",
        type=flag_types.positive,
        metavar="N",
        help="CPUs to use (default: all)",
    )
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
    args = build_parser().parse_args(argv)
    import torch

    from swift_bids.explain.level import ExplainSettings, run_explain
    from swift_bids.network.device import choose_devices

    output_dir = args.output_dir.absolute()
    torch.set_num_threads(args.nprocs or count_cpus())
    devices, warning = choose_devices(args.device)
    if warning:
        _LOG.warning("%s", warning)
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
            device=devices[0],
        )
        return run_explain(settings, partial(embed_again, output_dir, app=app))
