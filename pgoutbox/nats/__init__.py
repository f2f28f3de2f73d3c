"""Connecting to NATS, and publishing in order."""
