"""Test whether this installation reproduces a recorded embedding, on this machine and device.

    python -m swift_bids.selftest [--device cuda] [--precision fp16]

The test embeds one chunk with the released architecture and compares the result with the embedding
in `data/selftest.json`. Weights and run are random numbers from numpy's frozen generator.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from importlib import resources

import nibabel as nib
import numpy as np
import torch

from swift_bids import __version__
from swift_bids.api import embed
from swift_bids.base.errors import UsageError
from swift_bids.cli import values as flag_types
from swift_bids.geometry.frames import FSL_AFFINE, FSL_SHAPE
from swift_bids.geometry.grid import template_brain
from swift_bids.network.device import choose_devices
from swift_bids.network.precision import PRECISIONS
from swift_bids.network.released import RELEASED_CONFIG
from swift_bids.network.swift import SwiFT

#: Largest deviation, relative to the largest feature, that rounding can explain.
_TOLERANCE = {"float32": 1e-4, "fp16": 1e-2, "bf16": 5e-2}


def make_network() -> SwiFT:
    """Make the released architecture with weights from a frozen stream of random numbers."""
    network = SwiFT(**RELEASED_CONFIG)
    rng = np.random.RandomState(0)
    state = {
        name: torch.from_numpy(rng.standard_normal(tuple(tensor.shape)).astype(np.float32))
        for name, tensor in sorted(network.state_dict().items())
    }
    for name, tensor in state.items():
        if "norm" in name and name.endswith("weight"):
            tensor.mul_(0.2).add_(1)
        else:
            tensor.mul_(0.2 if tensor.ndim == 1 else tensor.shape[-1] ** -0.5)
    network.load_state_dict(state)
    return network.eval()


def make_run() -> tuple[nib.Nifti1Image, nib.Nifti1Image]:
    """Make BOLD (91, 109, 91, 20) int16 and its mask, on FSL's 2 mm grid."""
    x, y, z = np.meshgrid(*(np.linspace(0, 9, n) for n in FSL_SHAPE), indexing="ij")
    still = 900 + 200 * np.sin(x) * np.cos(1.3 * y) * np.sin(0.7 * z)
    drift = 1 + 0.05 * np.sin(np.arange(20) / 3)
    noise = np.random.RandomState(1).standard_normal((*FSL_SHAPE, 20)).astype(np.float32)
    bold = (still[..., None] * drift + 30 * noise).round().astype(np.int16)
    brain = template_brain().astype(np.uint8)
    return nib.Nifti1Image(bold, FSL_AFFINE), nib.Nifti1Image(brain, FSL_AFFINE)


def measure_deviation(device: str, precision: str) -> float:
    """Return the largest difference from the recorded embedding / its largest feature."""
    recorded = json.loads(resources.files("swift_bids").joinpath("data/selftest.json").read_text())
    network = make_network().to(device)
    result = embed(*make_run(), tr=0.8, weights=network, device=device, precision=precision)
    expected = np.array(recorded["embedding"])
    return float(np.abs(result.embedding - expected).max() / np.abs(expected).max())


def main() -> int:
    """Run the test and return the exit code: 0 as recorded, 1 different, 2 the test cannot run."""
    parser = argparse.ArgumentParser(prog="python -m swift_bids.selftest")
    parser.add_argument("--device", type=flag_types.device, default="auto")
    parser.add_argument("--precision", choices=tuple(PRECISIONS), default="float32")
    args = parser.parse_args()
    begin = time.monotonic()
    try:
        (device, *_), note = choose_devices(args.device)
        deviation = measure_deviation(device, args.precision)
    except UsageError as error:
        print(f"swift-bids: error: {error}", file=sys.stderr)
        return 2
    passed = deviation <= _TOLERANCE[args.precision]
    if note:
        print(note)
    print(
        f"swift_bids {__version__}, torch {torch.__version__}: one chunk on {device} in "
        f"{args.precision}, {time.monotonic() - begin:.1f} s: deviation {deviation:.1e} from the "
        f"recorded embedding: "
        f"{'OK' if passed else 'TOO LARGE: this installation computes wrong embeddings'}"
    )
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
