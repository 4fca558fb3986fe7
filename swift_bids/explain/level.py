"""swift-bids explain: a probe and embedded runs -> where in the brain its predictions come from."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from isal import igzip
from scipy.stats import spearmanr
from torch import Tensor
from tqdm import tqdm

from swift_bids.base.backbones import NETWORKS
from swift_bids.base.errors import UsageError, report_problems
from swift_bids.base.files import write_atomically, write_json
from swift_bids.explain.attribution import Score, integrated_gradients, occlusion, randomised
from swift_bids.explain.maps import MeanMap, mean_run, parcel_numbers, parcel_table, to_template
from swift_bids.explain.page import write_page
from swift_bids.explain.results import COLUMNS, Explanation
from swift_bids.geometry.frames import FRAMES
from swift_bids.group.figures import evenly_spaced
from swift_bids.group.kept_runs import KeptRun, kept_runs, matrix_uris
from swift_bids.group.load import Embedded, check_kinds, collect_runs
from swift_bids.group.predict import check_same_kind, find_probes
from swift_bids.group.probes.saved import SavedProbe, read_probes
from swift_bids.inputs.run_filter import RunFilter
from swift_bids.network.load import network_from_file
from swift_bids.network.skeleton import Skeleton
from swift_bids.network.weights import weights_of_embeddings
from swift_bids.outputs.provenance import GENERATED_BY
from swift_bids.outputs.tables import write_table
from swift_bids.steps.embed import use_device
from swift_bids.steps.parcels import Parcels, read_atlas

_LOG = logging.getLogger("swift_bids")
#: Most runs for which the attributions are repeated with a randomised probe.
_MAX_CHECKED = 5


@dataclass(frozen=True)
class ExplainSettings:
    """A command `swift-bids explain`.

    Attributes
    ----------
    probes, output_dir, run_filter
        A file of saved probes or its folder; embedded runs, and which of them to use.
    target
        Which probe of the file; None: its only one.
    baseline
        What the runs are compared with: their mean, constant in time (`mean`), or an input of
        background alone (`background`).
    max_runs, max_chunks
        Most runs, and most chunks of each, spread evenly.
    atlas
        Image of the parcels.
    with_occlusion
        Whether to occlude parcels, too.
    weights, device
        Weights that made the embeddings (None: those of the variant); torch device.
    """

    probes: Path
    output_dir: Path
    run_filter: RunFilter
    target: str | None
    baseline: str
    max_runs: int
    max_chunks: int
    atlas: Path
    with_occlusion: bool
    weights: str | None
    device: str


def run_explain(settings: ExplainSettings, embed_again: Callable[[Sequence[str]], object]) -> int:
    """Write map, table and page of a probe, and return the exit code.

    Parameters
    ----------
    embed_again
        As for `swift_bids.group.kept_runs.kept_runs`.

    Raises
    ------
    UsageError
        The probe, the embeddings and the weights do not belong together.
    InputError
        A matrix or the atlas cannot be read.
    """
    runs, problems = collect_runs(settings.output_dir, settings.run_filter)
    check_kinds(runs.table, allow_mixed=False)
    file = find_probes(settings.probes, runs.label)
    saved, about_probes = read_probes(file)
    check_same_kind(file, about_probes, runs)
    probe = _choose(saved, settings.target, file)
    kind = runs.kinds[0]
    weights = weights_of_embeddings(settings.weights, kind["variant"], kind["weights_sha256"])
    if weights.random:
        _LOG.warning("RANDOM WEIGHTS: this explanation means nothing")
    chosen = evenly_spaced(len(runs.table), settings.max_runs)
    runs = Embedded(runs.table.iloc[chosen], runs.features[chosen], runs.label)
    network = network_from_file(weights.file, settings.device).requires_grad_(False)
    use_device(torch.device(settings.device))
    atlas = read_atlas(settings.atlas)
    read = kept_runs(settings.output_dir, runs, embed_again)
    explanation = _explain(network, probe, runs, read, atlas, settings)
    explanation.random_weights = weights.random
    written = _write(explanation, runs, atlas, file, weights.name, settings)
    for path in written:
        _LOG.info("%s", path)
    return report_problems(problems)


def _choose(saved: list[SavedProbe], target: str | None, file: Path) -> SavedProbe:
    """Return the probe of a target, or the only one."""
    known = {probe.target: probe for probe in saved}
    if target is None and len(known) == 1:
        return saved[0]
    if target not in known:
        problem = "give --target" if target is None else f"--target {target}: is not among them"
        raise UsageError(f"{file}: contains the probes {', '.join(known)}; {problem}")
    return known[target]


def _explain(
    network: Skeleton,
    probe: SavedProbe,
    runs: Embedded,
    read: Sequence[KeptRun],
    atlas: Parcels,
    settings: ExplainSettings,
) -> Explanation:
    """Attribute the scores of all runs, and those of the probe with randomised coefficients."""
    mean = mean_run(read) if settings.baseline == "mean" else None
    numbers = parcel_numbers(atlas.numbers, FRAMES[runs.kinds[0]["frame"]])
    true_map, checked_map, random_map = MeanMap(), MeanMap(), MeanMap()
    checked = set(evenly_spaced(len(read), _MAX_CHECKED).tolist())
    rows: list[dict[str, Any]] = []
    by_parcel: list[np.ndarray] = []
    occluded: list[np.ndarray] = []
    outputs = probe.predict(runs.features.astype(np.float64))
    shuffled = randomised(probe)
    # shown on a terminal only
    for number, run in enumerate(tqdm(read, "runs", unit="run", leave=False, disable=None)):
        output = int(outputs[number].argmax()) if probe.classes else 0
        score = Score(network, probe, output, run.matrix.index, run.matrix.background)
        chunks = list(_chunks(run, mean, settings))
        found = [integrated_gradients(score, *chunk) for chunk in chunks]
        voxels = np.mean([a.voxels for a in found], axis=0)
        sign = _sign(voxels, probe)
        true_map.add(run.matrix.index, sign * voxels)
        parcels = numbers[run.matrix.index]
        n = len(atlas.names) + 1
        size = np.bincount(parcels, minlength=n)
        total = np.bincount(parcels, voxels, minlength=n)
        by_parcel.append(sign * np.where(size > 0, total, np.nan))
        if settings.with_occlusion:
            falls = np.full((len(chunks), n), np.nan)
            for row, chunk in zip(falls, chunks):
                values = occlusion(score, *chunk, parcels)
                row[: len(values)] = values
            occluded.append(sign * falls.mean(axis=0))
        if number in checked:
            checked_map.add(run.matrix.index, sign * voxels)
            score = Score(network, shuffled, output, run.matrix.index, run.matrix.background)
            voxels = np.mean([integrated_gradients(score, *c).voxels for c in chunks], axis=0)
            random_map.add(run.matrix.index, _sign(voxels, probe) * voxels)
        rows.append(
            {
                "name": run.name,
                "explained": probe.classes[output] if probe.classes else probe.target,
                "n_chunks": len(chunks),
                "difference": float(np.mean([a.difference for a in found])),
                "completeness_error": max(a.error for a in found),
                "n_steps": max(a.n_steps for a in found),
            }
        )
        _LOG.debug("%s: %s", run.name, rows[-1])
    known = checked_map.known
    similarity = spearmanr(checked_map.values[known], random_map.values[known])[0]
    return Explanation(
        probe=probe,
        values=true_map.values,
        known=true_map.known,
        parcels=parcel_table(
            atlas.names, np.array(by_parcel), np.array(occluded) if occluded else None
        ),
        runs=pd.DataFrame(rows),
        similarity=float(similarity),
    )


def _sign(voxels: np.ndarray, probe: SavedProbe) -> float:
    """Sign with which a run enters the mean: numbers above and below the baseline would cancel."""
    return 1.0 if probe.classes or voxels.sum() >= 0 else -1.0


def _chunks(
    run: KeptRun, mean: np.ndarray | None, settings: ExplainSettings
) -> Iterator[tuple[Tensor, Tensor]]:
    """Some chunks of a run and their baseline, each (volume, brain voxel) float32."""
    chosen = [run.starts[i] for i in evenly_spaced(len(run.starts), settings.max_chunks)]
    queued = run.chunks(chosen)
    if mean is None:
        values = np.full(run.matrix.shape[1], run.matrix.background)
    else:
        values = mean[run.matrix.index]
    baseline = torch.from_numpy(values).float().to(settings.device)
    for number in range(len(chosen)):
        rows = queued.read_rows(number).float().to(settings.device)
        yield rows, baseline.expand_as(rows).contiguous()


def _write(
    explanation: Explanation,
    runs: Embedded,
    atlas: Parcels,
    probes: Path,
    weights: str,
    settings: ExplainSettings,
) -> list[Path]:
    """Write map, tables and page; return their paths, the page last."""
    kind = runs.kinds[0]
    label = _label(explanation.probe.target)
    space = kind["space_id"].split()[0]
    map_file = settings.output_dir / (
        f"group_space-{space}_res-2_desc-{runs.label}{label}_attribution.nii.gz"
    )
    stem = f"group_desc-{runs.label}{label}_attribution"
    about = {
        "GeneratedBy": [GENERATED_BY],
        "Embeddings": runs.kinds,
        "Weights": weights,
        "Probe": {"File": str(probes.resolve()), "Target": explanation.probe.target},
        "Settings": {
            "Baseline": settings.baseline,
            "Atlas": {"Name": settings.atlas.name, "SHA256": atlas.sha256},
            "MaxRuns": settings.max_runs,
            "MaxChunks": settings.max_chunks,
        },
        "Sources": matrix_uris(settings.output_dir, runs),
    }
    checks = {
        "CompletenessError": explanation.completeness_error,
        "SimilarityToRandomisedHead": explanation.similarity,
    }
    image = to_template(explanation.values, FRAMES[kind["frame"]])
    content = igzip.compress(image.to_bytes(), mtime=0)  # the same bytes every time
    write_atomically(map_file, lambda path: path.write_bytes(content))
    write_json(
        map_file.with_name(map_file.name.removesuffix(".nii.gz") + ".json"),
        {
            "Description": "Integrated Gradients of the probe's score: what each voxel adds to "
            "it, compared with the baseline; sum over the volumes of a chunk, mean over chunks "
            "and runs",
            "Units": "units of the score",
            **about,
            "Checks": checks,
        },
    )
    for name, table, described in (
        (f"{stem}.tsv", explanation.parcels, "What each parcel adds to the probe's score"),
        (f"{stem}runs.tsv", explanation.runs, "The runs that were explained"),
    ):
        table_file = settings.output_dir / name
        write_table(table_file, table)
        columns = {column: COLUMNS[column] for column in table}
        write_json(table_file.with_suffix(".json"), {"Description": described} | about | columns)
    page = write_page(
        settings.output_dir / f"{stem}.html",
        explanation,
        image,
        NETWORKS[runs.label],
        settings.baseline,
        atlas.label,
    )
    return [map_file, settings.output_dir / f"{stem}.tsv", page]


def _label(target: str) -> str:
    """A target as the value of an entity; with a digest if that drops characters, since the labels
    of two targets must differ."""
    plain = re.sub(r"[^A-Za-z0-9]", "", target)
    return plain if plain == target else plain + hashlib.sha256(target.encode()).hexdigest()[:6]
