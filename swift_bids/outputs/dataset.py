"""The files that describe the output folder as a whole, the same whichever job writes them."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import pandas as pd

from swift_bids import __version__
from swift_bids.base.errors import UsageError
from swift_bids.base.files import read_json, write_json, write_text
from swift_bids.inputs.dataset import Dataset, made_by_this_app, read_description, resolved
from swift_bids.outputs.provenance import BIDS_VERSION, GENERATED_BY, INPUT_DATASET
from swift_bids.outputs.tables import column_descriptions, write_table

_LOG = logging.getLogger("swift_bids")
#: What the BIDS validator has no rule for. A folder is silenced without a trailing slash only.
_BIDSIGNORE = """\
*.html
figures
log
logs
*_timeseries.tsv
*_timeseries.json
*_embedding.*
*_tokens.*
*_qc.*
*_relmat.*
group*
"""
_README = """\
SwiFT embeddings of fMRIPrep derivatives, made by swift_bids {version}.

sub-XX.html shows what went into the network and what came out. Every run has, beside the place of
its BOLD file in the input, files named after it with desc-swift:

- timeseries.tsv   one row a chunk of 20 volumes: place in time, motion, and features swift000-287
- embedding.tsv    one row: the mean of the included chunks
- tokens.safetensors  the network's whole output, (chunk, feature, x, y, z, t)
- qc.json          coverage of the brain, normalisation, motion

Beside them, seg-*_desc-denoised_timeseries.tsv has the mean signals of parcels, which the group
level compares with. group.html shows what the group level found; group_desc-swift_embedding.tsv has
a row for every run, group_desc-participants_embedding.tsv one for every participant. The .json
files beside the tables describe each column and say which weights and settings made it.
"""


def check_output_dir(output_dir: str | Path, dataset: Dataset) -> Path:
    """Refuse an output folder that is the input or cannot be written to; nothing is made yet.

    Raises
    ------
    UsageError
        As said.
    """
    output_dir = resolved(output_dir, "output_dir")
    try:
        _check_place(output_dir, dataset)
    except OSError as error:
        raise UsageError(
            f"output_dir {output_dir}: {error.filename} cannot be read ({error.strerror}); give a "
            f"folder that can be written to"
        ) from error
    return output_dir


def _check_place(output_dir: Path, dataset: Dataset) -> None:
    if output_dir in (dataset.root, dataset.raw):
        raise UsageError(f"output_dir {output_dir} is the input folder; give another one")
    for root in filter(None, (dataset.root, dataset.raw)):
        if output_dir.is_relative_to(root) and output_dir.relative_to(root).parts[0][:4] == "sub-":
            raise UsageError(f"output_dir {output_dir} lies in the input's data; give another one")
    description = output_dir / "dataset_description.json"
    if description.exists() and not made_by_this_app(read_description(output_dir)):
        raise UsageError(
            f"output_dir {output_dir} holds another dataset ({description.name} was not made by "
            f"swift_bids), which would be overwritten; give a folder of its own, for example "
            f"{output_dir / 'derivatives' / 'swift_bids'}"
        )
    there = next(p for p in (output_dir, *output_dir.parents) if p.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise UsageError(
            f"output_dir {output_dir}: {there} cannot be written to; give a folder that can"
        )


def write_dataset_files(output_dir: Path, dataset: Dataset) -> None:
    """Write dataset_description.json, README.md, .bidsignore, descriptions and the citations."""
    links = {INPUT_DATASET: _link(dataset.root, output_dir)}
    if dataset.raw is not None:
        links["raw"] = _link(dataset.raw, output_dir)
    authors = dataset.description.get("Authors") or []
    description: dict[str, Any] = {
        "Name": "SwiFT embeddings",
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
    write_text(output_dir / "README.md", _README.format(version=__version__))
    write_text(output_dir / ".bidsignore", _BIDSIGNORE)
    meanings = {
        "desc-swift": "Output of the SwiFT backbone, made by swift_bids",
        "desc-denoised": "Mean signal of parcels without trend and confounds, made by swift_bids",
        "desc-participants": "One row a participant, the mean over the runs",
    }
    rows = pd.DataFrame({"desc_id": meanings.keys(), "description": meanings.values()})
    write_table(output_dir / "descriptions.tsv", rows)
    write_json(
        output_dir / "descriptions.json",
        {
            "Description": "Meaning of the desc entity in this dataset",
            "desc_id": {"Description": "Value of the desc entity, with its name"},
            "description": {"Description": "What files with it hold"},
        },
    )


def write_participants(output_dir: Path, rows: pd.DataFrame, about: dict[str, Any]) -> None:
    """Write what `participants_of` returned as participants.tsv and .json."""
    if len(rows):
        write_table(output_dir / "participants.tsv", rows)
        write_json(output_dir / "participants.json", about)


def participants_of(output_dir: Path, dataset: Dataset) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Participants with a folder in the output: a row each, as text, and what the columns are.

    Columns and their descriptions are carried over from the raw dataset, or the derivatives; a
    participant that they do not list gets `n/a`.
    """
    labels = sorted(folder.name for folder in output_dir.glob("sub-*") if folder.is_dir())
    rows = pd.DataFrame({"participant_id": labels})
    about: dict[str, Any] = {"Description": "Participants of this dataset"}
    about |= column_descriptions(rows.columns)
    for root in filter(None, (dataset.raw, dataset.root)):
        known, described = _read_participants(root)
        if known is not None:
            if not known["participant_id"].isin(labels).any():
                _LOG.warning(
                    "%s: has none of the participants here; its participant_id must look like %s",
                    root / "participants.tsv",
                    labels[0] if labels else "sub-01",
                )
            rows = rows.merge(known, on="participant_id", how="left").fillna("n/a")
            about |= {column: described[column] for column in known if column in described}
            break
    return rows, about


def _read_participants(root: Path) -> tuple[pd.DataFrame | None, dict[str, Any]]:
    """A dataset's participants.tsv as text, and what its participants.json says of the columns."""
    file = root / "participants.tsv"
    if not file.exists():
        return None, {}
    try:
        table = pd.read_csv(
            file,
            sep="\t",
            dtype=str,
            keep_default_na=False,
            encoding="utf-8-sig",
            index_col=False,
            skipinitialspace=True,
        )
        table["participant_id"] = table["participant_id"].str.strip()
        if table["participant_id"].duplicated().any():
            _LOG.warning("%s: participants are in it twice; the first row is taken", file)
            table = table.drop_duplicates("participant_id")
        sidecar = file.with_suffix(".json")
        return table, dict(read_json(sidecar)) if sidecar.exists() else {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        _LOG.warning("%s: its columns are not carried over (%s); mend the file", file, error)
        return None, {}


def _generated_by() -> dict[str, Any]:
    made_by: dict[str, Any] = dict(GENERATED_BY)
    kind = os.environ.get("SWIFT_BIDS_CONTAINER")  # set in the image
    if "APPTAINER_NAME" in os.environ or "SINGULARITY_NAME" in os.environ:
        kind = "apptainer"
    if kind:
        made_by["Container"] = {"Type": kind, "Tag": f"swift_bids:{__version__}"}
    return made_by


def _link(target: Path, output_dir: Path) -> str:
    """A relative path where both lie in one tree that can move as a whole, else a file URI."""
    common = Path(os.path.commonpath([target, output_dir]))
    if len(common.parts) > 2:
        return os.path.relpath(target, output_dir)
    return target.as_uri()
