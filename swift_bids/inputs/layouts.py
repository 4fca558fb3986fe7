"""A folder -> the layout of its data: fMRIPrep's, or that in which a cohort is distributed.

The names are those of the releases and of the programs that made them: HCP's minimal preprocessing
(Glasser et al. 2013, doi:10.1016/j.neuroimage.2013.04.127), the abcd-hcp-pipeline (Feczko et al.
2021, doi:10.1101/2021.07.09.451638) and UK Biobank's pipeline (Alfaro-Almagro et al. 2018,
doi:10.1016/j.neuroimage.2017.10.034). XCP-D reads the same ones (its module `ingression`).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: A folder or zip file of UK Biobank: participant, field 20227, instance, array index.
UKB_NAME = re.compile(r"(\d+)_20227_(\d+)_(\d+)(\.zip)?")


@dataclass(frozen=True)
class Layout:
    """How one kind of dataset arranges its files.

    Attributes
    ----------
    title
        What the data are, for the log.
    folders
        What the folder of a participant looks like, for messages.
    participants
        Root of a dataset -> label of each participant (without `sub-`) -> folders or zip files.
    is_one
        Whether a folder is that of a single participant.
    label
        Name that a user may give to a participant, such as that of its folder -> label.
    """

    title: str
    folders: str
    participants: Callable[[Path], dict[str, list[Path]]]
    is_one: Callable[[Path], bool]
    label: Callable[[str], str] = lambda name: name.removeprefix("sub-")


def _bids_participants(root: Path) -> dict[str, list[Path]]:
    return {p.name[4:]: [p] for p in root.glob("sub-*") if p.is_dir()}


def _hcp_participants(root: Path) -> dict[str, list[Path]]:
    """Folders with `MNINonLinear`; letters and digits of their names are the labels."""
    found: dict[str, list[Path]] = defaultdict(list)
    for folder in root.glob("*/MNINonLinear"):
        found[_hcp_label(folder.parent.name)].append(folder.parent)
    return found


def _hcp_label(name: str) -> str:
    """BIDS allows only letters and digits in a label: HCA6002236_V1_MR -> HCA6002236V1MR."""
    return re.sub("[^A-Za-z0-9]", "", name.removeprefix("sub-"))


def _ukb_participants(root: Path) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(root.iterdir()):
        match = UKB_NAME.fullmatch(path.name)
        if match and not (match[4] and path.with_suffix("").exists()):  # a zip that is unpacked
            found[match[1]].append(path)
        elif path.name.isdecimal() and (path / "fMRI").is_dir():
            found[path.name].append(path)
    return found


def _is_bids_participant(folder: Path) -> bool:
    return folder.name.startswith("sub-") and any(folder.glob("**/func"))


#: `--input-type` -> its layout. All but the first two are layouts of cohorts.
LAYOUTS = {
    "fmriprep": Layout("fMRIPrep derivatives", "sub-*", _bids_participants, _is_bids_participant),
    "nibabies": Layout("NiBabies derivatives", "sub-*", _bids_participants, _is_bids_participant),
    "hcp": Layout(
        "data of the Human Connectome Project",
        "<id>/MNINonLinear",
        _hcp_participants,
        lambda folder: (folder / "MNINonLinear").is_dir(),
        _hcp_label,
    ),
    "abcd": Layout(
        "output of the abcd-hcp-pipeline",
        "sub-*/ses-*/files/MNINonLinear",
        _bids_participants,
        lambda folder: any(folder.glob("ses-*/files/MNINonLinear")),
    ),
    "ukb": Layout(
        "UK Biobank data",
        "<id>_20227_<instance>_0/fMRI",
        _ukb_participants,
        lambda folder: (folder / "fMRI" / "rfMRI.ica").is_dir(),
        lambda name: name.removeprefix("sub-").split("_")[0],
    ),
}
COHORTS = ("hcp", "abcd", "ukb")
#: Choices of `--input-type`.
INPUT_TYPES = ("auto", *LAYOUTS)


def recognise(root: Path, description: Mapping[str, Any]) -> str:
    """Return the `--input-type` of a dataset, from its description and its first folders.

    Parameters
    ----------
    root, description
        The dataset, and the content of its `dataset_description.json`.
    """
    made_by = description.get("GeneratedBy")
    programs = made_by if isinstance(made_by, list) else []
    names = {str(program.get("Name")).lower() for program in programs if isinstance(program, dict)}
    for known in ("nibabies", "fmriprep"):
        if known in names:
            return known
    for cohort in COHORTS:
        if LAYOUTS[cohort].is_one(root):  # which find_derivatives refuses
            return cohort
    if any(root.glob("*/MNINonLinear")):
        return "hcp"
    if _ukb_participants(root):
        return "ukb"
    return "abcd" if any(root.glob("sub-*/ses-*/files/MNINonLinear")) else "fmriprep"
