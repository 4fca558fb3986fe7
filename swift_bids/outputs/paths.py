"""Name of a run -> paths of its outputs."""

from __future__ import annotations

from pathlib import Path

from swift_bids.inputs.filenames import entities_in


def output_path(output_dir: str | Path, run_name: str, suffix: str, extension: str) -> Path:
    """Path of an output: the name of the BOLD file with `desc-swift` and another suffix.

    The name keeps every entity of the BOLD file, so two inputs never share an output.
    """
    return run_folder(output_dir, run_name) / f"{run_name}_desc-swift_{suffix}{extension}"


def run_folder(output_dir: str | Path, run_name: str) -> Path:
    """Folder of a run's outputs: the same subfolder as that of its BOLD file in the input."""
    entities = entities_in(run_name)
    folder = Path(output_dir) / f"sub-{entities['sub']}"
    if "ses" in entities:
        folder /= f"ses-{entities['ses']}"
    return folder / "func"


def figure_path(output_dir: str | Path, run_name: str, figure: str) -> Path:
    """Path of a figure of a run: `sub-XX/figures/<run>_desc-<figure>_bold.png`."""
    participant = run_name.split("_")[0]
    return Path(output_dir) / participant / "figures" / f"{run_name}_desc-{figure}_bold.png"
