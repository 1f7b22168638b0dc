"""Leaves of the key log (protocol §12): which key counts for a user, from when on, and who says so."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from . import labels
from .codec import Malformed, reading_untrusted, u8, u32, u64, vec8, vec16
from .identity import IdentityBundle, Signatures, read_signatures, write_signatures
from .names import fold, is_username

__all__ = [
    "FLAG_RESET",
    "FLAG_REVOKED",
    "MAX_LEAF",
    "Change",
    "Leaf",
    "change_body",
    "explain",
    "follows",
    "log_key_body",
    "log_origin",
]

FLAG_RESET: Final = 1
"""The administrator replaced the key, without a word of the one before."""
FLAG_REVOKED: Final = 2
"""From here on no key counts for this user."""

MAX_LEAF: Final = 8_192
_VERSION: Final = 1
_NONE: Final = 2**64 - 1

Change = Literal["signed", "reset", "revoked", "unexplained"]


def log_origin(server: str) -> str:
    """What checkpoints of this server (canonical name) begin with, and the name of its log's key."""
    return f"{server}/msgapp-keys"


def log_key_body(server: str, public: bytes) -> bytes:
    """What the key of the server's certificate signs with SIG_LOG_KEY to say which [32] key signs its log."""
    return vec8(server.encode("ascii")) + public


def change_body(server: str, user: str, version: int, old_key_id: bytes, new_key_id: bytes) -> bytes:
    """What the old key signs with SIG_KEY_CHANGE, and the new one with SIG_NEW_KEY."""
    return vec8(server.encode("ascii")) + vec8(user.encode("ascii")) + u32(version) + old_key_id + new_key_id


@dataclass(frozen=True, slots=True)
class Leaf:
    """One change of one user's key. `ms` is the server's clock in POSIX milliseconds, which nothing rests on.

    `previous` is the index of the user's leaf before this one. `signatures` are by the key before, in the order of its
    bundle; there are none where the administrator did it, and with the first.
    """

    ms: int
    user: str
    version: int
    key_id: bytes
    previous: int | None = None
    flags: int = 0
    signatures: Signatures = ()

    @property
    def folded(self) -> str:
        return fold(self.user)

    @property
    def reset(self) -> bool:
        return self.flags == FLAG_RESET

    @property
    def revoked(self) -> bool:
        return self.flags == FLAG_REVOKED

    def encode(self) -> bytes:
        return b"".join(
            (
                u8(_VERSION),
                u64(self.ms),
                vec8(self.user.encode("ascii")),
                u32(self.version),
                self.key_id,
                u64(_NONE if self.previous is None else self.previous),
                u8(self.flags),
                vec16(write_signatures(self.signatures) if self.signatures else b""),
            )
        )

    @classmethod
    def parse_untrusted(cls, data: bytes) -> Leaf:
        """`Malformed` for what no honest server writes; whether it fits the leaves before is `follows`."""
        if len(data) > MAX_LEAF:
            raise Malformed("a leaf of the key log is too long")
        with reading_untrusted(data) as reader:
            if reader.u8() != _VERSION:
                raise Malformed("a leaf of the key log is of an unknown version")
            ms, user, version, key_id = reader.u64(), reader.ascii8(), reader.u32(), reader.take(32)
            previous, flags, signed = reader.u64(), reader.u8(), reader.vec16()
        if not is_username(user):
            raise Malformed("a leaf of the key log is about no possible user")
        if flags not in (0, FLAG_RESET, FLAG_REVOKED):
            raise Malformed("a leaf of the key log has flags that do not exist")
        first = previous == _NONE
        if first != (version == 1) or version == 0 or (first and flags):
            raise Malformed("a first leaf has version 1 and no flags, and no other has")
        if signed and (flags or first):
            raise Malformed("a leaf of the key log has a signature where none belongs")
        signatures: Signatures = ()
        if signed:
            with reading_untrusted(signed) as reader:
                signatures = read_signatures(reader)
        return cls(ms, user, version, key_id, None if first else previous, flags, signatures)

    @classmethod
    def after(
        cls,
        latest: tuple[int, Leaf] | None,
        ms: int,
        user: str,
        key_id: bytes,
        flags: int = 0,
        signatures: Signatures = (),
    ) -> Leaf:
        """The leaf that comes next for `user`, whose newest one is `latest`: (index, leaf)."""
        if latest is None:
            return cls(ms, user, 1, key_id)
        index, before = latest
        return cls(ms, user, before.version + 1, key_id, index, flags, signatures)


def follows(leaf: Leaf, latest: tuple[int, Leaf] | None) -> bool:
    """Is `leaf` what may come next for a user whose newest leaf is `latest`: (index, leaf)?

    A revoked leaf is about the key that is revoked, and after it only a reset counts.
    """
    if latest is None:
        return leaf.previous is None
    index, before = latest
    if (leaf.previous, leaf.version, leaf.folded) != (index, before.version + 1, before.folded):
        return False
    if leaf.revoked:
        return not before.revoked and leaf.key_id == before.key_id
    return leaf.reset or not before.revoked


def explain(old: IdentityBundle, leaf: Leaf, server: str) -> Change:
    """By whose word `leaf` takes the place of `old`, at the server with this canonical name.

    "signed" only where every key of `old` signed exactly this change; one or two signatures are checked for it.
    """
    if leaf.revoked:
        return "revoked"
    if leaf.reset:
        return "reset"
    body = change_body(server, leaf.user, leaf.version, old.key_id, leaf.key_id)
    return "signed" if old.verify_untrusted(labels.SIG_KEY_CHANGE, body, leaf.signatures) else "unexplained"
