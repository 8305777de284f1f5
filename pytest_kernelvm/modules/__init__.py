"""A kernel's module tree: its names, what a set of modules needs, and in which order to load it."""
