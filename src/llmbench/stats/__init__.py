"""Statistics: intervals, effects and shrinkage, independent of cells, metrics and files."""
