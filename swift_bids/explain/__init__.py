"""From where in the brain a prediction comes: attribution to voxels and parcels."""

#: Choices of `--baseline`.
BASELINES = ("mean", "background")
