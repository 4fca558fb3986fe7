"""--compare: the embeddings of the same runs in the output folder of another network."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from swift_bids.base.backbones import NETWORKS
from swift_bids.base.errors import Problem, UsageError
from swift_bids.group.figures import evenly_spaced
from swift_bids.group.load import Embedded, check_kinds, collect_runs
from swift_bids.group.run_filter import RunFilter
from swift_bids.group.similarity import centred

#: Most runs whose similarities are correlated: 2,000 runs make two million pairs.
_MAX_FOR_AGREEMENT = 2000


@dataclass(frozen=True)
class Compared:
    """Embeddings of another folder.

    Attributes
    ----------
    folder
        The output folder.
    runs
        Its runs, in the order of those with which they are compared.
    agreement
        Correlation over pairs of runs between their similarities in the two networks (cosine of
        the centred embeddings); NaN for fewer than three runs.
    """

    folder: Path
    runs: Embedded
    agreement: float

    @property
    def title(self) -> str:
        """Network and variants, for sentences."""
        return title_of(self.runs)

    @property
    def described(self) -> dict[str, Any]:
        """For the sidecars."""
        known = None if np.isnan(self.agreement) else self.agreement
        return {"Folder": str(self.folder), "Embeddings": self.runs.kinds, "Agreement": known}


def title_of(runs: Embedded) -> str:
    """Network and variants of runs: `SwiFT (contrastive)`."""
    variants = ", ".join(sorted(runs.table["variant"].unique()))
    return f"{NETWORKS[runs.label].title} ({variants})"


def add_compared(
    folder: Path, output_dir: Path, runs: Embedded, run_filter: RunFilter, allow_mixed: bool
) -> tuple[Embedded, Compared, list[str], list[Problem]]:
    """Read the other folder, and keep the runs that both have.

    Parameters
    ----------
    folder, output_dir
        The folder of `--compare`, and that of the call.
    runs
        Runs of the call.

    Returns
    -------
    runs : Embedded
        Those that the other folder has, too.
    compared : Compared
        Their other embeddings.
    notes : list of str
        How many runs are in one folder only.
    problems : list of Problem
        Outputs of the other folder that cannot be read.

    Raises
    ------
    UsageError
        The folder is the same, has no embeddings or none of these runs, or those of several kinds.
    """
    if folder.resolve() == output_dir.resolve():
        raise UsageError(f"--compare {folder}: is the output folder itself; give another one")
    folder = folder.resolve()
    others, problems = collect_runs(folder, run_filter)
    place = {name: row for row, name in enumerate(others.table["name"])}
    kept = runs.table["name"].isin(place).to_numpy()
    if not kept.any():
        raise UsageError(f"--compare {folder}: contains none of the runs of {output_dir}")
    shared = _rows(runs, np.flatnonzero(kept))
    same = _rows(others, np.array([place[name] for name in shared.table["name"]]))
    check_kinds(same.table, allow_mixed, f"--compare {folder}: ")
    n_left_out = len(kept) - kept.sum() + len(place) - kept.sum()
    notes = []
    if n_left_out:
        notes.append(f"--compare: {n_left_out} run(s) in only one of the two folders were left out")
    return shared, Compared(folder, same, agreement(shared, same)), notes, problems


def agreement(runs: Embedded, others: Embedded) -> float:
    """Correlate the similarities of all pairs of runs in two networks."""
    chosen = evenly_spaced(len(runs.table), _MAX_FOR_AGREEMENT)
    if len(chosen) < 3:
        return float("nan")
    pairs = np.triu_indices(len(chosen), 1)
    rows = (centred(embedded.features[chosen].astype(np.float64)) for embedded in (runs, others))
    first, second = ((r @ r.T)[pairs] for r in rows)
    with np.errstate(invalid="ignore", divide="ignore"):  # of runs that are all identical
        return float(np.corrcoef(first, second)[0, 1])


def _rows(embedded: Embedded, rows: np.ndarray) -> Embedded:
    table = embedded.table.iloc[rows].reset_index(drop=True)
    return replace(embedded, table=table, features=embedded.features[rows])
