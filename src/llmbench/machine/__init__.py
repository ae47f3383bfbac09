"""Where a sweep runs: the machine, its GPUs and chips, their peaks, what is kept of it, and its processes."""
