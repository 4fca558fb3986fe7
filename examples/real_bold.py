"""Lay out the real run in niworkflows' source package as fMRIPrep's minimal level.

    python examples/real_bold.py FOLDER

The run is that of participant 03 of OpenfMRI's ds000205: the whole brain, 82 volumes of
53 x 53 x 27 voxels of 4 mm, TR 2.2 s, already corrected for head motion. This script downloads it
with pip and writes `FOLDER/raw`, `FOLDER/minimal` and random `FOLDER/weights`. Instead of
fMRIPrep's registrations, it uses an affine one, of the run's brain mask to that of the template: it
is good enough to see the brain in its place, but not for an analysis.
"""

import hashlib
import json
import subprocess
import sys
import tarfile
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
from nilearn.masking import compute_epi_mask
from scipy.ndimage import gaussian_filter, map_coordinates
from scipy.optimize import minimize

from swift_bids.geometry.frames import FSL_AFFINE
from swift_bids.geometry.grid import template_brain
from swift_bids.network.bundles import write_random_bundle

PACKAGE, VERSION = "niworkflows", "1.14.5"
SHA256 = "d3faddd575e2dd8c084baea9346072b4136bd29aa245e557e4122136bc969d58"
MEMBER = (
    f"{PACKAGE}-{VERSION}/niworkflows/tests/data/"
    "sub-ds205s03_task-functionallocalizer_run-01_bold_volreg.nii.gz"
)
RUN = "sub-ds205s03_task-functionallocalizer_run-01"
TR = 2.2


def download(folder: Path) -> Path:
    """Download the package with pip, and return the run in it."""
    archive = folder / f"{PACKAGE}-{VERSION}.tar.gz"
    if not archive.exists():
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--no-binary", PACKAGE, "--dest", folder, f"{PACKAGE}=={VERSION}"]
        subprocess.run(command, check=True)
    if hashlib.sha256(archive.read_bytes()).hexdigest() != SHA256:
        sys.exit(f"{archive}: is not the file that this script was written for; remove it")
    run = folder / "bold.nii.gz"
    with tarfile.open(archive) as content:
        run.write_bytes(content.extractfile(MEMBER).read())
    return run


def register(mask: nib.Nifti1Image) -> np.ndarray:
    """Find the affine that maps points of the template to points of the run, in mm.

    It maximises the correlation of the smoothed masks within the run's field of view.
    """
    template = gaussian_filter(template_brain().astype(np.float32), 2)
    brain = gaussian_filter(np.asarray(mask.dataobj, dtype=np.float32), 1).reshape(-1)
    index = np.indices(mask.shape).reshape(3, -1).T
    points = nib.affines.apply_affine(mask.affine, index)
    center = points[brain > 0.5].mean(axis=0)

    def to_template(parameters: np.ndarray) -> np.ndarray:
        matrix = np.eye(3) + parameters[:9].reshape(3, 3) / 100
        return nib.affines.from_matvec(matrix, parameters[9:] + center - matrix @ center)

    def mismatch(parameters: np.ndarray) -> float:
        moved = nib.affines.apply_affine(to_template(parameters), points)
        position = nib.affines.apply_affine(np.linalg.inv(FSL_AFFINE), moved)
        expected = map_coordinates(template, position.T, order=1)
        # prefer the affine that changes the least, where the masks do not decide
        return -np.corrcoef(expected, brain)[0, 1] + 1e-5 * np.square(parameters[:9]).sum()

    start = np.zeros(12)
    start[9:] = np.array([0.0, -18, 10]) - center  # centre of the template's brain
    found = minimize(mismatch, start, method="Powell", options={"maxiter": 30})
    return np.linalg.inv(to_template(found.x))


def write_affines(file: Path, affines: np.ndarray) -> None:
    """Write a text file of ITK, whose axes x and y point the other way than nibabel's."""
    flip = np.diag([-1.0, -1, 1, 1])
    text = "#Insight Transform File V1.0\n"
    for number, affine in enumerate(flip @ affines @ flip):
        values = " ".join(f"{value:.8g}" for value in (*affine[:3, :3].ravel(), *affine[:3, 3]))
        text += (
            f"#Transform {number}\nTransform: AffineTransform_double_3_3\n"
            f"Parameters: {values}\nFixedParameters: 0 0 0\n\n"
        )
    file.write_text(text)


def write_composite(file: Path, affine: np.ndarray) -> None:
    """Write an HDF5 file of ITK with one affine."""
    flip = np.diag([-1.0, -1, 1, 1])
    lps = flip @ affine @ flip
    with h5py.File(file, "w") as content:
        for number, kind in enumerate(("CompositeTransform", "AffineTransform")):
            group = content.create_group(f"TransformGroup/{number}")
            group["TransformType"] = [f"{kind}_double_3_3".encode()]
        group["TransformParameters"] = np.r_[lps[:3, :3].ravel(), lps[:3, 3]]
        group["TransformFixedParameters"] = np.zeros(3)


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    bold = nib.load(download(folder))
    raw, minimal = (folder / name / "sub-ds205s03" for name in ("raw", "minimal"))
    func, anat = minimal / "func", minimal / "anat"
    for path in (raw / "func", func, anat):
        path.mkdir(parents=True, exist_ok=True)
    about = {"Name": "A run of OpenfMRI's ds000205", "BIDSVersion": "1.10.0"}
    (raw.parent / "dataset_description.json").write_text(json.dumps(about))
    about |= {"DatasetType": "derivative", "GeneratedBy": [{"Name": "examples/real_bold.py"}]}
    (minimal.parent / "dataset_description.json").write_text(json.dumps(about))

    bold.header.set_zooms((*bold.header.get_zooms()[:3], TR))
    bold.to_filename(raw / "func" / f"{RUN}_bold.nii.gz")
    (raw / "func" / f"{RUN}_bold.json").write_text(
        json.dumps({"RepetitionTime": TR, "TaskName": "functional localizer"})
    )
    mean = np.asarray(bold.dataobj).mean(axis=3, dtype=np.float32)
    nib.Nifti1Image(mean, bold.affine).to_filename(func / f"{RUN}_desc-hmc_boldref.nii.gz")
    mask = compute_epi_mask(bold)
    mask.to_filename(func / f"{RUN}_desc-brain_mask.nii.gz")
    still = np.eye(4)
    write_affines(
        func / f"{RUN}_from-orig_to-boldref_mode-image_desc-hmc_xfm.txt",
        np.stack([still] * bold.shape[3]),
    )
    write_affines(
        func / f"{RUN}_from-boldref_to-T1w_mode-image_desc-coreg_xfm.txt", still[np.newaxis]
    )
    write_composite(
        anat / "sub-ds205s03_from-T1w_to-MNI152NLin6Asym_mode-image_xfm.h5", register(mask)
    )
    write_random_bundle(folder / "weights")
    print(f"raw BOLD: {raw.parent}, transforms: {minimal.parent}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
