"""Predictions of a cell's memory and time before it runs."""
