"""The pytest plugin: hooks, options, fixtures, and what a test asks of its guest."""
