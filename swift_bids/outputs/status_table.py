"""logs/status.tsv: what became of every run that was asked for, one row each, for programs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

from swift_bids.base.errors import Problem, visible
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
    """Put the rows of a call in place of those that earlier calls wrote for the same runs.

    Parameters
    ----------
    done, skipped
        Status `done`, in this call or an earlier one. A row of the call that did it stays.
    problems
        Status `failed`, with the reason and, where there is one, the crash file (`details`, from
        the output folder).
    call
        Name of its folders of logs.
    """
    file = output_dir / STATUS_FILE
    file.parent.mkdir(parents=True, exist_ok=True)
    new: dict[tuple[str, str], list[str | None]]
    new = {_key(run): ["done", None, None, call] for run in done}
    for p in problems:
        if not p.participant or p.name.endswith(".html"):
            continue  # of a file that is no run's
        details = p.crash_file.relative_to(output_dir).as_posix() if p.crash_file else None
        reason = visible(" ".join(p.reason.split()))
        new[_key(p)] = ["failed", reason, details and visible(details), call]
    with exclusive(file.parent):
        rows = _rows(file)
        for run in skipped:  # of outputs that were carried here without this file
            new.setdefault(_key(run), ["done", None, None, None])
            if rows.get(_key(run), [""])[0] == "done":
                del new[_key(run)]
        rows |= new
        # a participant of whom nothing could be found has a row of its own until there are runs
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


def _key(of: Run | Problem) -> tuple[str, str]:
    """Participant and name, as a terminal may have them."""
    return visible(of.participant), visible(of.name)


def _rows(file: Path) -> dict[tuple[str, str], list[str | None]]:
    """(participant, run) -> status, reason, details, call."""
    try:
        table = pd.read_csv(file, sep="\t", dtype=str, na_values="n/a", keep_default_na=False)
        table = table[_COLUMNS].dropna(subset=_COLUMNS[:2])
        table = table.astype(object).where(table.notna(), None)
    except (OSError, ValueError, KeyError):  # none yet, or damaged: it is made from calls to come
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
