"""The atlas of the app, and the names of the confounds strategies.

In a module without imports, so that `--help` stays fast.
"""

from __future__ import annotations

from pathlib import Path

#: Schaefer et al. 2018, the default.
SHIPPED_ATLAS = (
    Path(__file__).parents[1]
    / "data"
    / "tpl-MNI152NLin6Asym_atlas-Schaefer2018_res-02_desc-200Parcels7Networks_dseg.nii.gz"
)
#: Ends the name of a strategy that also regresses out the global signal.
GSR = "+gsr"
SIMPLE, SCRUBBING, COMPCOR, NONE = "simple", "scrubbing", "compcor", "none"
STRATEGIES = (SIMPLE, SIMPLE + GSR, SCRUBBING, SCRUBBING + GSR, COMPCOR, NONE)
