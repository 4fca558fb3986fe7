"""Timing of a run's volumes + confounds -> the table of its chunks (20 volumes each, for both
networks)."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pandas as pd

from swift_bids.base.backbones import CHUNK_VOLUMES
from swift_bids.base.errors import InputError
from swift_bids.geometry.resample_time import Series, refuse_too_short
from swift_bids.settings import EmbeddingSettings
from swift_bids.steps.volume_faults import Faults

#: Choices of `--tail` and `--short-runs`.
TAILS, SHORT_RUNS = ("drop", "overlap", "pad"), ("skip", "pad")


def plan_chunks(
    series: Series,
    displacement: np.ndarray | None = None,
    faults: Faults | None = None,
    fd_threshold: float = 0.5,
    max_censored: float = 1.0,
    stride: int = CHUNK_VOLUMES,
    tail: str = "drop",
    short_runs: str = "skip",
) -> pd.DataFrame:
    """Cut the series that the network reads into chunks of 20 volumes.

    The defaults match the network's training (original data loader): chunks follow each other
    without gaps from the first used volume, and leftover volumes at the end are dropped.

    Parameters
    ----------
    series
        Timing of the run's volumes.
    displacement
        Framewise displacement in mm, shape (n_volumes,) for the volumes of the BOLD file; NaN (as
        for the first volume) is ignored.
    faults
        Faults of the same volumes; None if they were not looked for.
    fd_threshold
        A volume with a larger displacement (mm) is censored, as is one that is empty or repeats
        the one before.
    max_censored
        A chunk with a larger share of censored volumes is excluded from the run's mean.
    stride
        Volumes of the series from the start of one chunk to the start of the next.
    tail
        One of `TAILS`, how to handle the volumes after the last whole chunk: `drop` omits them;
        `overlap` adds a chunk that ends with the run; `pad` adds a chunk that `chunk_rows` fills
        up. With a stride above 20, volumes in the gap before the next chunk would start make no
        chunk.
    short_runs
        One of `SHORT_RUNS`, how to handle a series of fewer than 20 volumes: `skip` raises;
        `pad` makes one chunk, which `chunk_rows` fills up.

    Returns
    -------
    pandas.DataFrame
        One row per chunk: `start`, `stop` (range of its volumes in the BOLD file, from 0, stop
        exclusive), `onset`, `duration` (s), `model_start` (its first volume in the series),
        `padded` (how many of its 20 volumes are filled up), `mean_fd` (mm), `censored` (share) and
        `n_faulty` (number) of the volumes from start to stop, `included`. Without `displacement`,
        `mean_fd` is NaN; `censored` is NaN, too, unless a volume of the run was not measured.

    Raises
    ------
    InputError
        The run has too few volumes, or too many of them are censored in every chunk.
    """
    first = _chunk_starts(series, stride, tail, short_runs)
    padded = np.maximum(0, first + series.chunk_volumes - series.length)
    used = [series.source(a, a + series.chunk_volumes - p) for a, p in zip(first, padded)]
    mean_fd, censored = np.full((2, len(first)), np.nan)
    faults = faults or Faults.none(series.n_volumes)
    is_censored = faults.not_measured
    if displacement is not None:
        # The first volume of a run has no displacement, so it counts as not censored.
        is_censored = is_censored | (np.nan_to_num(displacement) > fd_threshold)
        for chunk, (start, stop) in enumerate(used):
            values = displacement[start:stop]
            known = values[~np.isnan(values)]
            mean_fd[chunk] = known.mean() if len(known) else np.nan
    if displacement is not None or is_censored.any():
        censored = np.array([is_censored[start:stop].mean() for start, stop in used])
    included = ~(censored > max_censored)
    if not included.any():
        raise InputError(
            f"in every chunk, more than {max_censored:.0%} of the volumes are censored (above "
            f"{fd_threshold} mm framewise displacement, empty or repeated); raise --max-censored "
            f"or --fd-threshold to embed the run"
        )
    return pd.DataFrame(
        {
            "start": [start for start, _ in used],
            "stop": [stop for _, stop in used],
            "onset": series.first_volume * series.repetition_time + first * series.volume_duration,
            "duration": (series.chunk_volumes - padded) * series.volume_duration,
            "model_start": first,
            "padded": padded,
            "mean_fd": mean_fd,
            "censored": censored,
            "n_faulty": [int(faults.any[start:stop].sum()) for start, stop in used],
            "included": included,
        }
    )


def count_chunks(series: Series, settings: EmbeddingSettings) -> int:
    """Return the number of chunks that a run will have."""
    return len(
        plan_chunks(
            series,
            stride=settings.chunk_stride,
            tail=settings.tail,
            short_runs=settings.short_runs,
        )
    )


def chunk_rows(start: int, length: int, chunk_volumes: int) -> np.ndarray:
    """Return the volume numbers of the chunk that begins at `start` of a series of `length`.

    Beyond its end, the series is reflected (`numpy.pad`): the volumes before the last follow in
    reverse order. Repeating the last volume instead would remove all change between volumes.
    """
    n_missing = max(0, start + chunk_volumes - length)
    mode: Literal["reflect", "edge"] = "reflect" if length > 1 else "edge"
    return np.pad(np.arange(length), (0, n_missing), mode=mode)[start : start + chunk_volumes]


def _chunk_starts(series: Series, stride: int, tail: str, short_runs: str) -> np.ndarray:
    """Return the first volume of every chunk, counted in the series."""
    refuse_too_short(series, short_runs)
    length, chunk_volumes = series.length, series.chunk_volumes
    if length < chunk_volumes:
        return np.array([0])
    first = np.arange(0, length - chunk_volumes + 1, stride)
    following = first[-1] + stride
    if tail == "drop" or first[-1] + chunk_volumes == length or following >= length:
        return first
    return np.append(first, length - chunk_volumes if tail == "overlap" else following)
