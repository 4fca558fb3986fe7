"""Checks of the weights, the device, the atlas and the confounds before the app embeds any run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from swift_bids.base.backbones import BACKBONES
from swift_bids.base.errors import InputError, Problem, UsageError, some_of
from swift_bids.geometry.frames import MODEL_SHAPE
from swift_bids.geometry.motion import PARAMETERS
from swift_bids.inputs.confounds import read_confounds
from swift_bids.inputs.run import Run
from swift_bids.steps.denoise import lacking, used_confounds
from swift_bids.steps.parcels import read_atlas

#: Most names of tensors in a message.
_MAX_LISTED = 10


def check_atlas(atlas_file: Path) -> None:
    """Refuse an atlas that the app cannot use.

    Raises
    ------
    UsageError
        With the message of `swift_bids.steps.parcels.read_atlas`.
    """
    try:
        read_atlas(atlas_file)
    except InputError as error:
        raise UsageError(f"--atlas: {error}") from error


def without_confounds(runs: Sequence[Run], strategy: str) -> list[Problem]:
    """Find runs whose confounds lack what `--confounds-strategy` needs; one problem for each."""
    if lacking([], strategy) is None:  # no column is needed
        return []
    problems = []
    for run in runs:
        try:
            _check_columns(run, strategy)
        except InputError as error:
            problems.append(Problem(run.participant, run.name, str(error)))
    return problems


def _check_columns(run: Run, strategy: str) -> None:
    columns = [*PARAMETERS, "framewise_displacement"] if run.raw_transforms else []
    if run.confounds:
        columns = list(used_confounds(read_confounds(run.confounds, 1), run.confounds, strategy))
    if missing := lacking(columns, strategy):
        raise InputError(
            f"{run.confounds or 'the run'} lacks the column {missing}, which --confounds-strategy "
            f"{strategy} needs; choose another strategy"
        )


def check_network(
    weights_file: str, variant: str, device: str, precision: str, compiled: bool
) -> tuple[list[str], str, list[str]]:
    """Check that the network can be loaded and can run on the device at this precision.

    This runs in a worker, so that the process that waits for the workers need not import torch.

    Parameters
    ----------
    weights_file
        A file that `swift_bids.network.checkpoint.read_backbone` accepts.
    variant, device, precision, compiled
        `--variant`, `--device`, `--precision`, and whether torch.compile compiles the network.

    Returns
    -------
    devices : list of str
        `cpu` alone, or `cuda:N` for each GPU.
    kernel : str
        What runs the network on the CPU: `torch`, or the instruction set of the compiled kernel.
    notes : list of str
        Messages for the user.

    Raises
    ------
    UsageError
        The weights do not fit, or the device does not exist or does not support the precision.
    """
    from swift_bids.network.checkpoint import read_backbone
    from swift_bids.network.compiled import kernel_name
    from swift_bids.network.device import choose_devices
    from swift_bids.network.load import class_with
    from swift_bids.network.precision import at_precision

    backbone = read_backbone(weights_file, class_with)
    network = BACKBONES[variant].network
    if backbone.network.title != network.title:
        fitting = [v for v, b in BACKBONES.items() if b.network.title == backbone.network.title]
        raise UsageError(
            f"{weights_file}: these are weights of {backbone.network.title}, but --variant "
            f"{variant} is {network.title}; use --variant {' or '.join(fitting)}"
        )
    shape = [backbone.config["in_chans"], *backbone.config["img_size"]]
    expected = [1, *MODEL_SHAPE, network.chunk_volumes]
    if shape != expected:
        raise UsageError(
            f"{weights_file}: the input of this network has {' x '.join(map(str, shape))} values, "
            f"not {' x '.join(map(str, expected))} as for the released networks; use weights for "
            f"this shape"
        )
    notes = []
    if backbone.unused:
        listed = some_of(backbone.unused, _MAX_LISTED)
        notes.append(f"weights: ignored, not part of the features: {listed}")
    if backbone.assumed:
        notes.append(
            "weights: the file does not say what its network is like; the settings of the released "
            "networks fit every tensor and are used"
        )
    devices, warning = choose_devices(device)
    if warning:
        notes.append(warning)
    at_precision(precision, devices[0])  # raises UsageError if the device does not support it
    return devices, kernel_name(None, precision, compiled), notes
