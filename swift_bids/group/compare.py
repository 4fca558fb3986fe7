"""--compare: the embeddings of the same runs in the output folder of another network."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from swift_bids.base.backbones import NETWORKS
from swift_bids.base.errors import Problem, UsageError, some_of
from swift_bids.group.figures import evenly_spaced
from swift_bids.group.load import Embedded, check_kinds, collect_runs
from swift_bids.group.similarity import centred
from swift_bids.inputs.run_filter import RunFilter

#: Most runs whose similarities are correlated: 2,000 runs make two million pairs.
_MAX_FOR_AGREEMENT = 2000
#: Most names of runs in a sentence.
_MAX_LISTED = 3


@dataclass(frozen=True)
class Compared:
    """Embeddings of another folder.

    Attributes
    ----------
    folder
        The output folder.
    runs
        Its runs that the folder of the call has, too.
    rows
        (run,) their rows in the table of the call.
    agreement
        Correlation over pairs of runs between their similarities in the two networks (cosine of
        the centred embeddings); NaN for fewer than three runs.
    """

    folder: Path
    runs: Embedded
    rows: np.ndarray
    agreement: float

    def beside(self, runs: Embedded) -> Embedded:
        """Return the other embeddings for all runs of the call; NaN where there is none."""
        features = np.full((len(runs.table), self.runs.features.shape[1]), np.nan, np.float32)
        features[self.rows] = self.runs.features
        return replace(self.runs, table=runs.table, features=features)

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


def read_compared(
    folder: Path, output_dir: Path, runs: Embedded, run_filter: RunFilter, allow_mixed: bool
) -> tuple[Compared, list[str], list[Problem]]:
    """Read the embeddings of the same runs in the other folder.

    Parameters
    ----------
    folder, output_dir
        The folder of `--compare`, and that of the call.
    runs
        Runs of the call.

    Returns
    -------
    compared : Compared
        The other embeddings.
    notes : list of str
        How many runs are in one folder only.
    problems : list of Problem
        Outputs of the other folder that cannot be read.

    Raises
    ------
    UsageError
        The folder is the same, does not exist, has none of these runs, or has those of several
        kinds.
    """
    folder, named = folder.resolve(), f"--compare {folder}"
    if folder == output_dir.resolve():
        raise UsageError(f"{named}: this is the output folder itself; give another one")
    if not folder.is_dir():
        raise UsageError(f"{named}: does not exist; give the output folder of another network")
    others, problems = collect_runs(folder, run_filter)
    place = {name: row for row, name in enumerate(others.table["name"])}
    rows = np.flatnonzero(runs.table["name"].isin(place))
    if not len(rows):
        raise UsageError(f"{named}: contains none of the runs of {output_dir}")
    same = _rows(others, np.array([place[name] for name in runs.table["name"].iloc[rows]]))
    check_kinds(same.table, allow_mixed, f"{named}: ")
    notes = []
    if lacking := sorted(set(runs.table["name"]) - set(place)):
        notes.append(
            f"{folder} lacks {len(lacking)} run(s), which are not compared: "
            f"{some_of(lacking, _MAX_LISTED)}"
        )
    return Compared(folder, same, rows, agreement(_rows(runs, rows), same)), notes, problems


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
