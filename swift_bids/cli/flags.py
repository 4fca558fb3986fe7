"""The flags of the app, and what each of them accepts."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from swift_bids import __version__
from swift_bids.cli import values as arguments
from swift_bids.network.precision import PRECISIONS
from swift_bids.network.weights import HUB_IDS

_EPILOG = """\
bids_dir is either fMRIPrep's output folder, or a raw BIDS dataset together with -d PATH for
fMRIPrep's output; the first line of the log says which one was understood.

swift-bids weights {fetch,convert,verify} prepares weights for machines without internet.

exit codes: 0 everything asked for was done, 1 something could not be done (the recap at the end
says what), 2 the call itself is wrong or there is nothing to do, 130 interrupted, 143 terminated.
"""


def build_parser() -> argparse.ArgumentParser:
    """The command line. Flags are defined with hyphens; `parse_arguments` takes underscores too."""
    parser = argparse.ArgumentParser(
        prog="swift-bids",
        description="SwiFT (4D Swin Transformer) embeddings of fMRIPrep derivatives.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("bids_dir", type=Path, help="fMRIPrep output, or a raw dataset with -d")
    parser.add_argument("output_dir", type=Path, help="folder for the BIDS-Derivatives")
    parser.add_argument(
        "analysis_level",
        choices=("participant", "group"),
        help="participant: embed runs; group: compare all runs embedded so far",
    )
    parser.add_argument("--version", action="version", version=f"swift_bids {__version__}")
    parser.add_argument(
        "--config-file",
        type=Path,
        metavar="FILE",
        help="settings of an earlier call, swift_bids.toml in sub-XX/log; flags override them",
    )
    parser.add_argument("-v", "--verbose", action="count", default=0, help="more (-vv: debug) log")

    choice = parser.add_argument_group("which runs")
    choice.add_argument("-d", "--derivatives", type=Path, metavar="PATH", help="fMRIPrep output")
    several: dict[str, Any] = {"nargs": "+", "metavar": "LABEL"}
    choice.add_argument(
        "--participant-label",
        **several,
        help="with or without sub-; @FILE reads labels from a file",
    )
    choice.add_argument("--exclude-participant-label", **several, help="these not; @FILE too")
    choice.add_argument(
        "--batch",
        type=arguments.batch,
        metavar="I/N",
        help="of the participants, every Nth from the Ith on, for array jobs: 1/4 to 4/4",
    )
    choice.add_argument("--session-label", **several, help="with or without ses-")
    choice.add_argument("--task-id", **several, help="with or without task-")
    choice.add_argument("--run-id", **several, help="with or without run-; 1 is run-01 too")
    choice.add_argument("--echo-idx", **several, help="single echoes, which are no runs otherwise")
    choice.add_argument(
        "--space",
        **several,
        help="template spaces, the preferred first, NAME or NAME:res-2 "
        "(default: MNI152NLin6Asym, else MNI152NLin2009cAsym)",
    )
    choice.add_argument(
        "--res", **several, help="resolutions, native for files without (default: 2, else native)"
    )
    choice.add_argument(
        "--bids-database-dir",
        type=Path,
        metavar="PATH",
        help="keep pybids' index here for later calls (made anew when a folder changed)",
    )
    choice.add_argument("--bids-filter-file", type=Path, metavar="FILE", help="as fMRIPrep's")
    choice.add_argument(
        "--dry-run",
        choices=("text", "json"),
        metavar="",
        help="list the runs and what each will use, as text or, with --dry-run=json, as JSON; "
        "embed nothing",
    )
    choice.add_argument(
        "--reports-only",
        action="store_true",
        help="make the pages anew from the outputs that are there; embed nothing",
    )

    network = parser.add_argument_group("network")
    network.add_argument("--variant", choices=tuple(HUB_IDS), default="contrastive")
    network.add_argument(
        "--weights",
        metavar="ID|PATH",
        help="Hub id, folder with model.safetensors and config.json, or original .ckpt "
        "(default: the variant's Hub bundle, " + ", ".join(HUB_IDS.values()) + ")",
    )
    network.add_argument(
        "--random-weights",
        action="store_true",
        help="try the app without trained weights; every output says so",
    )
    network.add_argument(
        "--frame",
        choices=("auto", "hcp", "ukb"),
        default="auto",
        help="place of the brain in the input (auto: as the variant was trained)",
    )

    data = parser.add_argument_group("data")
    data.add_argument(
        "--normalisation",
        "--normalization",
        choices=("global", "voxel+global"),
        default="global",
        help="z-scores with one mean and standard deviation (global: as the network was trained), "
        "or of every voxel over time first",
    )
    data.add_argument(
        "--dummy-scans",
        type=arguments.auto_or_count,
        default="auto",
        metavar="{auto,N}",
        help="volumes to leave out at the start (auto: as fMRIPrep found them)",
    )
    data.add_argument(
        "--target-tr",
        type=arguments.target_tr,
        default="auto",
        metavar="{auto,native,SECONDS}",
        help="TR at which the network reads a run (auto: 0.8 s, by linear interpolation, where the "
        "run's differs from it by 0.1 s or more)",
    )
    data.add_argument(
        "--atlas",
        type=Path,
        metavar="FILE",
        help="labels (NIfTI, MNI space) for the parcels' time series that embeddings are compared "
        "with (default: cubes of 24 mm)",
    )

    chunks = parser.add_argument_group("chunks")
    chunks.add_argument(
        "--chunk-stride",
        type=arguments.positive,
        default=20,
        metavar="N",
        help="volumes from one chunk of 20 to the next (default: 20, as the network was trained)",
    )
    chunks.add_argument(
        "--tail",
        choices=("drop", "overlap", "pad"),
        default="drop",
        help="volumes behind the last whole chunk (overlap: one more chunk that ends with the run; "
        "pad: one more, filled up by reflection)",
    )
    chunks.add_argument(
        "--short-runs",
        choices=("skip", "pad"),
        default="skip",
        help="runs of fewer than 20 volumes (pad: one chunk, filled up by reflection)",
    )
    chunks.add_argument("--fd-threshold", type=arguments.millimetres, default=0.5, metavar="MM")
    chunks.add_argument(
        "--max-censored",
        type=arguments.share,
        default=1.0,
        metavar="SHARE",
        help="chunks with more of their volumes above --fd-threshold do not enter the run's mean "
        "(0 to 1, default 1: all enter)",
    )
    chunks.add_argument("--no-tokens", action="store_true", help="do not keep the whole output")

    group = parser.add_argument_group("group level")
    column: dict[str, Any] = {"nargs": "+", "metavar": "COLUMN"}
    group.add_argument(
        "--target",
        **column,
        help="columns of participants.tsv to predict (default: the first 10 that qualify; none: "
        "no probes)",
    )
    group.add_argument(
        "--covariate", **column, help="columns whose effect is taken out of the features first"
    )
    group.add_argument(
        "--group-by",
        metavar="COLUMN",
        help="participants who share a value, such as their site, are never split between training "
        "and test",
    )
    group.add_argument(
        "--permutations",
        type=arguments.positive,
        default=200,
        metavar="N",
        help="of labels, for p-values (default: 200)",
    )
    group.add_argument(
        "--allow-mixed",
        action="store_true",
        help="put embeddings of other weights, versions or settings into one table all the same",
    )

    resources = parser.add_argument_group("resources")
    resources.add_argument(
        "--device", type=arguments.device, default="auto", help="auto, cpu, cuda, cuda:N"
    )
    resources.add_argument(
        "--batch-size",
        type=arguments.positive,
        metavar="N",
        help="chunks at once (default: 1 on the CPU, on a GPU what its memory holds)",
    )
    resources.add_argument(
        "--precision",
        choices=tuple(PRECISIONS),
        default="float32",
        help="of matrix products; bf16 and fp16 are quicker on a GPU and less exact",
    )
    resources.add_argument(
        "--compile",
        action="store_true",
        help="compile the network first (torch.compile): minutes that pay on a GPU with many runs",
    )
    resources.add_argument(
        "--nprocs",
        "--nthreads",
        "--n-cpus",
        type=arguments.positive,
        metavar="N",
        help="CPUs (default: all)",
    )
    resources.add_argument(
        "--omp-nthreads", type=arguments.positive, metavar="N", help="CPUs of one step"
    )
    resources.add_argument(
        "--mem",
        type=arguments.gigabytes,
        metavar="SIZE",
        help="memory in all: MB, or with K, M, G or T",
    )
    resources.add_argument(
        "-w",
        "--work-dir",
        type=Path,
        metavar="PATH",
        help="intermediate files, kept for a quick rerun (default: a hidden folder in output_dir, "
        "removed at the end)",
    )
    resources.add_argument(
        "--clean-workdir",
        action="store_true",
        help="remove what --work-dir holds of a run before it is embedded, and when it is done",
    )
    resources.add_argument(
        "--force", action="store_true", help="embed runs again that an earlier call has done"
    )
    resources.add_argument(
        "--stop-on-first-crash",
        action="store_true",
        help="end the call when a run fails, instead of going on with the others",
    )

    cluster = parser.add_argument_group(
        "cluster", "jobs for the steps of the runs; for array jobs see --batch"
    )
    plugin = cluster.add_mutually_exclusive_group()
    plugin.add_argument(
        "--use-plugin",
        "--nipype-plugin-file",
        type=Path,
        metavar="FILE",
        help="nipype plugin that runs the steps, as fMRIPrep's: YAML with plugin and plugin_args",
    )
    plugin.add_argument(
        "--slurm",
        action="store_true",
        help="a SLURM job for each step, with a GPU for the network's where --device is cuda; CPUs "
        "of the network's: --omp-nthreads (default: 4)",
    )
    plugin.add_argument(
        "--slurm-graph",
        action="store_true",
        help="the same, all submitted at once, each waiting for those before it",
    )
    cluster.add_argument(
        "--sbatch-args",
        metavar="TEXT",
        help='options of these jobs, such as "--partition=long --time=60"',
    )
    cluster.add_argument(
        "--sbatch-network-args",
        metavar="TEXT",
        help='more options of the network\'s jobs, such as "--partition=gpu --gres=gpu:a100:1" '
        "(default: --gres=gpu:1 where --device is cuda)",
    )
    return parser
