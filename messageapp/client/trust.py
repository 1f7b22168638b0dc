"""Whom a user trusts: pins of peers' keys and of the server's (protocol §3, §11).

The first key of a peer is pinned once the peer has proved to hold it. Another key later is kept beside the pin as
"offered" and blocks the chat until the user accepts it by its safety number; `verified` never returns by itself.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

from messageapp.errors import MessageAppError, ServerNotAuthenticated
from messageapp.store.database import Database
from messageapp.store.trust import (
    Pin,
    ServerPin,
    canonical_name,
    device_id,
    find_pin,
    find_pins,
    find_server,
    mark_pin,
    save_pin,
    save_server,
    verified_peers,
)
from messageapp_keys.fingerprint import safety_code, safety_number
from messageapp_keys.identity import IdentityBundle

__all__ = ["TRUST_DIGITS", "Trust", "TrustRefused", "changed_digits"]

TRUST_DIGITS: Final = 10  # of the new key's half, to be typed: 33 bits that only who looked at it can know


class TrustRefused(MessageAppError):
    """that cannot be trusted or verified"""


def changed_digits(old_number: str, new_number: str) -> str:
    """The thirty digits of `new_number` that stand for the peer's new key.

    A safety number is two halves, sorted; ours is the same in both numbers and often comes first. Its digits say
    nothing about the new key.
    """
    own = {old_number[:30], old_number[30:]}
    return next((half for half in (new_number[:30], new_number[30:]) if half not in own), new_number[:30])


class Trust:
    """One account's pins. `wall_ms` gives the wall clock in milliseconds, for display only."""

    def __init__(self, database: Database, user: str, own: IdentityBundle, wall_ms: Callable[[], int]) -> None:
        self._database = database
        self._user = user
        self._own = own
        self._wall_ms = wall_ms

    @property
    def database(self) -> Database:
        """The account's, for what else it keeps."""
        return self._database

    def folder(self, name: str) -> Path | None:
        """A folder of the account's, beside the database; None where that is in memory."""
        file = next((row[2] for row in self._database.execute("PRAGMA database_list") if row[1] == "main"), "")
        return Path(file).parent / name if file else None

    def device(self) -> bytes:
        """[16], chosen at random once per account and kept."""
        return device_id(self._database, os.urandom(16))

    # peers ------------------------------------------------------------------------------------------------------------

    def pin(self, peer: str, server: str) -> Pin | None:
        return find_pin(self._database, peer, server)

    def pins(self, server: str) -> list[Pin]:
        """All at this server; `peer` in lower case."""
        return find_pins(self._database, server)

    def judge(self, peer: str, server: str, bundle: IdentityBundle, how: str = "") -> bool:
        """True for the pinned key and for a peer without a pin; False for another key, which is noted as offered.

        `how` says who changed it, where the key log does and nothing is noted yet.
        """
        pin = self.pin(peer, server)
        if pin is None:
            return True
        same = pin.bundle.key_id == bundle.key_id
        offered, how = (None, "") if same else (bundle, pin.how or how)
        if (pin.offered, pin.how) != (offered, how):
            save_pin(self._database, replace(pin, offered=offered, how=how, verified=pin.verified and same))
        return same

    def move_pin(self, pin: Pin, bundle: IdentityBundle) -> Pin:
        """The pinned key has signed that `bundle` comes after it. Nobody has compared the new one."""
        moved = replace(pin, bundle=bundle, offered=None, how="", verified=False)
        save_pin(self._database, moved)
        return moved

    def block_pin(self, pin: Pin, how: str, offered: IdentityBundle | None) -> None:
        """Somebody else than the pinned key has changed the peer's key: reset, revoked or unexplained."""
        save_pin(self._database, replace(pin, offered=offered, how=how, verified=False))

    def pin_first(self, peer: str, server: str, bundle: IdentityBundle) -> tuple[Pin, bool]:
        """The pin, and whether it was made now."""
        pin = self.pin(peer, server)
        if pin is not None:
            return pin, False
        pin = Pin(peer, server, bundle, verified=False, first_ms=self._wall_ms())
        save_pin(self._database, pin)
        return pin, True

    def number(self, peer: str, server: str, bundle: IdentityBundle) -> str:
        """The 60 digits for `bundle` as the peer's key. Slow by design: 10 ms and more, so only to be shown."""
        return safety_number(self._own.encode(), f"{self._user}@{server}", bundle.encode(), f"{peer}@{server}")

    def code(self, peer: str, server: str, bundle: IdentityBundle) -> bytes:
        """What the QR code beside `number` holds, [65]. As slow."""
        return safety_code(self._own.encode(), f"{self._user}@{server}", bundle.encode(), f"{peer}@{server}")

    def verified(self, server: str) -> dict[str, bytes]:
        """The encoded key of each verified peer at this server, by the name in lower case."""
        return verified_peers(self._database, server)

    def mark(self, peer: str, server: str, bundle: IdentityBundle, verified: bool) -> None:
        """What a live check with exactly the key `bundle` came to.

        `TrustRefused` where it is to be verified and the pin is another by now; to take the mark away never fails.
        """
        if not mark_pin(self._database, peer, server, bundle, verified) and verified:
            raise TrustRefused(f"the key of {peer} has changed since this chat began; nothing is verified")

    def prepare_number(self, server: str) -> None:
        """Make our own half of every number, which is kept: half of what the first chat's would wait for."""
        self.number(self._user, server, self._own)  # both its halves are our own

    def verify(self, peer: str, server: str) -> Pin:
        """Mark the pinned key as compared. `TrustRefused` without a pin or while another key is offered."""
        pin = self._pinned(peer, server)
        if pin.how == "revoked":
            raise TrustRefused(f"the key of {peer} was revoked")
        if pin.offered is not None:
            raise TrustRefused(f"the key of {peer} has changed; verify the new one after trusting it")
        pin = replace(pin, verified=True)
        save_pin(self._database, pin)
        return pin

    def accept_offered(self, peer: str, server: str, digits: str) -> Pin:
        """Replace the pin by the offered key if `digits` begin the new safety number, or its half that changed.

        `TrustRefused` otherwise. Typing them shows that the number was looked at; whether it is right is for the two
        people to compare, all sixty digits.
        """
        pin = self._pinned(peer, server)
        if pin.offered is None:
            revoked = pin.how == "revoked"
            raise TrustRefused(
                f"the key of {peer} was revoked; there is no new one"
                if revoked
                else f"the key of {peer} has not changed"
            )
        number = self.number(peer, server, pin.offered)
        changed = changed_digits(self.number(peer, server, pin.bundle), number)
        if digits not in (number[:TRUST_DIGITS], changed[:TRUST_DIGITS]):
            raise TrustRefused(f"these are not the first {TRUST_DIGITS} digits of the new safety number with {peer}")
        pin = Pin(peer, server, pin.offered, verified=False, first_ms=self._wall_ms())
        save_pin(self._database, pin)
        return pin

    def _pinned(self, peer: str, server: str) -> Pin:
        pin = self.pin(peer, server)
        if pin is None:
            raise TrustRefused(f"no key of {peer} is known yet; chat first")
        return pin

    # servers ----------------------------------------------------------------------------------------------------------

    def known_server(self, name: str, port: int) -> ServerPin | None:
        return find_server(self._database, name, port)

    def check_server(self, name: str, port: int, spki_hash: bytes) -> None:
        """`ServerNotAuthenticated` for another key than at the first login."""
        pin = self.known_server(name, port)
        if pin is not None and pin.spki_hash != spki_hash:
            raise ServerNotAuthenticated(
                f"the server {name}:{port} has another key than before, under a valid certificate; ask its owner, "
                "and if the change is right, connect once with --trust-server"
            )

    def check_name(self, spki_hash: bytes, canonical: str) -> None:
        """`ServerNotAuthenticated` where the server calls itself other than before.

        Peers are pinned under that name: with another one a malicious server would be rid of every pin.
        """
        known = canonical_name(self._database, spki_hash)
        if known not in (None, canonical):
            raise ServerNotAuthenticated(
                f"the server calls itself {canonical} now and {known} before; the keys of your peers are remembered "
                "under the old name. Ask its owner, and if the change is right, connect once with --trust-server"
            )

    def pin_server(self, pin: ServerPin) -> None:
        save_server(self._database, pin)
