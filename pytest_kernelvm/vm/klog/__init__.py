"""What a kernel says, as text: console transcript, log records, splats, taint, KTAP."""
