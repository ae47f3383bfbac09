"""The parity check: whether an engine computes the same function as the reference."""
