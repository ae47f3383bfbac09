"""Intervals, effects and shrinkage: no cell, metric or file is known here."""
