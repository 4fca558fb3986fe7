"""Results of the group level -> its tables and their sidecars."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from swift_bids.base.errors import Problem
from swift_bids.base.files import write_json, write_text
from swift_bids.group.compare import Compared
from swift_bids.group.connectivity import Connectivity
from swift_bids.group.figures import probes_figure, svg
from swift_bids.group.load import Embedded
from swift_bids.group.probes.saved import SavedProbe, write_probes
from swift_bids.group.probes.scores import COMPARED, EMBEDDING
from swift_bids.group.similarity import FULL_MATRIX, similarity_matrix
from swift_bids.outputs.provenance import GENERATED_BY
from swift_bids.outputs.tables import column_descriptions, write_table

#: Tables of one network; `{}` is its label.
RUNS, RELMAT = "group_desc-{}_embedding.tsv", "group_desc-{}_relmat.tsv"
IDENTIFICATION, DUPLICATES = "group_desc-{}_identification.tsv", "group_desc-{}_duplicates.tsv"
CONDITIONS, RELIABILITY = "group_desc-{}_conditions.tsv", "group_desc-{}_reliability.tsv"
PROBES, PROBES_FIGURE = "group_desc-{}_probes.tsv", "group_desc-{}_probes.svg"
MODEL, PREDICTIONS = "group_desc-{}_model.safetensors", "group_desc-{}_predictions.tsv"
PARTICIPANTS = "group_desc-participants_embedding.tsv"
NEIGHBOURS = "group_desc-neighbours_relmat.tsv"
_ABOUT_CONDITIONS = (
    "Whether runs of different participants are alike if they share a condition of the acquisition"
)


@dataclass
class GroupResults:
    """All results of the group level, from which tables and page are written.

    Attributes
    ----------
    runs, participants
        Tables and features.
    n_kinds
        Number of kinds of embeddings in the tables; more than 1 only with `--allow-mixed`.
    problems
        Outputs that could not be read, and requested participants that do not exist.
    settings
        Settings of the call.
    not_done
        Column or analysis -> reason why the app did not do it.
    missing
        Labels of participants of the input without embeddings.
    n_components
        Number of principal components of the outlier distance; 0 without a distance.
    duplicates, identification, reliability, probes
        Tables; empty without results.
    saved
        Probes of the mean embedding that `swift-bids predict` can apply to other participants.
    connectivity
        None if it was not needed.
    notes
        Sentences about columns of participants.tsv and what became of them.
    conditions
        Whether runs of different participants are alike if they share a condition; empty if no
        condition differs.
    compared, compared_reliability
        Embeddings of another folder (`--compare`) and their reliability.
    mask_related
        Target that is associated with the volume of the brain mask -> how.
    """

    runs: Embedded
    participants: Embedded
    n_kinds: int
    problems: list[Problem]
    settings: dict[str, Any]
    not_done: dict[str, str]
    missing: list[str] = field(default_factory=list)
    n_components: int = 0
    duplicates: pd.DataFrame = field(default_factory=pd.DataFrame)
    identification: pd.DataFrame = field(default_factory=pd.DataFrame)
    reliability: pd.DataFrame = field(default_factory=pd.DataFrame)
    probes: pd.DataFrame = field(default_factory=pd.DataFrame)
    conditions: pd.DataFrame = field(default_factory=pd.DataFrame)
    connectivity: Connectivity | None = None
    saved: list[SavedProbe] = field(default_factory=list)
    compared: Compared | None = None
    compared_reliability: pd.DataFrame = field(default_factory=pd.DataFrame)
    mask_related: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def random_weights(self) -> str:
        """Which embeddings a network with random weights made; empty if none."""
        of_compared = self.compared is not None and self.compared.runs.has_random_weights
        if self.runs.has_random_weights:
            return "these embeddings"
        return "the compared embeddings" if of_compared else ""

    def file(self, output_dir: Path, name: str) -> Path:
        """Path of a table or figure of this module."""
        return output_dir / name.format(self.runs.label)

    @property
    def made_by(self) -> dict[str, Any]:
        """Software, kinds of embeddings and settings, as recorded in every sidecar."""
        return {
            "GeneratedBy": [GENERATED_BY],
            "Embeddings": self.runs.kinds,
            "Settings": self.settings,
            **({"Compared": self.compared.described} if self.compared else {}),
        }


def write_similarity(output_dir: Path, results: GroupResults, neighbours: pd.DataFrame) -> None:
    """Write the similarity of all pairs of runs or, for many runs, of the nearest ones."""
    table = results.runs.table
    about = {"Description": "Cosine similarity of the runs' embeddings after centring"}
    if len(table) > FULL_MATRIX:
        _write(output_dir, NEIGHBOURS, neighbours, results, about)
        _remove(results.file(output_dir, RELMAT))
        return
    matrix = similarity_matrix(results.runs.features, table["name"])
    matrix.insert(0, "name", table["name"].to_numpy())
    file, rows = (results.file(output_dir, name) for name in (RELMAT, RUNS))
    write_table(file, matrix)
    columns = f"name, then the runs in the order of the rows, which is the order of {rows.name}"
    write_json(file.with_suffix(".json"), about | {"Columns": columns} | results.made_by)
    _remove(results.file(output_dir, NEIGHBOURS))


def write_group_tables(
    output_dir: Path, results: GroupResults, descriptions: dict[str, Any]
) -> None:
    """Write all tables except the similarity, and the probes figure; remove files of an earlier
    call that have no counterpart now."""
    about = {"Description": "One row per run"}
    runs, participants = results.runs.with_features, results.participants.with_features
    _write(output_dir, RUNS, runs, results, about, descriptions)
    about = {"Description": "One row per participant: means over runs, weighted by included chunks"}
    _write(output_dir, PARTICIPANTS, participants, results, about, descriptions)
    about = {"Description": "Nearly identical runs of two participants"}
    _write(output_dir, DUPLICATES, results.duplicates, results, about)
    for name, table, description in (
        (IDENTIFICATION, results.identification, "How well sets of features identify participants"),
        (CONDITIONS, results.conditions, _ABOUT_CONDITIONS),
        (RELIABILITY, _reliability_of_both(results), "Intraclass correlation of each feature"),
    ):
        if table.empty:
            _remove(results.file(output_dir, name))
        else:
            _write(output_dir, name, table, results, {"Description": description})
    if results.probes.empty:
        _remove(results.file(output_dir, PROBES))
        results.file(output_dir, PROBES_FIGURE).unlink(missing_ok=True)
    else:
        about = {"Description": "How well sets of features predict columns of participants.tsv"}
        if results.connectivity is not None:
            about["Connectivity"] = results.connectivity.note
        _write(output_dir, PROBES, results.probes, results, about)
        write_text(results.file(output_dir, PROBES_FIGURE), svg(probes_figure(results.probes)))
    if results.saved:
        about = {"Description": "Probes of the mean embedding, fitted to all participants"}
        write_probes(results.file(output_dir, MODEL), results.saved, about | results.made_by)
    else:
        _remove(results.file(output_dir, MODEL))


def _reliability_of_both(results: GroupResults) -> pd.DataFrame:
    """The features of the embedding and, with `--compare`, those of the other one."""
    other = results.compared_reliability
    if other.empty:
        return results.reliability
    tables = {EMBEDDING: results.reliability, COMPARED: other}
    return pd.concat([table.assign(features=name) for name, table in tables.items()])


def _write(
    output_dir: Path,
    name: str,
    table: pd.DataFrame,
    results: GroupResults,
    about: dict[str, Any],
    descriptions: dict[str, Any] | None = None,
) -> None:
    file = results.file(output_dir, name)
    write_table(file, table)
    columns = column_descriptions(table.columns, descriptions)
    write_json(file.with_suffix(".json"), about | results.made_by | columns)


def _remove(table: Path) -> None:
    """Remove the table of an earlier call, which does not match the new tables."""
    for file in (table, table.with_suffix(".json")):
        file.unlink(missing_ok=True)
