"""How much the embedding of a run depends on how it was preprocessed."""
