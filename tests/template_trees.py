"""A made participant whose run fMRIPrep resampled to two templates, with the transforms of both.

Signal, brain and transforms are formulas, so both runs are exact.
"""

import h5py
import nibabel as nib
import numpy as np
from make_data import FSL_AFFINE, FSL_SHAPE, write_derivative

N_VOLUMES = 20
OTHER = "MNI152NLin2009cAsym"
#: The 2 mm grid of the other template, half a voxel off.
OTHER_SHAPE = (97, 115, 97)
OTHER_AFFINE = nib.affines.from_matvec(np.diag([2.0, 2, 2]), [-96.5, -132.5, -78.5])
#: Grid of the displacement fields, 4 mm.
FIELD_SHAPE = (52, 60, 52)
FIELD_AFFINE = nib.affines.from_matvec(np.diag([4.0, 4, 4]), [-104, -140, -92])
TO_T1W = nib.affines.from_matvec(
    np.array([[1.04, 0.05, 0], [-0.05, 0.97, 0.08], [0, -0.08, 1.06]]), [2, 15, -6]
)
FROM_T1W = np.linalg.inv(
    nib.affines.from_matvec(
        np.array([[1.06, 0.04, 0], [-0.04, 0.99, 0.08], [0, -0.08, 1.09]]), [2, 16, -8]
    )
)


def bend(points, scale):
    """A smooth displacement in mm."""
    return scale * np.sin(points[:, [1, 2, 0]] / [19, 23, 21] + [0.3, 1.1, 2.0])


def from_training(points):
    """MNI152NLin6Asym -> T1w."""
    return nib.affines.apply_affine(TO_T1W, points + bend(points, 2.0))


def from_other(points):
    """MNI152NLin2009cAsym -> T1w: the inverse of `affine, then bend`."""
    aim, moved = points, points
    for _ in range(30):
        moved = aim - bend(moved, -1.5)
    return nib.affines.apply_affine(np.linalg.inv(FROM_T1W), moved)


def centers(shape, affine):
    return nib.affines.apply_affine(affine, np.moveaxis(np.indices(shape), 0, -1).reshape(-1, 3))


def run_at(points):
    """BOLD (point, volume) and brain mask (point,) at points of the T1w image."""
    rng = np.random.default_rng(0)
    radius = np.linalg.norm((points - [2, -2, 4]) / [66, 82, 62], axis=1)
    depth = 1 / (1 + np.exp((radius - 1.02) * 30))
    waves = np.sin(points @ rng.normal(0, 0.12, (3, 8)) + rng.random(8) * 6)
    tissue = np.sin(points / [7, 8, 6.5]).prod(axis=1)
    courses = rng.normal(0, 1, (8, N_VOLUMES))
    values = depth[:, None] * (1000 + 250 * tissue[:, None] + 15 * waves @ courses) + 150
    return values.astype(np.float32), radius < 1


def write_transform(file, *parts):
    """Write affines (4, 4) and displacement scales, in the order in which they apply to points."""
    lps = np.diag([-1.0, -1, 1, 1])
    with h5py.File(file, "w") as content:
        groups = ["CompositeTransform", *reversed(parts)]
        for number, part in enumerate(groups):
            group = content.create_group(f"TransformGroup/{number}")
            if isinstance(part, str):
                group["TransformType"] = [f"{part}_double_3_3".encode()]
            elif np.ndim(part) == 2:
                matrix = lps @ part @ lps
                group["TransformType"] = [b"AffineTransform_double_3_3"]
                group["TransformParameters"] = np.r_[matrix[:3, :3].reshape(-1), matrix[:3, 3]]
                group["TransformFixedParameters"] = np.zeros(3)
            else:
                field = bend(centers(FIELD_SHAPE, FIELD_AFFINE), part) * (-1, -1, 1)
                field = field.reshape(*FIELD_SHAPE, 3).transpose(2, 1, 0, 3)
                origin = FIELD_AFFINE[:3, 3] * (-1, -1, 1)
                fixed = [*FIELD_SHAPE, *origin, 4, 4, 4, -1, 0, 0, 0, -1, 0, 0, 0, 1]
                group["TransformType"] = [b"DisplacementFieldTransform_float_3_3"]
                group["TransformParameters"] = field.astype(np.float32).reshape(-1)
                group["TransformFixedParameters"] = np.array(fixed, dtype=np.float64)


def write_run(root, space, session=None):
    """The run in one of both templates, at 2 mm."""
    shape, affine, to_t1w = {
        "MNI152NLin6Asym": (FSL_SHAPE, FSL_AFFINE, from_training),
        OTHER: (OTHER_SHAPE, OTHER_AFFINE, from_other),
    }[space]
    values, brain = run_at(to_t1w(centers(shape, affine)))
    data = values.reshape(*shape, N_VOLUMES)
    run = "sub-01_ses-1_task-rest" if session else "sub-01_task-rest"
    bold = write_derivative(root, run, f"space-{space}_res-2", affine=affine, data=data)
    mask = nib.Nifti1Image(brain.reshape(shape).astype(np.uint8), affine)
    mask.to_filename(str(bold).replace("desc-preproc_bold", "desc-brain_mask"))
    return bold


def write_transforms(root, start="sub-01", folder="sub-01/anat"):
    """The transforms that fMRIPrep keeps for both templates."""
    anat = root / folder
    anat.mkdir(parents=True, exist_ok=True)
    to_training = anat / f"{start}_from-T1w_to-MNI152NLin6Asym_mode-image_xfm.h5"
    from_template = anat / f"{start}_from-{OTHER}_to-T1w_mode-image_xfm.h5"
    write_transform(to_training, 2.0, TO_T1W)
    write_transform(from_template, FROM_T1W, -1.5)
    return to_training, from_template
