"""Input dataset -> the files that describe the output folder; every job writes the same ones."""

from __future__ import annotations

import logging
import os
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from swift_bids import __version__
from swift_bids.base.backbones import NETWORKS, Network, feature_names
from swift_bids.base.errors import UsageError
from swift_bids.base.files import read_json, write_json, write_text
from swift_bids.inputs.dataset import Dataset, made_by_this_app, read_description, resolved
from swift_bids.inputs.filenames import plain
from swift_bids.inputs.sessions_table import sessions_in
from swift_bids.inputs.tsv_tables import participant_ids, read_table
from swift_bids.outputs.provenance import BIDS_VERSION, GENERATED_BY, RAW_DATASET
from swift_bids.outputs.tables import column_descriptions, write_table

_LOG = logging.getLogger("swift_bids")
#: Files for which the BIDS validator has no rule. It ignores a folder only if the pattern has no
#: trailing slash.
_BIDSIGNORE = """\
*.html
figures
log
logs
*_timeseries.tsv
*_timeseries.json
*_embedding.*
*_tokens.*
*_positions.*
*_matrix.*
*_qc.*
*_sensitivity.*
*_relmat.*
group*
finetuned
"""
_README = """\
{title} embeddings of fMRI runs, made by swift_bids {version}.

sub-XX.html shows the network's input and output for each run of a participant. The files of a run
are named after its BOLD file, with desc-{label}, in the subfolder that BIDS gives it:

- timeseries.tsv   one row per chunk of 20 volumes: its time, motion, and features {first}-{last}
- embedding.tsv    one row: the mean of the included chunks
- tokens.safetensors  the network's whole output, (chunk, feature, x, y, z, t)
- qc.json          coverage of the brain, normalisation, motion

In the same folder, desc-volumes_timeseries.tsv has one row per volume of the BOLD file: its signal,
motion and faults. seg-*_desc-denoised_timeseries.tsv contains the mean signals of parcels, which
the group level uses as a baseline. group.html shows the results of the group level;
group_desc-{label}_embedding.tsv has one row per run, group_desc-participants_embedding.tsv one per
participant. The .json file of each table describes its columns and records weights and settings.
"""


def check_output_dir(output_dir: str | Path, dataset: Dataset) -> Path:
    """Check that the output folder is not the input and can be written to; create nothing yet.

    Raises
    ------
    UsageError
        The folder is the input or lies in a participant's folder, contains another dataset, or
        cannot be written to.
    """
    output_dir = resolved(output_dir, "output_dir")
    try:
        _check_place(output_dir, dataset)
    except OSError as error:
        raise UsageError(
            f"output_dir {output_dir}: {error.filename} cannot be read ({error.strerror}); choose "
            f"a folder that you can write to"
        ) from error
    return output_dir


def refuse_other_network(output_dir: Path, network: Network) -> None:
    """Raise UsageError if the folder contains embeddings of another network, by descriptions.tsv,
    which lists the labels in its file names."""
    file = output_dir / "descriptions.tsv"
    try:
        table = read_table(file, "desc_id") if file.is_file() else None
    except OSError:  # `check_output_dir` says why
        return
    labels = set() if table is None else set(table["desc_id"])
    for other in NETWORKS.values():
        if other != network and f"desc-{other.label}" in labels:
            raise UsageError(
                f"output_dir {output_dir} contains embeddings of {other.title}; choose another "
                f"folder for those of {network.title} (the group level compares the two with "
                f"--compare)"
            )


def _readme(network: Network) -> str:
    names = feature_names(network.label, network.token_shape[0])
    return _README.format(
        title=network.title,
        label=network.label,
        first=names[0],
        last=names[-1].removeprefix(network.label),
        version=__version__,
    )


def _check_place(output_dir: Path, dataset: Dataset) -> None:
    if output_dir in (dataset.root, dataset.raw):
        raise UsageError(f"output_dir {output_dir} is the input folder; choose another")
    own = {folder for folders in dataset.folders.values() for folder in folders}
    if dataset.raw is not None:
        own |= set(dataset.raw.glob("sub-*"))
    for root in filter(None, (dataset.root, dataset.raw)):
        if output_dir.is_relative_to(root) and root / output_dir.relative_to(root).parts[0] in own:
            raise UsageError(f"output_dir {output_dir} lies in the input's data; choose another")
    description = output_dir / "dataset_description.json"
    if description.exists() and not made_by_this_app(read_description(output_dir)):
        raise UsageError(
            f"output_dir {output_dir} contains another dataset ({description.name} was not made by "
            f"swift_bids), which would be overwritten; choose an empty folder, for example "
            f"{output_dir / 'derivatives' / 'swift_bids'}"
        )
    existing = next(p for p in (output_dir, *output_dir.parents) if p.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise UsageError(
            f"output_dir {output_dir}: {existing} cannot be written to; choose a folder that you "
            f"can write to"
        )


def write_dataset_files(output_dir: Path, dataset: Dataset, network: Network) -> None:
    """Write dataset_description.json, README.md, .bidsignore, and descriptions.tsv and .json."""
    # runs of several cohorts may be in one output folder
    earlier = read_description(output_dir).get("DatasetLinks")
    links = dict(earlier) if isinstance(earlier, dict) else {}
    links[dataset.input_type] = _link(dataset.root, output_dir)
    if dataset.raw is not None:
        links[RAW_DATASET] = _link(dataset.raw, output_dir)
    authors = dataset.description.get("Authors") or []
    description: dict[str, Any] = {
        "Name": f"{network.title} embeddings",
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "derivative",
        "License": str(dataset.description.get("License") or "n/a"),
        "Authors": [authors] if isinstance(authors, str) else authors,
        "HowToAcknowledge": "Please cite the works listed in logs/CITATION.md.",
        "GeneratedBy": [_generated_by()],
        "SourceDatasets": [{"URL": link} for link in links.values()],
        "DatasetLinks": links,
    }
    write_json(output_dir / "dataset_description.json", description)
    write_text(output_dir / "README.md", _readme(network))
    write_text(output_dir / ".bidsignore", _BIDSIGNORE)
    meanings = {
        f"desc-{network.label}": f"Output of the {network.title} backbone, made by swift_bids",
        "desc-volumes": "Signals and faults of every volume, made by swift_bids",
        "desc-denoised": "Mean signals of parcels without trend and confounds, made by swift_bids",
        "desc-participants": "One row per participant, the mean over its runs",
    }
    rows = pd.DataFrame({"desc_id": meanings.keys(), "description": meanings.values()})
    write_table(output_dir / "descriptions.tsv", rows)
    write_json(
        output_dir / "descriptions.json",
        {
            "Description": "Meaning of the desc entity in this dataset",
            "desc_id": {"Description": "Name and value of the desc entity"},
            "description": {"Description": "Content of the files with this entity"},
        },
    )


def write_participants(output_dir: Path, rows: pd.DataFrame, about: dict[str, Any]) -> None:
    """Write what `participants_of` returned as participants.tsv and .json."""
    if len(rows):
        write_table(output_dir / "participants.tsv", rows)
        write_json(output_dir / "participants.json", about)


def participants_of(output_dir: Path, dataset: Dataset) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Table of the participants that have a folder in the output, and descriptions of its columns.

    All values are text. Columns and descriptions come from participants.tsv and .json of the raw
    dataset, or else of the derivatives; a participant that is not listed there gets `n/a`.
    """
    labels = sorted(folder.name for folder in output_dir.glob("sub-*") if folder.is_dir())
    rows = pd.DataFrame({"participant_id": labels})
    about: dict[str, Any] = {"Description": "Participants of this dataset"}
    about |= column_descriptions(rows.columns)
    for root in filter(None, (dataset.raw, dataset.root)):
        known, described = _read_participants(root)
        if known is not None:
            known["participant_id"] = _with_zeros(known["participant_id"], labels, root)
            if not known["participant_id"].isin(labels).any():
                _LOG.warning(
                    "%s lists none of these participants; its participant_id must look like %s",
                    root / "participants.tsv",
                    labels[0] if labels else "sub-01",
                )
            rows = rows.merge(known, on="participant_id", how="left").fillna("n/a")
            about |= {column: described[column] for column in known if column in described}
            break
    return rows, about


def _with_zeros(ids: pd.Series, labels: Sequence[str], root: Path) -> pd.Series:
    """Match ids that lost the zeros before their number, as in a spreadsheet: sub-1 and sub-01."""
    by_number: dict[str, list[str]] = defaultdict(list)
    for label in labels:
        by_number[plain(label.removeprefix("sub-"))].append(label)
    changed = {
        own: found[0]
        for own in set(ids) - set(labels)
        if len(found := by_number.get(plain(str(own).removeprefix("sub-")), [])) == 1
        and found[0] not in set(ids)
    }
    if changed:
        example, label = min(changed.items())
        _LOG.warning(
            "%s: %d participant_id(s) differ from the folders by zeros, such as %s, which is taken "
            "for %s",
            root / "participants.tsv",
            len(changed),
            example,
            label,
        )
    return ids.replace(changed)


def _read_participants(root: Path) -> tuple[pd.DataFrame | None, dict[str, Any]]:
    """A dataset's participants.tsv as text, and column descriptions from its participants.json."""
    file = root / "participants.tsv"
    table = read_table(file, "participant_id") if file.exists() else None
    if table is None:
        return None, {}
    by_session = sessions_in(table)
    table["participant_id"] = participant_ids(table["participant_id"])
    if by_session is not None:
        values = by_session.drop(columns="session_id").groupby("participant_id", sort=False)
        constant = values.nunique().max() <= 1
        _LOG.info("%s has a row for each session; see --target", file)
        table = values.first().loc[:, constant].reset_index()
    elif table["participant_id"].duplicated().any():
        _LOG.warning("%s lists participants twice; the first row of each is used", file)
        table = table.drop_duplicates("participant_id", ignore_index=True)
    sidecar = file.with_suffix(".json")
    try:
        return table, dict(read_json(sidecar)) if sidecar.exists() else {}
    except (OSError, ValueError, TypeError) as error:
        _LOG.warning("%s: is not used (%s); correct the file", sidecar, error)
        return table, {}


def _generated_by() -> dict[str, Any]:
    made_by: dict[str, Any] = dict(GENERATED_BY)
    kind = os.environ.get("SWIFT_BIDS_CONTAINER")  # set in the image
    if "APPTAINER_NAME" in os.environ or "SINGULARITY_NAME" in os.environ:
        kind = "apptainer"
    if kind:
        made_by["Container"] = {"Type": kind, "Tag": f"swift_bids:{__version__}"}
    return made_by


def _link(target: Path, output_dir: Path) -> str:
    """Relative path if both folders share a folder at least two levels below /, so that both can be
    moved together; otherwise a file URI."""
    common = Path(os.path.commonpath([target, output_dir]))
    if len(common.parts) > 2:
        return os.path.relpath(target, output_dir)
    return target.as_uri()
