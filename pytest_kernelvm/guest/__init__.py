"""What runs in the guest: the agent, modprobe, their archive, and the words spoken with them."""
