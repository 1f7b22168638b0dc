"""XMPP, as Prosody and ejabberd are spoken to: SASL PLAIN, one resource, available, messages to full addresses."""

from __future__ import annotations

import base64
from collections.abc import Sequence

from .peers_base import TEXT

__all__ = ["DELIMITER", "DOMAIN", "PASSWORD", "login", "message"]

DOMAIN = "localhost"
PASSWORD = "benchmark"
DELIMITER = b"</message>"
_RESOURCE = "r"
_HEADER = (
    f"<stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' to='{DOMAIN}' version='1.0'>"
).encode()


def login(user: int) -> Sequence[tuple[bytes, bytes]]:
    """RFC 6120 §4.3.2, §6 and §7, then initial presence (RFC 6121 §4.2), which comes back to its sender."""
    secret = base64.b64encode(f"\0user{user}\0{PASSWORD}".encode()).decode()
    bind = f"<bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'><resource>{_RESOURCE}</resource></bind>"
    return (
        (_HEADER, b"</stream:features>"),
        (f"<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>{secret}</auth>".encode(), b"<success"),
        (_HEADER, b"</stream:features>"),
        (f"<iq type='set' id='b'>{bind}</iq>".encode(), b"</iq>"),
        (b"<presence/>", b"<presence"),
    )


def message(receiver: int) -> bytes:
    return f"<message to='user{receiver}@{DOMAIN}/{_RESOURCE}' type='chat'><body>{TEXT}</body></message>".encode()
