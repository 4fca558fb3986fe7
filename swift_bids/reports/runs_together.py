"""Runs of a participant side by side: index, motion on one scale, and where their tokens differ."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from safetensors import SafetensorError
from safetensors.numpy import load_file

from swift_bids.inputs.filenames import entities_in
from swift_bids.outputs.paths import output_path, run_folder

#: Size of a drawing of motion, in the units of its SVG, and the largest displacement shown (mm).
WIDTH, HEIGHT, _MAX_SHOWN = 1000, 60, 2.0
#: More points than this in a line cannot be told apart.
_MAX_POINTS = 1000
#: Parts of the brain that the eight positions of the tokens stand for. x increases to the left.
_SIDES, _DEPTHS, _HEIGHTS = ("right", "left"), ("back", "front"), ("bottom", "top")


def index_of_runs(names: Sequence[str]) -> list[tuple[str, list[tuple[int, str]]]]:
    """Group runs by session: (session, [(number of the run on the page, its other entities)])."""
    sessions: dict[str, list[tuple[int, str]]] = {}
    hidden = {"sub", "ses", *(key for key in ("space", "cohort", "res") if _is_common(names, key))}
    for number, name in enumerate(names, 1):
        entities = entities_in(name)
        session = f"ses-{entities['ses']}" if "ses" in entities else ""
        kept = [f"{k}-{v}" for k, v in entities.items() if k not in hidden]
        sessions.setdefault(session, []).append((number, " ".join(kept) or "run"))
    return list(sessions.items())


def _is_common(names: Sequence[str], key: str) -> bool:
    """Whether an entity is the same for all runs."""
    return len({entities_in(name).get(key) for name in names}) <= 1


def displacement_of(output_dir: Path, name: str) -> np.ndarray | None:
    """Framewise displacement of a run in mm, (volume,), 0 where unknown; None without motion."""
    file = run_folder(output_dir, name) / f"{name}_desc-volumes_timeseries.tsv"
    if not file.exists():
        return None
    table = pd.read_csv(file, sep="\t", na_values="n/a")
    values = table.get("framewise_displacement", pd.Series(dtype=float)).to_numpy(np.float64)
    return None if np.isnan(values).all() else np.nan_to_num(values)


def mean_tokens_of(output_dir: Path, name: str, label: str) -> np.ndarray | None:
    """Mean tokens of a run, (feature, x, y, z); None if its file is missing or damaged."""
    file = output_path(output_dir, name, label, "positions", ".safetensors")
    try:
        return load_file(file)["positions"][0].astype(np.float64)
    except (OSError, KeyError, SafetensorError):  # of an earlier version, or damaged
        return None


def motion_of_runs(
    names: Sequence[str], displacements: Sequence[np.ndarray | None], thresholds: Sequence[float]
) -> dict[str, Any] | None:
    """Lines of framewise displacement with one scale for all runs; None if no run has motion.

    Parameters
    ----------
    displacements
        From `displacement_of`, of each run.
    thresholds
        (run,) framewise displacement in mm above which a volume is censored.

    Returns
    -------
    dict
        `highest` (mm), `longest` (volumes), and `runs`: name, points of the line, height of the
        threshold.
    """
    known = [
        (name, values, threshold)
        for name, values, threshold in zip(names, displacements, thresholds)
        if values is not None
    ]
    if not known:
        return None
    largest = max(float(values.max()) for _, values, _ in known)
    highest = min(max(largest, *(limit for *_, limit in known)) * 1.05, _MAX_SHOWN)
    longest = max(len(values) for _, values, _ in known)
    runs = []
    for name, values, threshold in known:
        step = -(-len(values) // _MAX_POINTS)
        # the largest of neighbours, so that no peak is lost
        shown = np.pad(values, (0, -len(values) % step)).reshape(-1, step).max(axis=1)
        x = np.arange(len(shown)) * step * WIDTH / max(longest - 1, 1)
        y = HEIGHT * (1 - np.minimum(shown / highest, 1))
        runs.append(
            {
                "name": name,
                "points": " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y)),
                "threshold": HEIGHT * (1 - min(threshold / highest, 1)),
                "cut": bool(values.max() > highest),
            }
        )
    return {"highest": highest, "longest": longest, "runs": runs}


def differences_between_runs(
    mean_tokens: Sequence[np.ndarray | None],
) -> list[dict[str, Any]] | None:
    """How much the tokens of the runs differ in each of eight parts of the brain.

    The difference of two runs is the distance of their mean tokens at a position, as a share of
    the tokens' length; the value is the mean over all pairs of runs.

    Parameters
    ----------
    mean_tokens
        From `mean_tokens_of`, of each run.

    Returns
    -------
    list of dict
        `side`, `height`, `depth`, `value`, and `shade` from 0 (least) to 1 (most); None for fewer
        than two runs with the same kind of outputs.
    """
    means = [mean for mean in mean_tokens if mean is not None]
    if len(means) < max(2, len(mean_tokens)) or len({m.shape for m in means}) > 1:
        return None
    tokens = np.stack(means)  # (run, feature, x, y, z)
    first, second = np.triu_indices(len(tokens), k=1)
    distance = np.linalg.norm(tokens[first] - tokens[second], axis=1)
    value = (distance / np.linalg.norm(tokens, axis=1).mean(axis=0)).mean(axis=0)  # (2, 2, 2)
    span = np.ptp(value) or 1.0
    return [
        {
            "side": side,
            "height": height,
            "depth": depth,
            "value": value[x, y, z],
            "shade": (value[x, y, z] - value.min()) / span,
        }
        for z, height in reversed(list(enumerate(_HEIGHTS)))
        for x, side in reversed(list(enumerate(_SIDES)))
        for y, depth in reversed(list(enumerate(_DEPTHS)))
    ]
