"""Where the outputs of a run go."""

from __future__ import annotations

from pathlib import Path

from swift_bids.inputs.filenames import entities_in


def output_path(output_dir: str | Path, run_name: str, suffix: str, extension: str) -> Path:
    """Where an output of a run goes: the source's name with `desc-swift` and another suffix.

    Every entity of the source stays in the name, so no two inputs can share an output.
    """
    return run_folder(output_dir, run_name) / f"{run_name}_desc-swift_{suffix}{extension}"


def run_folder(output_dir: str | Path, run_name: str) -> Path:
    """Where the outputs of a run go, beside the place of its BOLD file in the input."""
    entities = entities_in(run_name)
    folder = Path(output_dir) / f"sub-{entities['sub']}"
    if "ses" in entities:
        folder /= f"ses-{entities['ses']}"
    return folder / "func"


def figure_path(output_dir: str | Path, run_name: str, figure: str) -> Path:
    """Where a figure of a run goes: `sub-XX/figures/<run>_desc-<figure>_bold.png`."""
    participant = run_name.split("_")[0]
    return Path(output_dir) / participant / "figures" / f"{run_name}_desc-{figure}_bold.png"
