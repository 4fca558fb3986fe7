"""Where the brain voxels of the network are in a BOLD file -> their values in each volume."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import nibabel as nib
import numpy as np

from swift_bids.geometry.splines import spline_knots, spline_weights
from swift_bids.inputs.bold_reader import scaling, stored_volumes, volume_rows
from swift_bids.steps.slice_timing import corrected_blocks

#: How many voxels around the brain decide on the splines in it; others change them by 1e-6 at most.
_REACH = 12
#: Order of the splines for each choice of `--interpolation`.
SPLINE_ORDER = {"cubic": 3, "linear": 1}


@dataclass(frozen=True)
class BoldPoints:
    """Where the brain voxels of the network's grid are in a run that the app resamples.

    The defaults are those of a run whose volumes are aligned and not distorted.

    Attributes
    ----------
    position
        float64 (brain voxel, 3): voxels of the BOLD reference, in the order of
        `swift_bids.geometry.grid.BrainVoxels`.
    order
        Order of the splines: 1 or 3.
    head_motion
        float64 (volume, 4, 4): voxels of the BOLD reference to voxels of each volume; None if the
        volumes are aligned.
    axis, shift
        Phase-encoding axis, and float64 (brain voxel,) shift along it in voxels.
    gain
        float64 (brain voxel,): what to multiply the interpolated values with.
    slice_shifts
        float64 (slice,): as in `swift_bids.inputs.transforms.Transforms`.
    """

    position: np.ndarray
    order: int = 3
    head_motion: np.ndarray | None = None
    axis: int = 0
    shift: np.ndarray | float = 0.0
    gain: np.ndarray | float = 1.0
    slice_shifts: np.ndarray = field(default_factory=lambda: np.zeros(0))

    def save(self, file: str | Path) -> None:
        """Write an `.npz` file."""
        np.savez(file, **{name: value for name, value in vars(self).items() if value is not None})

    @classmethod
    def load(cls, file: str | Path) -> BoldPoints:
        """Read what `save` wrote."""
        with np.load(file) as content:
            return cls(**{name: content[name][()] for name in content.files})

    @contextmanager
    def rows(
        self, bold: nib.Nifti1Image, bold_file: str | Path, first_volume: int, folder: Path
    ) -> Iterator[Iterator[np.ndarray]]:
        """Yield an iterator over the brain voxels of the run, float32 (volume, brain voxel) blocks.

        Values are interpolated by splines; outside the field of view they are 0.

        Parameters
        ----------
        bold, bold_file
            The run opened by `swift_bids.inputs.bold_reader.open_bold`, and its name for
            messages.
        first_volume, folder
            Number of dummy scans, and a folder for a temporary file, if slice timing is corrected.
        """
        shape = bold.shape[:3]
        with ExitStack() as stack:
            if len(self.slice_shifts):
                scaled: Callable[[np.ndarray], np.ndarray] = np.asarray
                blocks = stack.enter_context(
                    corrected_blocks(bold, bold_file, self.slice_shifts, first_volume, folder)
                )
            else:
                scaled, blocks = scaling(bold), stored_volumes(bold, bold_file)

            values_at = self._aligned(shape) if self.head_motion is None else self._moving()

            def values_of(number: int, volume: np.ndarray) -> np.ndarray:
                return values_at(number, scaled(volume).reshape(shape, order="F"))

            yield volume_rows(blocks, len(self.position), values_of)

    def _aligned(self, shape: tuple[int, ...]) -> Callable[[int, np.ndarray], np.ndarray]:
        """Interpolate aligned volumes, with weights that are the same in all of them.

        As in a run that is not interpolated, there is no signal (0) where the volume has none, and
        none is known (NaN) next to a value that is not finite.
        """
        low, high = self.position.min(axis=0), self.position.max(axis=0)
        start = np.maximum(np.floor(low) - _REACH, 0).astype(int)
        stop = np.minimum(np.ceil(high) + _REACH + 1, shape).astype(int)
        box = tuple(map(slice, start, stop))
        shape, position = tuple(stop - start), self.position - start
        nearest = spline_weights(shape, position, order=1)
        weights = nearest if self.order == 1 else spline_weights(shape, position, self.order)

        def values_at(_: int, volume: np.ndarray) -> np.ndarray:
            volume = volume[box]
            finite = np.isfinite(volume)
            known = volume if finite.all() else np.where(finite, volume, 0)
            knots = known if self.order == 1 else spline_knots(known)
            values = weights @ knots.reshape(-1).astype(np.float32, copy=False)
            if self.order > 1:
                values[nearest @ (known != 0).reshape(-1).astype(np.float32) == 0] = 0
            if known is not volume:
                values[nearest @ (~finite).reshape(-1).astype(np.float32) > 0] = np.nan
            return values

        return values_at

    def _moving(self) -> Callable[[int, np.ndarray], np.ndarray]:
        """Interpolate volumes in each of which the head is at another place."""
        from scipy.ndimage import map_coordinates, spline_filter

        def values_at(number: int, volume: np.ndarray) -> np.ndarray:
            knots = np.nan_to_num(volume, posinf=0, neginf=0)
            if self.order > 1:
                knots = spline_filter(knots, self.order)
            position = self.in_volume(number)
            values = map_coordinates(knots, position, np.float64, self.order, prefilter=False)
            return values * self.gain

        return values_at

    def in_volume(self, number: int) -> np.ndarray:
        """Voxel coordinates (3, brain voxel) in a volume of a run with head motion."""
        motion = np.asarray(self.head_motion)[number]
        position = nib.affines.apply_affine(motion, self.position).T
        position[self.axis] += self.shift
        return position
