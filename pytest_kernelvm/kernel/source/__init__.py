"""Kernel sources: trees, commits, versions and packages, named by their content."""
