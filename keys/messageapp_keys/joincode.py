"""Join codes (protocol §3.3): all that a new user needs, in one line that can be pasted, dictated or photographed.

    "MSGAPP" | Crockford base 32 of
        u8 1 | vec8 host | u16 port | vec8 username ("": free) | [32] H(CA certificate) | [16] secret | [4] checksum

The checksum is H of all before. Capitals do not count, nor do dashes and spaces; O is read as 0, I and L as 1. The
server keeps an id and a key that are derived from the secret, not the secret: the id is said in clear, the key proves.
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from typing import Final

from . import labels
from .codec import Malformed, Reader, reading_untrusted, u8, u16, vec8
from .names import is_username
from .primitives import expand_bytes, expand_label, extract, hash_bytes, same
from .types import InviteKey, InviteSecret, PseudoRandomKey

__all__ = ["INVITE_ID_SIZE", "JoinCode", "MistypedCode", "derive_invite"]

INVITE_ID_SIZE: Final = 16
_PREFIX: Final = "MSGAPP"
_VERSION: Final = 1
_CHECKSUM_SIZE: Final = 4
_GROUP: Final = 5  # characters between two dashes
_MAX_TYPED: Final = 2000  # characters; the longest code has 633
_LETTERS: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_FROM_CROCKFORD: Final = str.maketrans(_LETTERS, "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567")
_TO_CROCKFORD: Final = str.maketrans("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", _LETTERS)
_FORGIVEN: Final = str.maketrans("OIL", "011")
_HOST: Final = re.compile(rb"[a-z0-9_.:-]{1,253}")  # as `server` in M1, in the spelling of a certificate


class MistypedCode(ValueError):
    """This is no join code; the text is the sentence for the user and holds nothing of the code but one character."""


def derive_invite(secret: InviteSecret) -> tuple[bytes, InviteKey]:
    """([16] id, key), both of which the server keeps. Source: protocol §3.3."""
    prk = PseudoRandomKey(extract(labels.EXTRACT_INVITE, secret.expose()))
    return (
        expand_bytes(prk, labels.INVITE_ID, b"", INVITE_ID_SIZE),
        expand_label(prk, labels.INVITE_KEY, b"", InviteKey),
    )


@dataclass(frozen=True, slots=True)
class JoinCode:
    host: str  # the name that the server's certificate carries, and where it is reached: DNS name in ASCII, or IP text
    port: int
    username: str  # "": the new user chooses
    authority: bytes  # [32] SHA-256 of the CA certificate in DER
    secret: InviteSecret

    def encode(self) -> str:
        """The code in groups of five. Whoever sees it can join: it is shown to the owner and to nobody else."""
        body = b"".join(
            (
                u8(_VERSION),
                vec8(self.host.encode()),
                u16(self.port),
                vec8(self.username.encode()),
                self.authority,
                self.secret.expose(),
            )
        )
        data = body + hash_bytes(body)[:_CHECKSUM_SIZE]
        text = base64.b32encode(data).decode().rstrip("=").translate(_TO_CROCKFORD)
        return "-".join([_PREFIX, *(text[at : at + _GROUP] for at in range(0, len(text), _GROUP))])

    @classmethod
    def parse_untrusted(cls, text: str) -> JoinCode:
        """What was typed, or `MistypedCode`."""
        letters = _letters_untrusted(text)
        # A last character of too few bits, or with bits that say nothing, would give one code several spellings.
        padded = letters.translate(_FROM_CROCKFORD) + "=" * (-len(letters) % 8)
        try:
            data = base64.b32decode(padded)
        except ValueError:
            data = base64.b32decode(padded.rstrip("=")[: len(letters) // 8 * 8])
            raise MistypedCode(_what_is_wrong(data, len(letters))) from None
        body, checksum = data[:-_CHECKSUM_SIZE], data[-_CHECKSUM_SIZE:]
        canonical = base64.b32encode(data).decode() == padded
        if not (canonical and same(hash_bytes(body)[:_CHECKSUM_SIZE], checksum)):
            raise MistypedCode(_what_is_wrong(data, len(letters)))
        if body[:1] != u8(_VERSION):
            raise MistypedCode("this join code is of a newer MessageApp: install that first")
        try:
            return cls._read_untrusted(body)
        except Malformed:
            raise MistypedCode("this join code says what none can say; ask for a new one") from None

    @classmethod
    def _read_untrusted(cls, body: bytes) -> JoinCode:
        with reading_untrusted(body) as reader:
            reader.u8()
            host, port, username = reader.vec8(), reader.u16(), reader.vec8().decode("ascii", "replace")
            code = cls(host.decode("ascii", "replace"), port, username, reader.take(32), InviteSecret(reader.take(16)))
        if not _HOST.fullmatch(host) or not port or (username and not is_username(username)):
            raise Malformed("a host, port or name cannot be one")
        return code


def _letters_untrusted(text: str) -> str:
    """Those of Crockford's alphabet behind the prefix."""
    if len(text) > _MAX_TYPED:
        raise MistypedCode("this is no join code: it is far too long")
    bare = re.sub(r"[\s-]", "", text)
    if not bare[: len(_PREFIX)].upper() == _PREFIX:
        raise MistypedCode(f"this is no join code: one begins with {_PREFIX}")
    letters = bare[len(_PREFIX) :].upper().translate(_FORGIVEN)
    if len(letters) != len(bare) - len(_PREFIX):  # a letter whose capital is two
        raise MistypedCode("a join code has letters A to Z and digits only")
    for place, letter in enumerate(letters):
        if letter not in _LETTERS:
            where = f"group {place // _GROUP + 1}, place {place % _GROUP + 1} behind {_PREFIX}"
            what = f"the character {letter}" if letter.isascii() and letter.isprintable() else "such a character"
            raise MistypedCode(f"this join code is mistyped: no code has {what} ({where})")
    return letters


def _what_is_wrong(data: bytes, typed: int) -> str:
    """Where the checksum is wrong: by the lengths that stand in it, a code has so many characters."""
    reader = Reader(data)
    try:
        reader.u8()
        reader.vec8()
        reader.u16()
        reader.vec8()
        size = reader.position + 32 + InviteSecret.SIZE + _CHECKSUM_SIZE
    except Malformed:
        return "this join code is too short or mistyped: paste all of it, or compare it group by group"
    wanted = -(-size * 8 // 5)
    if typed < wanted:
        return f"this join code is too short: {typed} of {wanted} characters behind {_PREFIX}; or it is mistyped"
    if typed > wanted:
        return f"this join code is too long: {typed} instead of {wanted} characters behind {_PREFIX}; or it is mistyped"
    return "this join code is mistyped: a character is wrong, or two have changed places"
