"""Run in another template than the training data's -> the transforms that warp it there, if any."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from swift_bids.base.errors import InputError, UsageError
from swift_bids.geometry.frames import TRAINING_SPACE
from swift_bids.inputs.filenames import entities_in
from swift_bids.inputs.find_transforms import find_template_transform
from swift_bids.inputs.transforms import GridWarp


def check_template_xfm(file: Path | None) -> Path | None:
    """Return the absolute path of the `--template-xfm` file.

    Raises
    ------
    UsageError
        The file does not exist, or its name does not say from where to where it leads.
    """
    if file is None:
        return None
    if not file.is_file():
        raise UsageError(f"--template-xfm {file}: does not exist; check the path")
    entities = entities_in(file.name)
    start, end = entities.get("from", ""), entities.get("tpl") or entities.get("to")
    if not start.startswith("MNI") or start == TRAINING_SPACE or end != TRAINING_SPACE:
        raise UsageError(
            f"--template-xfm {file}: must lead from another template to {TRAINING_SPACE}, and its "
            f"name must say so, as that of TemplateFlow's "
            f"tpl-{TRAINING_SPACE}_from-MNI152NLin2009cAsym_mode-image_xfm.h5"
        )
    return file.resolve()


def find_template_warp(
    stem: str, space: str, files: Iterable[Path], template_xfm: Path | None, interpolation: str
) -> tuple[GridWarp | None, list[str]]:
    """Find the transforms from a template to that of the training data.

    The participant's own transforms come first: through the anatomical image, they map the template
    more exactly than one template to another.

    Parameters
    ----------
    stem, space
        Name of the run, and its template.
    files
        The participant's files, from `swift_bids.inputs.find_transforms.list_files`.
    template_xfm
        `--template-xfm`, used if the participant has no transforms.
    interpolation
        `--interpolation`.

    Returns
    -------
    warp : GridWarp or None
    warnings : list of str
        One sentence if transforms exist, but it is unclear which of them are those of the run.
    """
    files, warnings = list(files), []
    try:
        to_training = find_template_transform(stem, files)
    except InputError as error:
        to_training, warnings = None, [f"it is not warped with its own transforms: {error}"]
    if to_training is not None:
        start, anatomy = re.split("_from-|_to-", to_training.name)[:2]
        back = re.compile(
            rf"{re.escape(start)}_from-{re.escape(space)}_to-{anatomy}_mode-image(_desc-[^_]+)?"
            rf"_xfm\.h5"
        )
        for file in files:
            if file.parent == to_training.parent and back.fullmatch(file.name):
                return GridWarp((str(to_training), str(file)), interpolation), []
    if template_xfm is not None and entities_in(template_xfm.name)["from"] == space:
        return GridWarp((str(template_xfm),), interpolation), []
    return None, warnings
