"""Runs -> a nipype workflow (one sub-workflow a run: normalise -> crop -> chunk -> embed ->
aggregate) -> which runs failed, and why."""

from __future__ import annotations

import dataclasses
import gc
import logging
import multiprocessing
import re
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from nipype import Node, Workflow

from swift_bids import __version__
from swift_bids.interfaces import PROGRESS_FILE, Aggregate, Chunk, Crop, Embed, Normalise
from swift_bids.outputs import Provenance
from swift_bids.plugin import RunByRun
from swift_bids.runs import Run
from swift_bids.weights import Weights
from swift_bids.workers import start_method

#: Nipype's cache of another version must not be taken for this one's.
WORKFLOW_NAME = "swift_bids_" + re.sub(r"\W", "_", __version__) + "_wf"
#: What a step needs beside its threads, in GB; measured with 91 x 109 x 91 voxels.
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


def workflow_of_run(
    run: Run,
    provenance: Provenance,
    weights: Weights,
    execution: Execution,
    output_dir: Path,
    keep_tokens: bool,
    atlas: Path | None = None,
) -> Workflow:
    """The five nodes of one run, from its BOLD file to its files in `output_dir`."""
    series = dataclasses.asdict(run.series)
    of_parcels = {"atlas": str(atlas)} if atlas else {}
    nodes = {
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
        for name, interface in nodes.items()
    }
    for node in nodes.values():
        crash_dir = log_dir(output_dir, run.participant, execution)
        node.config = {"execution": {"crashdump_dir": str(crash_dir)}}
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


def run_workflows(
    workflows: Sequence[Workflow],
    execution: Execution,
    output_dir: Path,
    on_node: Callable[[str, str, str], None],
) -> dict[str, tuple[str, Path]]:
    """Execute the workflows of all runs; one that fails does not stop the others.

    Parameters
    ----------
    on_node
        Called with (workflow name, node name, `start`, `end` or `exception`) as nodes go.

    Returns
    -------
    dict
        Workflow name -> (reason, crash file), for the runs that failed.
    """
    # While it waits, nipype collects garbage again and again, 50 ms of a CPU a time, most of them
    # spent on what was imported.
    gc.freeze()
    logging.getLogger("nipype").propagate = False  # it has a handler of its own
    together = [workflows] if execution.processes > 1 else [[one] for one in workflows]
    failures = [error for some in together if (error := _run(some, execution, on_node))]
    crashed = read_crashes(output_dir.glob(f"sub-*/log/{execution.log_name}/crash-*.txt"))
    if failures and not crashed:  # nipype itself failed, no node did
        raise failures[0]
    return crashed


def _run(
    workflows: Sequence[Workflow], execution: Execution, on_node: Callable[[str, str, str], None]
) -> Exception | None:
    """Execute workflows as one; return what nipype raises at the end when nodes failed."""
    whole = Workflow(name=WORKFLOW_NAME, base_dir=str(execution.work_dir))
    whole.config["execution"] = {
        "crashfile_format": "txt",
        "stop_on_first_crash": "false",
        "poll_sleep_duration": "0.05",  # nipype's 2 s is longer than most nodes
        "create_report": "false",  # it would write the environment, secrets included, to the disk
    }
    whole.add_nodes(list(workflows))

    def on_status(node: Node, status: str) -> None:
        on_node(node._hierarchy.rpartition(".")[2], node.name, status)

    try:
        if execution.processes > 1:
            whole.run(plugin=_processes(execution, on_status))
        else:
            whole.run(plugin="Linear", plugin_args={"status_callback": on_status})
    except (KeyboardInterrupt, SystemExit):
        logging.getLogger("concurrent.futures").setLevel(logging.CRITICAL)  # of its broken pool
        for worker in multiprocessing.active_children():  # else they go on, and write, without us
            worker.kill()
            worker.join()
        raise
    except Exception as error:
        return error
    return None


def _processes(execution: Execution, on_status: Callable[[Node, str], None]) -> RunByRun:
    arguments = {
        "status_callback": on_status,
        "n_procs": execution.processes,
        "mp_context": start_method(),
        **({"n_gpu_procs": 1} if execution.device.startswith("cuda") else {}),
        "raise_insufficient": False,
    }
    if execution.memory_gb is not None:
        arguments["memory_gb"] = execution.memory_gb
    return RunByRun(arguments)


def log_dir(output_dir: Path, participant: str, execution: Execution) -> Path:
    """Where this call's settings and crash files of a participant go."""
    return output_dir / f"sub-{participant}" / "log" / execution.log_name


def read_crashes(crash_files: Iterable[Path]) -> dict[str, tuple[str, Path]]:
    """Find in nipype's crash files which run failed, and the error's own sentence."""
    crashed = {}
    for file in sorted(crash_files):
        text = file.read_text(encoding="utf-8", errors="replace")
        node = re.search(rf"^Node: {WORKFLOW_NAME}\.(\w+)\.(\w+)$", text, re.MULTILINE)
        errors = re.findall(r"^\s*([\w.]+(?:Error|Exception|Interrupt)): (.*)$", text, re.MULTILINE)
        own = [message for kind, message in errors if kind.startswith("swift_bids.errors.")]
        unexpected = ": ".join(errors[-1]) if errors else "it ended without an error message"
        workflow, step = node.groups() if node else ("", "")
        if own or workflow not in crashed:
            crashed[workflow] = (own[-1] if own else f"{step} failed ({unexpected})", file)
    return crashed


def workflow_name(run: Run) -> str:
    """A run's name as nipype allows it, `sub_01_task_rest_..._wf`."""
    return re.sub(r"\W", "_", run.name) + "_wf"


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
