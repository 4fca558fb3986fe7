"""Make other_grids.npz: what fMRIPrep's own resampler makes of one volume of `plain` on other grids.

    python other_grids.py

Needs the environment of make.py. For each grid, the file holds the middle of the volume with its
affine; and for the FSL 2 mm grid, voxel centres in mm and the values there.
"""

from pathlib import Path

import nibabel as nib
import numpy as np
from fmriprep.interfaces.resampling import resample_image
from fmriprep.utils.transforms import load_transforms

HERE = Path(__file__).resolve().parent
VOLUME, CENTER, HALF_WIDTH = 5, np.array([0.0, -18, 10]), 12
#: Voxels around the centres in question, which decide on the splines there.
MARGIN = 8
#: Name -> size of the voxels in mm, a point of the grid.
GRIDS = {
    "half a voxel off": (2.0, (-96.5, -132.5, -78.5)),
    "1 mm": (1.0, (-96.5, -132.5, -78.5)),
    "2.5 mm": (2.5, (-90, -126, -72)),
    "3 mm": (3.0, (-90, -126, -72)),
}


def main() -> None:
    tree = HERE / "plain"
    (motion,) = tree.glob("minimal/**/*_from-orig_to-boldref_*.txt")
    (coregistration,) = tree.glob("minimal/**/*_from-boldref_to-T1w_*.txt")
    (template,) = tree.glob("minimal/**/*_to-MNI152NLin6Asym_*.h5")
    (bold,) = tree.glob("raw/**/*_bold.nii.gz")
    raw, chain = nib.load(bold), load_transforms([motion, coregistration, template], [False])

    def resampled(shape, affine):
        target = nib.Nifti1Image(np.zeros(shape, "u1"), affine)
        image = resample_image(raw, target, chain, None, None, jacobian=False)
        return np.asarray(image.dataobj[..., VOLUME], dtype="f4")

    found = {}
    for name, (zoom, point) in GRIDS.items():
        radius = HALF_WIDTH + MARGIN * zoom
        origin = point + zoom * np.ceil((CENTER - radius - point) / zoom)
        shape = tuple(int(n) for n in np.full(3, 2 * radius // zoom + 1))
        affine = nib.affines.from_matvec(zoom * np.eye(3), origin)
        found |= {f"{name} affine": affine, name: resampled(shape, affine).round(2)}
    n = HALF_WIDTH + 1
    affine = nib.affines.from_matvec(2 * np.eye(3), CENTER - HALF_WIDTH)
    index = np.moveaxis(np.indices((n, n, n)), 0, -1).reshape(-1, 3)
    found["centers"] = nib.affines.apply_affine(affine, index)
    found["values"] = resampled((n, n, n), affine).reshape(-1)
    np.savez_compressed(HERE / "other_grids.npz", **found)


if __name__ == "__main__":
    main()
