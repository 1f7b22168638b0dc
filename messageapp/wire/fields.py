"""Fields that stand in more than one form of the wire."""

from __future__ import annotations

from messageapp_keys.codec import Malformed, Reader
from messageapp_keys.names import is_username

__all__ = ["read_username"]


def read_username(reader: Reader) -> str:
    """vec8, a name as protocol §3 asks for it. `Malformed`."""
    name = reader.ascii8()
    if not is_username(name):
        raise Malformed("a username has not the form of one")
    return name
