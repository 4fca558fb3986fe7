"""Results of a run -> BIDS-Derivatives files, with provenance and quality metrics."""
