"""Models: the catalogue, resolution of names, a model's shape, and formulas over the shape."""
