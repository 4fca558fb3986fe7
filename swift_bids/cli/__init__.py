"""The command line of the app."""
