"""Probes: how well embeddings predict columns of participants.tsv."""
