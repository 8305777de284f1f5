"""Whether a guest is well: deadlines, the watch for splats, diagnosis of a failure."""
