"""Files of one run -> a `Run` with all that the workflow needs, or the reason it is unusable."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import nibabel as nib
import numpy as np

from swift_bids.base.errors import InputError
from swift_bids.base.files import read_json
from swift_bids.geometry.resample_time import Series, model_repetition_time, refuse_too_short
from swift_bids.inputs.bold_reader import COPY_AGAIN, UNREADABLE, check_image_size
from swift_bids.inputs.confounds import count_dummy_scans, read_confounds

#: Units of time in a NIfTI header, in s.
_SECONDS = {"sec": 1, "msec": 1e-3, "usec": 1e-6}


@dataclass(frozen=True)
class Run:
    """One run of one participant, with its input files.

    Attributes
    ----------
    name
        All BIDS entities of the BOLD file except `desc`, e.g.
        `sub-01_ses-1_task-rest_run-1_space-MNI152NLin6Asym_res-2`; the names of outputs start with
        it.
    participant
        Label without `sub-`.
    bold, mask, confounds
        Paths; `confounds` is None if the run has no confounds table.
    space, repetition_time, n_volumes
        Template of the BOLD file, its TR in s (sidecar), its number of volumes (header).
    first_volume
        Number of omitted volumes at the start (dummy scans).
    model_tr
        TR in s at which the network reads the run (`--target-tr`).
    warnings
        One sentence for each doubt about the inputs.
    others
        Names of the same run in other spaces and resolutions, which the app does not use.
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
    others: tuple[str, ...] = ()

    @property
    def files(self) -> list[str]:
        """Paths of the BOLD file, the mask and, if the run has one, the confounds table."""
        return [self.bold, self.mask, *filter(None, [self.confounds])]

    @property
    def series(self) -> Series:
        """The series of volumes that the network reads."""
        return Series(self.n_volumes, self.repetition_time, self.first_volume, self.model_tr)


def complete_run(
    run: dict[str, Any],
    inherited: Callable[[], Iterable[str]],
    dummy_scans: int | None,
    target_tr: str,
    short_runs: str,
) -> Run:
    """Add the facts from the header and the sidecars to those from the file names.

    Parameters
    ----------
    run
        The fields of `Run` from the file names: `name`, `participant`, `bold`, `mask`,
        `confounds`, `space`, `others`.
    inherited
        Returns the sidecars that the BOLD file inherits from, nearest first; called only if the
        file's own sidecar does not contain the TR.
    dummy_scans, target_tr, short_runs
        As in `swift_bids.inputs.selection.Selection`.

    Raises
    ------
    InputError
        The run cannot be embedded.
    """
    for path in filter(None, (run["bold"], run["mask"], run["confounds"])):
        refuse_unreadable(path)
    repetition_time = _repetition_time(run["bold"], inherited)
    header, n_volumes = _header(run["bold"])
    header_tr = header.get_zooms()[3] * _seconds_per_unit(header)
    warnings = []
    if abs(header_tr - repetition_time) > 0.001:
        warnings.append(
            f"the header's TR ({header_tr:g} s) differs from the sidecar's ({repetition_time:g} "
            f"s); the app uses the sidecar's, so check that it is right"
        )
    complete = Run(
        repetition_time=repetition_time,
        n_volumes=n_volumes,
        first_volume=_first_volume(run["confounds"], dummy_scans),
        model_tr=model_repetition_time(target_tr, repetition_time),
        warnings=tuple(warnings),
        **run,
    )
    refuse_too_short(complete.series, short_runs)
    return complete


def refuse_unreadable(file: str | Path) -> None:
    """Raise InputError if a file cannot be read: its content was not fetched, its links form a
    loop, or permissions are missing."""
    try:
        if not stat.S_ISREG(os.stat(file).st_mode):
            raise InputError(f"{file}: is not a regular file; {COPY_AGAIN}")
        open(file, "rb").close()
    except FileNotFoundError as error:
        raise InputError(
            f"the content of {file} is missing; fetch it (datalad get {file})"
        ) from error
    except OSError as error:
        raise InputError(
            f"{file}: cannot be read ({error.strerror}); check its permissions and links"
        ) from error


def _repetition_time(bold: str, inherited: Callable[[], Iterable[str]]) -> float:
    """Return the TR in s from the BOLD file's own sidecar, or else from an inherited one."""
    own = Path(bold.removesuffix(".gz")).with_suffix(".json")
    metadata = _read_json(own) if os.path.lexists(own) else {}
    if "RepetitionTime" not in metadata:
        for file in inherited():
            metadata = _read_json(file) | metadata
    value = metadata.get("RepetitionTime")
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 30:
        instead = "" if value is None else f" (found {value!r})"
        raise InputError(
            f"its JSON sidecars contain no RepetitionTime in seconds{instead}; correct {own.name}"
        )
    return float(value)


def _header(bold: str) -> tuple[nib.Nifti1Header, int]:
    """Return the header of a 4D image with a valid affine, and its number of volumes."""
    try:
        header = cast(nib.Nifti1Image, nib.load(bold)).header
        shape, affine = header.get_data_shape(), header.get_best_affine()
    except UNREADABLE as error:
        raise InputError(
            f"{bold}: cannot be read ({error}) because it is damaged or not a NIfTI file; fetch it "
            f"or create it again"
        ) from error
    check_image_size(bold, header)
    if len(shape) != 4:
        raise InputError(f"{bold}: has {len(shape)} dimensions, not 4; {COPY_AGAIN}")
    if not np.isfinite(affine).all() or np.linalg.det(affine[:3, :3]) == 0:
        raise InputError(f"{bold}: its affine is singular or not finite; create the file again")
    return header, shape[3]


def _first_volume(confounds: str | None, dummy_scans: int | None) -> int:
    if dummy_scans is not None:
        return dummy_scans
    return count_dummy_scans(read_confounds(confounds, n_rows=0)) if confounds else 0


def _seconds_per_unit(header: nib.Nifti1Header) -> float:
    try:
        return _SECONDS.get(header.get_xyzt_units()[1], 1)
    except KeyError:  # a code that the NIfTI standard does not define
        return 1


def _read_json(file: str | Path) -> dict[str, Any]:
    refuse_unreadable(file)
    try:
        content = read_json(file)
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: is not valid JSON ({error}); correct it") from error
    if not isinstance(content, dict):
        raise InputError(
            f"{file}: contains {type(content).__name__} instead of names and values; correct it"
        )
    return content
