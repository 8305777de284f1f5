"""Sources, patches, configuration, build and store of kernels."""
