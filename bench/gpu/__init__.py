"""Checks of what vlrl does on a GPU: what its kernels and its training give, cost and hold. See `python -m bench.gpu --help`."""
