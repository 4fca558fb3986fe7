"""fMRIPrep derivatives -> the runs to embed, and a sentence for every run that cannot be."""

from __future__ import annotations

import logging
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from swift_bids.dataset import Dataset
from swift_bids.errors import InputError, Problem, UsageError
from swift_bids.filters import check_entities, entities_of, io_spec
from swift_bids.index import index
from swift_bids.runs import Run, complete_run

_LOG = logging.getLogger("swift_bids")
#: Spaces the network can read, in order of preference; others only when asked for by --space.
SPACES = ("MNI152NLin6Asym", "MNI152NLin2009cAsym")
#: The spatial entities of a file name; what is left names the run.
_SPATIAL = re.compile(r"_(?:space|cohort|res|den)-[^_]+")
#: Participants in one index, which takes 0.2 MB of memory for each of their runs.
PARTICIPANTS_AT_ONCE = 250
_REMEDY = "run fMRIPrep with --output-spaces MNI152NLin6Asym:res-2"


@dataclass
class Selection:
    """What a call asks for; None means everything.

    Attributes
    ----------
    sessions, tasks, runs, echoes
        `--session-label`, `--task-id`, `--run-id`, `--echo-idx`. Without echoes, BOLD files of
        single echoes are no runs.
    spaces
        `--space`, in order of preference: `NAME`, or as fMRIPrep's output spaces with modifiers,
        `NAME:res-2`, `NAME:cohort-1`.
    resolutions
        `--res`; `native` is a file without a res entity.
    dummy_scans
        `--dummy-scans`: a number, or None for those that fMRIPrep found.
    target_tr, short_runs
        `--target-tr`; `--short-runs`, which decides whether a short run can be embedded.
    filters
        Content of `--bids-filter-file`.
    database_dir
        `--bids-database-dir`.
    """

    sessions: Sequence[str] | None = None
    tasks: Sequence[str] | None = None
    runs: Sequence[str] | None = None
    echoes: Sequence[str] | None = None
    spaces: Sequence[str] = SPACES
    resolutions: Sequence[str] | None = None
    dummy_scans: int | None = None
    target_tr: str = "auto"
    short_runs: str = "skip"
    filters: dict[str, dict[str, Any]] = field(default_factory=dict)
    database_dir: Path | None = None

    def has(self, bold) -> bool:
        """Whether a BOLD file is of a session, task, run and echo that is asked for."""
        numbers = {"run": self.runs, "echo": self.echoes}
        wanted = {"session": self.sessions, "task": self.tasks} | {
            entity: labels and list(map(_plain, labels)) for entity, labels in numbers.items()
        }
        return all(
            labels is None or _label(bold, entity) in labels for entity, labels in wanted.items()
        )

    def rank(self, bold) -> tuple[int, int] | None:
        """Preference for the space and resolution of a BOLD file, lowest first; None: not asked
        for. In a space, 2 mm comes first, then the native resolution, then any other."""
        resolution = _label(bold, "res") or "native"
        if self.resolutions is not None and resolution not in map(_plain, self.resolutions):
            return None
        for number, space in enumerate(self.spaces):
            name, *modifiers = space.split(":")
            if bold.entities.get("space") == name and all(
                _has(bold, modifier) for modifier in modifiers
            ):
                return number, {"2": 0, "native": 1}.get(resolution, 2)
        return None


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
    filters = dict(selection.filters)
    if selection.echoes is not None:
        echoes = [int(echo) if echo.isdecimal() else echo for echo in selection.echoes]
        filters["bold"] = {"echo": echoes} | filters.get("bold", {})
    runs: list[Run] = []
    problems: list[Problem] = []
    for start in range(0, len(participants), PARTICIPANTS_AT_ONCE):
        some = participants[start : start + PARTICIPANTS_AT_ONCE]
        with index(dataset.root, some, selection.database_dir) as layout:
            # One query for all: a query for each participant would cost some 10 ms a time.
            files = {kind: _by_participant(layout, kind, filters) for kind in io_spec()}
            for participant in some:
                own = {kind: found[participant] for kind, found in files.items()}
                found, unusable = _participant_runs(dataset, layout, participant, own, selection)
                runs += found
                problems += unusable
    _tell_unmatched(runs, problems, selection)
    return runs, problems


def _participant_runs(
    dataset: Dataset, layout, participant: str, files: dict[str, list], selection: Selection
) -> tuple[list[Run], list[Problem]]:
    if not files["bold"]:
        reason = _what_is_there(dataset.root / f"sub-{participant}", selection)
        return [], [Problem(participant, f"sub-{participant}", reason)]
    chosen = [bold for bold in files["bold"] if selection.has(bold)]
    if not chosen:
        values = {
            name: sorted({_label(b, name) for b in files["bold"] if name in b.entities})
            for name in ("session", "task", "run", "echo")
        }
        there = [f"{name}s {', '.join(labels)}" for name, labels in values.items() if labels]
        reason = f"no run matches what is asked for; it has {', '.join(there)}"
        return [], [Problem(participant, f"sub-{participant}", reason)]

    # A run's mask and confounds lie beside it; a copy in another folder is another's.
    masks, confounds = _by_folder(files["mask"]), _by_folder(files["confounds"])
    variants: dict[str, list] = defaultdict(list)  # the same run in several spaces, resolutions
    for bold in chosen:
        variants[_SPATIAL.sub("", _stem(bold.filename, "_desc-"))].append(bold)

    runs, problems = [], []
    for name, candidates in sorted(variants.items()):
        usable = [b for b in candidates if selection.rank(b) is not None]
        if not usable:
            problems.append(Problem(participant, name, _no_space(candidates, selection)))
            continue
        best = min(usable, key=lambda b: (selection.rank(b), b.filename))
        stem = _stem(best.filename, "_desc-")
        others = sorted(_stem(b.filename, "_desc-") for b in candidates if b is not best)
        try:
            _check_name(best, candidates)
            folder = os.path.dirname(best.path)
            run = {
                "name": stem,
                "participant": participant,
                "bold": _real(dataset, layout, best.path),
                "mask": _real(dataset, layout, _mask_of(stem, masks[folder])),
                "confounds": _real(dataset, layout, _of_all_echoes(name, confounds[folder])),
                "space": best.entities["space"],
                "others": tuple(others),
            }
            runs.append(
                complete_run(
                    run,
                    lambda bold=best: _inherited_sidecars(dataset, layout, bold),
                    selection.dummy_scans,
                    selection.target_tr,
                    selection.short_runs,
                )
            )
        except InputError as error:
            problems.append(Problem(participant, stem, str(error)))
    return runs, problems


def _check_name(bold, candidates: Sequence) -> None:
    """Refuse a run of whose name there are two files, and a name that is none of BIDS."""
    same = sorted(b.path for b in candidates if b.filename == bold.filename)
    if len(same) > 1:
        raise InputError(
            f"there are {len(same)} files of this name ({', '.join(same)}); keep one of them in "
            f"the input"
        )
    odd = [part for part in _stem(bold.filename, "_desc-").split("_") if "-" not in part]
    if odd:
        raise InputError(
            f"{bold.path}: {odd[0]!r} in its name is no entity and its value (as in task-rest); "
            f"labels have no underscore, rename the files of this run"
        )
    if f"/{bold.filename.split('_')[0]}/" not in bold.path:
        raise InputError(f"{bold.path}: lies in the folder of another participant; move it")


def _by_folder(files: Iterable) -> dict[str, dict[str, str]]:
    """Folder -> beginning of the name -> path."""
    found: dict[str, dict[str, str]] = defaultdict(dict)
    for file in files:
        found[os.path.dirname(file.path)][_stem(file.filename, "_desc-")] = file.path
    return found


def _real(dataset: Dataset, layout, path: str | None) -> str | None:
    """A path of the index in the dataset itself."""
    return path and str(dataset.root / os.path.relpath(path, layout.root))


def _tell_unmatched(runs: Sequence[Run], problems: Sequence[Problem], selection: Selection) -> None:
    """Warn of labels that are asked for and that no run has; a typing error else goes unseen."""
    parts = {part for found in (*runs, *problems) for part in found.name.split("_")}
    for entity, labels in (
        ("ses", selection.sessions),
        ("task", selection.tasks),
        ("run", selection.runs),
    ):
        there = {_plain(part[len(entity) + 1 :]) for part in parts if part.startswith(entity + "-")}
        missing = [label for label in labels or () if _plain(label) not in there]
        if runs and missing:
            _LOG.warning("no run has %s", ", ".join(f"{entity}-{label}" for label in missing))


def _mask_of(stem: str, masks: dict[str, str]) -> str:
    """The mask in a run's own space; InputError names those that are there instead."""
    mask = _of_all_echoes(stem, masks)
    if mask is not None:
        return mask
    others = sorted(m for m in masks if _SPATIAL.sub("", m) == _SPATIAL.sub("", stem))
    spaces = [re.search(r"_space-([^_]+)", m) for m in others]
    listed = ", ".join(s.group(1) if s else "the native space" for s in spaces)
    there = f"there is one in {listed}" if listed else "nor in any other"
    raise InputError(
        f"has no brain mask in its space ({stem}_desc-brain_mask.nii.gz), {there}; take it over "
        f"from fMRIPrep's output, or run fMRIPrep again"
    )


def _of_all_echoes(stem: str, paths: dict[str, str]) -> str | None:
    """A file of the run itself, or of all its echoes."""
    return paths.get(stem) or paths.get(re.sub(r"_echo-[^_]+", "", stem))


def _no_space(candidates: Sequence, selection: Selection) -> str:
    spaces = sorted(
        {
            ":".join(filter(None, (b.entities.get("space", "the native space"), _modifier(b))))
            for b in candidates
        }
    )
    choose = "choose with --space or --res, or " if spaces != ["the native space"] else ""
    wanted = " or ".join(selection.spaces)
    if selection.resolutions is not None:
        wanted += f" at resolution {' or '.join(selection.resolutions)}"
    return (
        f"has no preprocessed BOLD in {wanted}; it is there in {', '.join(spaces)} "
        f"({choose}{_REMEDY})"
    )


def _modifier(bold) -> str | None:
    resolution = _label(bold, "res")
    return f"res-{resolution}" if resolution else None


def _what_is_there(folder: Path, selection: Selection) -> str:
    """What a participant without preprocessed BOLD volumes has instead, and what to do."""
    names = [p.name for p in folder.glob("**/func/*")]
    reason = "has no preprocessed BOLD volumes (*_desc-preproc_bold.nii.gz)"
    if selection.filters.get("bold") and any("_desc-preproc_bold.nii" in name for name in names):
        return f"{reason} that --bids-filter-file lets through"
    if not any(folder.rglob("*")):
        return f"{reason}, its folder is empty (datalad get -n {folder}, in a DataLad dataset)"
    if selection.echoes is not None:
        return f"{reason} of echo {' or '.join(selection.echoes)}"
    if any("_echo-" in name and "_desc-preproc_bold.nii" in name for name in names):
        return f"{reason} but those of single echoes; choose them with --echo-idx, or {_REMEDY}"
    if any(name.endswith((".dtseries.nii", ".func.gii")) for name in names):
        return f"{reason}, only surfaces or CIFTI, which the network cannot read; {_REMEDY}"
    if any(name.endswith(("_boldref.nii.gz", "_xfm.txt", "_xfm.h5")) for name in names):
        return (
            f"{reason}, only references and transforms, as fMRIPrep --level minimal or resampling "
            f"writes; {_REMEDY} --level full"
        )
    return f"{reason}; {_REMEDY}"


def _by_participant(layout, kind: str, filters: dict[str, dict[str, Any]]) -> dict[str, list]:
    from sqlalchemy.exc import SQLAlchemyError

    check_entities(kind, filters, layout.entities)
    try:
        found = layout.get(**entities_of(kind, filters))
    except (ValueError, KeyError, TypeError, SQLAlchemyError) as error:  # no such Query, no regex
        raise UsageError(f"--bids-filter-file: {kind}: {str(error).splitlines()[0]}") from error
    files: dict[str, list] = defaultdict(list)
    for file in found:
        files[file.filename.split("_")[0].removeprefix("sub-")].append(file)
    return files


def _inherited_sidecars(dataset: Dataset, layout, bold) -> Iterable[str]:
    """Sidecars of folders above, and beside, that apply: all their entities are the file's."""
    from bids.layout import Query

    found = layout.get_nearest(
        bold.path,
        all_=True,
        subject=[bold.entities["subject"], Query.NONE],
        suffix="bold",
        extension=".json",
    )
    own = set(bold.filename.split("_"))
    apply = [f for f in found if set(os.path.basename(f).split("_")[:-1]) <= own]
    # of two in one folder the one with more entities is nearer
    apply.sort(key=lambda f: (f.count(os.sep), f.count("_")), reverse=True)
    return [_real(dataset, layout, file) for file in apply]


def _has(bold, modifier: str) -> bool:
    """Whether a file is of `res-2` (res-02 is), `res-native` (no res entity) or `cohort-1`."""
    entity, _, value = modifier.partition("-")
    if entity == "res":
        return (_label(bold, "res") or "native") == _plain(value)
    return f"_{modifier}_" in bold.filename


def _label(bold, entity: str) -> str | None:
    """An entity of a file as text; of a run, an echo and a resolution, 01 is the same as 1."""
    value = bold.entities.get(entity)
    if value is None:
        return None
    return _plain(str(value)) if entity in ("run", "echo", "res") else str(value)


def _plain(label: str) -> str:
    return str(int(label)) if label.isdecimal() else label


def _stem(filename: str, end: str) -> str:
    return filename.split(end)[0]
