"""A kernel's configuration: what was requested, what became of it, and why."""
