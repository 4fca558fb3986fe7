"""Files that a participant or run lacks -> a sentence: what exists instead, and what to do."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from swift_bids.geometry.frames import TRAINING_SPACE
from swift_bids.inputs.filenames import FoundFile, label_in
from swift_bids.inputs.selection import Selection, is_infant_space

#: Beginning of the reason if a participant has no preprocessed file at all.
NO_BOLD = "has no preprocessed BOLD image"
_REMEDY = "run fMRIPrep with --output-spaces MNI152NLin6Asym:res-2"


def explain_selection(files: Sequence[FoundFile]) -> str:
    """Say that no run of a participant is selected, and which sessions, tasks and runs it has."""
    plurals = {"session": "sessions", "task": "tasks", "run": "runs", "echo": "echoes"}
    values = {
        plural: sorted({v for file in files if (v := label_in(file, entity)) is not None})
        for entity, plural in plurals.items()
    }
    existing = [f"{plural} {', '.join(labels)}" for plural, labels in values.items() if labels]
    return f"no run matches your selection; this participant has {', '.join(existing)}"


def explain_missing_space(candidates: Sequence[FoundFile], selection: Selection) -> str:
    """Say that a run exists in none of the requested spaces and resolutions, and where it does."""
    spaces = sorted(
        {
            ":".join(filter(None, (b.entities.get("space", "native space"), _modifier(b))))
            for b in candidates
        }
    )
    infant = [space for space in spaces if is_infant_space(space.split(":")[0])]
    if infant == spaces:
        return (
            f"is only in {', '.join(spaces)}: the network was trained on the brains of children "
            f"from 9 years and of adults, in {TRAINING_SPACE}, and cannot read an infant template; "
            f"resample the run to an adult template"
        )
    choose = "choose one with --space or --res, or " if spaces != ["native space"] else ""
    wanted = " or ".join(selection.spaces)
    if selection.resolutions is not None:
        wanted += f" at resolution {' or '.join(selection.resolutions)}"
    return (
        f"has no preprocessed BOLD in {wanted} (available: {', '.join(spaces)}); {choose}{_REMEDY}"
    )


def _modifier(bold: FoundFile) -> str | None:
    resolution = label_in(bold, "res")
    return f"res-{resolution}" if resolution else None


def explain_missing_bold(folder: Path, selection: Selection) -> str:
    """Say what a participant without preprocessed BOLD images has instead, and what to do."""
    names = [p.name for p in folder.glob("**/func/*")]
    reason = f"{NO_BOLD} (*_desc-preproc_bold.nii.gz)"
    if selection.filters.get("bold") and any("_desc-preproc_bold.nii" in name for name in names):
        return f"{reason} that match --bids-filter-file"
    if not any(folder.rglob("*")):
        return f"{reason}: its folder is empty (in a DataLad dataset, run datalad get -n {folder})"
    if selection.echoes is not None:
        return f"{reason} of echo {' or '.join(selection.echoes)}"
    if any("_echo-" in name and "_desc-preproc_bold.nii" in name for name in names):
        return f"{reason} except single echoes; choose them with --echo-idx, or {_REMEDY}"
    if any(name.endswith((".dtseries.nii", ".func.gii")) for name in names):
        return f"{reason}, only surface or CIFTI files, which the network cannot read; {_REMEDY}"
    if any(name.endswith(("_boldref.nii.gz", "_xfm.txt", "_xfm.h5")) for name in names):
        return (
            f"{reason}, only the references and transforms that fMRIPrep --level minimal writes; "
            f"give the raw dataset with --raw, so that the app can resample it"
        )
    return f"{reason}; {_REMEDY}"
