"""What nipype reports -> a progress bar over chunks in a terminal, and one log line per run."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from swift_bids.inputs.run import Run
from swift_bids.interfaces import PROGRESS_FILE
from swift_bids.workflow import WORKFLOW_NAME, workflow_name

_LOG = logging.getLogger("swift_bids")
_REFRESH_INTERVAL = 0.5  # s


def chunks_done(run: Run, work_dir: Path) -> int:
    """Number of chunks of a run embedded so far, from the embed node's progress file."""
    folder = work_dir / WORKFLOW_NAME / workflow_name(run)
    try:
        return (folder / "embed" / PROGRESS_FILE).read_bytes().count(b"\n")
    except OSError:
        return 0


class Progress:
    """Progress over the runs of one call; a context manager.

    Parameters
    ----------
    runs
        Workflow name -> run.
    expected
        Workflow name -> number of chunks the run will have.
    done
        Run -> number of chunks the network has done so far. The bar calls it every half second,
        since the network may run in another process.
    """

    def __init__(
        self,
        runs: Mapping[str, Run],
        expected: Mapping[str, int],
        done: Callable[[Run], int],
    ):
        self._runs, self._expected, self._done = runs, expected, done
        self._started: dict[str, float] = {}
        self._nodes: dict[tuple[str, str], float] = {}
        self._ended: set[str] = set()
        self._stop = threading.Event()

    def __enter__(self) -> Progress:
        self._redirect = logging_redirect_tqdm()  # prints log lines above the bar
        self._redirect.__enter__()
        self._bar = tqdm(
            total=sum(self._expected.values()),
            unit="chunk",
            disable=not sys.stderr.isatty(),
            dynamic_ncols=True,
        )
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stop.set()
        self._thread.join()
        self._bar.close()
        self._redirect.__exit__(*exc_info)

    def on_node(self, workflow: str, node: str, status: str) -> None:
        """Record that a node started, ended or failed."""
        now = time.monotonic()
        self._started.setdefault(workflow, now)
        if workflow in self._ended:  # nipype's serial plugin "ends" the nodes after a failed one
            return
        if status == "start":
            self._nodes[workflow, node] = now
        elif status == "end":
            seconds = now - self._nodes.get((workflow, node), now)  # no start if cached
            _LOG.debug("%s: %s took %.2f s", self._runs[workflow].name, node, seconds)
        if status == "exception" or (status == "end" and node == "aggregate"):
            self._ended.add(workflow)
            seconds = time.monotonic() - self._started[workflow]
            outcome = "failed" if status == "exception" else "done"
            _LOG.info(
                "[%d/%d] %s: %s in %.1f s",
                len(self._ended),
                len(self._runs),
                self._runs[workflow].name,
                outcome,
                seconds,
            )

    def _watch(self) -> None:
        while not self._stop.wait(_REFRESH_INTERVAL):
            done = sum(
                self._expected[name] if name in self._ended else self._done(run)
                for name, run in self._runs.items()
                if name in self._started
            )
            self._bar.update(done - self._bar.n)
