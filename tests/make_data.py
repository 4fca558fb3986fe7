"""Small fMRIPrep trees and weights, as the tests need them."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np

SPACE = "space-MNI152NLin6Asym_res-2"
#: The grid that the network reads, 2 mm.
FSL_SHAPE = (91, 109, 91)
FSL_AFFINE = np.array([[-2.0, 0, 0, 90], [0, 2, 0, -126], [0, 0, 2, -72], [0, 0, 0, 1]])
#: A grid of 8 mm that holds the brain, so that a run is small.
SHAPE = (23, 28, 23)
AFFINE = np.array([[-8.0, 0, 0, 88], [0, 8, 0, -124], [0, 0, 8, -70], [0, 0, 0, 1]])


def write_derivative(
    root: Path,
    run: str,
    space: str = SPACE,
    shape=None,
    n_volumes: int = 22,
    affine=None,
    tr: float = 0.8,
    mask: bool = True,
    confounds: str | None = None,
    data: np.ndarray | None = None,
) -> Path:
    """Lay out one run as fMRIPrep does, and return the BOLD file.

    `data` is (X, Y, Z, volume); without data, shape and affine the run has the grid of 8 mm.
    """
    if shape is None:
        shape = SHAPE if data is None else data.shape[:3]
    if affine is None:
        affine = AFFINE if shape == SHAPE else FSL_AFFINE
    parts = dict(entity.split("-", 1) for entity in run.split("_"))
    folder = root / f"sub-{parts['sub']}"
    folder = folder / f"ses-{parts['ses']}" / "func" if "ses" in parts else folder / "func"
    folder.mkdir(parents=True, exist_ok=True)
    description = root / "dataset_description.json"
    if not description.exists():
        content = {"Name": "test", "BIDSVersion": "1.8.0", "DatasetType": "derivative"}
        description.write_text(json.dumps(content))
    brain = np.zeros(shape, np.uint8)
    brain[tuple(slice(n // 4, 3 * n // 4) for n in shape)] = 1
    if data is None:
        rng = np.random.default_rng(0)
        data = rng.integers(900, 1100, (*shape, n_volumes)).astype(np.int16)
    stem = f"{run}_{space}" if space else run
    image = nib.Nifti1Image(data, affine)
    image.header.set_zooms((*image.header.get_zooms()[:3], tr))
    bold = folder / f"{stem}_desc-preproc_bold.nii.gz"
    image.to_filename(bold)
    (folder / f"{stem}_desc-preproc_bold.json").write_text(json.dumps({"RepetitionTime": tr}))
    if mask:
        nib.Nifti1Image(brain, affine).to_filename(folder / f"{stem}_desc-brain_mask.nii.gz")
    if confounds is not None:
        (folder / f"{run}_desc-confounds_timeseries.tsv").write_text(confounds)
    return bold


def write_run(root, label, n_volumes=22, **options):
    """Lay out a run of 8 mm with mask, sidecar and confounds, and return the BOLD file."""
    options = {"confounds": rows(n_volumes), "n_volumes": n_volumes} | options
    return write_derivative(root, f"sub-{label}_task-a", "space-MNI152NLin6Asym", **options)


def rows(n, first="framewise_displacement"):
    """A confounds table with one column of 0.1."""
    return f"{first}\n" + "0.1\n" * n


def file_of(bold: Path, kind: str) -> Path:
    """The `sidecar`, `mask` or `confounds` of a BOLD file, or the file itself (`bold`)."""
    stem = bold.name.removesuffix("_desc-preproc_bold.nii.gz")
    return {
        "bold": bold,
        "sidecar": bold.with_name(f"{stem}_desc-preproc_bold.json"),
        "mask": bold.with_name(f"{stem}_desc-brain_mask.nii.gz"),
        "confounds": bold.with_name(f"{stem.split('_space')[0]}_desc-confounds_timeseries.tsv"),
    }[kind]


def write_bundle(folder: Path, state: dict, config: dict, **marks) -> Path:
    """Write weights in the layout of the Hub bundles."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    save_file(state, folder / "model.safetensors")
    content = {"_ilex": {"constructor_kwargs": config}} | marks
    (folder / "config.json").write_text(json.dumps(content))
    return folder
