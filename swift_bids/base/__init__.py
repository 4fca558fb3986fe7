"""Errors, files, locks and signals: the foundation that all other packages share."""
