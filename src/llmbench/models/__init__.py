"""Models: the catalogue, how a name becomes one, its shape, and what follows from the shape."""
