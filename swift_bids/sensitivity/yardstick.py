"""Embedded runs -> how far runs of one participant, and of two participants, lie apart."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
from safetensors import safe_open

from swift_bids.base.errors import UsageError
from swift_bids.group.load import RunFilter, collect_runs
from swift_bids.outputs.paths import output_path
from swift_bids.sensitivity.changes import distance

#: Most runs that are compared with each other.
_MAX_RUNS = 60
#: Names of the rows.
WITHIN, BETWEEN = "another run of the participant", "a run of another participant"


def yardstick(output_dir: Path, weights_sha256: str, n_chunks: int) -> pd.DataFrame:
    """Median distances between the runs that these weights have embedded.

    Parameters
    ----------
    n_chunks
        Number of chunks whose tokens are compared.

    Returns
    -------
    pandas.DataFrame
        Up to two rows: `change` (`WITHIN` or `BETWEEN`), `tokens` and `embedding`. The tokens are
        NaN if no two runs have kept theirs; without embeddings, there are no rows.
    """
    try:
        runs, _ = collect_runs(output_dir, RunFilter())
    except UsageError:
        return pd.DataFrame()
    table = runs.table[runs.table["weights_sha256"] == weights_sha256].head(_MAX_RUNS)
    tokens = {row: _tokens(output_dir, name, n_chunks) for row, name in table["name"].items()}
    pairs = []
    for a, b in combinations(table.index, 2):
        same = table["participant_id"][a] == table["participant_id"][b]
        of_tokens = np.nan
        first, second = tokens[a], tokens[b]
        if first is not None and second is not None:
            n_shared = min(len(first), len(second))
            of_tokens = distance(first[:n_shared], second[:n_shared])
        pairs.append(
            {
                "change": WITHIN if same else BETWEEN,
                "tokens": of_tokens,
                "embedding": distance(runs.features[a], runs.features[b]),
            }
        )
    if not pairs:
        return pd.DataFrame()
    return pd.DataFrame(pairs).groupby("change", sort=True).median().reset_index()


def _tokens(output_dir: Path, name: str, n_chunks: int) -> np.ndarray | None:
    """The tokens of a run's first chunks, or None."""
    file = output_path(output_dir, name, "tokens", ".safetensors")
    if not file.exists():
        return None
    with safe_open(str(file), framework="numpy") as content:
        tokens = content.get_slice("tokens")
        return tokens[: min(n_chunks, tokens.get_shape()[0])]
