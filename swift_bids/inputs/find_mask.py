"""--mask and the files of a run -> the brain mask that the run is read with."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from swift_bids.base.backbones import BACKBONES
from swift_bids.base.errors import InputError, UsageError
from swift_bids.geometry.frames import TRAINING_SPACE
from swift_bids.inputs.brain_mask import TEMPLATE_MASK, BrainMask
from swift_bids.inputs.filenames import entities_in, plain
from swift_bids.inputs.find_transforms import anatomical_mask, leads_to
from swift_bids.inputs.transforms import GridWarp

#: Choices of `--mask`, beside the path of a file.
MASKS = ("auto", "bold", "anat", "template")
#: What a path of `--mask` may contain, and the entity that replaces it.
_PLACEHOLDERS = {"participant": "sub", "session": "ses"}
#: Name of an anatomical mask in a template.
_STANDARD_MASK = re.compile(
    r"(?!.*_task-).*_space-[^_]+(_cohort-[^_]+)?(_res-[^_]+)?_desc-brain_mask\.nii"
)


def masks_in_order(mask: str, variant: str) -> tuple[str, ...]:
    """Return the masks that a run may have, the preferred one first.

    Parameters
    ----------
    mask
        `--mask`.
    variant
        Decides `auto`, by the masks of its training data.

    Raises
    ------
    UsageError
        The path of a mask does not exist, or contains an unknown placeholder.
    """
    if mask == "auto":
        return BACKBONES[variant].masks
    if mask in MASKS:
        return (mask,)
    unknown = set(re.findall(r"\{(.*?)\}", mask)) - set(_PLACEHOLDERS)
    if unknown:
        raise UsageError(
            f"--mask {mask}: {{{min(unknown)}}} is unknown; a path may contain {{participant}} and "
            f"{{session}}, which stand for labels without sub- and ses-"
        )
    if "{" not in mask and not Path(mask).is_file():
        raise UsageError(
            f"--mask {mask}: does not exist; choose {', '.join(MASKS[:-1])} or {MASKS[-1]}, or "
            f"give the path of a mask, such as masks/sub-{{participant}}_mask.nii.gz"
        )
    return (str(Path(mask).absolute()),)


def find_mask(
    wanted: Sequence[str],
    name: str,
    functional: BrainMask | None,
    anatomical: Callable[[], BrainMask | None],
) -> BrainMask | None:
    """Return the first wanted mask that exists.

    Parameters
    ----------
    wanted
        From `masks_in_order`.
    name
        The run, whose participant and session complete the path of a file.
    functional
        The run's own mask; None if it has none.
    anatomical
        Returns the mask of the run's anatomical image; called only if it is wanted.

    Raises
    ------
    InputError
        The user's file for this run does not exist, or there is no other mask than several
        anatomical ones.
    """
    unclear: InputError | None = None
    for kind in wanted:
        try:
            found = _mask_of_kind(kind, name, functional, anatomical)
        except InputError as error:
            unclear, found = error, None
        if found is not None:
            return found
    if unclear is not None:
        raise unclear
    return None


def _mask_of_kind(
    kind: str,
    name: str,
    functional: BrainMask | None,
    anatomical: Callable[[], BrainMask | None],
) -> BrainMask | None:
    if kind == "bold":
        return functional
    if kind == "anat":
        return anatomical()
    return TEMPLATE_MASK if kind == "template" else _file_of_run(kind, name)


def explain_no_mask(wanted: Sequence[str]) -> str:
    """Name the mask that a run lacks, `functional brain mask`."""
    kinds = {"bold": "functional ", "anat": "anatomical "}
    return (kinds[wanted[0]] if len(wanted) == 1 else "") + "brain mask"


def _file_of_run(pattern: str, name: str) -> BrainMask:
    entities = entities_in(name)
    path = pattern
    for placeholder, entity in _PLACEHOLDERS.items():
        if f"{{{placeholder}}}" in path and entity not in entities:
            raise InputError(f"has no session for --mask {pattern}; leave {{session}} out")
        path = path.replace(f"{{{placeholder}}}", entities.get(entity, ""))
    if not Path(path).exists():
        raise InputError(f"{path}: does not exist; --mask says that it is the run's brain mask")
    return BrainMask("file", path, pattern=pattern)


def find_anatomical_mask(
    stem: str, space: str, files: Iterable[Path], warp: GridWarp | None = None
) -> BrainMask | None:
    """Return the brain mask of a run's anatomical image, or None.

    It comes from the session of the run, from none, or from the only other one, in this order; in
    the template before the native one with its transform.

    Parameters
    ----------
    stem, space
        Name and template of the run.
    files
        The participant's files, from `swift_bids.inputs.find_transforms.list_files`.
    warp
        How the app takes the run to the training template; None if it does not.

    Raises
    ------
    InputError
        There are several anatomical images, none of them from the session of the run.
    """
    files = [file for file in files if file.parent.name == "anat"]
    # template of a mask, its cohort, and the steps that lead there from the training template
    templates: list[tuple[str, str | None, tuple[str, ...]]]
    templates = [(space, entities_in(stem).get("cohort"), ())]
    if warp is not None and warp.steps:
        templates = [(TRAINING_SPACE, None, ()), (space, None, warp.steps)]
    sessions = dict.fromkeys([entities_in(stem).get("ses"), None])
    others = {entities_in(file.name).get("ses") for file in files} - set(sessions)
    of_others = []
    for session in [*sessions, *sorted(filter(None, others))]:
        own = [file for file in files if entities_in(file.name).get("ses") == session]
        for template, cohort, steps in templates:
            found = _standard_mask(template, cohort, own) or _native_mask(template, own)
            if found is None:
                continue
            found = replace(found, steps=(*steps, *found.steps))
            if session in sessions:
                return found
            of_others.append(found)
            break
    if len(of_others) > 1:
        raise InputError(
            f"there are anatomical images of {len(of_others)} other sessions, and none of its own; "
            f"choose another --mask"
        )
    return of_others[0] if of_others else None


def _standard_mask(space: str, cohort: str | None, files: Iterable[Path]) -> BrainMask | None:
    """The mask in a template, preferably at 2 mm."""
    found = []
    for file in files:
        entities = entities_in(file.name)
        if _STANDARD_MASK.match(file.name) and entities["space"] == space:
            if entities.get("cohort") == cohort:
                rank = {"2": 0, "native": 1}.get(plain(entities.get("res", "native")), 2)
                found.append((rank, str(file)))
    return BrainMask("anatomical", min(found)[1]) if found else None


def _native_mask(space: str, files: Sequence[Path]) -> BrainMask | None:
    """The mask in native space, if there is a transform to it."""
    for transform in (file for file in files if leads_to(space, file)):
        if native := anatomical_mask(transform, files):
            return BrainMask("anatomical", str(native), steps=(str(transform),))
    return None
