"""Runs on disk, and tables made of them: records, lines, sessions, metrics."""
