"""What runs in the guest: the agent, modprobe, their archive, and the protocol with the host."""
