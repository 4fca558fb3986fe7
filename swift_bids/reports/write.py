"""Write or rebuild the participants' pages; a page that cannot be written becomes a problem."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from swift_bids.base.errors import OutputError, Problem, UsageError, os_errors_as_output_errors
from swift_bids.inputs.run import Run
from swift_bids.outputs.paths import output_path

_LOG = logging.getLogger("swift_bids")


def write_reports(
    output_dir: Path,
    done: Sequence[Run],
    skipped: Sequence[Run],
    problems: list[Problem],
    log_name: str,
) -> None:
    """Write the pages of all participants with something new, or whose page is out of date.

    Parameters
    ----------
    done, skipped
        Runs of this call; of an earlier one.
    problems
        What failed; a page that cannot be written is added.
    """
    from swift_bids.reports.participant_page import keep_problems

    old = {run.participant for run in skipped if _is_out_of_date(output_dir, run)}
    failed = {p.participant for p in problems if (output_dir / f"sub-{p.participant}").is_dir()}
    for participant in sorted({run.participant for run in done} | failed | old):
        own = [p for p in problems if p.participant == participant]
        with record_problem(problems, f"sub-{participant}.html", participant):
            if own:
                keep_problems(output_dir / f"sub-{participant}" / "log" / log_name, own)
            _write_report(output_dir, participant, own)


def remake_reports(
    output_dir: Path, labels: Sequence[str], problems: Sequence[Problem]
) -> list[Problem]:
    """`--reports-only`: write the pages again from the outputs alone; return all problems.

    Raises
    ------
    UsageError
        None of the participants has outputs.
    """
    from swift_bids.reports.participant_page import last_problems

    present = [label for label in labels if (output_dir / f"sub-{label}").is_dir()]
    if not present:
        raise UsageError(f"{output_dir} has no outputs of the selected participants")
    problems = list(problems)
    for participant in present:
        with record_problem(problems, f"sub-{participant}.html", participant):
            _write_report(output_dir, participant, last_problems(output_dir, participant))
    return problems


@contextmanager
def record_problem(problems: list[Problem], name: str, participant: str = "") -> Iterator[None]:
    """Record a file that cannot be written as a problem, and continue."""
    try:
        with os_errors_as_output_errors(name):
            yield
    except OutputError as error:
        problems.append(Problem(participant, name, str(error)))


def _is_out_of_date(output_dir: Path, run: Run) -> bool:
    """Whether the page is older than the run: the call that embedded the run ended before it wrote
    the page."""
    page = output_dir / f"sub-{run.participant}.html"
    last = output_path(output_dir, run.name, run.label, "embedding", ".json")
    return not page.exists() or page.stat().st_mtime_ns < last.stat().st_mtime_ns


def _write_report(output_dir: Path, participant: str, problems: Sequence[Problem]) -> None:
    from swift_bids.reports.participant_page import write_participant_report

    page, n_flagged = write_participant_report(output_dir, participant, problems)
    flagged = f" ({n_flagged} run(s) to check)" if n_flagged else ""
    _LOG.info("report: %s%s", page, flagged)
