"""The group level: embeddings of all runs -> statistics, probes and a page."""
