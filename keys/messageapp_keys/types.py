"""Keys as types: one class per role, of a fixed size, that never prints, never hashes and compares in constant time.

A bare `bytes` says neither what it opens nor for how long. These wrappers do, and keep a key out of tracebacks,
logs and pickles (CPython cannot wipe memory: dropping the last reference is what we promise, no more).
"""

from __future__ import annotations

import hmac
from typing import ClassVar, NoReturn

__all__ = [
    "BackupKey",
    "ChainKey",
    "ExporterSecret",
    "HandshakeKey",
    "InviteKey",
    "InviteSecret",
    "MasterSecret",
    "MessageKey",
    "PseudoRandomKey",
    "RecoverySecret",
    "RootKey",
    "Secret",
    "SessionKey",
    "TrafficSecret",
]


class Secret:
    """[SIZE] secret bytes; `expose()` is the one way to them, easy to search for."""

    __slots__ = ("_value",)
    SIZE: ClassVar[int] = 32

    def __init__(self, value: bytes) -> None:
        if len(value) != self.SIZE:
            raise ValueError(f"{type(self).__name__} has {self.SIZE} bytes")
        self._value = value

    def expose(self) -> bytes:
        return self._value

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and hmac.compare_digest(self._value, other._value)

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"{type(self).__name__} does not leave this process")


class PseudoRandomKey(Secret):
    """HKDF-Extract over the secrets of a suite (PRK)."""


class HandshakeKey(Secret):
    """Seals one message of a handshake: k_m3, k_c3, k_c4."""


class MasterSecret(Secret):
    """Parent of everything a session needs; dropped once the traffic secrets exist."""


class TrafficSecret(Secret):
    """s_d[i]: one direction of a session, until the next key update."""


class SessionKey(Secret):
    """k_d[i]: the AES-256-GCM key of one direction, the report's K made directional."""


class ExporterSecret(Secret):
    """Handed to other uses of the same session (SAS, tests)."""


class RootKey(Secret):
    """RK of the ratchet."""


class ChainKey(Secret):
    """CKs or CKr of the ratchet."""


class MessageKey(Secret):
    """Opens one message of the ratchet."""


class InviteSecret(Secret):
    """In a join code: the parent of an invitation's id and key. The server forgets it when the code is shown."""

    SIZE = 16


class InviteKey(Secret):
    """Proves that somebody has the join code (protocol §3.3)."""


class RecoverySecret(Secret):
    """What the 24 words of one backup say (protocol §15.1)."""


class BackupKey(Secret):
    """Seals one backup."""
