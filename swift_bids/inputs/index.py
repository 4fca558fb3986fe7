"""Participants' folders -> pybids' index of their files, in memory or kept for later calls."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swift_bids.base.errors import UsageError
from swift_bids.inputs.dataset import Dataset, resolved
from swift_bids.inputs.filenames import FoundFile

if TYPE_CHECKING:
    from bids.layout import BIDSLayout

_CONFIG = ["bids", "derivatives"]
#: Patterns relative to the dataset's root. They replace pybids' own list, which the first pattern
#: covers.
_IGNORED = (
    r"^/(?!sub-)[^/]+/",  # a copy of a participant in another folder must not count
    r"^/sub-[^/]+/(ses-[^/]+/)?(anat|figures|log|fmap|dwi|perf)(/|$)",
    r"\.(html|svg|h5|gii|dtseries\.nii|dscalar\.nii)$",
    "[\udc80-\udcff]",  # bytes that are not valid UTF-8, which SQLite cannot store
)


class UnreadableFolderError(Exception):
    """The user is not allowed to list a participant's folder.

    Attributes
    ----------
    participant
        Label without `sub-`.
    """

    def __init__(self, participant: str) -> None:
        super().__init__(participant)
        self.participant = participant


@contextlib.contextmanager
def open_layout(
    root: Path, participants: Sequence[str], database_dir: Path | None = None
) -> Iterator[BIDSLayout]:
    """Yield a `bids.BIDSLayout` of the folders of these participants only.

    `layout.root` is a temporary link to `root` if pybids would mistake parts of its path for
    entities (`/data/ses-1/fmriprep`, `/data/study_task-rest`).

    Parameters
    ----------
    root, participants
        Dataset, and labels without `sub-`.
    database_dir
        Folder where later calls find the indices again; None keeps no index. The name of an index
        depends on the dataset, the participants, pybids' version and the times at which the folders
        changed, because pybids does not check whether an index is up to date.

    Raises
    ------
    UnreadableFolderError
        Permissions are missing for one participant; the index can be built without this one.
    """
    from bids.layout import parse_file_entities

    wanted = "|".join(map(re.escape, participants))
    ignore = [*_IGNORED, rf"^/sub-(?!(?:{wanted})(?:/|$))"]  # sub-01_old is not sub-01
    if parse_file_entities(f"{root}/", config=_CONFIG):
        with tempfile.TemporaryDirectory(prefix="swift_bids_") as folder:
            link = Path(folder, "dataset")
            link.symlink_to(root, target_is_directory=True)
            yield _layout(link, ignore)  # not kept, because later calls have another link
    elif database_dir is None:
        yield _layout(root, ignore)
    else:
        yield _kept_layout(root, participants, ignore, database_dir)


def _kept_layout(
    root: Path, participants: Sequence[str], ignore: Sequence[str], database_dir: Path
) -> BIDSLayout:
    from sqlalchemy.exc import SQLAlchemyError

    prefix = _hash([str(root), ignore, version("pybids")])
    kept = database_dir / f"{prefix}_{_hash(list(_changes(root, participants, ignore)))}"
    if not kept.exists():
        try:
            database_dir.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=database_dir) as folder:
                _layout(root, ignore, database_path=f"{folder}/index").session.close()
                with contextlib.suppress(OSError):  # another job was quicker
                    os.rename(f"{folder}/index", kept)
            for stale in set(database_dir.glob(f"{prefix}_*")) - {kept}:
                shutil.rmtree(stale, ignore_errors=True)
        except OSError as error:
            raise UsageError(f"--bids-database-dir {database_dir}: {error}") from error
    try:
        return _layout(root, ignore, database_path=kept)
    except SQLAlchemyError as error:
        raise UsageError(
            f"--bids-database-dir {database_dir}: the index {kept.name} is damaged "
            f"({str(error).splitlines()[0]}); remove it"
        ) from error


def check_database_dir(database_dir: Path | None, dataset: Dataset) -> Path | None:
    """Check that the folder is outside the input, to which the app never writes.

    Raises
    ------
    UsageError
        The folder is in the input.
    """
    if database_dir is None:
        return None
    database_dir = resolved(database_dir, "--bids-database-dir")
    for root in filter(None, (dataset.root, dataset.raw)):
        if database_dir.is_relative_to(root):
            raise UsageError(
                f"--bids-database-dir {database_dir} lies in the input {root}; give another folder"
            )
    return database_dir


def _layout(root: Path, ignore: Sequence[str], **options: Any) -> BIDSLayout:
    from bids.layout import BIDSLayout, BIDSLayoutIndexer

    patterns = [re.compile(pattern) for pattern in ignore]
    indexer = BIDSLayoutIndexer(validate=False, index_metadata=False, ignore=patterns)
    try:
        return BIDSLayout(root, validate=False, config=_CONFIG, indexer=indexer, **options)
    except PermissionError as error:
        inside = re.match(rf"{re.escape(str(root))}/sub-([^/]+)", str(error.filename))
        if inside is None:
            raise
        raise UnreadableFolderError(inside.group(1)) from error


def moved(path: str, root: str | Path, new_root: Path) -> str:
    """Return the path of a file under another path of its root (see `open_layout`)."""
    return str(new_root / os.path.relpath(path, root))


def inherited_sidecars(root: Path, layout: BIDSLayout, bold: FoundFile) -> list[str]:
    """Return the sidecars that apply to a BOLD file, from its own folder and those above it.

    A sidecar applies if the BOLD file's name contains all entities of the sidecar's name.

    Parameters
    ----------
    root, layout
        The dataset, and its layout from `open_layout`.
    bold
        A file of this dataset.
    """
    from bids.layout import Query

    found = layout.get_nearest(
        moved(bold.path, root, Path(layout.root)),
        all_=True,
        subject=[bold.entities["subject"], Query.NONE],
        suffix="bold",
        extension=".json",
    )
    own = set(bold.filename.split("_"))
    apply = [f for f in found if set(os.path.basename(f).split("_")[:-1]) <= own]
    # in one folder, the sidecar with more entities takes precedence
    apply.sort(key=lambda f: (f.count(os.sep), f.count("_")), reverse=True)
    return [moved(file, layout.root, root) for file in apply]


def _hash(content: list) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:12]


def _changes(
    root: Path, participants: Sequence[str], ignore: Sequence[str]
) -> Iterator[tuple[str, int]]:
    """Yield each indexed folder and the last time a file in it was added, removed or renamed."""
    yield "", root.stat().st_mtime_ns
    for participant in sorted(participants):
        for folder, below, _ in os.walk(root / f"sub-{participant}", followlinks=True):
            relative = "/" + os.path.relpath(folder, root)
            if any(re.search(pattern, relative) for pattern in ignore):
                below.clear()
                continue
            below.sort()
            yield relative, os.stat(folder).st_mtime_ns
