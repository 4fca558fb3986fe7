"""Volumes of a run in time + confounds -> its table of chunks (20 volumes each)."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pandas as pd

from swift_bids.base.errors import InputError
from swift_bids.geometry.resample_time import CHUNK_VOLUMES, Series, refuse_too_short
from swift_bids.settings import EmbeddingSettings

#: Choices of `--tail` and `--short-runs`.
TAILS, SHORT_RUNS = ("drop", "overlap", "pad"), ("skip", "pad")


def plan_chunks(
    series: Series,
    displacement: np.ndarray | None = None,
    fd_threshold: float = 0.5,
    max_censored: float = 1.0,
    stride: int = CHUNK_VOLUMES,
    tail: str = "drop",
    short_runs: str = "skip",
) -> pd.DataFrame:
    """Cut the series that the network reads into chunks of 20 volumes.

    The defaults are what the network was trained with (original data loader): chunks side by side
    from the first used volume on, what is left over at the end dropped.

    Parameters
    ----------
    series
        Volumes of the run in time.
    displacement
        Framewise displacement (volume of the BOLD file,) in mm; NaN (the first volume's) does not
        count.
    fd_threshold
        A volume that moved more than this (mm) is censored.
    max_censored
        A chunk with a larger share of censored volumes is not included in the run's mean.
    stride
        Volumes of the series from one chunk to the next.
    tail
        One of `TAILS`, what becomes of volumes behind the last whole chunk: `drop`; `overlap`: one
        more chunk that ends with the run; `pad`: one more chunk, filled up by `chunk_rows`. Volumes
        that a stride above 20 steps over anyway make no chunk.
    short_runs
        One of `SHORT_RUNS`, what becomes of a series of fewer than 20 volumes: `skip` raises;
        `pad` makes one chunk of it, filled up by `chunk_rows`.

    Returns
    -------
    pandas.DataFrame
        One row a chunk: `start`, `stop` (volumes of the BOLD file it is made from, from 0, stop
        exclusive), `onset`, `duration` (s), `model_start` (its first volume in the series),
        `padded` (volumes of the 20 that are filled up), `mean_fd` (mm) and `censored` (share) of
        the volumes from start to stop, `included`. Without `displacement`, `mean_fd` and `censored`
        are NaN and every chunk is included.

    Raises
    ------
    InputError
        There are too few volumes, or no chunk may be included.
    """
    first = _first_of_chunks(series, stride, tail, short_runs)
    padded = np.maximum(0, first + CHUNK_VOLUMES - series.length)
    used = [series.source(a, a + CHUNK_VOLUMES - p) for a, p in zip(first, padded)]
    mean_fd, censored = np.full((2, len(first)), np.nan)
    if displacement is not None:
        for chunk, (start, stop) in enumerate(used):
            moved = displacement[start:stop]
            known = moved[~np.isnan(moved)]
            mean_fd[chunk] = known.mean() if len(known) else np.nan
            # The first volume of a run has no displacement and is not censored.
            censored[chunk] = (known > fd_threshold).sum() / len(moved)
    included = ~(censored > max_censored)
    if not included.any():
        raise InputError(
            f"every chunk has more than {max_censored:.0%} of its volumes above {fd_threshold} mm "
            f"framewise displacement; raise --max-censored or --fd-threshold to embed it"
        )
    return pd.DataFrame(
        {
            "start": [start for start, _ in used],
            "stop": [stop for _, stop in used],
            "onset": series.first_volume * series.repetition_time + first * series.model_tr,
            "duration": (CHUNK_VOLUMES - padded) * series.model_tr,
            "model_start": first,
            "padded": padded,
            "mean_fd": mean_fd,
            "censored": censored,
            "included": included,
        }
    )


def count_chunks(series: Series, settings: EmbeddingSettings) -> int:
    """Number of chunks that a run will have."""
    return len(
        plan_chunks(
            series,
            stride=settings.chunk_stride,
            tail=settings.tail,
            short_runs=settings.short_runs,
        )
    )


def chunk_rows(start: int, length: int) -> np.ndarray:
    """Volumes (20,) of a series of `length` that make up the chunk from `start` on.

    Where the series ends, it is reflected (`numpy.pad`): the volumes before the last come again in
    reverse, which keeps the change from volume to volume that one repeated volume would lack.
    """
    beyond = max(0, start + CHUNK_VOLUMES - length)
    mode: Literal["reflect", "edge"] = "reflect" if length > 1 else "edge"
    return np.pad(np.arange(length), (0, beyond), mode=mode)[start : start + CHUNK_VOLUMES]


def _first_of_chunks(series: Series, stride: int, tail: str, short_runs: str) -> np.ndarray:
    """First volume of every chunk in the series."""
    refuse_too_short(series, short_runs)
    length = series.length
    if length < CHUNK_VOLUMES:
        return np.array([0])
    first = np.arange(0, length - CHUNK_VOLUMES + 1, stride)
    more = first[-1] + stride
    if tail == "drop" or first[-1] + CHUNK_VOLUMES == length or more >= length:
        return first
    return np.append(first, length - CHUNK_VOLUMES if tail == "overlap" else more)
