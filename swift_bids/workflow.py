"""A run -> its nipype workflow: normalise -> crop -> chunk -> embed -> aggregate."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from nipype import Node, Workflow

from swift_bids import __version__
from swift_bids.cluster import Plugin
from swift_bids.interfaces import PROGRESS_FILE, Aggregate, Chunk, Crop, Embed, Normalise
from swift_bids.outputs import Provenance
from swift_bids.runs import Run
from swift_bids.slurm import ask_for
from swift_bids.weights import Weights

#: Nipype's cache of another version must not be taken for this one's.
WORKFLOW_NAME = "swift_bids_" + re.sub(r"\W", "_", __version__) + "_wf"
#: What a step needs beside its threads, in GB; measured with 91 x 109 x 91 voxels.
#: In the order of the data.
STEPS = ("normalise", "crop", "chunk", "embed", "aggregate")
_MEMORY_GB = {"normalise": 0.7, "crop": 0.5, "chunk": 0.2, "embed": 1.2, "aggregate": 0.6}


@dataclass(frozen=True)
class Execution:
    """How the work is done; nothing here changes a result.

    Attributes
    ----------
    work_dir
        Nipype's working folder.
    device, batch_size, threads
        Torch device, chunks at once (None: what fits), CPU threads of one network.
    compiled
        Whether the network goes through torch.compile.
    processes, memory_gb
        What nipype may use at once; None: what the machine has.
    plugin
        nipype's plugin that runs the nodes; None: processes of this machine.
    stop_on_first_crash
        Whether the first run that fails ends the call.
    log_name
        Folder of this call's logs, `sub-XX/log/<log_name>`.
    """

    work_dir: Path
    device: str
    batch_size: int | None
    threads: int
    processes: int
    log_name: str
    memory_gb: float | None = None
    compiled: bool = False
    plugin: Plugin | None = None
    stop_on_first_crash: bool = False

    @property
    def elsewhere(self) -> bool:
        """Whether the nodes run on other machines."""
        return self.plugin is not None and self.plugin.elsewhere


def workflow_of_run(
    run: Run,
    provenance: Provenance,
    weights: Weights,
    execution: Execution,
    output_dir: Path,
    inputs: Mapping[str, str],
    keep_tokens: bool,
    atlas: Path | None = None,
) -> Workflow:
    """The five nodes of one run, from its BOLD file to its files in `output_dir`.

    `inputs` are the fingerprints of its input files, as the last sidecar keeps them.
    """
    series = dataclasses.asdict(run.series)
    of_parcels = {"atlas": str(atlas)} if atlas else {}
    interfaces = {
        "normalise": Normalise(
            bold=run.bold,
            mask=run.mask,
            frame=provenance.frame,
            series=series,
            method=provenance.normalisation,
            **of_parcels,
        ),
        "crop": Crop(mask=run.mask, frame=provenance.frame),
        "chunk": Chunk(
            series=series,
            fd_threshold=provenance.fd_threshold,
            max_censored=provenance.max_censored,
            stride=provenance.chunk_stride,
            tail=provenance.tail,
            short_runs=provenance.short_runs,
            **({"confounds": run.confounds} if run.confounds else {}),
        ),
        "embed": Embed(
            weights=dataclasses.asdict(weights),
            device=execution.device,
            precision=provenance.precision,
            compiled=execution.compiled,
            **({"batch_size": execution.batch_size} if execution.batch_size else {}),
            threads=execution.threads,
            use_gpu=execution.device.startswith("cuda"),
        ),
        "aggregate": Aggregate(
            run=dataclasses.asdict(run),
            provenance=dataclasses.asdict(provenance),
            fingerprint=dict(inputs),
            keep_tokens=keep_tokens,
            output_dir=str(output_dir),
            **of_parcels,
        ),
    }
    nodes = {
        name: Node(
            interface,
            name=name,
            mem_gb=_MEMORY_GB[name],
            n_procs=execution.threads if name == "embed" else 1,
            # Its files lie outside the working folder, where nipype's cache cannot see them.
            overwrite=name == "aggregate" or None,
        )
        for name, interface in interfaces.items()
    }
    logs, plugin = log_dir(output_dir, run.participant, execution), execution.plugin
    for node in nodes.values():
        node.config = {"execution": {"crashdump_dir": str(logs)}}
        if plugin is not None and plugin.slurm:
            options = plugin.arguments.get("sbatch_args"), plugin.network_args
            ask_for(node, *options, execution.log_name, logs)
    workflow = Workflow(name=workflow_name(run))
    workflow.connect(
        [
            (nodes["normalise"], nodes["embed"], [("matrix", "matrix")]),
            (nodes["normalise"], nodes["embed"], [("statistics", "statistics")]),
            (nodes["crop"], nodes["embed"], [("index", "index")]),
            (nodes["chunk"], nodes["embed"], [("chunks", "chunks")]),
            (nodes["embed"], nodes["aggregate"], [("tokens", "tokens")]),
            (nodes["chunk"], nodes["aggregate"], [("chunks", "chunks")]),
            (nodes["crop"], nodes["aggregate"], [("coverage", "coverage"), ("index", "index")]),
            (nodes["normalise"], nodes["aggregate"], [("matrix", "matrix")]),
            (nodes["normalise"], nodes["aggregate"], [("parcels", "parcels")]),
            (nodes["normalise"], nodes["aggregate"], [("statistics", "statistics")]),
        ]
    )
    return workflow


def log_dir(output_dir: Path, participant: str, execution: Execution) -> Path:
    """Where this call's settings and crash files of a participant go."""
    return output_dir / f"sub-{participant}" / "log" / execution.log_name


def workflow_name(run: Run) -> str:
    """A run's name as nipype allows it, `sub_01_task_rest_..._wf`; of a name that BIDS does not
    allow, which might become another's, with a digest."""
    digest = ""
    if not re.fullmatch(r"[A-Za-z0-9]+-[A-Za-z0-9]+(_[A-Za-z0-9]+-[A-Za-z0-9]+)*", run.name):
        digest = "_" + hashlib.sha256(os.fsencode(run.name)).hexdigest()[:8]
    return re.sub(r"\W", "_", run.name) + digest + "_wf"


def remove_intermediate(run: Run, execution: Execution) -> None:
    """Remove what the work folder holds of a run, of this version and others; nothing else."""
    for folder in execution.work_dir.glob(f"swift_bids_*_wf/{workflow_name(run)}"):
        shutil.rmtree(folder, ignore_errors=True)


def chunks_done(run: Run, execution: Execution) -> int:
    """Chunks of a run that the network has done so far, from the embed node's progress file."""
    folder = execution.work_dir / WORKFLOW_NAME / workflow_name(run)
    try:
        return (folder / "embed" / PROGRESS_FILE).read_bytes().count(b"\n")
    except OSError:
        return 0
