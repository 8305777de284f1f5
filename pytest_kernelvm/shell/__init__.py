"""A booted guest for a person: the prompt, and gdb."""
