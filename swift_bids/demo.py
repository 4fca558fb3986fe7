"""Writes a small fMRIPrep-like dataset and random weights for trying the app.

    python -m swift_bids.demo FOLDER

writes FOLDER/fmriprep and FOLDER/weights. Two participants are synthetic: they have the anatomy of
nilearn's MNI152 template, smooth slow signals that differ more between participants than between
runs of one participant, and head motion that is visible in the images and in the confounds. A third
participant has a real run (a slab of 3 thick slices) that is part of nibabel. All random numbers
come from fixed seeds.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
from isal import igzip
from nilearn.datasets import load_mni152_template
from scipy.ndimage import gaussian_filter

from swift_bids.geometry.frames import FSL_AFFINE, FSL_SHAPE
from swift_bids.geometry.grid import template_brain, to_fsl_grid
from swift_bids.network.bundles import write_random_bundle

N_VOLUMES = 50
N_DUMMY = 2
REPETITION_TIME = 0.8
#: (participant, session, run, head motion in mm per volume)
_RUNS = (
    ("01", "1", "1", 0.04),
    ("01", "1", "2", 0.05),
    ("01", "2", "1", 0.04),
    ("01", "2", "2", 0.12),
    ("02", "1", "1", 0.06),
    ("02", "1", "2", 0.30),
)
_SPACE = "space-MNI152NLin6Asym"
_N_NETWORKS = 6


@dataclass(frozen=True)
class Head:
    """The properties that all runs of a participant share.

    Attributes
    ----------
    still
        (91, 109, 91) float32, the head at rest; about 1000 in the brain, less in the scalp.
    networks
        (network, 91, 109, 91) float32, smooth maps; the voxels of each fluctuate together.
    """

    still: np.ndarray
    networks: np.ndarray


def make_head(participant: str, brain: np.ndarray) -> Head:
    """Draw a participant: the template's anatomy with an individual coil profile and networks."""
    rng = np.random.default_rng([1, int(participant)])
    template = load_mni152_template(resolution=2)
    anatomy = to_fsl_grid(np.asarray(template.dataobj, np.float32), template.affine, order=1)
    anatomy = anatomy / anatomy.max()

    def smooth_map(sigma: float) -> np.ndarray:
        noise = gaussian_filter(rng.standard_normal(FSL_SHAPE, dtype=np.float32), sigma)
        return noise / noise[brain].std()

    coil = 1 + 0.08 * smooth_map(sigma=12)
    still = np.where(brain, 500 + 700 * anatomy, 90 + 300 * anatomy) * coil
    networks = np.stack([smooth_map(sigma=4) for _ in range(_N_NETWORKS)])
    return Head(still.astype(np.float32), networks * brain)


def make_motion(rng: np.random.Generator, head_motion: float) -> pd.DataFrame:
    """Draw six motion parameters (mm, rad) and their framewise displacement (Power et al. 2012)."""
    steps = rng.normal(0, head_motion / 4, (N_VOLUMES, 6)) / [1, 1, 1, 50, 50, 50]
    jerks = rng.random(N_VOLUMES) < head_motion / 4
    steps[jerks, :3] += rng.normal(0, 4 * head_motion, (int(jerks.sum()), 3))
    names = ["trans_x", "trans_y", "trans_z", "rot_x", "rot_y", "rot_z"]
    motion = pd.DataFrame(np.cumsum(steps, axis=0) * 0.9, columns=names)
    on_sphere = motion.diff().abs() * [1, 1, 1, 50, 50, 50]
    motion["framewise_displacement"] = on_sphere.sum(axis=1, skipna=False)
    return motion


def make_run(
    head: Head, brain: np.ndarray, seed: list[int], head_motion: float
) -> tuple[np.ndarray, pd.DataFrame]:
    """Make one run: (91, 109, 91, volume) int16 and its confounds table."""
    rng = np.random.default_rng(seed)
    motion = make_motion(rng, head_motion)
    seconds = np.arange(N_VOLUMES) * REPETITION_TIME
    frequency = rng.uniform(0.01, 0.08, _N_NETWORKS)[:, None]  # Hz, like resting-state signals
    phase = rng.uniform(0, 2 * np.pi, _N_NETWORKS)[:, None]
    # (network, volume): relative changes of the signal
    courses = (0.012 * np.sin(2 * np.pi * frequency * seconds + phase)).astype(np.float32)
    # In the order of the file, x fastest: the axes are z, y, x.
    still, inside = np.ascontiguousarray(head.still.T), np.ascontiguousarray(brain.T)
    networks = np.ascontiguousarray(head.networks.transpose(0, 3, 2, 1)).reshape(_N_NETWORKS, -1)
    slopes = np.gradient(still)[::-1]  # change of intensity per voxel (2 mm) along x, y, z
    noise_level = np.where(inside, np.float32(6), np.float32(1))
    stored = np.empty((N_VOLUMES, *still.shape), dtype=np.int16)
    for t in range(N_VOLUMES):
        volume = still * (1 + (courses[:, t] @ networks).reshape(still.shape))
        shift = 0.3 * motion.loc[t, ["trans_x", "trans_y", "trans_z"]].to_numpy(float) / 2
        for slope, distance in zip(slopes, shift):  # residual motion after realignment
            volume -= np.float32(distance) * slope
        if t < N_DUMMY:  # before the steady state
            volume *= (1.25, 1.08)[t]
        volume += noise_level * rng.standard_normal(still.shape, dtype=np.float32)
        stored[t] = np.clip(volume, 1, None).round()
    data = stored.T
    confounds = pd.DataFrame({"global_signal": stored[:, inside].mean(axis=1)}).join(motion)
    for t in range(N_DUMMY):
        confounds[f"non_steady_state_outlier{t:02d}"] = (np.arange(N_VOLUMES) == t).astype(int)
    return data, confounds


def write_synthetic_runs(root: Path) -> None:
    """Write the runs of the two synthetic participants."""
    brain = template_brain()
    heads: dict[str, Head] = {}
    for number, (participant, session, run, head_motion) in enumerate(_RUNS):
        if participant not in heads:
            heads[participant] = make_head(participant, brain)
        data, confounds = make_run(heads[participant], brain, [2, number], head_motion)
        name = f"sub-{participant}_ses-{session}_task-rest_run-{run}"
        folder = root / f"sub-{participant}" / f"ses-{session}" / "func"
        images = {"bold": _image(data, FSL_AFFINE), "mask": _image(brain, FSL_AFFINE)}
        _write_run(folder, name, f"{_SPACE}_res-2", images, REPETITION_TIME)
        confounds.to_csv(
            folder / f"{name}_desc-confounds_timeseries.tsv",
            sep="\t",
            na_rep="n/a",
            index=False,
            float_format="%.6f",
        )


def write_real_run(root: Path) -> None:
    """Write nibabel's functional.nii (SPM-normalised, 17 x 21 x 3 voxels) as an fMRIPrep run."""
    source = resources.files("nibabel") / "tests" / "data" / "functional.nii"
    with resources.as_file(source) as file:
        image = nib.Nifti1Image.from_filename(file)
        data = np.asarray(image.dataobj)
    mean = data.mean(axis=3)
    images = {
        "bold": _image(data, image.affine),
        "mask": _image(mean > 0.4 * np.percentile(mean, 98), image.affine),
    }
    _write_run(root / "sub-03" / "func", "sub-03_task-real", _SPACE, images, 2.0)


def write_dataset(root: Path) -> None:
    """Write the whole dataset."""
    root.mkdir(parents=True, exist_ok=True)
    write_synthetic_runs(root)
    write_real_run(root)
    description = {
        "Name": "swift_bids demo: synthetic and real runs in the layout of fMRIPrep",
        "BIDSVersion": "1.10.0",
        "DatasetType": "derivative",
        "License": "CC0",
        "Authors": ["The swift_bids developers", "The nibabel developers"],
        "GeneratedBy": [{"Name": "swift_bids.demo"}],
    }
    # Written last, so that a dataset with this file is complete.
    _write_json(root / "dataset_description.json", description)


def main() -> None:
    """Write the dataset, unless it exists, and the weights."""
    parser = argparse.ArgumentParser(prog="python -m swift_bids.demo", description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    if (folder / "fmriprep" / "dataset_description.json").exists():
        print(f"demo data: {folder / 'fmriprep'} already exists")
    else:
        write_dataset(folder / "fmriprep")
        print(f"demo data: {folder / 'fmriprep'} (2 synthetic participants, 1 real slab)")
    print(f"demo weights: {write_random_bundle(folder / 'weights')} (random, seed 0)")


def _write_run(
    folder: Path, name: str, space: str, images: dict[str, nib.Nifti1Image], tr: float
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    images["bold"].header.set_zooms((*images["bold"].header.get_zooms()[:3], tr))
    for kind, suffix in (("bold", "desc-preproc_bold"), ("mask", "desc-brain_mask")):
        content = igzip.compress(images[kind].to_bytes(), mtime=0)  # the same bytes every time
        (folder / f"{name}_{space}_{suffix}.nii.gz").write_bytes(content)
    task = name.split("_task-")[1].split("_")[0]
    sidecar = {"RepetitionTime": tr, "SkullStripped": False, "TaskName": task}
    _write_json(folder / f"{name}_{space}_desc-preproc_bold.json", sidecar)
    _write_json(folder / f"{name}_{space}_desc-brain_mask.json", {"Type": "Brain"})


def _image(data: np.ndarray, affine: np.ndarray) -> nib.Nifti1Image:
    image = nib.Nifti1Image(data.astype(np.uint8) if data.dtype == bool else data, affine)
    image.header.set_xyzt_units("mm", "sec")
    for code in (image.set_sform, image.set_qform):
        code(affine, code=4)  # MNI152
    return image


def _write_json(file: Path, content: dict) -> None:
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
