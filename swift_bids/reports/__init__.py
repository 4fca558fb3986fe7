"""Outputs -> figures, pages and citations.

The last step of a run's workflow draws the figures of the run. The citations are written when the
first run is about to be embedded, and the pages at the end of the call, from the files in the
output folder.
"""
