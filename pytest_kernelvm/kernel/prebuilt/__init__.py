"""Finished kernels: found, named, imported into the store."""
