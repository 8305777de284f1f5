"""Compilers, and other programs that kernels and images are made with."""
