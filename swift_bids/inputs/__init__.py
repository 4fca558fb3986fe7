"""Find and read the runs in fMRIPrep's outputs."""
