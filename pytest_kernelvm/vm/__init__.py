"""One guest: QEMU, what the kernel prints, the agent, the verdict, and how it is booted."""
