"""A second implementation of the wire protocol, written from its text alone, to be run against the first."""
