"""Execution of a sweep: plan, rounds, workers, and one record per session whatever happens."""
