"""What can be known before any run is read: are weights, device and atlas usable?"""

from __future__ import annotations

import os
from pathlib import Path

from swift_bids.chunk import CHUNK_VOLUMES
from swift_bids.errors import InputError, UsageError
from swift_bids.grid import MODEL_SHAPE
from swift_bids.parcels import read_atlas

#: root, and whom a server of files takes root of another machine for.
_NOBODY_ELSE = (0, 65534)


def check_work_dir(work_dir: Path | None, output_dir: Path) -> None:
    """Refuse a work folder in which nipype cannot work, or must not.

    Parameters
    ----------
    work_dir
        `--work-dir`; None for one within `output_dir`.

    Raises
    ------
    UsageError
        It is a file, nipype would take its path for a pattern, or it holds steps of somebody else:
        nipype unpickles the results that lie there, which can run any code.
    """
    if work_dir is not None and work_dir.exists() and not work_dir.is_dir():
        raise UsageError(f"--work-dir {work_dir}: is a file, not a folder")
    if odd := set("[]*?") & set(str((work_dir or output_dir).resolve())):
        raise UsageError(
            f"{'--work-dir' if work_dir else 'output_dir'} {work_dir or output_dir}: nipype cannot "
            f"work in a folder with {' '.join(sorted(odd))} in its path; give another folder with "
            f"-w"
        )
    for steps in work_dir.glob("swift_bids_*_wf") if work_dir is not None else ():
        owner = steps.lstat().st_uid
        if owner not in (os.geteuid(), *_NOBODY_ELSE):
            raise UsageError(
                f"--work-dir {work_dir}: {steps.name} in it belongs to another user (uid {owner}), "
                f"whose results could run any code; give a folder of your own"
            )


def check_atlas(atlas_file: Path) -> None:
    """Refuse an atlas that cannot be used, before any run is read.

    Raises
    ------
    UsageError
        As `swift_bids.parcels.read_atlas` says it.
    """
    try:
        read_atlas(atlas_file)
    except InputError as error:
        raise UsageError(f"--atlas: {error}") from error


def check_network(weights_file: str, device: str, precision: str) -> tuple[str, list[str]]:
    """Check that the network can be loaded and can run as asked.

    It runs in a worker, so that the process that waits for the workers need not import torch.

    Parameters
    ----------
    weights_file
        As `swift_bids.checkpoint.read_backbone` takes it.
    device, precision
        `--device` and `--precision`.

    Returns
    -------
    device : str
        `cpu`, `cuda` or `cuda:N`.
    notes : list of str
        What the user should know.

    Raises
    ------
    UsageError
        Wrong weights, or a device that is not there or cannot do that.
    """
    from swift_bids.checkpoint import read_backbone
    from swift_bids.inference import choose_device
    from swift_bids.precision import at_precision

    backbone = read_backbone(weights_file)
    reads = [backbone.config["in_chans"], *backbone.config["img_size"]]
    if reads != [1, *MODEL_SHAPE, CHUNK_VOLUMES]:
        raise UsageError(
            f"{weights_file}: this network reads {' x '.join(map(str, reads))} values, not the 1 x "
            f"96 x 96 x 96 x 20 of the released ones; the app cannot make its input"
        )
    notes = []
    if backbone.unused:
        notes.append(f"weights: not part of the features, left out: {', '.join(backbone.unused)}")
    chosen, warning = choose_device(device)
    if warning:
        notes.append(warning)
    at_precision(precision, chosen)
    return chosen, notes
