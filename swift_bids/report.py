"""Outputs of one participant -> sub-XX.html, a page without any file or network beside it."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from swift_bids import __version__
from swift_bids.errors import Problem
from swift_bids.outputs import figure_path, write_text
from swift_bids.quality import verdicts_of

_ENVIRONMENT = Environment(
    loader=PackageLoader("swift_bids", "data"),
    autoescape=select_autoescape(default=True),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def write_participant_report(
    output_dir: Path, participant: str, problems: Sequence[Problem] = ()
) -> tuple[Path, int]:
    """Write the page of a participant from what lies in its output folder.

    Parameters
    ----------
    output_dir
        Root of the derivatives.
    participant
        Label without `sub-`.
    problems
        What could not be done for this participant in this call.

    Returns
    -------
    page : Path
        `sub-XX.html`.
    n_marked : int
        Runs on it with something to look at.
    """
    runs, problems = [], list(problems)
    for file in sorted((output_dir / f"sub-{participant}").rglob("*_desc-swift_qc.json")):
        try:
            runs.append(_run_section(output_dir, file))
        except (ValueError, KeyError) as error:  # half-copied, or written by another version
            reason = f"{file} is not what this version writes ({error!r}); embed the run again"
            problems.append(Problem(participant, file.name.split("_desc-")[0], reason))
    page = output_dir / f"sub-{participant}.html"
    html = _ENVIRONMENT.get_template("participant.html.j2").render(
        participant=participant,
        runs=runs,
        methods=_methods(runs),
        problems=problems,
        random_weights=any(run["qc"]["Model"]["RandomWeights"] for run in runs),
        version=__version__,
    )
    write_text(page, html)
    return page, sum(run["n_warnings"] > 0 for run in runs)


def _methods(runs: Sequence[dict[str, Any]]) -> list[tuple[dict[str, Any], list[str]]]:
    """Settings and weights that differ between runs: (qc of one run, names of all of them)."""
    of_run = (
        "Space",
        "SpaceNote",
        "ResampledToFSL2mm",
        "SpatialInterpolation",
        "DummyScansRemoved",
    )
    of_run += ("ModelRepetitionTime", "TemporalInterpolation")
    ways: dict[str, tuple[dict[str, Any], list[str]]] = {}
    for run in runs:
        qc = run["qc"]
        settings = {k: v for k, v in qc["Preprocessing"].items() if k not in of_run}
        key = json.dumps([settings, qc["Model"], qc["GeneratedBy"]], sort_keys=True)
        ways.setdefault(key, (qc, []))[1].append(run["name"])
    return list(ways.values())


def _run_section(output_dir: Path, qc_file: Path) -> dict[str, Any]:
    qc = json.loads(qc_file.read_text(encoding="utf-8"))
    name = qc_file.name.removesuffix("_desc-swift_qc.json")
    figures = {
        figure: base64.b64encode(path.read_bytes()).decode()
        for figure in ("input", "motion", "chunks")
        if (path := figure_path(output_dir, name, figure)).exists()
    }
    verdicts = verdicts_of(qc)
    return {
        "name": name,
        "qc": qc,
        "figures": figures,
        "verdicts": verdicts,
        "n_warnings": sum(not good for good, _ in verdicts),
        "files": [
            str(file.relative_to(output_dir))
            for file in sorted(qc_file.parent.glob(f"{name}_desc-swift_*"))
            if not file.name.startswith(".") and file.suffix != ".json"
        ],
    }
