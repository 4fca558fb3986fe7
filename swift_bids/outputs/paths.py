"""Name of a run -> paths of its outputs."""

from __future__ import annotations

from pathlib import Path

from swift_bids.base.backbones import NETWORKS
from swift_bids.inputs.filenames import entities_in


def output_path(
    output_dir: str | Path, run_name: str, label: str, suffix: str, extension: str
) -> Path:
    """Path of an output: the name of the BOLD file with `desc-<label of the network>` and another
    suffix.

    The name keeps every entity of the BOLD file, so two inputs never share an output.
    """
    return run_folder(output_dir, run_name) / f"{run_name}_desc-{label}_{suffix}{extension}"


def find_outputs(
    output_dir: Path, suffix: str, extension: str, participant: str = "*"
) -> list[tuple[Path, str, str]]:
    """Find the outputs of a kind, of one participant or of all: (file, name of the run, label of
    the network)."""
    found = []
    for label in NETWORKS:
        end = f"_desc-{label}_{suffix}{extension}"
        files = output_dir.glob(f"sub-{participant}/**/*{end}")
        found += [(file, file.name.removesuffix(end), label) for file in files]
    return sorted(found)


def run_folder(output_dir: str | Path, run_name: str) -> Path:
    """Folder of a run's outputs: the same subfolder as that of its BOLD file in the input."""
    entities = entities_in(run_name)
    folder = Path(output_dir) / f"sub-{entities['sub']}"
    if "ses" in entities:
        folder /= f"ses-{entities['ses']}"
    return folder / "func"


def fine_tuned_folder(output_dir: Path, name: str) -> Path:
    """Folder of a network that `swift-bids finetune` trained."""
    return output_dir / "finetuned" / name


def figure_path(output_dir: str | Path, run_name: str, figure: str) -> Path:
    """Path of a figure of a run: `sub-XX/figures/<run>_desc-<figure>_bold.png`."""
    participant = run_name.split("_")[0]
    return Path(output_dir) / participant / "figures" / f"{run_name}_desc-{figure}_bold.png"
