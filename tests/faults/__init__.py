"""Floods, dead peers, killed processes and a machine that has run out of something, against the real programs."""
