"""Writes a small fMRIPrep-like dataset and random weights for trying the app.

    python -m swift_bids.demo FOLDER

writes FOLDER/fmriprep and FOLDER/weights. Two participants are synthetic: they have the anatomy of
nilearn's MNI152 template, smooth slow signals that differ more between participants than between
runs of one participant, and head motion that is visible in the images and in the confounds. A third
participant has a real run (a slab of 3 thick slices) that is part of nibabel. Twenty more are
synthetic and coarse, so that the group level has enough participants: the brains of `patients` are
darker in the frontal and brighter in the occipital lobes than those of `controls`. All random
numbers come from fixed seeds.
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

from swift_bids.geometry.frames import FSL_AFFINE
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
#: Coarse participants, how many of them have two runs, and their voxels (mm) and volumes.
_COARSE, _WITH_TWO_RUNS = tuple(f"{number:02d}" for number in range(4, 24)), 6
_COARSE_MM, _COARSE_VOLUMES = 6, N_DUMMY + 20
#: Centres (MNI, mm) of the regions that are darker and brighter in patients, their width, and the
#: relative change in the centre.
_FRONTAL, _OCCIPITAL, _WIDTH_MM, _CHANGE = (0.0, 45.0, 20.0), (0.0, -75.0, 10.0), 30.0, 0.35


@dataclass(frozen=True)
class Head:
    """The properties that all runs of a participant share.

    Attributes
    ----------
    still
        (x, y, z) float32, the head at rest; about 1000 in the brain, less in the scalp.
    networks
        (network, x, y, z) float32, smooth maps; the voxels of each fluctuate together.
    """

    still: np.ndarray
    networks: np.ndarray


def make_head(participant: str, anatomy: np.ndarray, brain: np.ndarray, voxel: float) -> Head:
    """Draw a participant: the template's anatomy with an individual coil profile and networks.

    Parameters
    ----------
    anatomy, brain
        (x, y, z): the template, from 0 to 1, and its brain.
    voxel
        Edge of a voxel in mm.
    """
    rng = np.random.default_rng([1, int(participant)])

    def smooth_map(millimetres: float) -> np.ndarray:
        noise = rng.standard_normal(brain.shape, dtype=np.float32)
        smooth = gaussian_filter(noise, millimetres / voxel)
        return smooth / smooth[brain].std()

    coil = 1 + 0.08 * smooth_map(24)
    still = np.where(brain, 500 + 700 * anatomy, 90 + 300 * anatomy) * coil
    networks = np.stack([smooth_map(8) for _ in range(_N_NETWORKS)])
    return Head(still.astype(np.float32), networks * brain)


def template_anatomy() -> np.ndarray:
    """The MNI152 template on the FSL 2 mm grid, from 0 to 1."""
    template = load_mni152_template(resolution=2)
    anatomy = to_fsl_grid(np.asarray(template.dataobj, np.float32), template.affine, order=1)
    return anatomy / anatomy.max()


def make_motion(rng: np.random.Generator, head_motion: float, n_volumes: int) -> pd.DataFrame:
    """Draw six motion parameters (mm, rad) and their framewise displacement (Power et al. 2012)."""
    steps = rng.normal(0, head_motion / 4, (n_volumes, 6)) / [1, 1, 1, 50, 50, 50]
    jerks = rng.random(n_volumes) < head_motion / 4
    steps[jerks, :3] += rng.normal(0, 4 * head_motion, (int(jerks.sum()), 3))
    names = ["trans_x", "trans_y", "trans_z", "rot_x", "rot_y", "rot_z"]
    motion = pd.DataFrame(np.cumsum(steps, axis=0) * 0.9, columns=names)
    on_sphere = motion.diff().abs() * [1, 1, 1, 50, 50, 50]
    motion["framewise_displacement"] = on_sphere.sum(axis=1, skipna=False)
    return motion


def make_run(
    head: Head,
    brain: np.ndarray,
    voxel: float,
    seed: list[int],
    head_motion: float,
    n_volumes: int = N_VOLUMES,
) -> tuple[np.ndarray, pd.DataFrame]:
    """Make one run: (x, y, z, volume) int16 and its confounds table."""
    rng = np.random.default_rng(seed)
    motion = make_motion(rng, head_motion, n_volumes)
    seconds = np.arange(n_volumes) * REPETITION_TIME
    frequency = rng.uniform(0.01, 0.08, _N_NETWORKS)[:, None]  # Hz, like resting-state signals
    phase = rng.uniform(0, 2 * np.pi, _N_NETWORKS)[:, None]
    # (network, volume): relative changes of the signal
    courses = (0.012 * np.sin(2 * np.pi * frequency * seconds + phase)).astype(np.float32)
    # In the order of the file, x fastest: the axes are z, y, x.
    still, inside = np.ascontiguousarray(head.still.T), np.ascontiguousarray(brain.T)
    networks = np.ascontiguousarray(head.networks.transpose(0, 3, 2, 1)).reshape(_N_NETWORKS, -1)
    slopes = np.gradient(still)[::-1]  # change of intensity per voxel along x, y, z
    noise_level = np.where(inside, np.float32(6), np.float32(1))
    stored = np.empty((n_volumes, *still.shape), dtype=np.int16)
    for t in range(n_volumes):
        volume = still * (1 + (courses[:, t] @ networks).reshape(still.shape))
        shift = 0.3 * motion.loc[t, ["trans_x", "trans_y", "trans_z"]].to_numpy(float) / voxel
        for slope, distance in zip(slopes, shift):  # residual motion after realignment
            volume -= np.float32(distance) * slope
        if t < N_DUMMY:  # before the steady state
            volume *= (1.25, 1.08)[t]
        volume += noise_level * rng.standard_normal(still.shape, dtype=np.float32)
        stored[t] = np.clip(volume, 1, None).round()
    data = stored.T
    confounds = pd.DataFrame({"global_signal": stored[:, inside].mean(axis=1)}).join(motion)
    for t in range(N_DUMMY):
        confounds[f"non_steady_state_outlier{t:02d}"] = (np.arange(n_volumes) == t).astype(int)
    return data, confounds


def write_coarse_runs(root: Path) -> None:
    """Write the runs of the twenty coarse participants, and participants.tsv."""
    step = _COARSE_MM // 2
    part = np.s_[::step, ::step, ::step]
    affine = FSL_AFFINE @ np.diag([step, step, step, 1])
    anatomy, brain = template_anatomy()[part], template_brain()[part]
    millimetres = nib.affines.apply_affine(affine, np.moveaxis(np.indices(brain.shape), 0, -1))
    change = np.ones(brain.shape)
    for centre, amount in ((_FRONTAL, -_CHANGE), (_OCCIPITAL, _CHANGE)):
        distance = np.linalg.norm(millimetres - centre, axis=-1)
        change += amount * np.exp(-((distance / _WIDTH_MM) ** 2) / 2)
    rng = np.random.default_rng(3)
    people = [(participant, "n/a") for participant in ("01", "02", "03")]
    for number, participant in enumerate(_COARSE):
        people.append((participant, ("control", "patient")[number % 2]))
        head = make_head(participant, anatomy, brain, _COARSE_MM)
        if people[-1][1] == "patient":
            head = Head((head.still * change).astype(np.float32), head.networks)
        for run in range(1, 2 + (number < _WITH_TWO_RUNS)):
            data, confounds = make_run(
                head, brain, _COARSE_MM, [4, number, run], rng.uniform(0.03, 0.1), _COARSE_VOLUMES
            )
            name = f"sub-{participant}_task-rest_run-{run}"
            folder = root / f"sub-{participant}" / "func"
            images = {"bold": _image(data, affine), "mask": _image(brain, affine)}
            _write_run(folder, name, _SPACE, images, REPETITION_TIME)
            _write_confounds(folder, name, confounds)
    table = pd.DataFrame(people, columns=["participant_id", "group"])
    table["participant_id"] = "sub-" + table["participant_id"]
    table["age"] = rng.integers(20, 60, len(table))
    table["sex"] = rng.choice(["F", "M"], len(table))
    table.to_csv(root / "participants.tsv", sep="\t", index=False)


def write_synthetic_runs(root: Path) -> None:
    """Write the runs of the two synthetic participants."""
    anatomy, brain = template_anatomy(), template_brain()
    heads: dict[str, Head] = {}
    for number, (participant, session, run, head_motion) in enumerate(_RUNS):
        if participant not in heads:
            heads[participant] = make_head(participant, anatomy, brain, voxel=2)
        data, confounds = make_run(heads[participant], brain, 2, [2, number], head_motion)
        name = f"sub-{participant}_ses-{session}_task-rest_run-{run}"
        folder = root / f"sub-{participant}" / f"ses-{session}" / "func"
        images = {"bold": _image(data, FSL_AFFINE), "mask": _image(brain, FSL_AFFINE)}
        _write_run(folder, name, f"{_SPACE}_res-2", images, REPETITION_TIME)
        _write_confounds(folder, name, confounds)


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


def write_dataset(root: Path, coarse: bool = True) -> None:
    """Write the dataset, with or without the coarse participants."""
    root.mkdir(parents=True, exist_ok=True)
    write_synthetic_runs(root)
    write_real_run(root)
    if coarse:
        write_coarse_runs(root)
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
    parser.add_argument("--small", action="store_true", help="only the first three participants")
    args = parser.parse_args()
    folder = args.folder
    if (folder / "fmriprep" / "dataset_description.json").exists():
        print(f"demo data: {folder / 'fmriprep'} already exists")
    else:
        write_dataset(folder / "fmriprep", coarse=not args.small)
        n = 2 if args.small else 2 + len(_COARSE)
        print(f"demo data: {folder / 'fmriprep'} ({n} synthetic participants, 1 real slab)")
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


def _write_confounds(folder: Path, name: str, confounds: pd.DataFrame) -> None:
    file = folder / f"{name}_desc-confounds_timeseries.tsv"
    confounds.to_csv(file, sep="\t", na_rep="n/a", index=False, float_format="%.6f")


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
