"""ITK's transform files (text and HDF5) -> affines and displacement fields that map points in mm.

ITK writes points and vectors in LPS+; everything here is in RAS+, as in nibabel. A transform that
moves an image from A to B maps points the other way, from B to A.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

from swift_bids.base.errors import InputError

#: Changes the sign of x and y.
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
#: Points closer than this to a grid point of a displacement field, in voxels, are on it.
_ON_GRID = 1e-3
#: Memory for the chunks of an HDF5 file: ITK may store a field as one compressed chunk (87 MB).
_CACHE_BYTES = 256_000_000
_FETCH_AGAIN = "fetch it or create it again"


def read_affines(file: str | Path) -> np.ndarray:
    """Read the affines of an ITK text file (`.txt`, `.tfm`).

    Returns
    -------
    numpy.ndarray
        (transform, 4, 4), points in mm to points in mm.

    Raises
    ------
    InputError
        The file cannot be read, contains no transform or one that is not affine.
    """
    try:
        text = Path(file).read_text()
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: cannot be read ({error}); {_FETCH_AGAIN}") from error
    if not text.startswith("#Insight Transform File"):
        raise InputError(f"{file}: is not a transform file of ITK; {_FETCH_AGAIN}")
    affines = []
    for part in re.split(r"^#Transform \d+.*$", text, flags=re.MULTILINE)[1:]:
        fields = dict(re.findall(r"^(\w+):\s*(.*?)\s*$", part, flags=re.MULTILINE))
        try:
            parameters = np.array(fields["Parameters"].split(), dtype=np.float64)
            center = np.array(fields["FixedParameters"].split(), dtype=np.float64)
            affines.append(_affine(parameters, center))
        except (KeyError, ValueError) as error:
            kind = fields.get("Transform", "no kind")
            raise InputError(
                f"{file}: transform {len(affines)} ({kind}) is not affine or incomplete; "
                f"{_FETCH_AGAIN}"
            ) from error
    if not affines:
        raise InputError(f"{file}: contains no transform; {_FETCH_AGAIN}")
    return np.stack(affines)


def _affine(parameters: np.ndarray, center: np.ndarray) -> np.ndarray:
    """ITK's twelve parameters and centre of rotation -> (4, 4) in RAS+.

    y = M (x - c) + c + t; the parameters are the rows of M, then t.
    """
    matrix, translation = parameters[:9].reshape(3, 3), parameters[9:]
    if len(parameters) != 12 or len(center) != 3 or not np.isfinite(parameters).all():
        raise ValueError("not an affine of three dimensions")
    lps = nib.affines.from_matvec(matrix, translation + center - matrix @ center)
    return _LPS_TO_RAS @ lps @ _LPS_TO_RAS


@dataclass(frozen=True)
class DisplacementField:
    """A displacement in mm at each point of a grid; outside the grid it is 0.

    Attributes
    ----------
    file, dataset
        HDF5 file, and the name of its flat dataset: the vector varies fastest, then x, y, z.
    shape, affine
        Grid, and its voxel-to-world affine in mm.
    """

    file: str
    dataset: str
    shape: tuple[int, int, int]
    affine: np.ndarray

    def apply(self, points: np.ndarray, order: int) -> np.ndarray:
        """Move points (point, 3).

        Parameters
        ----------
        order
            Spline order between grid points: 3 as nitransforms, 1 as ANTs. A field whose grid
            contains all the points is only looked up: the voxel centres of the 2 mm template lie on
            the 1 mm grid of fMRIPrep's fields.
        """
        position = nib.affines.apply_affine(np.linalg.inv(self.affine), points)
        nearest = np.rint(position).astype(np.int64)
        if (np.abs(position - nearest) < _ON_GRID).all():
            return points + self._look_up(nearest)
        moved = self._interpolate(position, order)
        return np.where(np.isnan(moved), points, moved)

    def _look_up(self, index: np.ndarray) -> np.ndarray:
        """Displacements at grid points; reads one slice at a time, to need little memory."""
        displacements = np.zeros((len(index), 3))
        inside = ((index >= 0) & (index < self.shape)).all(axis=1)
        order = np.flatnonzero(inside)
        order = order[np.argsort(index[order, 2], kind="stable")]
        slices, starts = np.unique(index[order, 2], return_index=True)
        n_slice = 3 * self.shape[0] * self.shape[1]
        with _open(self.file) as content:
            values = content[self.dataset]
            for k, points in zip(slices, np.split(order, starts[1:])):
                plane = values[k * n_slice : (k + 1) * n_slice].reshape((*self.shape[1::-1], 3))
                displacements[points] = plane[index[points, 1], index[points, 0]]
        return displacements * (-1, -1, 1)

    def _interpolate(self, position: np.ndarray, order: int) -> np.ndarray:
        """Moved points, NaN outside the grid.

        Splines mirror their values at the edges of the grid. nitransforms interpolates the moved
        coordinates, not the displacements, which makes a difference there.
        """
        from scipy.ndimage import map_coordinates

        with _open(self.file) as content:
            field = content[self.dataset][:].reshape(*self.shape[::-1], 3)
        components = []
        for axis, sign in enumerate((-1, -1, 1)):  # one at a time, to need little memory
            offset, *steps = self.affine[axis, [3, 2, 1, 0]]
            z, y, x = (
                step * np.arange(size) for step, size in zip(steps, self.shape[::-1], strict=True)
            )
            moved = z[:, None, None] + y[:, None] + x + offset
            moved += sign * field[..., axis]
            components.append(map_coordinates(moved, position.T[::-1], order=order, cval=np.nan))
        return np.stack(components, axis=1)


@dataclass(frozen=True)
class CompositeTransform:
    """The transforms of an HDF5 file, in the order in which they apply to points."""

    parts: tuple[np.ndarray | DisplacementField, ...]

    def apply(self, points: np.ndarray, order: int = 3) -> np.ndarray:
        """Map points (point, 3) in mm; `order` as for `DisplacementField.apply`."""
        for part in self.parts:
            if isinstance(part, DisplacementField):
                points = part.apply(points, order)
            else:
                points = nib.affines.apply_affine(part, points)
        return points


def read_composite(file: str | Path) -> CompositeTransform:
    """Read the composite transform of an ITK HDF5 file (`.h5`), without its displacements.

    Raises
    ------
    InputError
        The file cannot be read, or contains something else than affines and displacement fields.
    """
    parts: list[np.ndarray | DisplacementField] = []
    try:
        with _open(str(file)) as content:
            groups = content["TransformGroup"]
            for number in sorted(groups, key=int):
                group = groups[number]
                kind = group["TransformType"][0].decode()
                if kind.startswith("CompositeTransform"):
                    continue
                # older versions of ITK misspell the names
                name = "TransformParameters" if "TransformParameters" in group else ""
                name = name or "TranformParameters"
                fixed = np.array(group[name.replace("Parameters", "FixedParameters")])
                if kind.startswith("DisplacementFieldTransform"):
                    parts.append(_field(str(file), f"{group.name}/{name}", fixed, group[name].size))
                elif kind.startswith(("AffineTransform", "MatrixOffsetTransform")):
                    parts.append(_affine(np.array(group[name], dtype=np.float64), fixed))
                else:
                    raise ValueError(f"it contains a {kind}")
    except (OSError, KeyError, ValueError) as error:
        raise InputError(
            f"{file}: cannot be read as a composite transform of ITK ({error}); {_FETCH_AGAIN}"
        ) from error
    return CompositeTransform(tuple(reversed(parts)))  # ITK applies the last one first


def _field(file: str, dataset: str, fixed: np.ndarray, n_values: int) -> DisplacementField:
    """ITK's fixed parameters (size, origin, spacing, direction) -> the grid of a field."""
    i, j, k = (int(n) for n in fixed[:3])
    if len(fixed) != 18 or n_values != 3 * i * j * k:
        raise ValueError("its displacement field does not have the size of its grid")
    lps = nib.affines.from_matvec(fixed[9:].reshape(3, 3) * fixed[6:9], fixed[3:6])
    return DisplacementField(file, dataset, (i, j, k), _LPS_TO_RAS @ lps)


def _open(file: str):  # type: ignore[no-untyped-def] # h5py, slow to import and rarely needed
    import h5py

    return h5py.File(file, "r", rdcc_nbytes=_CACHE_BYTES)
