"""One account's memory of trust: pins of peers and of servers, and the device id (protocol §3, §11)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from messageapp.errors import UnusableSetup
from messageapp_keys.codec import Malformed
from messageapp_keys.identity import IdentityBundle
from messageapp_keys.names import fold

from .database import Database, stored, transaction

__all__ = [
    "Pin",
    "ServerPin",
    "canonical_name",
    "device_id",
    "find_pin",
    "find_pins",
    "find_server",
    "known_servers",
    "mark_pin",
    "save_pin",
    "save_server",
    "verified_peers",
]


@dataclass(frozen=True, slots=True)
class Pin:
    peer: str
    server: str
    bundle: IdentityBundle
    verified: bool
    first_ms: int
    offered: IdentityBundle | None = None
    how: str = ""  # of a change that is not accepted, as the key log has it: reset | revoked | unexplained

    @property
    def changed(self) -> bool:
        return self.offered is not None or self.how != ""


@dataclass(frozen=True, slots=True)
class ServerPin:
    name: str
    port: int
    spki_hash: bytes
    canonical: str
    ca_pem: bytes
    first_ms: int
    crl: bytes | None = None  # the revocation list of the authority, DER


@stored("the pins")
def device_id(database: Database, fresh: bytes) -> bytes:
    """This account's device id; `fresh` becomes it the first time."""
    with transaction(database):
        database.execute("INSERT INTO device SELECT ? WHERE NOT EXISTS (SELECT 1 FROM device)", (fresh,))
        (found,) = database.execute("SELECT id FROM device").fetchone()
    return bytes(found)


@stored("the pins")
def find_pin(database: Database, peer: str, server: str) -> Pin | None:
    row = database.execute(
        "SELECT bundle, offered, verified, first_ms, how FROM pins WHERE peer = ? AND server = ?", (fold(peer), server)
    ).fetchone()
    return None if row is None else _pin(peer, server, row)


@stored("the pins")
def find_pins(database: Database, server: str) -> list[Pin]:
    """Every pin at this server; `peer` in lower case."""
    rows = database.execute(
        "SELECT peer, bundle, offered, verified, first_ms, how FROM pins WHERE server = ? ORDER BY peer", (server,)
    ).fetchall()
    return [_pin(peer, server, tuple(row)) for peer, *row in rows]


def _pin(peer: str, server: str, row: tuple[Any, ...]) -> Pin:
    bundle, offered, verified, first_ms, how = row
    try:
        return Pin(
            peer,
            server,
            IdentityBundle.parse_untrusted(bundle),
            bool(verified),
            first_ms,
            None if offered is None else IdentityBundle.parse_untrusted(offered),
            how,
        )
    except Malformed:  # never pinned afresh: that would be how an attacker gets rid of a pin
        raise UnusableSetup(f"the stored key of {peer} is damaged") from None


@stored("the pins")
def save_pin(database: Database, pin: Pin) -> None:
    database.execute(
        "INSERT OR REPLACE INTO pins (peer, server, bundle, offered, verified, first_ms, how)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        (
            fold(pin.peer),
            pin.server,
            pin.bundle.encode(),
            None if pin.offered is None else pin.offered.encode(),
            int(pin.verified),
            pin.first_ms,
            pin.how,
        ),
    )


@stored("the pins")
def mark_pin(database: Database, peer: str, server: str, bundle: IdentityBundle, verified: bool) -> bool:
    """Set or take away the mark, in one step, if the pinned key is `bundle`; to set it, with no change pending.

    Whether there was such a pin.
    """
    settled = "AND offered IS NULL AND how = ''" if verified else ""
    cursor = database.execute(
        f"UPDATE pins SET verified = ? WHERE peer = ? AND server = ? AND bundle = ? {settled}",  # noqa: S608 - our own
        (int(verified), fold(peer), server, bundle.encode()),
    )
    return cursor.rowcount == 1


@stored("the pins")
def verified_peers(database: Database, server: str) -> dict[str, bytes]:
    """The encoded bundle of each verified peer, by the folded name."""
    rows = database.execute("SELECT peer, bundle FROM pins WHERE server = ? AND verified = 1", (server,))
    return {str(peer): bytes(bundle) for peer, bundle in rows}


@stored("the pins")
def find_server(database: Database, name: str, port: int) -> ServerPin | None:
    row = database.execute(
        "SELECT name, port, spki_hash, canonical, ca_pem, first_ms, crl FROM servers WHERE name = ? AND port = ?",
        (name, port),
    ).fetchone()
    return None if row is None else ServerPin(*row)


@stored("the pins")
def known_servers(database: Database) -> list[ServerPin]:
    """Every server that this account has logged in to, the oldest first."""
    rows = database.execute(
        "SELECT name, port, spki_hash, canonical, ca_pem, first_ms, crl FROM servers ORDER BY first_ms, name, port"
    )
    return [ServerPin(*row) for row in rows]


@stored("the pins")
def canonical_name(database: Database, spki_hash: bytes) -> str | None:
    """What the server with this key called itself so far, under whatever address it was reached."""
    row = database.execute("SELECT canonical FROM servers WHERE spki_hash = ? LIMIT 1", (spki_hash,)).fetchone()
    return None if row is None else str(row[0])


@stored("the pins")
def save_server(database: Database, pin: ServerPin) -> None:
    database.execute(
        "INSERT OR REPLACE INTO servers (name, port, spki_hash, canonical, ca_pem, first_ms, crl)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        (pin.name, pin.port, pin.spki_hash, pin.canonical, pin.ca_pem, pin.first_ms, pin.crl),
    )
    # One server has one name, under whatever address it is reached.
    database.execute("UPDATE servers SET canonical = ? WHERE spki_hash = ?", (pin.canonical, pin.spki_hash))
