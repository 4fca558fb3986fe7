"""Flags about the network, the group level, and the machines."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from swift_bids.base.backbones import BACKBONES, DEFAULT_VARIANT
from swift_bids.cli import values as flag_types
from swift_bids.network.known_weights import HUB_IDS
from swift_bids.network.precision import PRECISIONS

#: Title of the flags that only the group level reads.
GROUP_LEVEL = "group level"


def add_network_flags(parser: argparse.ArgumentParser) -> None:
    """Which network to use."""
    network = parser.add_argument_group("network")
    network.add_argument(
        "--variant",
        choices=tuple(BACKBONES),
        default=DEFAULT_VARIANT,
        help="released network to use: contrastive and hcp-sex are SwiFT, neurostorm-mae is "
        "NeuroSTORM (default: contrastive)",
    )
    network.add_argument(
        "--weights",
        metavar="ID|PATH",
        help="Hub id, folder with model.safetensors and config.json, or checkpoint "
        "(default: the variant's Hub bundle, " + ", ".join(HUB_IDS.values()) + ")",
    )
    network.add_argument(
        "--random-weights",
        action="store_true",
        help="try the app without trained weights; each output says that its numbers mean nothing",
    )
    network.add_argument(
        "--frame",
        choices=("auto", "hcp", "ukb", "neurostorm"),
        default="auto",
        help="position of the brain in the network's input (auto: as in the variant's training)",
    )


def add_group_flags(parser: argparse.ArgumentParser) -> None:
    """What the group level computes."""
    group = parser.add_argument_group(GROUP_LEVEL)
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
        "--harmonise",
        "--harmonize",
        metavar="COLUMN",
        help="remove the effects of this column, such as the site, from the features of probes by "
        "ComBat, fitted to the training sets",
    )
    group.add_argument(
        "--missing-code",
        nargs="+",
        metavar="CODE",
        help="contents of participants.tsv that stand for missing values, such as 999 "
        "(n/a always does)",
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
    group.add_argument(
        "--compare",
        type=Path,
        metavar="FOLDER",
        help="output folder of another network or other settings, whose embeddings of the same "
        "runs the tables show beside these",
    )


def add_resource_flags(parser: argparse.ArgumentParser) -> None:
    """How much of the machine to use."""
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


def add_cluster_flags(parser: argparse.ArgumentParser) -> None:
    """Who runs the steps."""
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
