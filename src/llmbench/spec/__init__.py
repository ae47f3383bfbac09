"""What to measure: a sweep file or flags, read strictly and expanded to cells."""
