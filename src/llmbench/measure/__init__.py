"""The measurement of one cell in a worker, and the checks that it must pass."""
