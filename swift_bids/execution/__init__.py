"""Runs the workflows of the runs: on this machine or a cluster, resumable and interruptible."""
