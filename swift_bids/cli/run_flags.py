"""Flags about runs and their data: which ones, from where, and what becomes of them."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from swift_bids.base.backbones import QUANTISATIONS
from swift_bids.cli import values as flag_types
from swift_bids.inputs.layouts import INPUT_TYPES
from swift_bids.inputs.parcel_defaults import SIMPLE, STRATEGIES


def add_run_flags(parser: argparse.ArgumentParser) -> None:
    """Which runs to process."""
    choice = parser.add_argument_group("which runs")
    choice.add_argument(
        "-d",
        "--derivatives",
        type=Path,
        metavar="PATH",
        help="fMRIPrep output, if bids_dir is the raw dataset",
    )
    choice.add_argument(
        "--input-type",
        choices=INPUT_TYPES,
        default="auto",
        help="layout of the derivatives: of fMRIPrep or NiBabies, of the Human Connectome Project, "
        "of the abcd-hcp-pipeline, of UK Biobank (default: auto, which recognises it)",
    )
    choice.add_argument(
        "--ica-fix",
        choices=("auto", "on", "off"),
        default="auto",
        help="for hcp, abcd and ukb: embed the BOLD file after (on) or before (off) ICA-FIX (auto: "
        "on for ukb, off for the others, as in training)",
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


def add_raw_flags(parser: argparse.ArgumentParser) -> None:
    """Where the raw BOLD is, and how to resample it."""
    raw = parser.add_argument_group(
        "raw BOLD", "runs that exist only at fMRIPrep's minimal level, or all with --from-raw"
    )
    raw.add_argument(
        "--raw",
        type=Path,
        metavar="PATH",
        help="the raw dataset that fMRIPrep processed; its runs are resampled where fMRIPrep "
        "--level minimal wrote only transforms (default: bids_dir if -d is given, else "
        "sourcedata/raw, or the SourceDatasets of the derivatives)",
    )
    raw.add_argument(
        "--from-raw",
        action="store_true",
        help="resample the raw BOLD also where a preprocessed one exists",
    )
    raw.add_argument(
        "--slice-timing",
        choices=("auto", "on", "off"),
        default="auto",
        help="correct the slice timing of raw BOLD; auto: if the settings in fMRIPrep's log folder "
        "say that fMRIPrep would (default: auto)",
    )
    raw.add_argument(
        "--jacobian",
        action="store_true",
        help="multiply raw BOLD by the Jacobian of the distortion, to reproduce fMRIPrep's output; "
        "fMRIPrep computes it along the wrong axis in template space",
    )


def add_data_flags(parser: argparse.ArgumentParser) -> None:
    """How to prepare the data of a run."""
    data = parser.add_argument_group("data")
    data.add_argument(
        "--mask",
        default="auto",
        metavar="{auto,bold,anat,template,PATH}",
        help="which voxels count as brain. bold: fMRIPrep's functional mask; anat: its anatomical "
        "mask; template: the brain of MNI152NLin6Asym; PATH: a mask in the template, with "
        "{participant} and {session} for labels (auto: anat for hcp-sex, bold for the others; "
        "else the other of the two)",
    )
    data.add_argument(
        "--statistics",
        choices=("mask", "core"),
        default="mask",
        help="which voxels decide the mean, standard deviation and background. mask: all brain "
        "voxels, as in training; core: the inner part of the template's brain, which makes the "
        "embedding depend less on the edge of the mask (default: mask)",
    )
    data.add_argument(
        "--template-warp",
        choices=("auto", "off"),
        default="auto",
        help="warp runs in another template than MNI152NLin6Asym to it, if the participant has the "
        "transforms of both templates or --template-xfm is given (default: auto)",
    )
    data.add_argument(
        "--template-xfm",
        type=Path,
        metavar="FILE",
        help="TemplateFlow's transform tpl-MNI152NLin6Asym_from-MNI152NLin2009cAsym_mode-image_xfm"
        ".h5, for participants without their own",
    )
    data.add_argument(
        "--interpolation",
        choices=("cubic", "linear"),
        default="cubic",
        help="how to interpolate runs that are raw, on another grid than FSL's 2 mm grid or in "
        "another template; linear is faster, but smooths (default: cubic)",
    )
    data.add_argument(
        "--normalisation",
        "--normalization",
        choices=("global", "voxel+global"),
        default="global",
        help="global: z-scores with one mean and standard deviation, as in training; "
        "voxel+global: first z-scores of each voxel over time",
    )
    data.add_argument(
        "--robust-normalisation",
        "--robust-normalization",
        action="store_true",
        help="leave empty, repeated, incomplete and outlying volumes out of the mean, standard "
        "deviation and background; in training, all volumes counted",
    )
    data.add_argument(
        "--quantisation",
        "--quantization",
        choices=QUANTISATIONS,
        default="auto",
        help="how to round the z-scores. none: to float16, as in the training of SwiFT and of "
        "NeuroSTORM until May 2026; int8: to 255 values per run, as in that of NeuroSTORM since "
        "(auto: none)",
    )
    data.add_argument(
        "--dummy-scans",
        type=flag_types.auto_or_count,
        default="auto",
        metavar="{auto,N}",
        help="volumes to omit at the start (auto: the number in the confounds table; without a "
        "table, the number that fMRIPrep's rule finds in the data)",
    )
    data.add_argument(
        "--target-tr",
        type=flag_types.target_tr,
        default="auto",
        metavar="{auto,native,SECONDS}",
        help="TR at which the network reads a run (auto: interpolates linearly to 0.8 s, for SwiFT "
        "only if the run's TR differs from it by 0.1 s or more)",
    )
    data.add_argument(
        "--atlas",
        type=Path,
        metavar="FILE",
        help="parcels (NIfTI labels in MNI space) for the functional connectivity with which "
        "embeddings are compared (default: the 200 parcels of Schaefer et al. 2018)",
    )
    data.add_argument(
        "--confounds-strategy",
        choices=STRATEGIES,
        default=SIMPLE,
        help="which confounds to regress out of the signals of parcels, as nilearn's "
        "load_confounds_strategy names them; +gsr adds the global signal (default: simple, which "
        "is motion, CSF, white matter and cosines). The embedding does not depend on it.",
    )


def add_chunk_flags(parser: argparse.ArgumentParser) -> None:
    """How to cut a run into chunks."""
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
        "--fd-threshold, is empty or repeats the one before (0 to 1; default 1: exclude none)",
    )
    chunks.add_argument(
        "--no-tokens",
        action="store_true",
        help="do not save the network's unpooled output (tokens.safetensors)",
    )
    chunks.add_argument(
        "--keep-matrix",
        action="store_true",
        help="save the network's input (matrix.h5, 0.46 MB a volume), which finetune and explain "
        "read",
    )
