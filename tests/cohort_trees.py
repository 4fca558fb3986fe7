"""Small trees in the layouts of HCP, ABCD and UK Biobank, and the same runs as fMRIPrep's.

The names are those of the releases. The grid is one of 8 mm, which keeps the files small.
"""

import json

import nibabel as nib
import numpy as np
from make_data import AFFINE, SHAPE, write_derivative

N_VOLUMES = 22
#: The grid of a run of UK Biobank, coarser than in the release: x counts to the left.
UKB_SHAPE = (26, 30, 22)
UKB_AFFINE = nib.affines.from_matvec(np.diag([-8.0, 8, 8]), [100, -120, -80])


def values(seed=0, shape=SHAPE):
    return np.random.default_rng(seed).integers(900, 1100, (*shape, N_VOLUMES)).astype(np.int16)


def brain(shape=SHAPE):
    mask = np.zeros(shape, np.float32)
    mask[tuple(slice(n // 4, 3 * n // 4) for n in shape)] = 1
    return mask


def write_image(file, data, affine=AFFINE, tr=None):
    file.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(data, affine)
    if tr:
        image.header.set_zooms((*image.header.get_zooms()[:3], tr))
        image.header.set_xyzt_units("mm", "sec")
    image.to_filename(file)
    return file


def motion(seed=0):
    """(volume, 6): mm, radians."""
    steps = np.random.default_rng(seed).normal(0, [0.05] * 3 + [0.0006] * 3, (N_VOLUMES, 6))
    return np.cumsum(steps, axis=0)


def displacement(parameters):
    step = np.abs(np.diff(parameters * [1, 1, 1, 50, 50, 50], axis=0)).sum(axis=1)
    return np.r_[np.nan, step]


def write_hcp_motion(folder, parameters):
    degrees = parameters * np.r_[np.ones(3), np.full(3, 180 / np.pi)]
    both = np.c_[degrees, np.zeros_like(degrees)]
    np.savetxt(folder / "Movement_Regressors.txt", both, fmt="%15.6f")
    np.savetxt(folder / "Movement_Regressors_dt.txt", both - both.mean(axis=0), fmt="%15.6f")
    rms = np.r_[0, np.abs(np.diff(np.linalg.norm(parameters[:, :3], axis=1)))]
    np.savetxt(folder / "Movement_RelativeRMS.txt", rms, fmt="%.6f")


def write_hcp_run(results, run, seed=0, tr=0.72, mask="brainmask_fs.2.nii.gz", sbref="SBRef_dc"):
    """One run folder of HCP's pipelines; returns it."""
    folder = results / run
    write_image(folder / f"{run}.nii.gz", values(seed), tr=tr)
    write_image(folder / f"{sbref}.nii.gz", values(seed)[..., 0])
    if mask:
        write_image(folder / mask, brain())
    (folder / f"{run}_Atlas.dtseries.nii").write_bytes(b"")
    write_hcp_motion(folder, motion(seed))
    return folder


def write_hcp(root, label="100307"):
    """Rest, a task, and what lies beside them: 7 T, a second-level analysis."""
    results = root / label / "MNINonLinear" / "Results"
    rest = write_hcp_run(results, "rfMRI_REST1_LR", seed=1)
    write_image(rest / "rfMRI_REST1_LR_hp2000_clean.nii.gz", values(5), tr=0.72)
    write_hcp_run(results, "rfMRI_REST2_RL", seed=2, mask="brainmask_fs.2.0.nii.gz")
    write_hcp_run(results, "tfMRI_WM_RL", seed=3, mask=None)
    write_hcp_run(results, "rfMRI_REST1_7T_PA", seed=4)
    (results / "tfMRI_WM" / "tfMRI_WM_hp200_s2_level2.feat").mkdir(parents=True)
    write_image(root / label / "MNINonLinear" / "brainmask_fs.2.nii.gz", brain())
    return results


def write_abcd(root, label="NDARINV00000000"):
    """Two sessions, one of them with the names of another release."""
    for session, runs in (
        ("baselineYear1Arm1", ("ses-baselineYear1Arm1_task-rest_run-1", "task-MID01")),
        ("2YearFollowUpYArm1", ("ses-2YearFollowUpYArm1_task-rest_run-02",)),
    ):
        results = root / f"sub-{label}" / f"ses-{session}" / "files" / "MNINonLinear" / "Results"
        for seed, run in enumerate(runs):
            write_hcp_run(results, run, seed, 0.8, "brainmask_fs.2.0.nii.gz", f"{run}_SBRef")
        (results / "task-rest_DCANBOLDProc_v4.0.0_Atlas.dtseries.nii").write_bytes(b"")
        (results / "task-rest_DCANBOLDProc_v4.0.0").mkdir()
    return root / f"sub-{label}"


def in_run(points):
    """Where the field of `write_ukb` leads: points in mm of MNI -> points of the run."""
    turn = np.array([[1, 0, 0], [0, np.cos(0.1), -np.sin(0.1)], [0, np.sin(0.1), np.cos(0.1)]])
    bend = 3 * np.sin(points[:, [1, 2, 0]] / 40)
    return (points + bend) @ turn.T + [2.0, -3.0, 4.0]


def write_ukb(root, name="1000017_20227_2_0"):
    """The run of one participant in its own space, with FNIRT's field from a grid of 8 mm."""
    fmri = root / name / "fMRI"
    ica = fmri / "rfMRI.ica"
    for file, seed in (("filtered_func_data_clean", 1), ("filtered_func_data", 2)):
        write_image(ica / f"{file}.nii.gz", values(seed, UKB_SHAPE), UKB_AFFINE, 0.735)
    write_image(ica / "mask.nii.gz", brain(UKB_SHAPE), UKB_AFFINE)
    voxels = np.moveaxis(np.indices(SHAPE), 0, -1).reshape(-1, 3)
    there = in_run(nib.affines.apply_affine(AFFINE, voxels))
    # both images have x to the left, so scaled millimetres are voxels times voxel sizes
    scaled = 8 * nib.affines.apply_affine(np.linalg.inv(UKB_AFFINE), there)
    field = (scaled - 8 * voxels).reshape(*SHAPE, 3).astype(np.float32)
    image = nib.Nifti1Image(field, AFFINE)
    image.header["intent_code"] = 2006
    (ica / "reg").mkdir()
    image.to_filename(ica / "reg" / "example_func2standard_warp.nii.gz")
    (ica / "mc").mkdir()
    parameters = motion(1)[:, [3, 4, 5, 0, 1, 2]]
    np.savetxt(ica / "mc" / "prefiltered_func_data_mcf.par", parameters, fmt="%.8f")
    (fmri / "rfMRI.json").write_text(json.dumps({"RepetitionTime": 0.735}))
    return ica


def write_full(root, run, seed, tr):
    """The same run as `write_hcp_run`, in fMRIPrep's layout."""
    parameters = motion(seed)
    names = [f"{kind}_{axis}" for kind in ("trans", "rot") for axis in "xyz"]
    lines = ["\t".join([*names, "framewise_displacement"])]
    for row, fd in zip(parameters, displacement(parameters)):
        cells = [f"{value:.9f}" for value in row] + ["n/a" if np.isnan(fd) else f"{fd:.9f}"]
        lines.append("\t".join(cells))
    confounds = "\n".join(lines) + "\n"
    return write_derivative(root, run, tr=tr, confounds=confounds, data=values(seed))
