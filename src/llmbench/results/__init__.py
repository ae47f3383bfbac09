"""Runs on disk and tables of them: records, lines, sessions, metrics."""
