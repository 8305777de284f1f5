"""Modules built outside of a kernel's tree, and whether they fit a kernel."""
