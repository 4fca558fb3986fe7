"""Which runs the tables of the group level contain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from swift_bids.inputs.filenames import entities_in, is_in_space, plain


@dataclass(frozen=True)
class RunFilter:
    """Selects the runs of the tables; None selects all.

    Like `swift_bids.inputs.selection.Selection`, but for outputs.

    Attributes
    ----------
    participants, excluded, sessions, tasks, runs, spaces, resolutions, echoes
        Labels without `sub-`, `ses-` and so on; a space may be `NAME:res-2`, a resolution `native`.
    """

    participants: Sequence[str] | None = None
    excluded: Sequence[str] | None = None
    sessions: Sequence[str] | None = None
    tasks: Sequence[str] | None = None
    runs: Sequence[str] | None = None
    spaces: Sequence[str] | None = None
    resolutions: Sequence[str] | None = None
    echoes: Sequence[str] | None = None

    def accepts(self, name: str, participant_only: bool = False) -> bool:
        """Whether a run is selected, or (`participant_only`) its participant."""
        entities = entities_in(name)
        participant = entities.get("sub", "")
        if self.excluded is not None and participant in self.excluded:
            return False
        if self.participants is not None and participant not in self.participants:
            return False
        if participant_only:
            return True
        for labels, entity in ((self.sessions, "ses"), (self.tasks, "task")):
            if labels is not None and entities.get(entity) not in labels:
                return False
        for labels, entity in (
            (self.runs, "run"),
            (self.resolutions, "res"),
            (self.echoes, "echo"),
        ):
            number = plain(entities.get(entity, "native"))
            if labels is not None and number not in map(plain, labels):
                return False
        return self.spaces is None or any(is_in_space(entities, space) for space in self.spaces)
