"""Deterministic simulation: the real server and clients on a seeded network, clock and scheduler."""
