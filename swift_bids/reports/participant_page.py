"""Outputs of one participant -> sub-XX.html, a self-contained HTML file."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from swift_bids import __version__
from swift_bids.base.errors import Problem
from swift_bids.base.files import read_json, write_json, write_text
from swift_bids.outputs.paths import figure_path, find_outputs
from swift_bids.outputs.quality import verdicts_of
from swift_bids.reports.citations import references
from swift_bids.reports.runs_together import (
    differences_between_runs,
    displacement_of,
    index_of_runs,
    mean_tokens_of,
    motion_of_runs,
)

#: Name of the file with a participant's problems, in its log folder of a call.
_PROBLEMS = "problems.json"
#: Number of lines of a crash file that the page shows.
_CRASH_LINES = 60
ENVIRONMENT = Environment(
    loader=PackageLoader("swift_bids", "data"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
ENVIRONMENT.policies["json.dumps_kwargs"] = {"sort_keys": False}


def write_participant_report(
    output_dir: Path, participant: str, problems: Sequence[Problem] = ()
) -> tuple[Path, int]:
    """Write the page of a participant from the files in its output folder.

    Parameters
    ----------
    output_dir
        Root of the derivatives.
    participant
        Label without `sub-`.
    problems
        Everything that failed for this participant in this call.

    Returns
    -------
    page : Path
        `sub-XX.html`.
    n_marked : int
        Number of runs on the page with a warning.
    """
    runs: list[dict[str, Any]] = []
    problems = list(problems)
    for file, name, label in find_outputs(output_dir, "qc", ".json", participant):
        try:
            run = _run_section(output_dir, file, name, label)
            # check that it has everything that the page shows
            _page(participant, [run], [])
            runs.append(run)
        # a file that is damaged, edited or from another version can contain anything
        except Exception as error:
            reason = f"{file} is damaged or from another version ({error!r}); embed the run again"
            problems.append(Problem(participant, name, reason))
    page = output_dir / f"sub-{participant}.html"
    write_text(page, _page(participant, runs, problems))
    return page, sum(run["n_warnings"] > 0 for run in runs)


def _page(participant: str, runs: Sequence[dict[str, Any]], problems: Sequence[Problem]) -> str:
    cited: dict[str, str] = {}
    names = [run["name"] for run in runs]
    thresholds = [run["qc"]["Preprocessing"]["FDThreshold"] for run in runs]
    index = index_of_runs(names)
    labels = {
        names[number - 1]: f"{session} {text}".strip()
        for session, entries in index
        for number, text in entries
    }
    for run in runs:
        cited |= references(run["qc"])
    return ENVIRONMENT.get_template("participant.html.j2").render(
        participant=participant,
        runs=runs,
        index=index,
        labels=labels,
        numbers={name: number for number, name in enumerate(names, 1)},
        motion=motion_of_runs(names, [run["displacement"] for run in runs], thresholds),
        differences=differences_between_runs([run["mean_tokens"] for run in runs]),
        methods=_methods(runs),
        problems=problems,
        network=" and ".join(dict.fromkeys(run["qc"]["Model"]["Name"] for run in runs)) or "SwiFT",
        random_weights=any(run["qc"]["Model"]["RandomWeights"] for run in runs),
        version=__version__,
        references=cited.values(),
        crash_text=_crash_text,
    )


def keep_problems(log_dir: Path, problems: Sequence[Problem]) -> None:
    """Save the problems of a call, for pages that are rebuilt later."""
    kept = [asdict(p) | {"crash_file": p.crash_file and p.crash_file.name} for p in problems]
    write_json(log_dir / _PROBLEMS, {"problems": kept})


def last_problems(output_dir: Path, participant: str) -> list[Problem]:
    """Read the problems that a participant had in the last call."""
    calls = sorted((output_dir / f"sub-{participant}" / "log").glob("*/"))
    file = calls[-1] / _PROBLEMS if calls else None
    if file is None or not file.exists():
        return []
    try:
        kept = read_json(file)["problems"]
        return [
            Problem(**p | {"crash_file": p["crash_file"] and file.with_name(p["crash_file"])})
            for p in kept
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = f"{file} cannot be read ({error!r}), so the failures of that call are unknown"
        return [Problem(participant, f"sub-{participant}", reason)]


def _crash_text(problem: Problem) -> str:
    """The last lines of a crash file, which contain the error."""
    if problem.crash_file is None or not problem.crash_file.exists():
        return ""
    lines = problem.crash_file.read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join(lines[-_CRASH_LINES:])


def _methods(runs: Sequence[dict[str, Any]]) -> list[tuple[dict[str, Any], list[str]]]:
    """Group runs by settings, weights and version: (qc of one run, names of all) per group."""
    run_keys = (
        "Space",
        "SpaceNote",
        "ResampledToFSL2mm",
        "SpatialInterpolation",
        "DummyScansRemoved",
        "ModelRepetitionTime",
        "TemporalInterpolation",
    )
    groups: dict[str, tuple[dict[str, Any], list[str]]] = {}
    for run in runs:
        qc = run["qc"]
        settings = {k: v for k, v in qc["Preprocessing"].items() if k not in run_keys}
        key = json.dumps([settings, qc["Model"], qc["GeneratedBy"]], sort_keys=True)
        groups.setdefault(key, (qc, []))[1].append(run["name"])
    return list(groups.values())


def _run_section(output_dir: Path, qc_file: Path, name: str, label: str) -> dict[str, Any]:
    qc = read_json(qc_file)
    figures = {
        figure: base64.b64encode(path.read_bytes()).decode()
        for figure in ("input", "carpetplot", "chunks")
        if (path := figure_path(output_dir, name, figure)).exists()
    }
    verdicts = verdicts_of(qc)
    return {
        "name": name,
        "qc": qc,
        "figures": figures,
        "displacement": displacement_of(output_dir, name),
        "mean_tokens": mean_tokens_of(output_dir, name, label),
        "verdicts": verdicts,
        "n_warnings": sum(not good for good, _ in verdicts),
        "files": [
            str(file.relative_to(output_dir))
            for desc in (label, "volumes")
            for file in sorted(qc_file.parent.glob(f"{name}_desc-{desc}_*"))
            if file.suffix != ".json"
        ],
    }
