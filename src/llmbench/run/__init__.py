"""A sweep as it runs: plan, rounds, workers, and one record a session whatever happens."""
