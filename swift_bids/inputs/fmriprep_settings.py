"""fMRIPrep's log folder -> what fMRIPrep was asked to do: the transforms do not show it."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class FmriprepSettings:
    """Settings of the call that made a run's transforms.

    Attributes
    ----------
    file
        `fmriprep.toml`; None if there is none.
    workflow
        Its `workflow` table; empty if the content of the file is missing or unreadable.
    """

    file: Path | None
    workflow: Mapping[str, Any]

    @property
    def dummy_scans(self) -> int | None:
        """`--dummy-scans`; None if fMRIPrep looked for them."""
        value = self.workflow.get("dummy_scans")
        return value if isinstance(value, int) and not isinstance(value, bool) else None

    @property
    def fallback_readout_time(self) -> float | None:
        """`--fallback-total-readout-time` in s, if it is a number."""
        value = self.workflow.get("fallback_total_readout_time")
        return float(value) if isinstance(value, (int, float)) and value > 0 else None

    @property
    def slice_time_reference(self) -> float | None:
        """`--slice-time-ref`, from 0 to 1; None with `--ignore slicetiming` or if it is unknown."""
        value = self.workflow.get("slice_time_ref", 0.5)
        if not self.workflow or "slicetiming" in (self.workflow.get("ignore") or []):
            return None
        return float(value) if isinstance(value, (int, float)) else None


def find_settings(root: Path, participant: str, session: str | None) -> FmriprepSettings:
    """Find the settings of the last fMRIPrep call for a participant, or for one session of it.

    Parameters
    ----------
    root
        fMRIPrep's output folder.
    participant, session
        Labels without `sub-` and `ses-`.
    """
    folder = root / f"sub-{participant}"
    logs = sorted(folder.glob("log/*"), reverse=True)
    if session is not None:  # fMRIPrep 25.2 can process sessions one by one
        logs = sorted(folder.glob(f"ses-{session}/log/*"), reverse=True) + logs
    # a file that DataLad has not fetched is a broken link
    files = [log / "fmriprep.toml" for log in logs if os.path.lexists(log / "fmriprep.toml")]
    for file in files:
        try:
            workflow = tomllib.loads(file.read_text()).get("workflow")
        except (OSError, ValueError):
            continue
        if isinstance(workflow, dict):
            return FmriprepSettings(file, workflow)
    return FmriprepSettings(files[0] if files else None, {})
