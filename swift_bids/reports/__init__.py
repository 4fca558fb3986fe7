"""Outputs -> pages, figures and citations."""
