"""fMRIPrep derivatives -> the runs to embed, and a sentence for every run that cannot be."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from swift_bids.bold import UNREADABLE
from swift_bids.chunk import count_dummy_scans, plan_chunks, read_confounds
from swift_bids.dataset import Dataset
from swift_bids.errors import InputError, Problem, UsageError
from swift_bids.filters import entities_of
from swift_bids.series import Series, model_repetition_time

#: Spaces the network can read, in order of preference; others only when asked for by --space.
SPACES = ("MNI152NLin6Asym", "MNI152NLin2009cAsym")
#: The spatial entities of a file name; what is left names the run.
_SPATIAL = re.compile(r"_(?:space|cohort|res|den)-[^_]+")
#: Units of time in a NIfTI header, in s.
_SECONDS = {"sec": 1, "msec": 1e-3, "usec": 1e-6}
#: Relative to the dataset's root; in place of pybids' own list, all of which the first line holds.
_IGNORED = (
    r"^/(?!sub-)[^/]+/",  # a copy of a participant there must not be taken for the participant
    r"^/sub-[^/]+/(ses-[^/]+/)?(anat|figures|log|fmap|dwi|perf)(/|$)",
    r"\.(html|svg|h5|gii|dtseries\.nii|dscalar\.nii)$",
)


@dataclass(frozen=True)
class Run:
    """One run of one participant and the files it is embedded from.

    Attributes
    ----------
    name
        All BIDS entities of the BOLD file but `desc`, e.g.
        `sub-01_ses-1_task-rest_run-1_space-MNI152NLin6Asym_res-2`; outputs are named after it.
    participant
        Label without `sub-`.
    bold, mask, confounds
        Paths; `confounds` is None where the run has none.
    space, repetition_time, n_volumes
        Template of the BOLD file, its TR in s (sidecar), its number of volumes (header).
    first_volume
        Volumes at the start that are left out (dummy scans).
    model_tr
        TR in s at which the network reads the run (`--target-tr`).
    warnings
        What the user should know about the inputs, one sentence each.
    """

    name: str
    participant: str
    bold: str
    mask: str
    confounds: str | None
    space: str
    repetition_time: float
    n_volumes: int
    first_volume: int
    model_tr: float
    warnings: tuple[str, ...] = ()

    @property
    def series(self) -> Series:
        """The series of volumes that the network reads."""
        return Series(self.n_volumes, self.repetition_time, self.first_volume, self.model_tr)


@dataclass
class Selection:
    """What a call asks for; None means everything.

    Attributes
    ----------
    sessions, tasks
        `--session-label`, `--task-id`.
    spaces
        `--space`, in order of preference.
    dummy_scans
        `--dummy-scans`: a number, or None for those that fMRIPrep found.
    target_tr, short_runs
        `--target-tr`; `--short-runs`, which decides whether a short run can be embedded.
    filters
        Content of `--bids-filter-file`.
    """

    sessions: Sequence[str] | None = None
    tasks: Sequence[str] | None = None
    spaces: Sequence[str] = SPACES
    dummy_scans: int | None = None
    target_tr: str = "auto"
    short_runs: str = "skip"
    filters: dict[str, dict[str, Any]] = field(default_factory=dict)


def find_runs(
    dataset: Dataset, participants: Sequence[str], selection: Selection
) -> tuple[list[Run], list[Problem]]:
    """Query the derivatives with pybids; only the folders of the participants are read.

    Returns
    -------
    runs : list of Run
        In the order of participants and file names, one for each run, in one space.
    problems : list of Problem
        One for each run or participant that cannot be embedded, with what exists instead.
    """
    from bids.layout import BIDSLayout, BIDSLayoutIndexer

    wanted = "|".join(map(re.escape, participants))
    ignore = [*map(re.compile, _IGNORED), re.compile(rf"^/sub-(?!(?:{wanted})(?:[/_.]|$))")]
    indexer = BIDSLayoutIndexer(validate=False, index_metadata=False, ignore=ignore)
    layout = BIDSLayout(
        dataset.root, validate=False, config=["bids", "derivatives"], indexer=indexer
    )
    runs: list[Run] = []
    problems: list[Problem] = []
    for participant in participants:
        found, unusable = _participant_runs(layout, participant, selection)
        runs += found
        problems += unusable
    return runs, problems


def _participant_runs(
    layout, participant: str, selection: Selection
) -> tuple[list[Run], list[Problem]]:
    bolds = _get(layout, "bold", participant, selection.filters)
    if not bolds:
        reason = (
            "has no preprocessed BOLD volumes (*_desc-preproc_bold.nii.gz)"
            + (" that --bids-filter-file lets through" if selection.filters.get("bold") else "")
            + "; run fMRIPrep with --output-spaces MNI152NLin6Asym:res-2"
        )
        return [], [Problem(participant, f"sub-{participant}", reason)]
    chosen = [
        b
        for b in bolds
        if _in(b.entities.get("session"), selection.sessions)
        and _in(b.entities.get("task"), selection.tasks)
    ]
    if not chosen:
        values = {
            name: sorted({str(b.entities[name]) for b in bolds if name in b.entities})
            for name in ("session", "task")
        }
        there = [f"{name}s {', '.join(labels)}" for name, labels in values.items() if labels]
        reason = f"no run matches the asked-for sessions and tasks; it has {' and '.join(there)}"
        return [], [Problem(participant, f"sub-{participant}", reason)]

    masks = {
        _stem(f.filename, "_desc-brain_mask"): f.path
        for f in _get(layout, "mask", participant, selection.filters)
    }
    confounds = {
        _stem(f.filename, "_desc-confounds_"): f.path
        for f in _get(layout, "confounds", participant, selection.filters)
    }
    variants: dict[str, list] = {}  # the same run in several spaces and resolutions
    for bold in chosen:
        variants.setdefault(_SPATIAL.sub("", _stem(bold.filename, "_desc-")), []).append(bold)

    runs, problems = [], []
    for name, candidates in sorted(variants.items()):
        usable = [b for b in candidates if b.entities.get("space") in selection.spaces]
        if not usable:
            spaces = sorted({b.entities.get("space", "the native space") for b in candidates})
            choose = "choose with --space, or " if spaces != ["the native space"] else ""
            reason = (
                f"has no preprocessed BOLD in {' or '.join(selection.spaces)}; it is there in "
                f"{', '.join(spaces)} ({choose}run fMRIPrep with --output-spaces "
                f"MNI152NLin6Asym:res-2)"
            )
            problems.append(Problem(participant, name, reason))
            continue
        best = min(usable, key=lambda b: _preference(b, selection.spaces))
        try:
            runs.append(_run(layout, best, masks, confounds.get(name), selection))
        except InputError as error:
            name = _stem(best.filename, "_desc-")
            problems.append(Problem(participant, name, str(error)))
    return runs, problems


def _run(layout, bold, masks: dict[str, str], confounds: str | None, selection: Selection) -> Run:
    """Complete one run; InputError says what is missing."""
    name = _stem(bold.filename, "_desc-")
    if name not in masks:
        others = sorted(m for m in masks if _SPATIAL.sub("", m) == _SPATIAL.sub("", name))
        spaces = [re.search(r"_space-([^_]+)", m) for m in others]
        listed = ", ".join(s.group(1) if s else "the native space" for s in spaces)
        there = f"there is one in {listed}" if listed else "nor in any other"
        raise InputError(
            f"has no brain mask in its space ({name}_desc-brain_mask.nii.gz), {there}; take it "
            f"over from fMRIPrep's output, or run fMRIPrep again"
        )
    for path in (bold.path, masks[name]):
        if not Path(path).exists():
            raise InputError(f"the content of {path} is not here (datalad get {path})")
    repetition_time = _sidecar(layout, bold).get("RepetitionTime")
    if not isinstance(repetition_time, (int, float)) or not 0 < repetition_time < 30:
        raise InputError(
            f"its JSON sidecars hold no RepetitionTime in seconds (but {repetition_time}); correct "
            f"{Path(bold.path).name.replace('.nii.gz', '.json')}"
        )
    try:
        header = nib.load(bold.path).header
        shape, zooms, affine = header.get_data_shape(), header.get_zooms(), header.get_best_affine()
    except UNREADABLE as error:
        raise InputError(f"{bold.path} cannot be read ({error})") from error
    if len(shape) != 4:
        raise InputError(f"{bold.path} has {len(shape)} dimensions, a BOLD run has 4")
    if not np.isfinite(affine).all() or np.linalg.det(affine[:3, :3]) == 0:
        raise InputError(f"{bold.path}: its affine places no voxel; make the file again")
    warnings = []
    header_tr = zooms[3] * _SECONDS.get(header.get_xyzt_units()[1], 1)
    if abs(header_tr - repetition_time) > 0.001:
        warnings.append(
            f"the header's TR ({header_tr:g} s) differs from the sidecar's ({repetition_time:g} "
            f"s), which is used; check that the sidecar is right"
        )
    run = Run(
        name=name,
        participant=bold.entities["subject"],
        bold=bold.path,
        mask=masks[name],
        confounds=confounds,
        space=bold.entities["space"],
        repetition_time=float(repetition_time),
        n_volumes=shape[3],
        first_volume=_first_volume(confounds, selection.dummy_scans),
        model_tr=model_repetition_time(selection.target_tr, float(repetition_time)),
        warnings=tuple(warnings),
    )
    plan_chunks(run.series, short_runs=selection.short_runs)  # refuses what is too short
    return run


def _first_volume(confounds: str | None, dummy_scans: int | None) -> int:
    if dummy_scans is not None:
        return dummy_scans
    return count_dummy_scans(read_confounds(confounds)) if confounds else 0


def _get(layout, kind: str, participant: str, filters: dict[str, dict[str, Any]]) -> list:
    try:
        return layout.get(subject=participant, **entities_of(kind, filters))
    except (ValueError, KeyError) as error:  # of pybids: no such entity, no such Query
        raise UsageError(f"--bids-filter-file: {kind}: {str(error).splitlines()[0]}") from error


def _sidecar(layout, bold) -> dict[str, Any]:
    """Metadata of a BOLD file: its own sidecar, then those it inherits from."""
    from bids.layout import Query

    files = layout.get_nearest(
        bold.path,
        all_=True,
        subject=[bold.entities["subject"], Query.NONE],
        suffix="bold",
        extension=".json",
    )
    metadata: dict[str, Any] = {}
    for file in files:
        try:
            content = json.loads(Path(file).read_text(encoding="utf-8-sig"))
        except (OSError, ValueError) as error:
            raise InputError(f"{file}: is not valid JSON ({error}); correct it") from error
        metadata = content | metadata
    return metadata


def _preference(bold, spaces: Sequence[str]) -> tuple[int, int, str]:
    """The preferred space, then 2 mm, then the native resolution, then any other."""
    resolution = {"2": 0, "02": 0, None: 1}.get(bold.entities.get("res"), 2)
    return spaces.index(bold.entities["space"]), resolution, bold.filename


def _in(value: Any, wanted: Iterable[str] | None) -> bool:
    return wanted is None or (value is not None and str(value) in wanted)


def _stem(filename: str, end: str) -> str:
    return filename.split(end)[0]
