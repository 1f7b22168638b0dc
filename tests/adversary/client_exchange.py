"""What the cases of both sides of a chat exchange share: the fields of C1, what is changed, what is seen (§8)."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from adversary.case import Case, Outcome, Seen
from adversary.client_live import Live
from adversary.client_rogue import Flip, cut, flip, longer
from interop.base import L_M2, L_M3, Identity, Reader, u, vec

__all__ = ["LABELS", "PAIRED", "Do", "at_field", "by_mallory", "c1_fields", "case", "changes", "person"]

_FAILED = "error: no chat with {peer}: the key exchange with the other user failed; somebody may be between you"
Do = Callable[[Live], Outcome]


def case(name: str, line: str, do: Do, peer: str = "carl") -> Case[Live]:
    return Case(f"chat/{name}", line, do, Outcome(Seen.LEFT, detail=_FAILED.format(peer=peer)))


def c1_fields(c1: bytes) -> dict[str, int]:
    """Where one byte of each field of C1 lies."""
    reader = Reader(c1)
    at = {"magic": 0, "version": 7, "R1": 8, "suites-count": 40}
    reader.take(40)
    reader.take(2 * reader.u(1))
    at["suite"] = reader.at - 1
    at["invite"] = reader.at
    reader.take(16)
    for name in ("caller", "receiver"):
        reader.vec(1)
        at[name] = reader.at - 1
    at["caller-key-id"], at["receiver-key-id"] = reader.at, reader.at + 32
    reader.take(64)
    reader.vec(1)
    at["server"] = reader.at - 1
    at["tlvs-length"] = reader.at + 1
    at["tlv"] = len(c1) - 1
    return at


def at_field(field: str) -> Flip:
    return lambda c1: flip(c1_fields(c1)[field])(c1)


def person(live: Live, name: str) -> Identity:
    found: Identity = getattr(live.stage.people, name)
    return found


def changes(at: dict[str, int]) -> Iterable[tuple[str, Flip]]:
    yield from ((name, flip(where)) for name, where in at.items())
    yield from (("cut", cut), ("longer", longer), ("empty", lambda _: b""))


def _entries(signatures: bytes) -> list[bytes]:
    reader = Reader(signatures)
    return [u(reader.u(2), 2) + vec(reader.vec(2), 2) for _ in range(reader.u(1))]


def _listed(*order: int) -> Flip:
    return lambda signatures: u(len(order), 1) + b"".join(_entries(signatures)[each] for each in order)


PAIRED: dict[str, Flip] = {"first-alone": _listed(0), "second-alone": _listed(1), "first-twice": _listed(0, 0),
                            "order": _listed(1, 0), "none": _listed()}  # fmt: skip
LABELS = {"m2": L_M2, "m3": L_M3}


def by_mallory(make: Callable[..., Do], **more: object) -> Do:
    """Signed by a third user, who is known only once the people are made."""
    return lambda live: make(signer=live.stage.people.mallory, **more)(live)
