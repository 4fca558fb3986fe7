"""The networks, SwiFT and NeuroSTORM, and their weights."""
