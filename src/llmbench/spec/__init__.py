"""Specification of a sweep: a sweep file or flags, read strictly and expanded to cells."""
