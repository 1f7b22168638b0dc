"""What a run starts with: keys, certificates and databases, the same for the same seed wherever it shows.

The keys of users come from the seed, because their order decides a glare. What `cryptography` draws by itself (keys of
X25519, ML-KEM and RSA) does not, and need not: only lengths show in a run, and these are fixed. So the server's keys
are RSA, whose signatures have one length, and its serial number is drawn until it has its usual one.
"""

from __future__ import annotations

import hashlib
import sqlite3
import tempfile
from contextlib import closing
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, Final

import trio

from messageapp.server.setup import make_offer
from messageapp.store.database import open_database
from messageapp.wire.login import ServerOffer
from messageapp_keys.authority import make_ca, make_server_certificate
from messageapp_keys.certificate import Certificate
from messageapp_keys.identity import PrivateIdentity
from messageapp_keys.kem import generate_rsa
from messageapp_keys.signing import SignatureAlgorithm

from .history import seeded

__all__ = ["BEGIN", "SERVER_NAME", "Keys", "Seeded", "identity", "memory_database", "server_keys"]

BEGIN: Final = datetime(2030, 1, 1, 12, tzinfo=UTC)
SERVER_NAME: Final = "chat.example"
_CASTS: Final = 8  # sets of users' keys: half of a safety number costs 5 ms, and is kept for as many keys as these
_ED25519_PKCS8: Final = bytes.fromhex("302e020100300506032b657004220420")
_SERIAL_BITS: Final = 152


@cache
def server_keys() -> tuple[Certificate, ServerOffer]:
    """(the authority, what the server shows). One for the process."""
    ca_key, key = _rsa_keys()  # one key has many uses here: each costs half a second
    ca_key, ca = make_ca(BEGIN, key=ca_key)
    while True:
        _, leaf = make_server_certificate(ca_key, ca, [SERVER_NAME], BEGIN, key)
        if leaf.serial_number.bit_length() > _SERIAL_BITS:
            return ca, make_offer(leaf, key)


def identity(seed: int, name: str) -> PrivateIdentity:
    """Ed25519."""
    return _identity(seed % _CASTS, name)


@cache
def _identity(cast: int, name: str) -> PrivateIdentity:
    key = hashlib.sha256(f"simulation {cast} {name}".encode()).digest()
    return PrivateIdentity.from_pkcs8([(SignatureAlgorithm.ED25519, _ED25519_PKCS8 + key)])


class Keys:
    """Temporary RSA keys without a thread, which would not be in the schedule: two keys, again and again."""

    def __init__(self) -> None:
        self._taken = 0

    def take_nowait(self) -> Any:
        self._taken += 1
        return _rsa_keys()[self._taken % 2]

    async def take(self) -> Any:
        await trio.lowlevel.checkpoint()
        return self.take_nowait()


@cache
def _rsa_keys() -> tuple[Any, Any]:
    return generate_rsa(), generate_rsa()


class Seeded:
    """Randomness of one connection's client, or of a server; `owner` says whose."""

    def __init__(self, seed: int, owner: str, number: int) -> None:
        self.owner = owner
        self._rng = seeded("random", seed, owner, number)

    def __call__(self, size: int) -> bytes:
        return self._rng.randbytes(size)


def memory_database(kind: str) -> sqlite3.Connection:
    """A fresh database of this kind, with the schema of the program."""
    database = sqlite3.connect(":memory:", isolation_level=None)
    _empty(kind).backup(database)
    return database


@cache
def _empty(kind: str) -> sqlite3.Connection:
    empty = sqlite3.connect(":memory:", check_same_thread=False)
    with tempfile.TemporaryDirectory() as folder, closing(open_database(Path(folder) / f"{kind}.db", kind)) as made:
        made.backup(empty)
    return empty
