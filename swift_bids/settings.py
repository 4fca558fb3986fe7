"""The settings of a command as dataclasses, so that the rest of the app does not depend on the
command-line parser.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from swift_bids.inputs.parcel_defaults import SHIPPED_ATLAS, SIMPLE
from swift_bids.inputs.run_filter import RunFilter
from swift_bids.inputs.selection import Selection


@dataclass(frozen=True)
class EmbeddingSettings:
    """How a run becomes an embedding.

    Sidecars record every field, and a run is embedded again when one of them changes.

    Attributes
    ----------
    variant
        One of `swift_bids.base.backbones.BACKBONES`.
    frame
        Position of the FSL 2 mm grid in the network's 96^3 input.
    quantisation
        How the z-scores are rounded: `none` (float16) or `int8`.
    normalisation, statistics, dummy_scans, target_tr, chunk_stride, tail, short_runs
        Preprocessing, as the flags of these names accept it.
    robust_normalisation
        Whether mean and standard deviation leave faulty volumes out.
    fd_threshold, max_censored
        Which chunks are included in the mean of the run.
    precision
        Number format of the network's matrix products.
    """

    variant: str
    frame: str
    quantisation: str
    normalisation: str
    statistics: str
    robust_normalisation: bool
    dummy_scans: str
    target_tr: str
    chunk_stride: int
    tail: str
    short_runs: str
    fd_threshold: float
    max_censored: float
    precision: str


@dataclass(frozen=True)
class ParcelSettings:
    """How a run becomes time series of parcels, from which the baseline connectivity is computed.

    Attributes
    ----------
    atlas, confounds_strategy
        `--atlas` and `--confounds-strategy`.
    """

    atlas: Path = SHIPPED_ATLAS
    confounds_strategy: str = SIMPLE


@dataclass(frozen=True)
class Participants:
    """Participants to process.

    Attributes
    ----------
    labels, excluded
        Labels without `sub-`. `labels=None` selects all participants, `excluded=None` excludes
        none.
    batch
        (i, n): every nth of them, starting with the ith.
    """

    labels: Sequence[str] | None = None
    excluded: Sequence[str] | None = None
    batch: tuple[int, int] = (1, 1)


@dataclass(frozen=True)
class WeightsSettings:
    """Which weights to use: `--weights` (None: the released ones), and `--random-weights`."""

    source: str | None
    random: bool


@dataclass(frozen=True)
class Resources:
    """How the work is done.

    These settings change results by rounding at most, so a run is not embedded again when they
    change.

    Attributes
    ----------
    device, batch_size, compiled
        `--device`; chunks per pass through the network (None: as many as fit); torch.compile.
    processes, threads, memory_gb
        CPUs in all; CPUs of one network (None: chosen for the number of runs); memory in GB (None:
        no limit).
    work_dir, clean_work_dir
        `--work-dir` (None: a folder in the outputs, removed at the end); `--clean-workdir`.
    force, stop_on_first_crash
        The flags of these names.
    """

    device: str
    batch_size: int | None
    compiled: bool
    processes: int
    threads: int | None
    memory_gb: float | None
    work_dir: Path | None
    clean_work_dir: bool
    force: bool
    stop_on_first_crash: bool


@dataclass(frozen=True)
class ClusterSettings:
    """Who runs the steps: `--use-plugin`, `--slurm`, `--slurm-graph`, and options for sbatch."""

    plugin_file: Path | None = None
    slurm: bool = False
    slurm_graph: bool = False
    sbatch_args: str | None = None
    sbatch_network_args: str | None = None


@dataclass(frozen=True)
class OptionalFiles:
    """Which large files of a run to write: the network's whole output (not with `--no-tokens`), and
    its input (with `--keep-matrix`)."""

    tokens: bool
    matrix: bool


@dataclass(frozen=True)
class ParticipantSettings:
    """A command at the participant level.

    Attributes
    ----------
    parcels, optional
        How time series of parcels are made; which large files to write.
    dry_run
        `text`, `json`, or None to embed.
    reports_only
        `--reports-only`.
    arguments
        Content of `swift_bids.toml`: the version and all arguments that have a value.
    """

    output_dir: Path
    participants: Participants
    selection: Selection
    embedding: EmbeddingSettings
    weights: WeightsSettings
    parcels: ParcelSettings
    optional: OptionalFiles
    resources: Resources
    cluster: ClusterSettings
    dry_run: str | None
    reports_only: bool
    arguments: dict[str, Any] = field(repr=False)


@dataclass(frozen=True)
class GroupSettings:
    """A command at the group level.

    Attributes
    ----------
    run_filter
        Which runs belong in the tables.
    targets, covariates, group_by, harmonise, missing_codes, permutations
        Columns of participants.tsv to predict (None: chosen by the app) and to correct for, the
        column whose values stay together, the column whose effects ComBat removes, cells that stand
        for missing values, and the number of permutations.
    allow_mixed
        Whether embeddings of different kinds may share a table.
    compare
        Output folder of another network to compare with.
    processes, dry_run
        CPUs; `text`, `json`, or None.
    recorded
        The arguments that change a result, for the sidecars.
    """

    output_dir: Path
    run_filter: RunFilter
    targets: Sequence[str] | None
    covariates: Sequence[str]
    group_by: str | None
    harmonise: str | None
    missing_codes: Sequence[str]
    permutations: int
    allow_mixed: bool
    compare: Path | None
    processes: int
    dry_run: str | None
    recorded: dict[str, Any]
