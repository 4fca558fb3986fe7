"""Files of one run -> a `Run` with all that the workflow needs, or the reason it is unusable."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import nibabel as nib
import numpy as np

from swift_bids.base.backbones import BACKBONES, DEFAULT_VARIANT
from swift_bids.base.errors import InputError
from swift_bids.geometry.frames import TRAINING_SPACE
from swift_bids.geometry.grid import is_fsl_grid
from swift_bids.geometry.itk import read_affines
from swift_bids.geometry.resample_time import Series, model_repetition_time, refuse_too_short
from swift_bids.inputs.bold_reader import COPY_AGAIN, check_image_size, storage_doubts
from swift_bids.inputs.brain_mask import BrainMask
from swift_bids.inputs.confounds import check_rows, count_dummy_scans, read_confounds
from swift_bids.inputs.raw_header import affine_of, find_dummy_scans, load_header
from swift_bids.inputs.selection import Selection
from swift_bids.inputs.sidecars import refuse_unreadable, sidecar_repetition_time
from swift_bids.inputs.transforms import (
    FslWarp,
    GridWarp,
    Transforms,
    transforms_from_dict,
)

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
    bold, confounds
        Paths; `confounds` is None if the run has neither a confounds table nor a motion file.
    mask
        Which voxels count as brain.
    space, repetition_time, n_volumes
        Template of the BOLD file, its TR in s, its number of volumes (header). For a raw run and
        an `FslWarp`, the template to which the app resamples it.
    first_volume, dummy_scans_from
        Number of omitted volumes at the start (dummy scans), and who decided on it: `table` (the
        confounds), `data` (no table: fMRIPrep's rule), `flag` (`--dummy-scans`, also fMRIPrep's
        own), or `training` (a cohort of which the network saw every volume).
    model_tr
        TR in s at which the network reads the run (`--target-tr`).
    warnings
        One sentence for each doubt about the inputs.
    others
        Names of the same run in other spaces and resolutions, which the app does not use.
    transforms
        How the app resamples `bold`: `Transforms` for a raw file, `FslWarp` or `GridWarp` for a
        preprocessed one that is not on the grid of the training data; None if it is.
    denoising
        What has cleaned the data beyond preprocessing: `none` or `ICA-FIX`.
    variant
        Variant of the network that reads the run.
    """

    name: str
    participant: str
    bold: str
    mask: BrainMask
    confounds: str | None
    space: str
    repetition_time: float
    n_volumes: int
    first_volume: int
    model_tr: float
    warnings: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    transforms: Transforms | FslWarp | GridWarp | None = None
    denoising: str = "none"
    dummy_scans_from: str = "table"
    variant: str = DEFAULT_VARIANT

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Run:
        """Build a `Run` from the output of `dataclasses.asdict`."""
        transforms, mask = content["transforms"], BrainMask.from_dict(content["mask"])
        transforms = transforms and transforms_from_dict(transforms)
        return cls(**{**content, "transforms": transforms, "mask": mask})

    @property
    def files(self) -> list[str]:
        """Paths of the BOLD file, the mask and, if the run has them, the confounds table or motion
        file and the transforms; each once."""
        transforms = self.transforms.files if self.transforms else []
        files = [self.bold, *self.mask.files, *filter(None, [self.confounds]), *transforms]
        return list(dict.fromkeys(files))

    @property
    def space_of_input(self) -> str:
        """Template in which the network reads the run, with the one from which it was warped."""
        if isinstance(self.transforms, GridWarp) and self.transforms.steps:
            return f"{TRAINING_SPACE} from {self.space}"
        return self.space

    @property
    def raw_transforms(self) -> Transforms | None:
        """The transforms of a raw run, which contain its head motion; None for other runs."""
        return self.transforms if isinstance(self.transforms, Transforms) else None

    @property
    def series(self) -> Series:
        """The series of volumes that the network reads."""
        return Series.of_run(
            self.n_volumes,
            self.repetition_time,
            self.first_volume,
            self.model_tr,
            BACKBONES[self.variant],
        )

    @property
    def label(self) -> str:
        """Label of the network, which is the `desc` of its outputs."""
        return BACKBONES[self.variant].network.label


def complete_run(
    run: dict[str, Any],
    inherited: Callable[[], Iterable[str]] | None,
    selection: Selection,
) -> Run:
    """Add the facts from the header and the sidecars to those from the file names.

    Parameters
    ----------
    run
        The fields of `Run` from the file names: `name`, `participant`, `bold`, `mask`,
        `confounds`, `space`, and others that differ from their defaults.
    inherited
        Returns the sidecars that the BOLD file inherits from, nearest first; called only if the
        file's own sidecar does not contain the TR. None: there are no sidecars, and the TR is that
        of the header.
    selection
        How to read the runs of this command.

    Raises
    ------
    InputError
        The run cannot be embedded.
    """
    transforms = run.get("transforms")
    raw = transforms if isinstance(transforms, Transforms) else None
    files = [run["bold"], *run["mask"].files, run["confounds"]]
    files += transforms.files if transforms else []
    try:
        refuse_unreadable(*filter(None, files))
    except InputError as error:
        if isinstance(transforms, GridWarp) and not all(map(os.path.exists, transforms.files)):
            raise InputError(f"{error}; --template-warp off does without the transforms") from error
        raise
    in_sidecar = None if inherited is None else sidecar_repetition_time(run["bold"], inherited)
    header, n_volumes = _header(run["bold"], is_raw=raw is not None)
    header_tr = float(header.get_zooms()[3] * _seconds_per_unit(header))
    warnings = [*run.get("warnings", ()), *storage_doubts(run["bold"])]
    if in_sidecar is None:
        if not 0 < header_tr < 30:
            raise InputError(
                f"{run['bold']}: its header gives a TR of {header_tr:g} s, which cannot be right; "
                f"correct the header"
            )
        # in float32, 0.72 s is 0.7200000286
        repetition_time = round(header_tr, 6)
    else:
        repetition_time = in_sidecar
        if abs(header_tr - repetition_time) > 0.001:
            warnings.append(
                f"the header's TR ({header_tr:g} s) differs from the sidecar's "
                f"({repetition_time:g} s); the app uses the sidecar's, so check that it is right"
            )
    if raw is not None:
        _check_head_motion(raw.head_motion, n_volumes)
    if transforms is None and not is_fsl_grid(
        header.get_data_shape()[:3], header.get_best_affine()
    ):
        transforms = GridWarp(interpolation=selection.interpolation)
    if run["confounds"]:
        usable, doubt = check_rows(run["confounds"], n_volumes, selection.motion_needed)
        run = run if usable else run | {"confounds": None}
        warnings += [doubt] if doubt else []
    first_volume, dummy_scans_from = _dummy_scans(run, selection.dummy_scans)
    complete = Run(
        **run
        | {
            "repetition_time": repetition_time,
            "n_volumes": n_volumes,
            "first_volume": first_volume,
            "dummy_scans_from": dummy_scans_from,
            "model_tr": model_repetition_time(
                selection.target_tr, repetition_time, BACKBONES[selection.variant].time
            ),
            "variant": selection.variant,
            "transforms": transforms,
            "warnings": tuple(warnings),
        }
    )
    refuse_too_short(complete.series, selection.short_runs)
    return complete


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


def _dummy_scans(run: dict[str, Any], dummy_scans: int | None) -> tuple[int, str]:
    """Number of dummy scans, and who says so, as in `Run.dummy_scans_from`."""
    if dummy_scans is not None:
        return dummy_scans, "flag"
    if "dummy_scans_from" in run:
        return 0, run["dummy_scans_from"]
    if run["confounds"]:
        return count_dummy_scans(read_confounds(run["confounds"], n_rows=0)), "table"
    return find_dummy_scans(run["bold"]), "data"


def _seconds_per_unit(header: nib.Nifti1Header) -> float:
    try:
        return _SECONDS.get(header.get_xyzt_units()[1], 1)
    except KeyError:  # a code that the NIfTI standard does not define
        return 1
