"""fMRIPrep's minimal level + the raw dataset -> the runs that one resampling takes to the template.

Files belong together by the entities in their names. The sidecars of fMRIPrep 23.2 name the sources
of a transform as paths of the machine that made it; the app does not read them.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from swift_bids.base.errors import InputError
from swift_bids.geometry.frames import TRAINING_SPACE
from swift_bids.inputs.filenames import FoundFile, entities_in
from swift_bids.inputs.raw_header import load_header, readout_time
from swift_bids.inputs.transforms import Fieldmap, Transforms

#: End of the file name of a run's head-motion transforms.
_HEAD_MOTION = re.compile(r"_from-orig_to-boldref_mode-image(_desc-[^_]+)?_xfm\.txt$")
#: A transform from the BOLD reference; `to` is the anatomical image or the ID of a fieldmap.
_FROM_REFERENCE = re.compile(r"_from-boldref_to-([^_]+)_mode-image(_desc-[^_]+)?_xfm\.txt$")
_ANATOMY = ("T1w", "T2w", "anat")
#: Ends of the file names that a minimal run may need.
_NEEDED = re.compile(r"_(xfm\.(txt|h5)|(boldref|mask|fieldmap)\.nii(\.gz)?)$")
_REMEDY = "run fMRIPrep --level minimal again"


def stem_of_transforms(filename: str) -> str | None:
    """Return the name of the run to which head-motion transforms belong; None for other files."""
    match = _HEAD_MOTION.search(filename)
    return filename[: match.start()] if match else None


def list_files(root: Path, participant: str) -> list[Path]:
    """Return the files of a participant that a minimal run may need, in order."""
    files = []
    for folder, below, names in os.walk(root / f"sub-{participant}", followlinks=True):
        below[:] = [name for name in below if name not in ("figures", "log")]
        files += [Path(folder, name) for name in names if _NEEDED.search(name)]
    return sorted(files)


def find_transforms(
    head_motion: Path,
    files: Sequence[Path],
    metadata: Mapping[str, Any],
    bold: str,
    fallback_readout_time: float | None = None,
) -> tuple[Transforms, str | None, list[str]]:
    """Find the files that take a run to the template.

    Parameters
    ----------
    head_motion
        The run's head-motion transforms.
    files
        The participant's files, from `list_files`.
    metadata, bold
        Content of the raw run's sidecars; the raw run.
    fallback_readout_time
        TotalReadoutTime in s if the metadata do not contain it.

    Returns
    -------
    transforms : Transforms
    mask : str or None
        The functional brain mask, which fMRIPrep writes from version 23.2.1 on.
    warnings : list of str
        One sentence for each doubt.

    Raises
    ------
    InputError
        A file is missing, or there are several where one is expected.
    """
    stem = str(stem_of_transforms(head_motion.name))
    own = {  # names of images keep the entity part-mag, those of transforms do not
        file.name.removeprefix(stem).removeprefix("_part-mag"): file
        for file in files
        if file.parent == head_motion.parent and file.name.startswith(f"{stem}_")
    }
    targets = {
        match.group(1): str(file)
        for end, file in own.items()
        if (match := _FROM_REFERENCE.match(end))
    }
    coregistration = next((targets[name] for name in _ANATOMY if name in targets), None)
    if coregistration is None:
        raise InputError(
            f"has no transform to the anatomical image ({stem}_from-boldref_to-T1w_..._xfm.txt); "
            f"{_REMEDY}"
        )
    references = [own[end] for end in own if re.match(r"_desc-(hmc|coreg)_boldref\.nii", end)]
    if not references:
        raise InputError(f"has no BOLD reference ({stem}_desc-hmc_boldref.nii.gz); {_REMEDY}")
    reference = max(references)  # hmc before coreg
    template = find_template_transform(stem, files)
    if template is None:
        others = sorted(
            {m.group(1) for f in files if (m := re.search(r"_from-T1w_to-(MNI[^_]+)_", f.name))}
        )
        instead = f" (available: {', '.join(others)})" if others else ""
        raise InputError(
            f"has no transform from the anatomical image to {TRAINING_SPACE}{instead}; run "
            f"fMRIPrep --level minimal with --output-spaces {TRAINING_SPACE}"
        )
    functional = [str(own[end]) for end in own if end.startswith("_desc-brain_mask.nii")]
    labels = [name for name in targets if name not in _ANATOMY]
    fieldmap: Fieldmap | None = None
    warnings: list[str] = []
    if len(labels) > 1:
        raise InputError(
            f"has transforms to several fieldmaps ({', '.join(labels)}); keep only the one that "
            f"fMRIPrep used last"
        )
    if labels:
        levels, reference_image = _fieldmap_files(stem, labels[0], files)
        direction, time = _phase_encoding(metadata, bold, fallback_readout_time)
        if direction is None or time is None:
            lacking = "PhaseEncodingDirection" if direction is None else "TotalReadoutTime"
            warnings.append(
                f"its fieldmap {labels[0]} is not applied, because the raw sidecars lack "
                f"{lacking}; fMRIPrep would not apply it either"
            )
        else:
            fieldmap = Fieldmap(
                targets[labels[0]], tuple(map(str, levels)), str(reference_image), direction, time
            )
    transforms = Transforms(
        head_motion=str(head_motion),
        reference=str(reference),
        coregistration=coregistration,
        template=str(template),
        fieldmap=fieldmap,
    )
    return transforms, next(iter(functional), None), warnings


def leads_to(space: str, file: Path) -> bool:
    """Whether a file is a transform from an anatomical image to a template."""
    end = rf"_from-({'|'.join(_ANATOMY)})_to-{re.escape(space)}_mode-image(_desc-[^_]+)?_xfm\.h5$"
    return re.search(end, file.name) is not None


def find_template_transform(stem: str, files: Iterable[Path]) -> Path | None:
    """Return the transform from the anatomical image of a run to the training template.

    It comes from the session of the run, from none, or from another one, in this order.

    Raises
    ------
    InputError
        There are several, none of them from the session of the run.
    """
    found = [file for file in files if leads_to(TRAINING_SPACE, file)]
    if not found:
        return None
    session = entities_in(stem).get("ses")
    sessions = [entities_in(file.name).get("ses") for file in found]
    for wanted in (session, None):
        if wanted in sessions:
            return found[sessions.index(wanted)]
    if len(found) > 1:
        listed = ", ".join(str(file.name) for file in found)
        raise InputError(
            f"there are several anatomical images, none of them from its session ({listed}); keep "
            f"only one of these transforms"
        )
    return found[0]


def anatomical_mask(template: Path, files: Iterable[Path]) -> Path | None:
    """Return the native brain mask of the anatomical image that a transform starts from."""
    start = template.name[: template.name.index("_from-")]
    for file in files:
        if file.parent == template.parent and re.fullmatch(
            re.escape(start) + r"_desc-brain_mask\.nii(\.gz)?", file.name
        ):
            return file
    return None


def _fieldmap_files(stem: str, label: str, files: Iterable[Path]) -> tuple[list[Path], Path]:
    """The coefficients of a fieldmap, one image per level, and its reference image."""
    # name before the ID -> end of the name -> file
    fieldmaps: dict[str, dict[str, Path]] = defaultdict(dict)
    for file in files:
        name = entities_in(file.name)
        if _letters(name.get("fmapid", "")) == _letters(label):
            end = name.get("desc", "")
            if re.fullmatch(r"coeff\d*|epi|magnitude", end):
                fieldmaps[file.name.split("_fmapid-")[0]][end] = file
    sessions = {start: entities_in(start).get("ses") for start in fieldmaps}
    starts: list[str] = []
    for wanted in (entities_in(stem).get("ses"), None):
        starts = starts or [start for start in fieldmaps if sessions[start] == wanted]
    starts = starts or list(fieldmaps)  # acquired in another session
    if len(starts) > 1:
        raise InputError(
            f"there are several fieldmaps {label} ({', '.join(sorted(starts))}); keep only the "
            f"files of the one that fMRIPrep used"
        )
    found = fieldmaps[starts[0]] if starts else {}
    # sdcflows names the levels coeff, or coeff0 and coeff1
    levels = sorted(end for end in found if end.startswith("coeff"))
    if "coeff" in levels and len(levels) > 1:
        raise InputError(
            f"its fieldmap {label} has files of two fMRIPrep versions "
            f"(desc-{', desc-'.join(levels)}); keep only those of the last one"
        )
    reference = found.get("epi") or found.get("magnitude")
    if not levels or reference is None:
        raise InputError(
            f"its fieldmap {label} is incomplete (desc-coeff_fieldmap.nii.gz, and "
            f"desc-epi_fieldmap.nii.gz or desc-magnitude_fieldmap.nii.gz); copy the folder fmap "
            f"again from fMRIPrep's output"
        )
    return [found[end] for end in levels], reference


def _phase_encoding(
    metadata: Mapping[str, Any], bold: str, fallback: float | None
) -> tuple[str | None, float | None]:
    """Phase-encoding direction and total readout time in s, each None if it is unknown."""
    direction = metadata.get("PhaseEncodingDirection")
    if not isinstance(direction, str) or not re.fullmatch("[ijk]-?", direction):
        return None, None
    axis = "ijk".index(direction[0])
    try:
        time = readout_time(metadata, lambda: load_header(bold).get_data_shape()[axis], fallback)
    except ValueError as error:
        raise InputError(f"in its raw sidecars, {error}; correct it") from error
    return direction, time


def _letters(label: str) -> str:
    """fMRIPrep removes some or all non-alphanumeric characters from the IDs of fieldmaps."""
    return re.sub(r"[^A-Za-z0-9]", "", label)


def find_raw_bold(raw_files: Mapping[str, FoundFile], stem: str, raw: Path) -> FoundFile:
    """Return the raw BOLD file of a run.

    Parameters
    ----------
    raw_files
        Name of a raw run -> its BOLD file.
    stem, raw
        Name of the run in the derivatives; root of the raw dataset.

    Raises
    ------
    InputError
        It does not exist, or the run has several echoes.
    """
    named = {re.sub(r"_part-mag(?=_|$)", "", name): file for name, file in raw_files.items()}
    if stem in named:
        return named[stem]
    echoes = [name for name in named if re.sub(r"_echo-[^_]+", "", name) == stem]
    if echoes:
        raise InputError(
            f"has {len(echoes)} echoes, which fMRIPrep combines after the minimal level; run "
            f"fMRIPrep --level full with --output-spaces {TRAINING_SPACE}:res-2"
        )
    raise InputError(
        f"its raw BOLD file {stem}_bold.nii.gz is not in {raw}{os.sep}{stem.split('_')[0]}; use "
        f"--raw to give the dataset that fMRIPrep processed"
    )
