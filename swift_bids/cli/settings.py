"""Parsed arguments -> the settings dataclasses of the participant or group level."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from swift_bids import __version__
from swift_bids.base.backbones import BACKBONES
from swift_bids.cli.embedded_runs import run_filter_of
from swift_bids.cli.values import LABELS
from swift_bids.inputs.dataset import Dataset
from swift_bids.inputs.filters import read_filter_file
from swift_bids.inputs.find_mask import MASKS, masks_in_order
from swift_bids.inputs.index import check_database_dir
from swift_bids.inputs.parcel_defaults import SHIPPED_ATLAS
from swift_bids.inputs.selection import SPACES, Selection
from swift_bids.inputs.template_warp import check_template_xfm
from swift_bids.settings import (
    ClusterSettings,
    EmbeddingSettings,
    GroupSettings,
    OptionalFiles,
    ParcelSettings,
    Participants,
    ParticipantSettings,
    Resources,
    WeightsSettings,
)
from swift_bids.steps.z_scores import check_quantisation, check_statistics

#: Arguments of the group level that change a result.
_RECORDED = (
    *LABELS,
    "target",
    "covariate",
    "group_by",
    "harmonise",
    "missing_code",
    "permutations",
    "allow_mixed",
    "compare",
)


def participant_settings(args: argparse.Namespace, dataset: Dataset) -> ParticipantSettings:
    """Settings of the participant level.

    Raises
    ------
    UsageError
        The filter file or a mask cannot be read, `--bids-database-dir` lies in the input, or two
        settings contradict each other.
    """
    check_statistics(args.statistics, args.normalisation)
    backbone = BACKBONES[args.variant]
    return ParticipantSettings(
        output_dir=args.output_dir,
        participants=_participants(args),
        selection=_selection(args, dataset),
        embedding=EmbeddingSettings(
            variant=args.variant,
            frame=backbone.frame if args.frame == "auto" else args.frame,
            quantisation=check_quantisation(args.quantisation, args.variant),
            normalisation=args.normalisation,
            statistics=args.statistics,
            robust_normalisation=args.robust_normalisation,
            dummy_scans=args.dummy_scans,
            target_tr=args.target_tr,
            chunk_stride=args.chunk_stride,
            tail=args.tail,
            short_runs=args.short_runs,
            fd_threshold=args.fd_threshold,
            max_censored=args.max_censored,
            precision=args.precision,
        ),
        weights=WeightsSettings(args.weights, args.random_weights),
        parcels=ParcelSettings(args.atlas or SHIPPED_ATLAS, args.confounds_strategy),
        optional=OptionalFiles(tokens=not args.no_tokens, matrix=args.keep_matrix),
        resources=Resources(
            device=args.device,
            batch_size=args.batch_size,
            compiled=args.compile,
            processes=args.nprocs,
            threads=args.omp_nthreads,
            memory_gb=args.mem,
            work_dir=args.work_dir,
            clean_work_dir=args.clean_workdir,
            force=args.force,
            stop_on_first_crash=args.stop_on_first_crash,
        ),
        cluster=cluster_settings(args),
        dry_run=args.dry_run,
        reports_only=args.reports_only,
        arguments=settings_file_content(args),
    )


def group_settings(args: argparse.Namespace) -> GroupSettings:
    """Settings of the group level."""
    given = {n: value for n in _RECORDED if (value := getattr(args, n)) not in (None, False)}
    recorded = {n: str(v.absolute()) if isinstance(v, Path) else v for n, v in given.items()}
    return GroupSettings(
        output_dir=args.output_dir,
        run_filter=run_filter_of(args),
        targets=args.target,
        covariates=args.covariate or (),
        group_by=args.group_by,
        harmonise=args.harmonise,
        missing_codes=args.missing_code or (),
        permutations=args.permutations,
        allow_mixed=args.allow_mixed,
        compare=args.compare,
        processes=args.nprocs,
        dry_run=args.dry_run,
        recorded=recorded,
    )


def cluster_settings(args: argparse.Namespace) -> ClusterSettings:
    """Who runs the steps of the runs."""
    return ClusterSettings(
        plugin_file=args.use_plugin,
        slurm=args.slurm,
        slurm_graph=args.slurm_graph,
        sbatch_args=args.sbatch_args,
        sbatch_network_args=args.sbatch_network_args,
    )


def settings_file_content(args: argparse.Namespace) -> dict[str, Any]:
    """Content of swift_bids.toml, which `--config-file` reads: every argument that has a value,
    including defaults. Paths are made absolute, so that they can be found from any folder."""
    given = {name: value for name, value in vars(args).items() if value is not None}
    for name, value in given.items():
        is_path = isinstance(value, Path) or (name == "weights" and Path(value).exists())
        if is_path or (name == "mask" and value not in MASKS):
            given[name] = str(Path(value).absolute())
    return {"version": __version__, "arguments": given}


def _participants(args: argparse.Namespace) -> Participants:
    batch = args.batch or (1, 1)
    return Participants(args.participant_label, args.exclude_participant_label, batch)


def _selection(args: argparse.Namespace, dataset: Dataset) -> Selection:
    return Selection(
        sessions=args.session_label,
        tasks=args.task_id,
        runs=args.run_id,
        echoes=args.echo_idx,
        resolutions=args.res,
        spaces=args.space or SPACES,
        dummy_scans=None if args.dummy_scans == "auto" else int(args.dummy_scans),
        target_tr=args.target_tr,
        short_runs=args.short_runs,
        filters=read_filter_file(args.bids_filter_file) if args.bids_filter_file else {},
        database_dir=check_database_dir(args.bids_database_dir, dataset),
        slice_timing=args.slice_timing,
        interpolation=args.interpolation,
        jacobian=args.jacobian,
        from_raw=args.from_raw,
        template_warp=args.template_warp,
        template_xfm=check_template_xfm(args.template_xfm),
        variant=args.variant,
        masks=masks_in_order(args.mask, args.variant),
        motion_needed=args.max_censored < 1,
        ica_fix=args.ica_fix,
    )
