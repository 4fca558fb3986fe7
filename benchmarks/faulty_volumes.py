"""How often clean runs are said to have faulty volumes, and how far one bright volume moves tokens.

    python -m benchmarks.faulty_volumes [BOLD ...]

Each BOLD is a preprocessed run that is known to be clean, on the FSL 2 mm grid, with its brain mask
beside it. The app looks at it as a whole, and at all of its windows of 40 volumes. The made runs
have a drift, autocorrelated fluctuations that all voxels share (as of breathing), blocks of a task,
and noise.
"""

from __future__ import annotations

import argparse
import importlib.util
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np

from swift_bids.api import embed
from swift_bids.geometry.frames import FRAMES
from swift_bids.inputs.bold_reader import brain_rows, open_bold
from swift_bids.inputs.mask import load_image, mask_voxels
from swift_bids.network.bundles import write_random_bundle
from swift_bids.steps.read_run import Gaps
from swift_bids.steps.volume_faults import FAULTS
from swift_bids.steps.volume_signals import Volumes, VolumeSignals

RECIPE = Path(__file__).resolve().parent.parent / "tests" / "data" / "parity" / "recipe.py"
N_RUNS, N_VOXELS, WINDOW = 500, 2000, 40


def made_run(rng: np.random.Generator) -> np.ndarray:
    """Float32 (volume, voxel) without faults."""
    n_volumes = int(rng.integers(40, 600))
    shared = rng.standard_normal(n_volumes)
    for volume in range(1, n_volumes):
        shared[volume] += 0.8 * shared[volume - 1]
    times = np.arange(n_volumes)
    drift = rng.uniform(-0.05, 0.05) * times / n_volumes
    drift += 0.01 * np.sin(2 * np.pi * times / rng.uniform(100, 400) + rng.uniform(0, 6))
    blocks = 0.02 * (times // 20 % 2) * (rng.random(N_VOXELS)[:, None] < 0.2)
    anatomy = rng.uniform(300, 1500, N_VOXELS)
    signal = 1 + drift + rng.uniform(0.001, 0.005) * shared / shared.std() + blocks
    noise = rng.uniform(0.01, 0.05) * rng.standard_normal((N_VOXELS, n_volumes))
    return (anatomy[:, None] * (signal + noise)).T.astype(np.float32)


def volumes_of(values: np.ndarray, fsl_index: np.ndarray) -> Volumes:
    """What the app finds in the volumes of a run."""
    signals = VolumeSignals(fsl_index, len(values), 0)
    signals.add(values)
    return signals.finish()


def found_in(volumes: Volumes) -> list[str]:
    """Names of the faults of a run."""
    names = [FAULTS[code - 1] for code in np.unique(volumes.faults.codes[volumes.faults.any])]
    names += ["step"] * (len(volumes.faults.steps) > 0)
    return names + ["dummy scans"] * (volumes.n_unsteady > 1)


def report(what: str, runs: list[Volumes]) -> None:
    counts = Counter(name for run in runs for name in found_in(run))
    faults = ", ".join(f"{name} {n / len(runs):.1%}" for name, n in counts.items()) or "none"
    deviations = [np.nanmax(np.abs(run.faults.deviations)) for run in runs]
    print(f"{what}: {faults}; largest deviation of a volume {max(deviations):.1%}")


def read(bold: str) -> tuple[np.ndarray, np.ndarray]:
    """Brain voxels of a run on the FSL 2 mm grid, (volume, voxel), and their positions."""
    mask = bold.replace("desc-preproc_bold", "desc-brain_mask")
    index = mask_voxels(load_image(mask), mask, FRAMES["ukb"]).fsl_index
    with open_bold(bold) as image:
        return np.concatenate([*Gaps().mark(brain_rows(image, bold, index), 0)]), index


def bright_volume() -> None:
    """Print how far one bright volume moves the tokens of a made run of 40 volumes."""
    spec = importlib.util.spec_from_file_location("recipe", RECIPE)
    recipe = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(recipe)
    data, brain, affine = recipe.make_bold(40, 5)
    with tempfile.TemporaryDirectory() as folder:
        weights = write_random_bundle(Path(folder))

        def tokens(values: np.ndarray, robust: bool = False) -> np.ndarray:
            options = {"tr": 0.72, "affine": affine, "weights": weights, "random_weights": True}
            done = embed(values, brain, robust_normalisation=robust, **options)
            return done.tokens

        clean = tokens(data.astype(np.float32))
        for factor in (1.03, 1.05, 1.1, 1.2, 1.5, 3):
            changed = data.astype(np.float32)
            changed[..., 11] *= factor
            moved = [
                np.sqrt(np.mean((tokens(changed, robust) - clean) ** 2, axis=(1, 2, 3, 4, 5)))
                / np.sqrt(np.mean(clean**2))
                for robust in (False, True)
            ]
            own, other = (f"{a:.2%} (robust {b:.2%})" for a, b in zip(*moved))
            print(f"one volume at {factor:.0%}: its chunk moves by {own}, the other by {other}")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.faulty_volumes",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("bold", nargs="*")
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    report(
        f"{N_RUNS} made runs of 40 to 600 volumes",
        [volumes_of(made_run(rng), np.arange(N_VOXELS)) for _ in range(N_RUNS)],
    )
    for bold in args.bold:
        values, index = read(bold)
        name = Path(bold).name
        report(f"{name}, {len(values)} volumes", [volumes_of(values, index)])
        windows = [values[start:][:WINDOW] for start in range(len(values) - WINDOW + 1)]
        what = f"{name}, {len(windows)} windows of {WINDOW} volumes"
        report(what, [volumes_of(window, index) for window in windows])
    bright_volume()


if __name__ == "__main__":
    main()
