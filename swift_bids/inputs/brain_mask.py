"""The brain mask that a run is read with: its file, and how it gets to the network's grid."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

#: How a mask is carried to another grid: as ANTs and fMRIPrep do, or as FSL does.
MULTI_LABEL, NEAREST = "MultiLabel", "nearest neighbour"


@dataclass(frozen=True)
class BrainMask:
    """Which voxels of a run count as brain.

    Attributes
    ----------
    kind
        `functional` (made from the BOLD), `anatomical`, `template` or `file` (the user's).
    file
        Path; None for the template's brain, which is part of the app.
    on_grid_of_run
        Whether it is on the grid of the BOLD file (for a raw run, of its BOLD reference). Otherwise
        it is in the template in which the network reads the run, or `steps` lead to it.
    steps
        Composite transforms (`.h5`), which map a point of that template to the space of the mask in
        this order.
    pattern
        The path that `--mask` gave for a `file`.
    rule
        How it is carried to the grid of the network: `MULTI_LABEL` or `NEAREST`.
    """

    kind: str
    file: str | None
    on_grid_of_run: bool = False
    steps: tuple[str, ...] = ()
    rule: str = MULTI_LABEL
    pattern: str | None = None

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> BrainMask:
        """Build a `BrainMask` from the output of `dataclasses.asdict`."""
        return cls(**{**content, "steps": tuple(content["steps"])})

    @property
    def files(self) -> list[str]:
        """Paths of all files."""
        return [*([self.file] if self.file else []), *self.steps]


#: The template's brain. It is the same for everybody.
TEMPLATE_MASK = BrainMask("template", None)


def functional_mask(file: str, rule: str = MULTI_LABEL) -> BrainMask:
    """The mask that a pipeline made from a run's BOLD, on the grid of the run."""
    return BrainMask("functional", file, on_grid_of_run=True, rule=rule)
