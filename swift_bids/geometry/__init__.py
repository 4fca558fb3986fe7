"""Map voxels and volumes to the network's input, and through the transforms of raw runs."""
