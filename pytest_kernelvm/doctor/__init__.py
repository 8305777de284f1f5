"""What this machine has and lacks for building and booting kernels."""
