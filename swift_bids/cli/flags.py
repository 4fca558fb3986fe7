"""The flags of the app, and the values that each of them accepts."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from swift_bids import __version__
from swift_bids.cli import values as flag_types
from swift_bids.network.precision import PRECISIONS
from swift_bids.network.weights import HUB_IDS

_EPILOG = """\
bids_dir is either fMRIPrep's output folder, or a raw BIDS dataset together with -d PATH for
fMRIPrep's output. The first line of the log says how the app interpreted bids_dir.

swift-bids weights {fetch,convert,verify} prepares weights for machines without internet.

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

    choice = parser.add_argument_group("which runs")
    choice.add_argument("-d", "--derivatives", type=Path, metavar="PATH", help="fMRIPrep output")
    choice.add_argument(
        "--raw",
        type=Path,
        metavar="PATH",
        help="the raw dataset that fMRIPrep processed; its runs are resampled where fMRIPrep "
        "--level minimal wrote only transforms (default: bids_dir if -d is given, else "
        "sourcedata/raw, or the SourceDatasets of the derivatives)",
    )
    choice.add_argument(
        "--from-raw",
        action="store_true",
        help="resample the raw BOLD also where a preprocessed one exists",
    )
    choice.add_argument(
        "--slice-timing",
        choices=("auto", "on", "off"),
        default="auto",
        help="correct the slice timing of raw BOLD; auto: if the settings in fMRIPrep's log folder "
        "say that fMRIPrep would (default: auto)",
    )
    choice.add_argument(
        "--interpolation",
        choices=("cubic", "linear"),
        default="cubic",
        help="how to resample raw BOLD; linear is faster, but smooths (default: cubic)",
    )
    choice.add_argument(
        "--jacobian",
        action="store_true",
        help="multiply raw BOLD by the Jacobian of the distortion, to reproduce fMRIPrep's output; "
        "fMRIPrep computes it along the wrong axis in template space",
    )
    several: dict[str, Any] = {"nargs": "+", "metavar": "LABEL"}
    choice.add_argument(
        "--participant-label",
        **several,
        help="participants to process, with or without sub-; @FILE reads the labels from a file",
    )
    choice.add_argument("--exclude-participant-label", **several, help="omit these; also @FILE")
    choice.add_argument(
        "--batch",
        type=flag_types.batch,
        metavar="I/N",
        help="every Nth participant, starting with the Ith; for array jobs, e.g. 1/4 to 4/4",
    )
    choice.add_argument(
        "--session-label", **several, help="sessions to process, with or without ses-"
    )
    choice.add_argument("--task-id", **several, help="tasks to process, with or without task-")
    choice.add_argument(
        "--run-id", **several, help="runs to process, with or without run-; 1 also matches run-01"
    )
    choice.add_argument(
        "--echo-idx",
        **several,
        help="echoes of multi-echo runs to embed one by one (default: none)",
    )
    choice.add_argument(
        "--space",
        **several,
        help="template spaces in order of preference, as NAME or NAME:res-2 "
        "(default: MNI152NLin6Asym, else MNI152NLin2009cAsym)",
    )
    choice.add_argument(
        "--res",
        **several,
        help="resolutions; native: files without res (default: 2, else native, else any other)",
    )
    choice.add_argument(
        "--bids-database-dir",
        type=Path,
        metavar="PATH",
        help="keep pybids' index here for later calls; it is rebuilt if a folder changes",
    )
    choice.add_argument(
        "--bids-filter-file",
        type=Path,
        metavar="FILE",
        help="filters in fMRIPrep's JSON format, for bold, mask and confounds only",
    )
    choice.add_argument(
        "--dry-run",
        choices=("text", "json"),
        metavar="",
        help="only list the runs with their inputs and settings, as text or, with =json, as JSON",
    )
    choice.add_argument(
        "--reports-only", action="store_true", help="only rebuild the pages from existing outputs"
    )

    network = parser.add_argument_group("network")
    network.add_argument(
        "--variant",
        choices=tuple(HUB_IDS),
        default="contrastive",
        help="released network to use (default: contrastive)",
    )
    network.add_argument(
        "--weights",
        metavar="ID|PATH",
        help="Hub id, folder with model.safetensors and config.json, or original .ckpt file "
        "(default: the variant's Hub bundle, " + ", ".join(HUB_IDS.values()) + ")",
    )
    network.add_argument(
        "--random-weights",
        action="store_true",
        help="try the app without trained weights; each output says that its numbers mean nothing",
    )
    network.add_argument(
        "--frame",
        choices=("auto", "hcp", "ukb"),
        default="auto",
        help="position of the brain in the network's input (auto: as in the variant's training)",
    )

    data = parser.add_argument_group("data")
    data.add_argument(
        "--normalisation",
        "--normalization",
        choices=("global", "voxel+global"),
        default="global",
        help="global: z-scores with one mean and standard deviation, as in training; "
        "voxel+global: first z-scores of each voxel over time",
    )
    data.add_argument(
        "--dummy-scans",
        type=flag_types.auto_or_count,
        default="auto",
        metavar="{auto,N}",
        help="volumes to omit at the start (auto: the number that fMRIPrep found)",
    )
    data.add_argument(
        "--target-tr",
        type=flag_types.target_tr,
        default="auto",
        metavar="{auto,native,SECONDS}",
        help="TR at which the network reads a run (auto: interpolates linearly to 0.8 s if the "
        "run's TR differs from it by 0.1 s or more)",
    )
    data.add_argument(
        "--atlas",
        type=Path,
        metavar="FILE",
        help="parcels (NIfTI labels in MNI space) for the time series with which embeddings are "
        "compared (default: cubes of 24 mm)",
    )

    chunks = parser.add_argument_group("chunks")
    chunks.add_argument(
        "--chunk-stride",
        type=flag_types.positive,
        default=20,
        metavar="N",
        help="volumes from the start of one chunk to the next (default: 20, as in training)",
    )
    chunks.add_argument(
        "--tail",
        choices=("drop", "overlap", "pad"),
        default="drop",
        help="what to do with volumes after the last whole chunk (drop: omit them [default]; "
        "overlap: add a chunk that ends with the run; pad: add a chunk, filled up by reflection)",
    )
    chunks.add_argument(
        "--short-runs",
        choices=("skip", "pad"),
        default="skip",
        help="what to do with runs of fewer than 20 volumes (skip [default]; pad: fill up to one "
        "chunk by reflection)",
    )
    chunks.add_argument(
        "--fd-threshold",
        type=flag_types.millimetres,
        default=0.5,
        metavar="MM",
        help="framewise displacement above which a volume is censored (default: 0.5)",
    )
    chunks.add_argument(
        "--max-censored",
        type=flag_types.share,
        default=1.0,
        metavar="SHARE",
        help="exclude chunks from the run's mean if a larger share of their volumes exceeds "
        "--fd-threshold (0 to 1; default 1: exclude none)",
    )
    chunks.add_argument(
        "--no-tokens",
        action="store_true",
        help="do not save the network's unpooled output (tokens.safetensors)",
    )

    group = parser.add_argument_group("group level")
    column: dict[str, Any] = {"nargs": "+", "metavar": "COLUMN"}
    group.add_argument(
        "--target",
        **column,
        help="columns of participants.tsv to predict (default: the first 10 that qualify; none: "
        "no probes)",
    )
    group.add_argument("--covariate", **column, help="columns to regress out of the features")
    group.add_argument(
        "--group-by",
        metavar="COLUMN",
        help="keep participants with the same value, such as the site, together in the training or "
        "the test set",
    )
    group.add_argument(
        "--permutations",
        type=flag_types.positive,
        default=200,
        metavar="N",
        help="permutations of the labels for p-values (default: 200)",
    )
    group.add_argument(
        "--allow-mixed",
        action="store_true",
        help="allow embeddings from different weights, versions or settings in one table",
    )

    resources = parser.add_argument_group("resources")
    resources.add_argument(
        "--device",
        type=flag_types.device,
        default="auto",
        help="auto (all GPUs, or the CPU if there are none), cpu, cuda (all GPUs), or some GPUs: "
        "cuda:N,N,...",
    )
    resources.add_argument(
        "--batch-size",
        type=flag_types.positive,
        metavar="N",
        help="chunks per batch (default: 1 on the CPU; on a GPU, as many as fit in its memory)",
    )
    resources.add_argument(
        "--precision",
        choices=tuple(PRECISIONS),
        default="float32",
        help="precision of matrix products; bf16 and fp16 are faster on a GPU but less exact",
    )
    resources.add_argument(
        "--compile",
        action="store_true",
        help="compile the network first (torch.compile): takes minutes; for many runs on a GPU",
    )
    resources.add_argument(
        "--nprocs",
        "--nthreads",
        "--n-cpus",
        type=flag_types.positive,
        metavar="N",
        help="number of CPUs (default: all)",
    )
    resources.add_argument(
        "--omp-nthreads",
        type=flag_types.positive,
        metavar="N",
        help="CPU threads for the network (one run); the other steps use one CPU each",
    )
    resources.add_argument(
        "--mem",
        type=flag_types.gigabytes,
        metavar="SIZE",
        help="total memory, in MB or with the unit K, M, G or T",
    )
    resources.add_argument(
        "-w",
        "--work-dir",
        type=Path,
        metavar="PATH",
        help="folder for intermediate files, kept for a quick rerun (default: a hidden folder in "
        "output_dir, removed at the end)",
    )
    resources.add_argument(
        "--clean-workdir",
        action="store_true",
        help="remove the files of a run in --work-dir before and after the app embeds it",
    )
    resources.add_argument("--force", action="store_true", help="also embed runs that are done")
    resources.add_argument(
        "--stop-on-first-crash",
        action="store_true",
        help="stop as soon as a run fails, instead of continuing with the others",
    )

    cluster = parser.add_argument_group(
        "cluster", "run the steps as jobs; for array jobs, see --batch"
    )
    plugin = cluster.add_mutually_exclusive_group()
    plugin.add_argument(
        "--use-plugin",
        "--nipype-plugin-file",
        type=Path,
        metavar="FILE",
        help="nipype plugin for the steps, as in fMRIPrep: YAML with plugin and plugin_args",
    )
    plugin.add_argument(
        "--slurm",
        action="store_true",
        help="run each step as a SLURM job; network jobs use --omp-nthreads CPUs (default: 4) and, "
        "with --device cuda, a GPU",
    )
    plugin.add_argument(
        "--slurm-graph",
        action="store_true",
        help="like --slurm, but submit all jobs at the start, with dependencies between them",
    )
    cluster.add_argument(
        "--sbatch-args",
        metavar="TEXT",
        help='sbatch options for these jobs, such as "--partition=long --time=60"',
    )
    cluster.add_argument(
        "--sbatch-network-args",
        metavar="TEXT",
        help='more options for the network\'s jobs, such as "--partition=gpu --gres=gpu:a100:1" '
        "(with --device cuda, --gres=gpu:1 is added unless you request a GPU yourself)",
    )
    return parser
