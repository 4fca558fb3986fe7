"""Outcome of every requested run -> logs/status.tsv, one row per run, for other programs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

from swift_bids.base.errors import Problem, escape_control_characters
from swift_bids.base.locks import exclusive
from swift_bids.inputs.run import Run
from swift_bids.outputs.tables import write_table

STATUS_FILE = Path("logs", "status.tsv")
_COLUMNS = ["participant_id", "name", "status", "reason", "details", "call"]


def write_status(
    output_dir: Path,
    done: Iterable[Run],
    skipped: Iterable[Run],
    problems: Sequence[Problem],
    call: str,
) -> None:
    """Write the rows of a call; they replace the rows of earlier calls for the same runs.

    Parameters
    ----------
    done, skipped
        Runs with status `done`, from this call and from an earlier one. A skipped run keeps the row
        of the call that embedded it.
    problems
        Runs with status `failed`, with the reason and, if there is one, the crash file (`details`,
        relative to the output folder).
    call
        Name of the call's log folders.
    """
    file = output_dir / STATUS_FILE
    file.parent.mkdir(parents=True, exist_ok=True)
    new: dict[tuple[str, str], list[str | None]]
    new = {_key(run): ["done", None, None, call] for run in done}
    for p in problems:
        if not p.participant or p.name.endswith(".html"):
            continue  # a problem with a file that belongs to no run
        details = p.crash_file.relative_to(output_dir).as_posix() if p.crash_file else None
        reason = escape_control_characters(" ".join(p.reason.split()))
        new[_key(p)] = ["failed", reason, details and escape_control_characters(details), call]
    with exclusive(file.parent):
        rows = _rows(file)
        # a skipped run may have no row yet, if its outputs were copied here without status.tsv
        for run in skipped:
            new.setdefault(_key(run), ["done", None, None, None])
            if rows.get(_key(run), [""])[0] == "done":
                del new[_key(run)]
        rows |= new
        # a participant without runs has a separate row until there are rows for its runs
        with_runs = {participant for participant, name in rows if name != f"sub-{participant}"}
        write_table(
            file,
            pd.DataFrame(
                [
                    [f"sub-{participant}", name, *rest]
                    for (participant, name), rest in sorted(rows.items())
                    if name != f"sub-{participant}"
                    or participant not in with_runs
                    or (participant, name) in new
                ],
                columns=_COLUMNS,
            ),
        )


def _key(item: Run | Problem) -> tuple[str, str]:
    """Participant and name, with control characters escaped."""
    return escape_control_characters(item.participant), escape_control_characters(item.name)


def _rows(file: Path) -> dict[tuple[str, str], list[str | None]]:
    """(participant, run) -> status, reason, details, call."""
    try:
        table = pd.read_csv(file, sep="\t", dtype=str, na_values="n/a", keep_default_na=False)
        table = table[_COLUMNS].dropna(subset=_COLUMNS[:2])
        table = table.astype(object).where(table.notna(), None)
    except (OSError, ValueError, KeyError):  # missing or damaged: start a new table
        return {}
    return {
        (row.participant_id.removeprefix("sub-"), row.name): [
            row.status,
            row.reason,
            row.details,
            row.call,
        ]
        for row in table.itertuples(index=False, name="Row")
    }
