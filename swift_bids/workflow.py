"""A run -> its nipype workflow: [locate] -> (normalise, crop) -> chunk -> embed -> aggregate."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nipype import Node, Workflow

from swift_bids import __version__
from swift_bids.inputs.run import Run
from swift_bids.interfaces import Aggregate, Chunk, Crop, Embed, Locate, Normalise
from swift_bids.outputs.provenance import Provenance
from swift_bids.settings import OptionalFiles, ParcelSettings

#: With the version in it, so that nipype does not reuse the cache of another version.
WORKFLOW_NAME = "swift_bids_" + re.sub(r"\W", "_", __version__) + "_wf"
#: The steps; each comes after the steps whose results it needs. Only runs that the app resamples,
#: or whose mask is not on their grid, need `locate`.
STEPS = ("locate", "normalise", "crop", "chunk", "embed", "aggregate")
#: Memory that a step needs in addition to the imported libraries, in GB; measured with
#: 91 x 109 x 91 voxels.
_MEMORY_GB = {
    "locate": 0.9,
    "normalise": 0.7,
    "crop": 0.5,
    "chunk": 0.2,
    "embed": 1.2,
    "aggregate": 0.6,
}


@dataclass(frozen=True)
class NetworkResources:
    """How the network runs.

    Attributes
    ----------
    devices, batch_size, threads
        Torch devices, chunks per pass (None: as many as fit), CPU threads.
    compiled
        Whether to compile the network with torch.compile.
    workers
        Socket of the processes that own the GPUs; None: each node runs the network itself, on the
        first device.
    label
        Devices, and what runs the network on the CPU, for the log.
    """

    devices: Sequence[str]
    batch_size: int | None
    threads: int
    compiled: bool = False
    workers: str | None = None
    label: str = ""


def workflow_of_run(
    run: Run,
    provenance: Provenance,
    resources: NetworkResources,
    output_dir: Path,
    log_dir: Path,
    fingerprints: Mapping[str, str],
    optional: OptionalFiles,
    parcels: ParcelSettings,
) -> Workflow:
    """The nodes of one run, from its BOLD file to its files in `output_dir`.

    Parameters
    ----------
    log_dir
        Folder for the crash files.
    fingerprints
        Fingerprints of the run's input files, recorded in embedding.json.
    optional, parcels
        Which large files to write; how time series of parcels are made.
    """
    settings = provenance.settings
    # nipype's inputs are plain dicts; interfaces rebuild the dataclasses
    series = dataclasses.asdict(run.series)
    motion = {"confounds": run.confounds} if run.confounds else {}
    is_located = run.transforms is not None or not run.mask.on_grid_of_run
    mask = {} if is_located else {"mask": run.mask.file}
    if raw := run.raw_transforms:
        motion = {"head_motion": raw.head_motion, "reference": raw.reference}
    interfaces = {
        "normalise": Normalise(
            bold=run.bold,
            **mask,
            frame=settings.frame,
            series=series,
            method=settings.normalisation,
            statistics=settings.statistics,
            robust=settings.robust_normalisation,
            quantisation=settings.quantisation,
            atlas=str(parcels.atlas),
        ),
        "crop": Crop(**mask, frame=settings.frame),
        "chunk": Chunk(
            series=series,
            fd_threshold=settings.fd_threshold,
            max_censored=settings.max_censored,
            stride=settings.chunk_stride,
            tail=settings.tail,
            short_runs=settings.short_runs,
            **motion,
        ),
        "embed": Embed(
            weights=dataclasses.asdict(provenance.weights),
            device=resources.devices[0],
            precision=settings.precision,
            chunk_volumes=run.series.chunk_volumes,
            compiled=resources.compiled,
            **({"batch_size": resources.batch_size} if resources.batch_size else {}),
            threads=resources.threads,
            use_gpu=resources.devices[0].startswith("cuda"),
            **({"workers": resources.workers} if resources.workers else {}),
        ),
        "aggregate": Aggregate(
            run=dataclasses.asdict(run),
            provenance=dataclasses.asdict(provenance),
            fingerprints=dict(fingerprints),
            keep_tokens=optional.tokens,
            keep_matrix=optional.matrix,
            output_dir=str(output_dir),
            atlas=str(parcels.atlas),
            confounds_strategy=parcels.confounds_strategy,
        ),
    }
    if is_located:
        transforms = run.transforms
        interfaces["locate"] = Locate(
            bold=run.bold,
            mask=dataclasses.asdict(run.mask),
            files=[*run.mask.files, *(transforms.files if transforms else [])],
            frame=settings.frame,
            **({"transforms": dataclasses.asdict(transforms)} if transforms else {}),
        )
    memory, cpus = dict(_MEMORY_GB), dict.fromkeys(STEPS, 1) | {"embed": resources.threads}
    if resources.workers:  # the node only waits
        memory["embed"], cpus["embed"] = 0.1, 0
    nodes = {
        name: Node(
            interface,
            name=name,
            mem_gb=memory[name],
            n_procs=cpus[name],
            # Always run: its outputs lie outside the work folder, so nipype's cache cannot tell
            # whether they exist.
            overwrite=name == "aggregate" or None,
        )
        for name, interface in interfaces.items()
    }
    for node in nodes.values():
        node.config = {"execution": {"crashdump_dir": str(log_dir)}}
    workflow = Workflow(name=workflow_name(run))
    if is_located:
        located = [("mask", "mask"), *([("points", "points")] if run.transforms else [])]
        workflow.connect(
            [
                (nodes["locate"], nodes["normalise"], located),
                (nodes["locate"], nodes["crop"], [("mask", "mask")]),
            ]
        )
    workflow.connect(
        [
            (nodes["normalise"], nodes["chunk"], [("volumes", "volumes")]),
            (nodes["normalise"], nodes["embed"], [("matrix", "matrix")]),
            (nodes["normalise"], nodes["embed"], [("statistics", "statistics")]),
            (nodes["crop"], nodes["embed"], [("index", "index")]),
            (nodes["chunk"], nodes["embed"], [("chunks", "chunks")]),
            (nodes["embed"], nodes["aggregate"], [("tokens", "tokens"), ("kernel", "kernel")]),
            (nodes["chunk"], nodes["aggregate"], [("chunks", "chunks")]),
            (nodes["crop"], nodes["aggregate"], [("coverage", "coverage"), ("index", "index")]),
            (nodes["normalise"], nodes["aggregate"], [("matrix", "matrix")]),
            (nodes["normalise"], nodes["aggregate"], [("parcels", "parcels")]),
            (nodes["normalise"], nodes["aggregate"], [("volumes", "volumes")]),
            (nodes["normalise"], nodes["aggregate"], [("statistics", "statistics")]),
        ]
    )
    return workflow


def workflow_name(run: Run) -> str:
    """The name of a run as nipype accepts it, `sub_01_task_rest_..._wf`.

    A name that BIDS does not allow gets a digest, since two such names could become one.
    """
    digest = ""
    if not re.fullmatch(r"[A-Za-z0-9]+-[A-Za-z0-9]+(_[A-Za-z0-9]+-[A-Za-z0-9]+)*", run.name):
        digest = "_" + hashlib.sha256(os.fsencode(run.name)).hexdigest()[:8]
    return re.sub(r"\W", "_", run.name) + digest + "_wf"
