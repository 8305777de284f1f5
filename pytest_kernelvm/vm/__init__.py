"""A guest that runs: QEMU's argv and process, console, channel, verdict."""
