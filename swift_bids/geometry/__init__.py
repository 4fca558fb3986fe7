"""Map voxels and volumes to the network's input."""
