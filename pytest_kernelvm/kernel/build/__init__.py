"""Configure, make, install, publish: a kernel in the store, and what it comes from."""
