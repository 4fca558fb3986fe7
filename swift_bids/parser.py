"""The flags of the app, and what each of them accepts."""

from __future__ import annotations

import argparse
import math
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from swift_bids import __version__
from swift_bids.precision import PRECISIONS
from swift_bids.weights import HUB_IDS
from swift_bids.workers import count_cpus

_EPILOG = """\
bids_dir is either fMRIPrep's output folder, or a raw BIDS dataset together with -d PATH for
fMRIPrep's output; the first line of the log says which one was understood.

swift-bids weights {fetch,convert,verify} prepares weights for machines without internet.

exit codes: 0 everything asked for was done, 1 something could not be done (the recap at the end
says what), 2 the call itself is wrong or there are no weights, 130 interrupted, 143 terminated.
"""
_MEMORY_UNITS = {"K": 1e-6, "M": 1e-3, "G": 1.0, "T": 1e3}


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
        help="participant: embed runs; group: one table of all runs embedded so far",
    )
    parser.add_argument("--version", action="version", version=f"swift_bids {__version__}")
    parser.add_argument("-v", "--verbose", action="count", default=0, help="more (-vv: debug) log")

    choice = parser.add_argument_group("which runs")
    choice.add_argument("-d", "--derivatives", type=Path, metavar="PATH", help="fMRIPrep output")
    several = {"nargs": "+", "metavar": "LABEL"}
    choice.add_argument("--participant-label", **several, help="with or without sub-")
    choice.add_argument("--session-label", **several, help="with or without ses-")
    choice.add_argument("--task-id", **several, help="with or without task-")
    choice.add_argument(
        "--space",
        **several,
        help="template spaces, the preferred first "
        "(default: MNI152NLin6Asym, else MNI152NLin2009cAsym)",
    )
    choice.add_argument("--bids-filter-file", type=Path, metavar="FILE", help="as fMRIPrep's")
    choice.add_argument("--dry-run", action="store_true", help="list the runs, embed nothing")

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
        type=_auto_or_count,
        default="auto",
        metavar="{auto,N}",
        help="volumes to leave out at the start (auto: as fMRIPrep found them)",
    )
    data.add_argument(
        "--target-tr",
        type=_target_tr,
        default="auto",
        metavar="{auto,native,SECONDS}",
        help="TR at which the network reads a run (auto: 0.8 s, by linear interpolation, where the "
        "run's differs from it by 0.1 s or more)",
    )

    chunks = parser.add_argument_group("chunks")
    chunks.add_argument(
        "--chunk-stride",
        type=_positive,
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
    chunks.add_argument("--fd-threshold", type=_millimetres, default=0.5, metavar="MM")
    chunks.add_argument(
        "--max-censored",
        type=_share,
        default=1.0,
        metavar="SHARE",
        help="chunks with more of their volumes above --fd-threshold do not enter the run's mean "
        "(0 to 1, default 1: all enter)",
    )
    chunks.add_argument("--no-tokens", action="store_true", help="do not keep the whole output")

    resources = parser.add_argument_group("resources")
    resources.add_argument("--device", type=_device, default="auto", help="auto, cpu, cuda, cuda:N")
    resources.add_argument(
        "--batch-size",
        type=_positive,
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
        type=_positive,
        metavar="N",
        help="CPUs (default: all)",
    )
    resources.add_argument("--omp-nthreads", type=_positive, metavar="N", help="CPUs of one step")
    resources.add_argument(
        "--mem", type=_gigabytes, metavar="SIZE", help="memory in all: MB, or with K, M, G or T"
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
    return parser


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse, and make one form of what may be written in several."""
    argv = sys.argv[1:] if argv is None else argv
    args = build_parser().parse_args([_with_hyphens(argument) for argument in argv])
    for name, prefix in (
        ("participant_label", "sub-"),
        ("session_label", "ses-"),
        ("task_id", "task-"),
    ):
        labels = getattr(args, name)
        setattr(args, name, labels and [label.removeprefix(prefix) for label in labels])
    args.nprocs = args.nprocs or count_cpus()
    return args


def _with_hyphens(argument: str) -> str:
    """`--participant_label=a_b` -> `--participant-label=a_b`."""
    if not argument.startswith("--"):
        return argument
    flag, equals, value = argument.partition("=")
    return flag.replace("_", "-") + equals + value


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is no number from 1 on")
    return int(text)


def _auto_or_count(text: str) -> str:
    if text != "auto" and not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text} is neither auto nor a number of volumes")
    return text


def _target_tr(text: str) -> str:
    try:
        seconds = 1.0 if text in ("auto", "native") else float(text)
    except ValueError:
        seconds = 0.0
    if not 0.05 <= seconds <= 30:
        raise argparse.ArgumentTypeError(f"{text} is neither auto, native nor 0.05 to 30 seconds")
    return text


def _millimetres(text: str) -> float:
    try:
        length = float(text)
    except ValueError:
        length = -1.0
    if not 0 < length < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is no length in mm")
    return length


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise argparse.ArgumentTypeError(f"{text} is no share from 0 to 1")
    return share


def _device(text: str) -> str:
    if not re.fullmatch(r"auto|cpu|cuda(?::\d+)?", text):
        raise argparse.ArgumentTypeError(f"{text} is none of auto, cpu, cuda, cuda:N")
    return text


def _gigabytes(text: str) -> float:
    """As fMRIPrep's --mem: MB without a unit."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([KMGT])?B?", text.upper())
    if match is None or float(match.group(1)) == 0:
        raise argparse.ArgumentTypeError(f"{text} is no amount of memory, such as 8000 or 8G")
    return float(match.group(1)) * _MEMORY_UNITS[match.group(2) or "M"]
