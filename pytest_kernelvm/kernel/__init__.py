"""From a source to a kernel in the store: source, configuration, build, out-of-tree modules."""
