"""nipype's crash files -> which runs failed, and why, in one sentence each."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable
from pathlib import Path

from swift_bids.workflow import STEPS, WORKFLOW_NAME

#: Workflow name -> (reason, crash file).
Crashes = dict[str, tuple[str, Path | None]]
#: Why a cluster job left neither a result nor an error.
JOB_ENDED = (
    "the cluster ended a job early, most likely because it reached its memory or time limit; raise "
    "the limits (SLURM: --sbatch-args '--mem=... --time=...'). The job's log beside the crash file "
    "may say more"
)
#: Bytes below which a disk counts as full: each step needs some kB for nipype's own files.
_MIN_FREE_SPACE = 100_000


def read_crashes(crash_files: Iterable[Path], hint: str = "") -> Crashes:
    """Find out which runs failed.

    Parameters
    ----------
    crash_files
        nipype's text files.
    hint
        Appended to reasons that are not messages of this app.
    """
    crashed: Crashes = {}
    texts = [
        (file, file.read_text(encoding="utf-8", errors="replace")) for file in sorted(crash_files)
    ]
    # When several steps of a run failed, the first one has the cause: read it last.
    texts.sort(key=lambda crash: _step_number(crash[1]), reverse=True)
    for file, text in texts:
        if re.search(r"^\s*(KeyboardInterrupt|SystemExit)\b", text, re.MULTILINE):
            continue  # the user ended the call; nipype mistakes that for a failure of the node
        node = re.search(rf"^Node: {WORKFLOW_NAME}\.(\w+)\.(\w+)$", text, re.MULTILINE)
        errors = re.findall(r"^\s*([\w.]+(?:Error|Exception|Interrupt)): (.*)$", text, re.MULTILINE)
        own = [message for kind, message in errors if kind.startswith("swift_bids.base.errors.")]
        if "but results file does not exist" in text:  # nipype's text for a job without a result
            own = [JOB_ENDED]
        unexpected = ": ".join(errors[-1]) if errors else "it ended without an error message"
        workflow, step = node.groups() if node else ("", "")
        if own or workflow not in crashed:
            crashed[workflow] = (own[-1] if own else f"{step} failed ({unexpected}){hint}", file)
    return crashed


def full_disk_hint(*folders: Path) -> str:
    """A hint where a disk is full: nipype may only say that a result is missing."""
    for folder in folders:
        if folder.exists() and shutil.disk_usage(folder).free < _MIN_FREE_SPACE:
            return f"; {folder} has no space left: free some and run the same command again"
    return ""


def _step_number(text: str) -> int:
    """Place in the workflow of the step that crashed."""
    node = re.search(r"^Node: .*\.(\w+)$", text, re.MULTILINE)
    return STEPS.index(node.group(1)) if node and node.group(1) in STEPS else len(STEPS)
