"""Whether input files can be read, and the content of a BOLD file's JSON sidecars."""

from __future__ import annotations

import os
import shlex
import stat
from collections.abc import Callable, Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

from swift_bids.base.errors import InputError
from swift_bids.base.files import read_json
from swift_bids.inputs.bold_reader import COPY_AGAIN

#: Steps between volumes that differ less than this, in s, are even: times are often rounded to ms.
_TIMING_TOLERANCE = 2e-3


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


def sidecar_repetition_time(bold: str, inherited: Callable[[], Iterable[str]]) -> float:
    """Return the TR in s from the BOLD file's own sidecar, or else from an inherited one.

    Parameters
    ----------
    bold, inherited
        As for `sidecar_metadata`; `inherited` is called only if it is needed.

    Raises
    ------
    InputError
        A sidecar cannot be read, or none contains a valid TR.
    """
    own = _own_sidecar(bold)
    metadata = read_sidecar(own) if os.path.lexists(own) else {}
    if "RepetitionTime" not in metadata:
        metadata = sidecar_metadata(bold, inherited())
    if "RepetitionTime" not in metadata and "VolumeTiming" in metadata:
        return _even_step(metadata["VolumeTiming"])
    value = metadata.get("RepetitionTime")
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 30:
        instead = "" if value is None else f" (found {value!r})"
        files = [own] if os.path.lexists(own) else [Path(file) for file in inherited()] or [own]
        raise InputError(
            f"its JSON sidecars contain no RepetitionTime in seconds{instead}; correct "
            f"{files[0].name}"
        )
    return float(value)


def _even_step(times: Any) -> float:
    """TR in s from VolumeTiming, the times at which the volumes of a run begin."""
    are_numbers = isinstance(times, list) and all(
        isinstance(time, (int, float)) and not isinstance(time, bool) for time in times
    )
    if not are_numbers or len(times) < 2 or not 0 < times[-1] - times[0] < 30 * (len(times) - 1):
        raise InputError(
            "its JSON sidecars contain no RepetitionTime, and their VolumeTiming is not a list of "
            "times in seconds; correct it"
        )
    step = (times[-1] - times[0]) / (len(times) - 1)
    # a comparison with NaN is false
    if not all(abs(b - a - step) <= _TIMING_TOLERANCE for a, b in pairwise(times)):
        raise InputError(
            "its volumes are not evenly spaced in time (VolumeTiming in its sidecars), but the "
            "network needs an even TR; such sparse runs cannot be embedded"
        )
    return round(step, 6)


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
    metadata = read_sidecar(own) if os.path.lexists(own) else {}
    for file in inherited:
        metadata = read_sidecar(file) | metadata
    return metadata


def _own_sidecar(bold: str) -> Path:
    return Path(bold.removesuffix(".gz")).with_suffix(".json")


def read_sidecar(file: str | Path) -> dict[str, Any]:
    """Return the content of a JSON sidecar; InputError if it cannot be read."""
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
