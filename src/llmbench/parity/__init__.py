"""Whether an engine computes the same function as the reference."""
