"""Tokens + chunk table -> one embedding per chunk and one per run.

A chunk's embedding is the mean of its 2 x 2 x 2 x 20 tokens; a run's embedding is the mean over its
included chunks. The original classifier of SwiFT averages in the same way before its head, and so
do published evaluations of both networks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from swift_bids.base.backbones import feature_names


@dataclass(frozen=True)
class Embeddings:
    """Embeddings of one run.

    Attributes
    ----------
    chunks
        The chunk table with `distance` (cosine distance of a chunk from the run's embedding) and
        one column per feature, such as `swift000` ... `swift287`.
    run
        One row: chunk counts, mean FD and the mean embedding of the included chunks.
    similarity
        (chunk, chunk) cosine similarity of the chunks' embeddings.
    positions
        (2, C, x, y, z) float32: mean and standard deviation over the volumes of all included
        chunks, for each position of the tokens.
    """

    chunks: pd.DataFrame
    run: pd.DataFrame
    similarity: np.ndarray
    positions: np.ndarray


def aggregate(tokens: np.ndarray, chunks: pd.DataFrame, label: str) -> Embeddings:
    """Average tokens within chunks and chunks within the run.

    Parameters
    ----------
    tokens
        (chunk, C, x, y, z, t) float32.
    chunks
        The table from `swift_bids.steps.chunk.plan_chunks`, one row per chunk.
    label
        Label of the network, with which the names of the features begin.
    """
    pooled = tokens.mean(axis=(2, 3, 4, 5), dtype=np.float64)  # (chunk, C)
    included = chunks["included"].to_numpy(dtype=bool)
    mean = pooled[included].mean(axis=0)
    names = feature_names(label, pooled.shape[1])
    run = {
        "n_chunks": len(chunks),
        "n_included": int(included.sum()),
        "mean_fd": chunks.loc[included, "mean_fd"].mean(),
        "censored": chunks.loc[included, "censored"].mean(),
    }
    unit = pooled / np.linalg.norm(pooled, axis=1, keepdims=True)
    distance = 1 - unit @ (mean / np.linalg.norm(mean))
    features = pd.DataFrame(pooled.astype(np.float32), columns=names)
    return Embeddings(
        chunks=pd.concat([chunks.assign(distance=distance), features], axis=1),
        run=pd.DataFrame([run | dict(zip(names, mean.astype(np.float32)))]),
        similarity=unit @ unit.T,
        positions=_over_time(tokens[included]),
    )


def _over_time(tokens: np.ndarray) -> np.ndarray:
    """Mean and standard deviation over chunks and volumes, (2, C, x, y, z) float32."""
    mean = tokens.mean(axis=(0, 5), dtype=np.float64)
    # one chunk at a time, to save memory
    squares = np.mean(
        [np.square(chunk - mean[..., None]).mean(axis=-1) for chunk in tokens], axis=0
    )
    return np.stack([mean, np.sqrt(squares)]).astype(np.float32)
