"""One command that measures the app on a GPU; see `benchmarks.gpu.__main__`."""
