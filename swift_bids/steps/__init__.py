"""The five steps from a BOLD run to its embeddings."""
