"""What all steps share."""

from __future__ import annotations

from pathlib import Path

from nipype.interfaces.base import (
    Bunch,
    SimpleInterface,
)

from swift_bids.base.errors import os_errors_as_output_errors


class Step(SimpleInterface):
    """A step that writes to its folder in the work folder; a full disk ends it with OutputError."""

    def _run_interface(self, runtime: Bunch) -> Bunch:
        with os_errors_as_output_errors(runtime.cwd):
            self._run_step(Path(runtime.cwd))
        return runtime
