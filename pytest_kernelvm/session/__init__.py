"""Cells made ready, and the guests of a process: booted, restored, checked, shared."""
