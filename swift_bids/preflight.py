"""What can be known before any run is read: are weights, device and atlas usable?"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from swift_bids.chunk import CHUNK_VOLUMES
from swift_bids.dataset import resolved
from swift_bids.errors import InputError, UsageError
from swift_bids.grid import MODEL_SHAPE
from swift_bids.parcels import read_atlas

#: Whose files are trusted beside one's own.
_ROOT = 0


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
    if work_dir is not None:
        there = resolved(work_dir, "--work-dir")
        there = next(path for path in (there, *there.parents) if path.exists())
        if not there.is_dir():
            raise UsageError(f"--work-dir {work_dir}: {there} is a file, not a folder")
        if not os.access(there, os.W_OK | os.X_OK):
            raise UsageError(
                f"--work-dir {work_dir}: {there} cannot be written to; give a folder that can"
            )
    if odd := set("[]*?") & set(str((work_dir or output_dir).resolve())):
        raise UsageError(
            f"{'--work-dir' if work_dir else 'output_dir'} {work_dir or output_dir}: nipype cannot "
            f"work in a folder with {' '.join(sorted(odd))} in its path; give another folder with "
            f"-w"
        )
    for path in _kept_steps(work_dir) if work_dir is not None else ():
        owner = path.lstat().st_uid
        if owner not in (os.geteuid(), _ROOT):
            raise UsageError(
                f"--work-dir {work_dir}: {path} belongs to another user (uid {owner}), whose "
                f"results could run any code; give a folder of your own"
            )


def _kept_steps(work_dir: Path) -> Iterator[Path]:
    """Folders and results that earlier calls left."""
    for steps in work_dir.glob("swift_bids_*_wf"):
        yield steps
        for folder, folders, files in os.walk(steps):
            yield from (Path(folder, name) for name in folders)
            yield from (Path(folder, name) for name in files if name.endswith(".pklz"))


def check_atlas(atlas_file: Path) -> None:
    """Refuse an atlas that cannot be used, before any run is read.

    Raises
    ------
    UsageError
        As `swift_bids.parcels.read_atlas` says it.
    """
    if atlas_file.exists() and not atlas_file.is_file():  # a pipe would keep us waiting
        raise UsageError(f"--atlas: {atlas_file} is no file that can be read; give an image")
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
