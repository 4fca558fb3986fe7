"""Time three methods of linear interpolation from another grid to the FSL 2 mm grid.

    python -m benchmarks.resampling

The methods are the app's (a sparse matrix with the weights of the brain voxels, built once per
run), scipy's affine_transform through nibabel, and three products with the weights of one axis
each, which only work for grids without rotation. Times are milliseconds per volume, medians of
alternating rounds.
"""

from __future__ import annotations

import statistics
import time

import numpy as np
from nibabel.affines import from_matvec

from swift_bids.geometry.frames import FSL_AFFINE, FSL_SHAPE
from swift_bids.geometry.grid import interpolation_weights, template_brain, to_fsl_grid

GRIDS = {
    "MNI152NLin2009cAsym res-2": (
        (97, 115, 97),
        from_matvec(2 * np.eye(3), [-96.5, -132.5, -78.5]),
    ),
    "1 mm": ((193, 229, 193), from_matvec(np.eye(3), [-96.5, -132.5, -78.5])),
    "3 mm": ((65, 77, 65), from_matvec(3 * np.eye(3), [-96, -132, -78])),
}
ROUNDS = 7


def weights_of_axis(size: int, positions: np.ndarray) -> np.ndarray:
    """Dense float32 (position, voxel) weights of linear interpolation along one axis."""
    low = np.clip(np.floor(positions), 0, size - 2).astype(int)
    weights = np.zeros((len(positions), size), dtype=np.float32)
    rows = np.arange(len(positions))
    weights[rows, low], weights[rows, low + 1] = 1 - (positions - low), positions - low
    weights[(positions < 0) | (positions > size - 1)] = 0
    return weights


def separable(volume: np.ndarray, axes: list[np.ndarray]) -> np.ndarray:
    for weights in axes:  # each product moves its axis to the end
        volume = np.tensordot(volume, weights, axes=(0, 1))
    return volume


def milliseconds(work) -> float:
    start = time.perf_counter()
    work()
    return 1000 * (time.perf_counter() - start)


def main() -> None:
    fsl = np.flatnonzero(template_brain())
    print(f"{'ms per volume':28} sparse  affine_transform  separable  largest difference")
    for name, (shape, affine) in GRIDS.items():
        volume = np.random.default_rng(0).random(shape, dtype=np.float32)
        flat = volume.reshape(-1, order="F")
        matrix = interpolation_weights(shape, affine, fsl)
        to_storage = np.linalg.inv(affine) @ FSL_AFFINE
        axes = [
            weights_of_axis(n, to_storage[i, i] * np.arange(m) + to_storage[i, 3])
            for i, (n, m) in enumerate(zip(shape, FSL_SHAPE))
        ]
        methods = (
            lambda m=matrix, v=flat: m @ v,
            lambda v=volume, a=affine: to_fsl_grid(v, a, order=1).reshape(-1)[fsl],
            lambda v=volume, w=axes: separable(v, w).reshape(-1)[fsl],
        )
        results = [method() for method in methods]
        times = zip(*([milliseconds(method) for method in methods] for _ in range(ROUNDS)))
        sparse, scipys, products = (statistics.median(rounds) for rounds in times)
        difference = max(np.abs(r - results[0]).max() for r in results[1:])
        print(f"{name:28} {sparse:6.1f}  {scipys:16.1f}  {products:9.1f}  {difference:18.1e}")
        once = milliseconds(lambda s=shape, a=affine: interpolation_weights(s, a, fsl))
        print(f"{'  plus, once per run':28} {once:6.1f}")


if __name__ == "__main__":
    main()
