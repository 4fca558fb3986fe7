"""Files of one run -> a `Run` with all that the workflow needs, or the reason it is unusable."""

from __future__ import annotations

import os
import shlex
import stat
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import nibabel as nib
import numpy as np

from swift_bids.base.errors import InputError
from swift_bids.base.files import read_json
from swift_bids.geometry.itk import read_affines
from swift_bids.geometry.resample_time import Series, model_repetition_time, refuse_too_short
from swift_bids.inputs.bold_reader import COPY_AGAIN, UNREADABLE, check_image_size
from swift_bids.inputs.confounds import count_dummy_scans, read_confounds
from swift_bids.inputs.raw_header import affine_of, count_raw_dummy_scans, load_header
from swift_bids.inputs.transforms import Transforms

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
    transforms
        How to resample `bold` if it is a raw file; None if fMRIPrep has resampled it.
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
    transforms: Transforms | None = None

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Run:
        """Build a `Run` from the output of `dataclasses.asdict`."""
        transforms = content["transforms"]
        return cls(**{**content, "transforms": transforms and Transforms.from_dict(transforms)})

    @property
    def files(self) -> list[str]:
        """Paths of the BOLD file, the mask and, if the run has them, the confounds table and the
        transforms."""
        transforms = self.transforms.files if self.transforms else []
        return [self.bold, self.mask, *filter(None, [self.confounds]), *transforms]

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
        `confounds`, `space`, `others`, and for a raw run `transforms` and `warnings`.
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
    transforms = run.get("transforms")
    files = [run["bold"], run["mask"], run["confounds"], *(transforms.files if transforms else [])]
    refuse_unreadable(*filter(None, files))
    repetition_time = _repetition_time(run["bold"], inherited)
    header, n_volumes = _header(run["bold"], is_raw=transforms is not None)
    header_tr = header.get_zooms()[3] * _seconds_per_unit(header)
    warnings = list(run.get("warnings", ()))
    if abs(header_tr - repetition_time) > 0.001:
        warnings.append(
            f"the header's TR ({header_tr:g} s) differs from the sidecar's ({repetition_time:g} "
            f"s); the app uses the sidecar's, so check that it is right"
        )
    if transforms is not None:
        _check_head_motion(transforms.head_motion, n_volumes)
    complete = Run(
        **run
        | {
            "repetition_time": repetition_time,
            "n_volumes": n_volumes,
            "first_volume": _first_volume(run, dummy_scans),
            "model_tr": model_repetition_time(target_tr, repetition_time),
            "warnings": tuple(warnings),
        }
    )
    refuse_too_short(complete.series, short_runs)
    return complete


def refuse_unreadable(*files: str | Path) -> None:
    """Raise InputError if a file cannot be read: its content was not fetched, its links form a
    loop, or permissions are missing. One message names all files that were not fetched."""
    absent = []
    for file in files:
        try:
            _open(file)
        except FileNotFoundError:
            absent.append(str(file))
    if absent:
        what = f"{len(absent)} files" if len(absent) > 1 else absent[0]
        raise InputError(
            f"the content of {what} is missing; fetch it (datalad get {shlex.join(absent)})"
        )


def _open(file: str | Path) -> None:
    """Raise FileNotFoundError if a file is absent, InputError if it cannot be read."""
    try:
        if not stat.S_ISREG(os.stat(file).st_mode):
            raise InputError(f"{file}: is not a regular file; {COPY_AGAIN}")
        open(file, "rb").close()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise InputError(
            f"{file}: cannot be read ({error.strerror}); check its permissions and links"
        ) from error


def _repetition_time(bold: str, inherited: Callable[[], Iterable[str]]) -> float:
    """Return the TR in s from the BOLD file's own sidecar, or else from an inherited one."""
    own = _own_sidecar(bold)
    metadata = _read_json(own) if os.path.lexists(own) else {}
    if "RepetitionTime" not in metadata:
        metadata = sidecar_metadata(bold, inherited())
    value = metadata.get("RepetitionTime")
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 30:
        instead = "" if value is None else f" (found {value!r})"
        raise InputError(
            f"its JSON sidecars contain no RepetitionTime in seconds{instead}; correct {own.name}"
        )
    return float(value)


def sidecar_metadata(bold: str, inherited: Iterable[str]) -> dict[str, Any]:
    """Return the content of a BOLD file's own sidecar and of those that it inherits from.

    Parameters
    ----------
    bold
        Path of the BOLD file.
    inherited
        Sidecars that apply to it, nearest first.

    Raises
    ------
    InputError
        A sidecar cannot be read.
    """
    own = _own_sidecar(bold)
    metadata = _read_json(own) if os.path.lexists(own) else {}
    for file in inherited:
        metadata = _read_json(file) | metadata
    return metadata


def _own_sidecar(bold: str) -> Path:
    return Path(bold.removesuffix(".gz")).with_suffix(".json")


def _check_head_motion(file: str, n_volumes: int) -> None:
    n_transforms = len(read_affines(file))
    if n_transforms != n_volumes:
        raise InputError(
            f"{file}: has {n_transforms} transforms, but the raw run has {n_volumes} volumes; use "
            f"--raw to give the dataset that fMRIPrep processed"
        )


def _header(bold: str, is_raw: bool) -> tuple[nib.Nifti1Header, int]:
    """Return the header of a 4D image with a valid affine, and its number of volumes."""
    header = load_header(bold)
    shape = header.get_data_shape()
    affine = affine_of(header) if is_raw else header.get_best_affine()
    check_image_size(bold, header)
    if len(shape) != 4:
        raise InputError(f"{bold}: has {len(shape)} dimensions, not 4; {COPY_AGAIN}")
    if not np.isfinite(affine).all() or np.linalg.det(affine[:3, :3]) == 0:
        raise InputError(f"{bold}: its affine is singular or not finite; create the file again")
    return header, shape[3]


def _first_volume(run: dict[str, Any], dummy_scans: int | None) -> int:
    if dummy_scans is not None:
        return dummy_scans
    if run["confounds"]:
        return count_dummy_scans(read_confounds(run["confounds"], n_rows=0))
    if run.get("transforms"):
        return _raw_dummy_scans(run["bold"])
    return 0


def _raw_dummy_scans(bold: str) -> int:
    try:
        return count_raw_dummy_scans(cast(nib.Nifti1Image, nib.load(bold)))
    except UNREADABLE as error:
        raise InputError(
            f"{bold}: cannot be read ({error or type(error).__name__}) because it is damaged or "
            f"incomplete; fetch it again"
        ) from error


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
