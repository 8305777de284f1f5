"""Architectures: the facts of each that nobody can choose."""
