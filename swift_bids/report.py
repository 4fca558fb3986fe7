"""Outputs of one participant -> sub-XX.html, a page without any file or network beside it."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from swift_bids import __version__
from swift_bids.errors import Problem
from swift_bids.outputs import figure_path, write_text

_ENVIRONMENT = Environment(
    loader=PackageLoader("swift_bids", "data"),
    autoescape=select_autoescape(default=True),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
#: Sampling of the training data: HCP 0.72 s, UK Biobank 0.735 s, ABCD 0.8 s.
_TRAINING_TR = (0.72, 0.8)


def write_participant_report(
    output_dir: Path, participant: str, problems: Sequence[Problem] = ()
) -> Path:
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
    Path
        `sub-XX.html`.
    """
    runs = [
        _run_section(output_dir, file)
        for file in sorted((output_dir / f"sub-{participant}").rglob("*_desc-swift_qc.json"))
    ]
    page = output_dir / f"sub-{participant}.html"
    html = _ENVIRONMENT.get_template("participant.html.j2").render(
        participant=participant,
        runs=runs,
        problems=problems,
        random_weights=any(run["qc"]["Model"]["RandomWeights"] for run in runs),
        version=__version__,
    )
    write_text(page, html)
    return page


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


def verdicts_of(qc: Mapping[str, Any]) -> list[tuple[bool, str]]:
    """What the quality figures of a run mean, in plain words.

    Parameters
    ----------
    qc
        Content of the run's `qc.json`.

    Returns
    -------
    list of (good, sentence)
        `good` is False where the user should look or act.
    """
    coverage, chunks = qc["Coverage"], qc["Chunks"]
    motion, volumes = qc["Motion"], qc["Volumes"]
    preprocessing, tr = qc["Preprocessing"], qc["RepetitionTime"]
    share, extent = coverage["template_share"], coverage["extent_mm"]
    verdicts = []
    if min(extent[0] / 130, extent[1] / 160, extent[2] / 120) < 0.6:
        verdicts.append(
            (
                False,
                f"Covers only a slab of the brain: {extent[0]} mm from left to right, {extent[1]} "
                f"mm from back to front and {extent[2]} mm from bottom to top, {share:.0%} of the "
                f"template's brain. The network was trained on whole brains; do not compare this "
                f"embedding with those of whole-brain runs.",
            )
        )
    else:
        verdicts.append(
            (
                share >= 0.85,
                f"The brain mask covers {share:.0%} of the template's brain (Dice overlap "
                f"{coverage['dice']:.2f})"
                + ("." if share >= 0.85 else "; look for signal loss or a failed registration."),
            )
        )
    lost = coverage["n_outside"] / (coverage["n_outside"] + coverage["n_voxels"])
    verdicts.append(
        (
            lost <= 0.001,
            f"{coverage['n_outside']:,} brain voxels ({lost:.2%}) lie outside the network's input"
            + ("." if lost <= 0.001 else "; check the normalisation to MNI space."),
        )
    )
    fitting = _TRAINING_TR[0] - 0.01 <= tr <= _TRAINING_TR[1] + 0.1
    verdicts.append(
        (
            fitting,
            f"TR {tr:g} s"
            + (
                ", as in the training data (0.72 to 0.8 s)."
                if fitting
                else "; the network was trained at 0.72 to 0.8 s, so that a chunk of 20 volumes "
                f"spans {20 * tr:g} s here instead of 14 to 16 s."
            ),
        )
    )
    if preprocessing["ResampledToFSL2mm"]:
        verdicts.append((True, "Resampled (linear) to the FSL 2 mm grid, which the network reads."))
    if preprocessing["Space"] != "MNI152NLin6Asym":
        verdicts.append(
            (
                False,
                f"In the space {preprocessing['Space']}, the training data were in "
                f"MNI152NLin6Asym; the templates differ by some mm.",
            )
        )
    if motion["mean_fd"] is None:
        verdicts.append((False, "Head motion is unknown: no framewise displacement was found."))
    else:
        calm = motion["mean_fd"] <= 0.25 and motion["censored"] <= 0.2
        verdicts.append(
            (
                calm,
                f"Mean framewise displacement {motion['mean_fd']:.2f} mm, "
                f"{motion['censored']:.0%} of the volumes above {preprocessing['FDThreshold']:g} mm"
                + ("." if calm else "; embeddings of moving heads carry the motion with them."),
            )
        )
    verdicts.append(
        (
            chunks["included"] == chunks["total"],
            f"{chunks['included']} of {chunks['total']} chunks enter the embedding; "
            f"{volumes['used']} of {volumes['total']} volumes used, {volumes['dummy']} dummy scans "
            f"and {volumes['dropped_tail']} volumes at the end left out.",
        )
    )
    odd = qc["Normalised"]["n_nonfinite"]
    if odd:
        verdicts.append((False, f"{odd:,} values were NaN or infinite; they count as background."))
    return verdicts + [(False, w[0].upper() + w[1:] + ".") for w in qc["Warnings"]]
