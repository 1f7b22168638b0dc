"""What stands inside a ratchet message (protocol §10): TLVs, padded to a multiple of 160 bytes with 80 00 …"""

from __future__ import annotations

import unicodedata
from collections.abc import Container
from dataclasses import dataclass
from typing import Final

from messageapp.errors import MessageTooLong
from messageapp_keys.codec import Malformed, Reader, tlvs, u32, u64

from .sas import SasMessage

__all__ = ["MAX_EMOJI_BYTES", "MAX_IDS", "MAX_TEXT_BYTES", "Envelope", "check_text"]

MAX_TEXT_BYTES: Final = 65_535  # the TLV's length field has 16 bits
MAX_IDS: Final = 1000  # in one list: no more are asked of a receiver at a time
MAX_EMOJI_BYTES: Final = 64  # the longest of Unicode 16 have 35
_BLOCK: Final = 160
_ID_SIZE: Final = 16
_ID, _TIME, _TEXT, _RECEIPTS, _GROUP, _SAS, _CHECKPOINT = 1, 2, 3, 4, 6, 7, 8
_REPLY_TO, _EXPIRE, _READ, _RESEND, _EDITS, _REACT = 9, 10, 11, 12, 13, 14


def check_text(text: str) -> str:
    """`text` in NFC, a lone surrogate (a terminal in another encoding) as `?`. `MessageTooLong` names the limit."""
    encoded = unicodedata.normalize("NFC", text).encode("utf-8", "replace")
    size = len(encoded)
    if size > MAX_TEXT_BYTES:
        raise MessageTooLong(f"the message has {size:,} bytes; the limit is {MAX_TEXT_BYTES:,} bytes; nothing was sent")
    return encoded.decode()


@dataclass(frozen=True, slots=True)
class Envelope:
    id: bytes  # [16]
    time_ms: int
    text: str | None = None  # None: not shown
    checkpoint: bytes = b""  # the sender's newest of the key log, a signed note
    sas: SasMessage | None = None  # a step of the live check
    receipts: tuple[bytes, ...] | None = None  # n × [16] that are on the sender's disk; (): this client sends receipts
    group: bytes = b""  # [16] group, then what later versions say of it
    reply_to: bytes = b""  # [16] the message that this one answers
    expire_s: int | None = None  # u32: it vanishes so many seconds after; without a text a setting for both, 0 never
    read: tuple[bytes, ...] = ()  # n × [16] that were read
    resend: tuple[bytes, ...] = ()  # n × [16] that could not be read
    edits: bytes = b""  # [16] an own earlier message whose text this one's replaces
    react: tuple[bytes, str] | None = None  # [16] a message, and an emoji; '' takes it back

    def encode(self) -> bytes:
        """Padded plaintext of a ratchet message. Whoever fills it keeps to `MAX_IDS` and `MAX_EMOJI_BYTES`."""
        entries = {_ID: self.id, _TIME: u64(self.time_ms)}
        if self.text is not None:
            entries[_TEXT] = self.text.encode()
        if self.checkpoint:
            entries[_CHECKPOINT] = self.checkpoint
        if self.sas is not None:
            entries[_SAS] = self.sas.encode()
        if self.receipts is not None:
            entries[_RECEIPTS] = b"".join(self.receipts)
        if self.expire_s is not None:
            entries[_EXPIRE] = u32(self.expire_s)
        if self.react is not None:
            entries[_REACT] = self.react[0] + self.react[1].encode()
        present = (
            (_GROUP, self.group),
            (_REPLY_TO, self.reply_to),
            (_READ, b"".join(self.read)),
            (_RESEND, b"".join(self.resend)),
            (_EDITS, self.edits),
        )
        entries |= {kind: value for kind, value in present if value}
        marked = tlvs(entries) + b"\x80"
        return marked.ljust(-(-len(marked) // _BLOCK) * _BLOCK, b"\0")

    @classmethod
    def parse_untrusted(cls, padded: bytes) -> Envelope:
        """`Malformed` for wrong padding, lengths or UTF-8. TLVs of later versions are passed over."""
        stripped = padded.rstrip(b"\0")
        if not stripped.endswith(b"\x80"):
            raise Malformed("a message is not padded")
        found = Reader(stripped[:-1]).tlvs()
        for kind, allowed in _LENGTHS.items():
            if kind in found and len(found[kind]) not in allowed:
                raise Malformed("a TLV has not its length")
        react = found.get(_REACT)
        try:
            return cls(
                id=found.get(_ID, bytes(_ID_SIZE)),
                time_ms=int.from_bytes(found.get(_TIME, b""), "big"),
                text=found[_TEXT].decode() if _TEXT in found else None,
                checkpoint=found.get(_CHECKPOINT, b""),
                sas=SasMessage.parse_untrusted(found[_SAS]) if _SAS in found else None,
                receipts=_ids(found[_RECEIPTS]) if _RECEIPTS in found else None,
                group=found.get(_GROUP, b""),
                reply_to=found.get(_REPLY_TO, b""),
                expire_s=int.from_bytes(found[_EXPIRE], "big") if _EXPIRE in found else None,
                read=_ids(found.get(_READ, b"")),
                resend=_ids(found.get(_RESEND, b"")),
                edits=found.get(_EDITS, b""),
                react=None if react is None else (react[:_ID_SIZE], react[_ID_SIZE:].decode()),
            )
        except UnicodeDecodeError:
            raise Malformed("a text is not UTF-8") from None


def _ids(listed: bytes) -> tuple[bytes, ...]:
    return tuple([listed[at : at + _ID_SIZE] for at in range(0, len(listed), _ID_SIZE)])


_LISTS: Final = range(0, MAX_IDS * _ID_SIZE + 1, _ID_SIZE)
# TLV → the lengths that it may have, in bytes
_LENGTHS: Final[dict[int, Container[int]]] = {
    _ID: (_ID_SIZE,),
    _TIME: (8,),
    _RECEIPTS: _LISTS,
    _GROUP: range(_ID_SIZE, 0x10000),
    _REPLY_TO: (_ID_SIZE,),
    _EXPIRE: (4,),
    _READ: _LISTS,
    _RESEND: _LISTS,
    _EDITS: (_ID_SIZE,),
    _REACT: range(_ID_SIZE, _ID_SIZE + MAX_EMOJI_BYTES + 1),
}
