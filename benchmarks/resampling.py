"""Time the interpolation of other grids at the brain voxels of the FSL 2 mm grid.

    python -m benchmarks.resampling

The app computes the knots of the splines with numpy, and multiplies them with a sparse matrix that
holds the weights of the brain voxels, built once per run. scipy's `map_coordinates` does the same
with its own filter. Times are milliseconds per volume, medians of alternating rounds.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np
from nibabel.affines import apply_affine, from_matvec
from scipy.ndimage import map_coordinates

from swift_bids.geometry.grid import template_brain, voxel_centers
from swift_bids.geometry.splines import spline_knots, spline_weights

GRIDS = {
    "MNI152NLin2009cAsym res-2": (
        (97, 115, 97),
        from_matvec(2 * np.eye(3), [-96.5, -132.5, -78.5]),
    ),
    "1 mm": ((193, 229, 193), from_matvec(np.eye(3), [-96.5, -132.5, -78.5])),
    "3 mm": ((65, 77, 65), from_matvec(3 * np.eye(3), [-96, -132, -78])),
}
ROUNDS = 7


def milliseconds(work: Callable[[], object]) -> float:
    """Time of one call."""
    start = time.perf_counter()
    work()
    return 1000 * (time.perf_counter() - start)


def main() -> None:
    centers = voxel_centers()[np.flatnonzero(template_brain())]
    for name, (shape, affine) in GRIDS.items():
        rng = np.random.default_rng(0)
        volume = np.asfortranarray(rng.random(shape, dtype=np.float32))
        position = apply_affine(np.linalg.inv(affine), centers)
        print(f"{name}, {' x '.join(map(str, shape))}")
        for order, kind in ((3, "cubic"), (1, "linear")):
            weights = spline_weights(shape, position, order)

            def ours(order: int = order, weights=weights, volume=volume) -> np.ndarray:
                knots = spline_knots(volume) if order > 1 else np.ascontiguousarray(volume)
                return weights @ knots.reshape(-1)

            def scipys(order: int = order, volume=volume, position=position) -> np.ndarray:
                return map_coordinates(volume, position.T, np.float32, order)

            difference = np.abs(ours() - scipys()).max()
            rounds = [(milliseconds(ours), milliseconds(scipys)) for _ in range(ROUNDS)]
            own, theirs = (statistics.median(times) for times in zip(*rounds))
            once = milliseconds(lambda o=order, s=shape, p=position: spline_weights(s, p, o))
            print(
                f"  {kind:7} ours {own:6.1f}, scipy {theirs:6.1f}, once per run {once:6.0f} ms; "
                f"largest difference {difference:.1e}"
            )


if __name__ == "__main__":
    main()
