"""Make the small trees of fMRIPrep's minimal level that tests/inputs/test_minimal.py reads.

    python make.py FOLDER TEMPLATE_MASK

TEMPLATE_MASK is swift_bids/data/template_brain.nii.gz. Each tree holds a raw dataset, what fMRIPrep
--level minimal leaves of it, and `truth.npz`: what fMRIPrep's own resampler and ANTs make of these
files on the FSL 2 mm grid (the mask, and the BOLD at some of its voxels). Afterwards, tokens.py
adds the tokens of the whole result and removes it. Needs fmriprep 25.2,
nitransforms 25.1, sdcflows 2.16, antspyx and h5py, which the app does not need.
"""

import json
import sys
import tempfile
from pathlib import Path

import ants
import h5py
import nibabel as nib
import nitransforms as nt
import numpy as np
from fmriprep.interfaces.confounds import FSLMotionParams
from fmriprep.interfaces.resampling import reconstruct_fieldmap, resample_image
from fmriprep.utils.transforms import load_transforms
from scipy import ndimage as ndi
from sdcflows.utils.tools import ensure_positive_cosines

FSL_SHAPE, FSL_AFFINE = (91, 109, 91), np.array([[-2, 0, 0, 90], [0, 2, 0, -126], [0, 0, 2, -72], [0, 0, 0, 1.0]])
LPS = np.diag([-1.0, -1, 1, 1])
N_VOLUMES, TR, READOUT_TIME, N_VALUES = 20, 0.8, 0.05, 1000
# name, session of the run and of the anatomy, levels of the fieldmap, phase encoding, functional mask, direction of x
TREES = [
    ("plain", "2", "1", 0, "j", False, -1),
    ("fieldmap", None, None, 1, "i", True, -1),
    ("two_levels", "1", None, 2, "j-", True, 1),
]


def rigid(rng, mm, degrees):
    a, b, c = np.deg2rad(rng.normal(0, degrees, 3))
    rx = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    ry = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    rz = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    return nib.affines.from_matvec(rx @ ry @ rz, rng.normal(0, mm, 3))


def smooth(rng, shape, sigma, largest):
    field = ndi.gaussian_filter(rng.normal(0, 1, shape), sigma)
    return field / np.abs(field).max() * largest


def save(path, data, affine, dtype, zooms=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(data.astype(dtype), affine)
    image.header.set_xyzt_units("mm", "sec")
    if zooms:
        image.header.set_zooms(zooms)
    image.to_filename(path)
    return nib.load(path)


def dump(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def composite(rng, file):
    """A file like ANTs': an affine, then a displacement field of 12 mm, for points of the template."""
    shape, origin, spacing = (17, 20, 17), (-98.0, -134, -80), 12.0
    field = np.stack([smooth(rng, shape, 1.5, 6) for _ in range(3)], -1)
    lps = LPS @ nib.affines.from_matvec(np.diag([spacing] * 3), origin) @ np.diag([1.0, 1, 1, 1])
    direction = (LPS[:3, :3] @ np.eye(3)).reshape(-1)
    affine = rigid(rng, 5, 4) @ np.diag([*rng.uniform(0.93, 1.07, 3), 1])
    center = np.array([3.0, -5, 8])
    lps_affine = LPS @ affine @ LPS
    matrix = lps_affine[:3, :3]
    translation = lps_affine[:3, 3] - center + matrix @ center
    with h5py.File(file, "w") as content:
        groups = content.create_group("TransformGroup")
        entries = [
            ("CompositeTransform_double_3_3", None, None),
            ("AffineTransform_double_3_3", np.r_[matrix.reshape(-1), translation], center),
            (
                "DisplacementFieldTransform_double_3_3",
                np.moveaxis(field * (-1, -1, 1), -1, 0).reshape(-1, order="F").astype("f4"),
                np.r_[shape, lps[:3, 3], [spacing] * 3, direction],
            ),
        ]
        for number, (kind, parameters, fixed) in enumerate(entries):
            group = groups.create_group(str(number))
            group.create_dataset("TransformType", data=[kind], dtype=h5py.string_dtype("ascii"))
            if parameters is not None:
                group.create_dataset("TranformParameters", data=parameters, compression="gzip")
                group["TranformFixedParameters"] = fixed


def make(root, template_mask, number, name, session, anat_session, n_levels, pe, functional_mask, x):
    rng = np.random.default_rng(number)
    raw, minimal = root / name / "raw", root / name / "minimal"
    dump(raw / "dataset_description.json", {"Name": "made for tests", "BIDSVersion": "1.9.0"})
    about = {"Name": "made for tests", "BIDSVersion": "1.9.0", "DatasetType": "derivative"}
    dump(minimal / "dataset_description.json", about | {"GeneratedBy": [{"Name": "fMRIPrep", "Version": "25.2.0"}]})
    folder = f"sub-01/ses-{session}" if session else "sub-01"
    stem = f"sub-01_ses-{session}_task-rest" if session else "sub-01_task-rest"
    anat_folder = f"sub-01/ses-{anat_session}/anat" if anat_session else "sub-01/anat"
    anat = f"{anat_folder}/sub-01_ses-{anat_session}" if anat_session else f"{anat_folder}/sub-01"
    prefix = minimal / folder / "func" / stem
    prefix.parent.mkdir(parents=True)
    (minimal / anat_folder).mkdir(parents=True)

    h5 = minimal / f"{anat}_from-T1w_to-MNI152NLin6Asym_mode-image_xfm.h5"
    composite(rng, h5)
    (minimal / f"{anat}_from-T1w_to-MNI152NLin2009cAsym_mode-image_xfm.h5").write_bytes(b"")
    brain = nib.load(template_mask)
    t1w_affine = rigid(rng, 0, 3) @ nib.affines.from_matvec(np.diag([3.0, 3, 3]), [-96, -132, -78])
    points = nib.affines.apply_affine(t1w_affine, np.moveaxis(np.indices((65, 79, 65)), 0, -1))
    at = np.moveaxis(nib.affines.apply_affine(np.linalg.inv(brain.affine), points), -1, 0)
    t1w_brain = ndi.map_coordinates((np.asarray(brain.dataobj) > 0).astype("f4"), at, order=1) > 0.5
    t1w = save(minimal / f"{anat}_desc-brain_mask.nii.gz", t1w_brain, t1w_affine, "u1")

    shape, zoom = (26, 31, 22), 8.0
    affine = rigid(rng, 3, 5) @ nib.affines.from_matvec(
        np.diag([x * zoom, zoom, zoom]), [-x * 100, -135, -78]
    )
    coreg = rigid(rng, 3, 3)
    motion = np.stack([np.eye(4)] + [rigid(rng, 0.7, 0.7) for _ in range(N_VOLUMES - 1)])
    still = 120 + smooth(rng, shape, 1.5, 100)
    courses = ndi.gaussian_filter1d(rng.normal(0, 1, (N_VOLUMES, 3)), 2, axis=0)
    maps = [smooth(rng, shape, 2.0, 10) for _ in range(3)]
    data = still[..., None] + sum(m[..., None] * c for m, c in zip(maps, courses.T))
    bold = save(raw / folder / "func" / f"{stem}_bold.nii.gz", data.round(), affine, "i2", (zoom,) * 3 + (TR,))
    meta = {"PhaseEncodingDirection": pe, "RepetitionTime": TR, "TaskName": "rest"}
    dump(raw / folder / "func" / f"{stem}_bold.json", meta)
    dump(raw / "task-rest_bold.json", {"TotalReadoutTime": READOUT_TIME})  # inherited
    reference = save(Path(f"{prefix}_desc-hmc_boldref.nii.gz"), still.round(), affine, "i2")
    hmc_file = f"{prefix}_from-orig_to-boldref_mode-image_desc-hmc_xfm.txt"
    nt.linear.LinearTransformsMapping(motion, reference=reference).to_filename(hmc_file, fmt="itk")
    coreg_file = f"{prefix}_from-boldref_to-T1w_mode-image_desc-coreg_xfm.txt"
    nt.linear.Affine(coreg, reference=t1w).to_filename(coreg_file, fmt="itk")
    for file in (hmc_file, coreg_file):
        dump(Path(file).with_suffix(".json"), {"RawSources": ["/scratch/elsewhere/sub-99_bold.nii.gz"]})

    target = nib.Nifti1Image(np.zeros(FSL_SHAPE, "u1"), FSL_AFFINE)
    hz = pe_info = None
    source = bold
    if n_levels:
        label = "auto00000"
        fmap = minimal / folder / "fmap" / (stem.replace("_task-rest", "") + f"_fmapid-{label}")
        fmap_ref = save(Path(f"{fmap}_desc-epi_fieldmap.nii.gz"), np.ones((24, 28, 22)), nib.affines.from_matvec(np.diag([9.0] * 3), [-105, -130, -90]), "u1")
        levels = []
        for level, (knot, n) in enumerate([(40, (8, 9, 8)), (20, (15, 17, 15))][:n_levels]):
            ending = f"coeff{level}" if n_levels > 1 else "coeff"
            knots = nib.affines.from_matvec(np.diag([float(knot)] * 3), [-140, -170, -130])
            levels.append(save(Path(f"{fmap}_desc-{ending}_fieldmap.nii.gz"), rng.normal(0, 40 / (1 + level), n), knots, "f4"))
        names = "_mode-image_xfm.txt" if n_levels > 1 else "_mode-image_desc-fmap_xfm.txt"  # up to 25.1, from 25.2
        fmap_file = f"{prefix}_from-boldref_to-{label}{names}"
        nt.linear.Affine(rigid(rng, 2, 2), reference=fmap_ref).to_filename(fmap_file, fmt="itk")
        chain = load_transforms([Path(fmap_file), Path(coreg_file), h5], [True, False, False])
        hz = reconstruct_fieldmap(levels, fmap_ref, target, chain)
        source, codes = ensure_positive_cosines(bold)
        axis = "ijk".index(pe[0])
        readout = -READOUT_TIME if (codes[axis] in "LPI") ^ pe.endswith("-") else READOUT_TIME
        pe_info = [(axis, readout)] * N_VOLUMES
    chain = load_transforms([Path(hmc_file), Path(coreg_file), h5], [False])
    full = resample_image(source, target, chain, hz, pe_info, jacobian=False)
    linear = resample_image(source, target, chain, hz, pe_info, jacobian=False, order=1)
    # the template's own grid, along whose axes fMRIPrep takes the Jacobian
    template_affine = np.array([[2, 0, 0, -90], [0, 2, 0, -126], [0, 0, 2, -72], [0, 0, 0, 1.0]])
    template = nib.Nifti1Image(np.zeros(FSL_SHAPE, "u1"), template_affine)
    if n_levels:
        hz = reconstruct_fieldmap(levels, fmap_ref, template, load_transforms([Path(fmap_file), Path(coreg_file), h5], [True, False, False]))
    jacobian = resample_image(source, template, chain, hz, pe_info, jacobian=True)

    if functional_mask:
        to_t1w = nib.affines.apply_affine(np.linalg.inv(coreg), nib.affines.apply_affine(affine, np.moveaxis(np.indices(shape), 0, -1)))
        at = np.moveaxis(nib.affines.apply_affine(np.linalg.inv(t1w_affine), to_t1w), -1, 0)
        own = ndi.map_coordinates(t1w_brain.astype("f4"), at, order=1) > 0.5
        mask_file = Path(f"{prefix}_desc-brain_mask.nii.gz")
        save(mask_file, own, affine, "u1")
        with tempfile.TemporaryDirectory() as folder:
            grid = str(Path(folder, "grid.nii.gz"))
            nib.Nifti1Image(np.zeros(FSL_SHAPE, "f4"), FSL_AFFINE).to_filename(grid)
            done = ants.apply_transforms(ants.image_read(grid), ants.image_read(str(mask_file)), [str(h5), coreg_file], interpolator="multiLabel")
        inside = done.numpy() > 0.5
    else:
        points = nib.affines.apply_affine(FSL_AFFINE, np.moveaxis(np.indices(FSL_SHAPE), 0, -1))
        points = nt.manip.load(h5, fmt="h5").map(points.reshape(-1, 3))
        at = nib.affines.apply_affine(np.linalg.inv(t1w_affine), points).T
        inside = ndi.map_coordinates(t1w_brain.astype("u1"), at, order=0).reshape(FSL_SHAPE) > 0

    with tempfile.TemporaryDirectory() as folder:
        motion_file = FSLMotionParams(xfm_file=hmc_file, boldref_file=f"{prefix}_desc-hmc_boldref.nii.gz").run(cwd=folder).outputs.out_file
        parameters = np.loadtxt(motion_file, skiprows=1)
    inside_image = nib.Nifti1Image(inside.astype("u1"), FSL_AFFINE)
    (root / name / "full").mkdir()
    full.to_filename(root / name / "full" / "bold.nii.gz")  # for tokens.py
    inside_image.to_filename(root / name / "full" / "mask.nii.gz")
    index = np.sort(rng.choice(np.flatnonzero(inside), N_VALUES, replace=False))
    of = lambda data: data.reshape(-1, N_VOLUMES)[index].T.astype("f4")
    values = of(np.asarray(full.dataobj))
    np.savez_compressed(
        root / name / "truth.npz",
        mask=np.packbits(inside), index=index, values=values, motion=parameters,
        linear=of(np.asarray(linear.dataobj))[:3], jacobian=of(np.asarray(jacobian.dataobj)[::-1])[:3],
        std=np.asarray(full.dataobj)[inside].std(),
    )
    print(name, int(inside.sum()), values.std())


if __name__ == "__main__":
    for number, tree in enumerate(TREES):
        make(Path(sys.argv[1]), sys.argv[2], number, *tree)
