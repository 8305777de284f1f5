"""A process that stands for QEMU: it has the same streams, and its guest does what a test says."""
