"""Every bound that a server puts on strangers and users, with its reason (protocol §7).

Each field is an entry of `[limits]` in `server.toml` and of `serve --limit NAME=VALUE`. Bounds that both sides must
agree on (frame sizes, padding, counters) are not here but beside the code that holds them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Final

from .errors import UnusableSetup

__all__ = ["Limits", "limit_rows"]


MOST_SESSIONS: Final = 7000  # names of 16 letters: 126,000 bytes in the reply to `list`


def _limit(default: float, unit: str, why: str) -> Any:
    return field(default=default, metadata={"unit": unit, "why": why})


@dataclass(frozen=True, slots=True)
class Limits:
    """Counts are whole, times in seconds, rates in events a second."""

    handshakes: int = _limit(128, "connections", "each may hold 64 KiB and 3 ms of our time before it is known")
    handshakes_per_address: int = _limit(8, "connections", "one address cannot take all places before login")
    handshakes_crowded: int = _limit(64, "connections", "from here on, addresses that logged in lately go first")
    connections_per_second: float = _limit(5, "1/s per address", "a client needs one; a loop of one host is slowed")
    connections_burst: int = _limit(20, "connections", "a household behind one address starts its clients at once")
    m1_seconds: float = _limit(5, "s", "M1 is 100 bytes and needs no thought")
    handshake_seconds: float = _limit(10, "s", "slow links pass, a stalled client does not hold its place")
    pool_wait_seconds: float = _limit(3, "s", "how long a client that insists on RSA waits for a key")
    rsa_pool: int = _limit(32, "keys", "a burst of logins; 32 keys are 5 s of one core's background work")
    sessions: int = _limit(4096, "sessions", "about 100 MiB at worst with idle queues")
    sessions_per_user: int = _limit(5, "sessions", "a user's devices")
    queue_frames: int = _limit(256, "frames", "what a recipient may be behind before senders are told")
    queue_bytes: int = _limit(1 << 20, "bytes", "memory a slow recipient may hold, in padded records")
    write_seconds: float = _limit(15, "s", "a peer that reads nothing for so long is gone")
    commands_per_second: float = _limit(20, "1/s", "faster than anyone types; scripts are slowed")
    commands_burst: int = _limit(60, "commands", "a script's opening")
    chats_per_minute: float = _limit(6, "1/min", "ringing is a nuisance")
    klogs_per_minute: float = _limit(60, "1/min", "a long log is replayed at once; then there is little to ask")
    newks_per_hour: float = _limit(6, "1/h", "a key is changed once in years; each change stays in the log for ever")
    blocks_per_minute: float = _limit(30, "1/min", "each is written to the disk; nobody types faster")
    preks_per_minute: float = _limit(30, "1/min", "an upload of 40 signatures is some ms of work; 100 prekeys need 3")
    bndls_per_minute: float = _limit(30, "1/min", "each may use up a one-time prekey of somebody")
    prekeys: int = _limit(100, "one-time prekeys", "so many conversations can begin while a user is away; 3 KB each")
    mail_messages: int = _limit(10_000, "messages", "what may wait for one user")
    mail_bytes: int = _limit(64 << 20, "bytes", "the same, on our disk")
    mail_days: float = _limit(30, "days", "whoever is away for longer is told by nobody; senders see it")
    mail_window: int = _limit(64, "messages", "on their way to one client, unacknowledged")
    mail_window_bytes: int = _limit(512 << 10, "bytes", "the same: half of queue_bytes, so that a chat goes on beside")
    mail_queue: int = _limit(256, "changes", "that wait for the disk, at most 128 KB each; a commit takes some ms")
    disk_full_percent: float = _limit(
        95, "%", "from here on nothing more is stored; logins and deletions need the rest"
    )
    ring_seconds: float = _limit(60, "s", "as a telephone")
    ping_seconds: float = _limit(60, "s", "keeps address translations open")
    dead_seconds: float = _limit(150, "s", "two pings unanswered")
    session_seconds: float = _limit(86_400, "s", "fresh temporary keys once a day")
    session_bytes: int = _limit(1 << 40, "bytes", "far below any bound of AES-256-GCM")
    drain_seconds: float = _limit(5, "s", "a shutdown delivers what is queued, but ends")

    @classmethod
    def from_mapping(cls, given: Mapping[str, object]) -> Limits:
        """The defaults with `given` put in; `UnusableSetup` for an unknown name or a value that cannot be."""
        known = {entry.name: entry for entry in fields(cls)}
        changes: dict[str, Any] = {}
        for name, value in given.items():
            if name not in known:
                raise UnusableSetup(f"there is no limit {name}; the limits are {', '.join(known)}")
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
                raise UnusableSetup(f"the limit {name} is a number above 0")
            whole = known[name].type == "int"
            if whole and value != int(value):
                raise UnusableSetup(f"the limit {name} is a whole number")
            changes[name] = int(value) if whole else float(value)
        if changes.get("sessions", 0) > MOST_SESSIONS:
            raise UnusableSetup(f"the limit sessions is at most {MOST_SESSIONS:,}: the list of all must fit one record")
        return replace(cls(), **changes)


def limit_rows() -> list[tuple[str, str, str, str]]:
    """(name, default, unit, reason), for help and documentation."""
    return [
        (entry.name, f"{entry.default:,}", entry.metadata["unit"], entry.metadata["why"]) for entry in fields(Limits)
    ]
