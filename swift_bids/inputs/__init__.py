"""Find and read the runs in fMRIPrep's outputs and in the raw dataset."""
