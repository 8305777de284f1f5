"""The store: a directory of digests, what is noted in it, its remote, garbage collection."""
