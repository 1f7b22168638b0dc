"""Mosquitto (C, one thread, epoll, OpenSSL): MQTT 3.1.1, QoS 0, every user subscribed to a topic of its own.

What was set and why: TCP_NODELAY, no limit on queues, nothing persistent, no log, no statistics topics; nobody has a
password, which concerns logins only. QoS 0 is what a relay without receipts does, and the fastest that it can.
"""

from __future__ import annotations

from collections.abc import Sequence

from .peers_base import END, HOST, TEXT, Launch, Peer, Place, found

__all__ = ["MOSQUITTO"]

_CONFIGURATION = """\
user root
listener {port} {host}
allow_anonymous true
max_connections -1
set_tcp_nodelay true
max_queued_messages 0
max_queued_bytes 0
max_inflight_messages 0
persistence false
sys_interval 0
log_dest stderr
log_type error
connection_messages false
{tls}
"""


def _prepare(place: Place) -> Launch:
    configuration = place.folder / "mosquitto.conf"
    tls = f"certfile {place.certificate}\nkeyfile {place.key}" if place.tls else ""
    configuration.write_text(_CONFIGURATION.format(host=HOST, port=place.port, tls=tls))
    return Launch([found("mosquitto") or "mosquitto", "-c", str(configuration)])


def _packet(kind: int, body: bytes) -> bytes:
    """A control packet of at most 16,383 bytes (section 2.2 of MQTT 3.1.1)."""
    size = len(body)
    length = bytes([size]) if size < 128 else bytes([0x80 | size % 128, size // 128])
    return bytes([kind]) + length + body


def _string(text: str) -> bytes:
    return len(text).to_bytes(2, "big") + text.encode()


def _login(user: int) -> Sequence[tuple[bytes, bytes]]:
    """CONNECT with a clean session and no keep-alive, SUBSCRIBE at QoS 0 (sections 3.1 and 3.8 of MQTT 3.1.1)."""
    connect = _packet(0x10, _string("MQTT") + bytes([4, 0x02, 0, 0]) + _string(f"user{user}"))
    subscribe = _packet(0x82, bytes([0, 1]) + _string(f"to/user{user}") + bytes([0]))
    return ((connect, bytes([0x20, 2, 0, 0])), (subscribe, bytes([0x90, 3, 0, 1, 0])))


def _message(receiver: int) -> bytes:
    return _packet(0x30, _string(f"to/user{receiver}") + TEXT.encode())


MOSQUITTO = Peer("Mosquitto", "mosquitto", "mosquitto", _prepare, _login, _message, END.encode())
