"""The grid of the training data, and its position in the network's 96^3 input (the frame)."""

from __future__ import annotations

from dataclasses import dataclass

import nibabel as nib
import numpy as np

#: Voxels of the FSL MNI152 2 mm grid along x (to the left), y (forward), z (up).
FSL_SHAPE = (91, 109, 91)
#: Voxel-to-world affine of this grid, in mm.
FSL_AFFINE = np.array(
    [[-2.0, 0, 0, 90], [0, 2, 0, -126], [0, 0, 2, -72], [0, 0, 0, 1]], dtype=np.float64
)
#: The template space of the training data.
TRAINING_SPACE = "MNI152NLin6Asym"
#: Voxels of the network's input.
MODEL_SHAPE = (96, 96, 96)


@dataclass(frozen=True)
class Frame:
    """Position of the FSL 2 mm grid in the network's 96^3 input, as in one training set.

    Attributes
    ----------
    name
        One of `FRAMES`.
    kept
        Range (start, stop) of FSL voxels along x, y, z that the crop keeps.
    offset
        Index of a voxel in the input minus its index in the FSL grid.
    """

    name: str
    kept: tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
    offset: tuple[int, int, int]

    @property
    def affine(self) -> np.ndarray:
        """Voxel-to-world affine (4, 4) of the 96^3 input, in mm."""
        return FSL_AFFINE @ nib.affines.from_matvec(np.eye(3), -np.array(self.offset))

    def place(self, position: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return whether the crop keeps each FSL voxel (3, voxel), and the indices (3, kept voxel)
        of the kept voxels in the 96^3 input."""
        low, high = (np.array(limit)[:, None] for limit in zip(*self.kept))
        inside = np.all((position >= low) & (position < high), axis=0)
        return inside, position[:, inside] + np.array(self.offset)[:, None]


FRAMES = {
    # The preprocessing of TFF (Malkiel et al. 2022, arXiv:2112.05761), which SwiFT reuses, crops
    # [8:-8, 8:-8, :-10]; the SwiFT loader then pads x 11/10, y 2/1, z 8/7.
    "hcp": Frame("hcp", ((8, 83), (8, 101), (0, 81)), (3, -6, 8)),
    # The SwiFT loader for UK Biobank pads x 3/2 and z 3/2, and crops y by 7/6.
    "ukb": Frame("ukb", ((0, 91), (7, 103), (0, 91)), (3, -7, 3)),
    # NeuroSTORM keeps the middle 96 voxels of y, starting with 6, and pads as SwiFT does.
    "neurostorm": Frame("neurostorm", ((0, 91), (6, 102), (0, 91)), (3, -6, 3)),
}


def space_note(space: str) -> str | None:
    """Describe the effect of another template space than the training data's, or return None.

    Parameters
    ----------
    space
        As in `swift_bids.inputs.run.Run.space_of_input`.
    """
    if space.split()[0] == TRAINING_SPACE:
        return None
    return (
        f"The network was trained on {TRAINING_SPACE}. {space} is another template, whose anatomy "
        f"differs by a few mm in places. The app kept the voxels' coordinates in mm and did not "
        f"warp them from one template to the other, so do not mix spaces in one analysis"
    )
