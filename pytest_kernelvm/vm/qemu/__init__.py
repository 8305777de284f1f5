"""The QEMU process: command line, pipes, QMP, launch, snapshots and migration."""
