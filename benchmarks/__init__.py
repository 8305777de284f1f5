"""Figures of this project, each beside the plain tool doing the same in the same run."""
