"""The machine that a sweep runs on: its GPUs and chips, their peaks, its saved state, and its processes."""
