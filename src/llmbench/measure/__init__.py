"""How one cell is measured in a worker, and the checks that a measurement must pass."""
