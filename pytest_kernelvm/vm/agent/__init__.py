"""Requests to the agent in the guest: files, programs, network, services, journal."""
