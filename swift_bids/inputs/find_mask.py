"""--mask and the files of a run -> the brain mask that the run is read with."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from swift_bids.base.errors import InputError, UsageError
from swift_bids.inputs.brain_mask import TEMPLATE_MASK, BrainMask
from swift_bids.inputs.filenames import entities_in, plain
from swift_bids.inputs.find_transforms import anatomical_mask, find_template_transform

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
        Decides `auto`: `hcp-sex` was trained with anatomical masks, `contrastive` with both kinds.

    Raises
    ------
    UsageError
        The path of a mask does not exist, or contains an unknown placeholder.
    """
    if mask == "auto":
        return ("anat", "bold") if variant == "hcp-sex" else ("bold", "anat")
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
        The user's file for this run does not exist.
    """
    for kind in wanted:
        if kind in ("bold", "anat"):
            found = functional if kind == "bold" else anatomical()
        else:
            found = TEMPLATE_MASK if kind == "template" else _file_of_run(kind, name)
        if found is not None:
            return found
    return None


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
    return BrainMask("file", path)


def find_anatomical_mask(stem: str, space: str, files: Iterable[Path]) -> BrainMask | None:
    """Return the brain mask of a run's anatomical image, or None.

    Parameters
    ----------
    stem, space
        Name of the run; the template in which the network reads it.
    files
        The participant's files, from `swift_bids.inputs.find_transforms.list_files`.

    Raises
    ------
    InputError
        There are several anatomical images, none of them from the session of the run.
    """
    files = list(files)
    session = entities_in(stem).get("ses")
    # session of the masks in the template -> rank of their resolution, and file
    found: dict[str | None, list[tuple[int, Path]]] = defaultdict(list)
    for file in files:
        entities = entities_in(file.name)
        if _STANDARD_MASK.match(file.name) and entities["space"] == space:
            rank = {"2": 0, "native": 1}.get(plain(entities.get("res", "native")), 2)
            found[entities.get("ses")].append((rank, file))
    own = found.get(session) or found.get(None)
    if own or len(found) == 1:
        return BrainMask("anatomical", str(min(own or next(iter(found.values())))[1]))
    if found:
        raise InputError(
            f"there are anatomical brain masks of {len(found)} sessions, none of them its own; "
            f"keep only one of them"
        )
    transform = find_template_transform(stem, files, space)
    native = None if transform is None else anatomical_mask(transform, files)
    if native is None:
        return None
    return BrainMask("anatomical", str(native), steps=(str(transform),))
