"""The steps from a BOLD run to its embeddings.

Docstrings describe the shape of an array by its axes: (volume, voxel) has one row per volume and
one column per voxel.
"""
