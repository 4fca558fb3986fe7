"""The folders of HCP, ABCD and UK Biobank -> their runs under BIDS names, and the files of each.

Names and places are those of the releases; see `swift_bids.inputs.layouts` for the sources.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from swift_bids.base.errors import InputError
from swift_bids.inputs.brain_mask import NEAREST, BrainMask, functional_mask
from swift_bids.inputs.confounds import HCP_MOTION, HCP_RMS
from swift_bids.inputs.layouts import UKB_NAME
from swift_bids.inputs.transforms import FslWarp

#: Task, number, a letter (REST1a, in HCP Development) and direction.
_HCP_RUN = re.compile(r"[rt]fMRI_([A-Za-z]+)(?:(\d+)([a-z]?))?_(LR|RL|AP|PA)")
#: Task, other entities, and the number after `run-` or after the task.
_ABCD_RUN = re.compile(
    r"(?:ses-[^_]+_)?task-([A-Za-z0-9]+?)((?:_(?:acq|dir)-[A-Za-z0-9]+)*)(?:_run-(\d+)|(\d+))?"
)
#: The anatomical brain mask at 2 mm. Which of its names it has depends on the release.
_HCP_MASKS = ("brainmask_fs.2.nii.gz", "brainmask_fs.2.0.nii.gz")
#: What `--ica-fix auto` chooses: the data that the network was trained on.
_ICA_FIX = {"hcp": "off", "abcd": "off", "ukb": "on"}
#: The only brain mask that a cohort's data contain, by its name for `--mask`.
MASK_OF = {"hcp": "anat", "abcd": "anat", "ukb": "bold"}


@dataclass(frozen=True)
class CohortRun:
    """A run as a cohort distributes it.

    Attributes
    ----------
    name
        Its BIDS entities, without those of its space.
    folder
        Where its files are, for messages.
    files
        Value of `--ica-fix` -> fields of `swift_bids.inputs.run.Run`; raises InputError if a file
        is missing.
    sidecar
        JSON file that may contain its TR; otherwise the TR is in the header.
    """

    name: str
    folder: Path
    files: Callable[[str], dict[str, Any]]
    sidecar: Path | None = None


def hcp_runs(label: str, folder: Path) -> Iterator[CohortRun]:
    """Runs of one participant of HCP, from `MNINonLinear/Results`, at 3 T."""
    shared = folder / "MNINonLinear"
    for place in sorted((shared / "Results").glob("[rt]fMRI_*")):
        if match := _HCP_RUN.fullmatch(place.name):
            task, number, letter, direction = match.groups()
            acquisition = f"_acq-{letter}" if letter else ""
            name = f"sub-{label}_task-{task.lower()}{acquisition}_dir-{direction}"
            name += f"_run-{number or 1}"
            yield CohortRun(name, place, partial(_hcp_files, "hcp", place, (place, shared)))


def other_runs(folder: Path) -> list[str]:
    """Names of the runs of a participant of HCP or ABCD that are not embedded: those at 7 T, and
    those whose names the app does not know."""
    places = [*folder.glob("MNINonLinear/Results/*"), *folder.glob("ses-*/files/MNIN*/Results/*")]
    return [
        place.name
        for place in places
        if not (_HCP_RUN.fullmatch(place.name) or _ABCD_RUN.fullmatch(place.name))
        and os.path.lexists(place / f"{place.name}.nii.gz")
    ]


def explain_no_runs(folders: Sequence[Path]) -> str:
    """Say why a participant has no runs, and what to do."""
    listed = ", ".join(map(str, folders))
    others = [name for folder in folders for name in other_runs(folder)]
    if others:
        return f"{listed}: contains only runs that the app leaves out ({', '.join(others)})"
    if not any(file.is_file() for folder in folders for file in folder.rglob("*")):
        return f"{listed}: contains no files (in a DataLad dataset, run datalad get -n {listed})"
    return f"{listed}: contains no run; copy the participant again"


def describe_unreadable(error: OSError) -> str:
    """Say which file or folder cannot be read, and what to do."""
    remedy = "check its permissions"
    if isinstance(error, FileNotFoundError):  # a broken link
        remedy = f"fetch it (datalad get -n {shlex.quote(str(error.filename))})"
    return f"{error.filename}: cannot be read ({error.strerror}); {remedy}"


def _exists(file: Path) -> bool:
    """Whether a file exists, be it a link whose content is missing; OSError if that is unknown."""
    try:
        os.lstat(file)
    except FileNotFoundError:
        return False
    return True


def abcd_runs(label: str, folder: Path) -> Iterator[CohortRun]:
    """Runs of one participant from the abcd-hcp-pipeline, in all sessions."""
    for results in sorted(path / "files/MNINonLinear/Results" for path in folder.glob("ses-*")):
        session = results.parents[2].name
        for place in sorted(results.iterdir()) if _exists(results) else ():
            if (match := _ABCD_RUN.fullmatch(place.name)) and not place.is_file():
                number = match[3] or match[4]
                run = f"_run-{number}" if number else ""
                name = f"sub-{label}_{session}_task-{match[1]}{match[2]}{run}"
                masks = (place, results.parent)
                yield CohortRun(name, place, partial(_hcp_files, "abcd", place, masks))


def ukb_runs(label: str, folder: Path) -> Iterator[CohortRun]:
    """The resting-state run in one folder or zip file of UK Biobank (field 20227)."""
    name = f"sub-{label}"
    if match := UKB_NAME.fullmatch(folder.name):
        name += f"_ses-{match[2]}"
    name += "_task-rest"
    if match and match[3] != "0":  # acquired again at the same visit
        name += f"_run-{int(match[3]) + 1}"
    sidecar = folder / "fMRI" / "rfMRI.json"
    yield CohortRun(name, folder, partial(_ukb_files, folder), sidecar)


def explain_no_mask(cohort: str, folder: Path) -> str:
    """Say which brain mask a run lacks."""
    if cohort == "ukb":
        mask = folder / "fMRI" / "rfMRI.ica" / "mask.nii.gz"
        return f"{mask} (the brain mask) is missing; unpack the zip file again"
    return (
        f"{folder}: has no brain mask ({_HCP_MASKS[0]}), and neither has the folder of the "
        f"participant; copy it from the release"
    )


def _hcp_files(
    cohort: str, folder: Path, mask_folders: tuple[Path, Path], ica_fix: str
) -> dict[str, Any]:
    """Files of a run in the layout of HCP's pipelines; its folder has the name of the run."""
    stem = folder.name
    names = sorted(os.listdir(folder))
    plain = [name for name in names if name == f"{stem}.nii.gz"]
    clean = [name for name in names if re.fullmatch(rf"{stem}_hp\d+_clean\.nii\.gz", name)]
    bold, denoising = _choose(cohort, folder, plain, clean, ica_fix)
    masks = [place / name for place in mask_folders for name in _HCP_MASKS]
    if cohort == "abcd":
        masks.append(folder / "brainmask_fs.nii.gz")
    mask = next(filter(_exists, masks), None)
    motion = next((name for name in (HCP_MOTION, HCP_RMS) if name in names), None)
    fields: dict[str, Any] = {
        "bold": str(bold),
        "mask": mask and BrainMask("anatomical", str(mask), on_grid_of_run=True),
        "confounds": str(folder / motion) if motion else None,
        "denoising": denoising,
    }
    if motion == HCP_RMS:
        fields["warnings"] = (
            f"there is no {HCP_MOTION}, so framewise displacement is FSL's relative RMS "
            f"displacement ({HCP_RMS}), which is smaller",
        )
    return fields


def _ukb_files(folder: Path, ica_fix: str) -> dict[str, Any]:
    if folder.suffix == ".zip":
        if not folder.exists():
            fetch = shlex.join(["datalad", "get", str(folder)])
            raise InputError(f"the content of {folder} is missing; fetch it ({fetch})")
        unpacked = str(folder.with_suffix(""))
        raise InputError(
            f"{folder}: is not unpacked; run {shlex.join(['unzip', '-d', unpacked, str(folder)])}"
        )
    ica = folder / "fMRI" / "rfMRI.ica"
    if not _exists(ica):
        if any(ica.parent.glob("rfMRI*.nii.gz")):
            raise InputError(
                f"{folder}: has no fMRI/rfMRI.ica; UK Biobank leaves it out if the run did not "
                f"pass its quality control"
            )
        raise InputError(f"{folder}: is incomplete, it has no fMRI/rfMRI.ica; unpack it again")
    names = os.listdir(ica)
    plain = [name for name in names if name == "filtered_func_data.nii.gz"]
    clean = [name for name in names if name == "filtered_func_data_clean.nii.gz"]
    bold, denoising = _choose("ukb", ica, plain, clean, ica_fix)
    field, mask = ica / "reg" / "example_func2standard_warp.nii.gz", ica / "mask.nii.gz"
    if not _exists(field):
        raise InputError(
            f"{field} (the field that leads to MNI space) is missing; unpack the zip file again"
        )
    motion = ica / "mc" / "prefiltered_func_data_mcf.par"
    return {
        "bold": str(bold),
        "mask": functional_mask(str(mask), NEAREST) if _exists(mask) else None,
        "confounds": str(motion) if _exists(motion) else None,
        "denoising": denoising,
        "transforms": FslWarp(str(field)),
    }


def _choose(
    cohort: str, folder: Path, plain: list[str], clean: list[str], ica_fix: str
) -> tuple[Path, str]:
    """The BOLD file with or without ICA-FIX, and what has denoised it."""
    wanted = _ICA_FIX[cohort] if ica_fix == "auto" else ica_fix
    chosen, others = (clean, plain) if wanted == "on" else (plain, clean)
    if len(chosen) > 1:
        raise InputError(
            f"{folder}: has several files after ICA-FIX ({', '.join(chosen)}); keep only one"
        )
    if chosen:
        return folder / chosen[0], "ICA-FIX" if wanted == "on" else "none"
    kind = "after ICA-FIX" if wanted == "on" else "before ICA-FIX"
    if others:
        instead = "off" if wanted == "on" else "on"
        raise InputError(
            f"{folder}: has no BOLD file {kind}, but {others[0]}; choose it with --ica-fix "
            f"{instead}"
        )
    if any(folder.glob("*.dtseries.nii")):
        raise InputError(
            f"{folder}: has only CIFTI files, which the network cannot read; download the volumes "
            f"(*.nii.gz), too"
        )
    raise InputError(f"{folder}: has no BOLD file; copy the run again")


#: `--input-type` -> label and folder of a participant -> runs.
RUNS_OF = {"hcp": hcp_runs, "abcd": abcd_runs, "ukb": ukb_runs}
