"""Requested sessions, tasks, runs, spaces -> whether a BOLD file matches, and its rank."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from swift_bids.base.backbones import DEFAULT_VARIANT
from swift_bids.geometry.frames import TRAINING_SPACE
from swift_bids.inputs.filenames import (
    FoundFile,
    entities_in,
    is_in_space,
    label_in,
    plain,
    stem_of,
)

#: Spaces that the app reads by default, in order of preference; --space selects others.
SPACES = (TRAINING_SPACE, "MNI152NLin2009cAsym")
#: Entities of a run that the app resamples to the grid of the training data, or that is on it.
TRAINING_ENTITIES = {"space": TRAINING_SPACE, "res": "2"}
TRAINING_SUFFIX = "".join(f"_{entity}-{label}" for entity, label in TRAINING_ENTITIES.items())
#: Templates of infants: no run in them is embedded.
_INFANT_SPACES = ("MNIInfant", "UNCInfant")


@dataclass(frozen=True)
class Selection:
    """How to find and describe the runs of a command.

    None means no restriction, unless stated otherwise.

    Attributes
    ----------
    sessions, tasks, runs, echoes
        `--session-label`, `--task-id`, `--run-id`, `--echo-idx`. If `echoes` is None, BOLD files of
        single echoes do not count as runs.
    spaces
        `--space`, in order of preference: `NAME`, or with modifiers as in fMRIPrep's output spaces,
        `NAME:res-2`, `NAME:cohort-1`.
    resolutions
        `--res`; `native` means files without a res entity.
    dummy_scans
        `--dummy-scans`: a number, or None for those in the confounds table or, without one, in the
        data.
    target_tr, short_runs
        `--target-tr`; `--short-runs`, which decides whether a short run can be embedded.
    filters
        Content of `--bids-filter-file`.
    database_dir
        `--bids-database-dir`.
    slice_timing
        `--slice-timing`: `on`, `off`, or `auto` for what fMRIPrep was asked to do.
    interpolation, jacobian
        `--interpolation` and `--jacobian`: how to resample runs.
    from_raw
        `--from-raw`: resample raw BOLD files also where preprocessed ones exist.
    template_warp, template_xfm
        `--template-warp` and `--template-xfm`: whether and with which file to warp runs in another
        template to that of the training data.
    variant
        Variant of the network, which decides what `--target-tr auto` means.
    masks
        Masks that a run may have, from `swift_bids.inputs.find_mask.masks_in_order`.
    motion_needed
        Whether runs cannot be embedded without their motion (`--max-censored`).
    ica_fix
        `--ica-fix`: `on`, `off`, or `auto` for what the network was trained on.
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
    slice_timing: str = "auto"
    interpolation: str = "cubic"
    jacobian: bool = False
    from_raw: bool = False
    template_warp: str = "auto"
    template_xfm: Path | None = None
    variant: str = DEFAULT_VARIANT
    masks: tuple[str, ...] = ("bold", "anat")
    motion_needed: bool = False
    ica_fix: str = "auto"

    @property
    def wants_training_grid(self) -> bool:
        """Whether the selected spaces and resolutions contain the grid of the training data."""
        if self.resolutions is not None and "2" not in map(plain, self.resolutions):
            return False
        return any(is_in_space(TRAINING_ENTITIES, space) for space in self.spaces)

    def has(self, bold: FoundFile) -> bool:
        """Whether the session, task, run and echo of a BOLD file are selected."""
        numbers = {"run": self.runs, "echo": self.echoes}
        wanted = {"session": self.sessions, "task": self.tasks} | {
            entity: labels and list(map(plain, labels)) for entity, labels in numbers.items()
        }
        return all(
            labels is None or label_in(bold, entity) in labels for entity, labels in wanted.items()
        )

    def rank(self, bold: FoundFile) -> tuple[int, int] | None:
        """Rank of the space and resolution of a BOLD file; smaller is better, None is not selected.

        In a space, 2 mm ranks first, then the native resolution, then any other.
        """
        resolution = label_in(bold, "res") or "native"
        if self.resolutions is not None and resolution not in map(plain, self.resolutions):
            return None
        entities = entities_in(stem_of(bold.filename, "_desc-"))
        if is_infant_space(entities.get("space")):
            return None
        for number, space in enumerate(self.spaces):
            if is_in_space(entities, space):
                return number, {"2": 0, "native": 1}.get(resolution, 2)
        return None


def is_infant_space(space: str | None) -> bool:
    """Whether a template is one of infants' brains."""
    return space in _INFANT_SPACES
