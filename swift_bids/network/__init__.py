"""The SwiFT network and its weights."""
