"""Coverage of a brain mask -> sentences about it for the page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: (good, sentence); not good if the user should look at the run or do something.
Verdict = tuple[bool, str]
#: Extent of a whole brain in mm (x, y, z); a mask with a smaller share of it is a slab.
_BRAIN_MM, _MIN_EXTENT = (130, 160, 120), 0.6
#: Kind of a mask -> how the page calls it.
_NAMES = {
    "functional": "The functional brain mask",
    "anatomical": "The anatomical brain mask",
    "template": "The brain mask, that of the template,",
    "file": "The brain mask, a file of --mask,",
}
#: Volume of a voxel of 2 mm.
_VOXEL_LITRES = 8e-6
#: Holes and islands with a larger share of the mask (1 %: 18 ml) are worth a look. The holes in the
#: template's own mask are 0.54 % of it.
_MAX_ODD = 0.01


def mask_verdicts(coverage: Mapping[str, Any], kind: str) -> list[Verdict]:
    """Explain which part of the brain a mask covers, and what is wrong with its shape.

    Parameters
    ----------
    coverage
        The entry `Coverage` of a run's `qc.json`.
    kind
        Kind of the mask, as in `swift_bids.inputs.brain_mask.BrainMask`.
    """
    share, extent, dice = coverage["template_share"], coverage["extent_mm"], coverage["dice"]
    n_brain = coverage["n_outside"] + coverage["n_voxels"]
    lost = coverage["n_outside"] / n_brain
    outside = f"{coverage['n_outside']:,} brain voxels ({lost:.2%}) lie outside the network's input"
    if lost > 0.001:
        outside += (
            ", so the network does not see them. Look at the mosaic: if the brain is in the right "
            "place, try the other --frame; otherwise check the registration to MNI space"
        )
    verdicts = [(lost <= 0.001, outside + "."), *_shape(coverage)]
    if min(mm / whole for mm, whole in zip(extent, _BRAIN_MM)) < _MIN_EXTENT:
        sentence = (
            f"Covers only a slab of the brain: {extent[0]} mm from left to right, {extent[1]} mm "
            f"from back to front and {extent[2]} mm from bottom to top, {share:.0%} of the "
            f"template's brain. The network was trained on whole brains; do not compare this "
            f"embedding with those of whole-brain runs."
        )
        return [(False, sentence), *verdicts]
    sentence = (
        f"{_NAMES[kind]} has {n_brain * _VOXEL_LITRES:.2f} litres and covers {share:.0%} of the "
        f"template's brain (Dice overlap {dice:.2f})"
    )
    if share < 0.85:
        sentence += "; look for signal loss or a failed registration, and exclude such a run"
    elif coverage["size_ratio"] > 1.2:
        sentence += (
            f" and is {coverage['size_ratio'] - 1:.0%} larger than it: skull or neck seem to be in "
            f"the mask, which the training data never had. Look at the mosaic and correct the mask"
        )
    return [(share >= 0.85 and coverage["size_ratio"] <= 1.2, sentence + "."), *verdicts]


def _shape(coverage: Mapping[str, Any]) -> list[Verdict]:
    """A sentence for each kind of voxels that a brain mask should not have or lack."""
    verdicts = []
    # outputs of version 0.5.0 do not contain them
    holes, islands = coverage.get("n_holes", 0), coverage.get("n_islands", 0)
    if holes > _MAX_ODD * coverage["n_voxels"]:
        sentence = (
            f"The brain mask has holes: {holes:,} voxels inside it are background for the network. "
            f"Look at the mosaic and fill them."
        )
        verdicts.append((False, sentence))
    if islands > _MAX_ODD * coverage["n_voxels"]:
        sentence = (
            f"The brain mask has islands: {islands:,} voxels are apart from the rest. Look at the "
            f"mosaic; if they are not brain, remove them."
        )
        verdicts.append((False, sentence))
    return verdicts
