"""Misbehaviour against the real programs, as tables of named cases; what misbehaves is the independent peer."""
