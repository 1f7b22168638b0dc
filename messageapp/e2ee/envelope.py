"""What stands inside a ratchet message (protocol §10): TLVs, padded to a multiple of 160 bytes with 80 00 …"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from typing import Final

from messageapp.errors import MessageTooLong
from messageapp_keys.codec import Malformed, Reader, tlvs, u64

from .sas import SasMessage

__all__ = ["MAX_TEXT_BYTES", "Envelope", "check_text"]

MAX_TEXT_BYTES: Final = 65_535  # the TLV's length field has 16 bits
_BLOCK: Final = 160
_ID, _TIME, _TEXT, _SAS, _CHECKPOINT = 1, 2, 3, 7, 8


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

    def encode(self) -> bytes:
        """Padded plaintext of a ratchet message."""
        entries = {_ID: self.id, _TIME: u64(self.time_ms)}
        if self.text is not None:
            entries[_TEXT] = self.text.encode()
        if self.checkpoint:
            entries[_CHECKPOINT] = self.checkpoint
        if self.sas is not None:
            entries[_SAS] = self.sas.encode()
        marked = tlvs(entries) + b"\x80"
        return marked.ljust(-(-len(marked) // _BLOCK) * _BLOCK, b"\0")

    @classmethod
    def parse_untrusted(cls, padded: bytes) -> Envelope:
        """`Malformed` for wrong padding, TLVs or UTF-8. TLVs of later versions are passed over."""
        stripped = padded.rstrip(b"\0")
        if not stripped.endswith(b"\x80"):
            raise Malformed("a message is not padded")
        found = Reader(stripped[:-1]).tlvs()
        identifier, time, text = found.get(_ID, bytes(16)), found.get(_TIME, bytes(8)), found.get(_TEXT)
        if len(identifier) != 16 or len(time) != 8:
            raise Malformed("a TLV has not its length")
        checkpoint = found.get(_CHECKPOINT, b"")
        sas = SasMessage.parse_untrusted(found[_SAS]) if _SAS in found else None
        try:
            shown = None if text is None else text.decode()
        except UnicodeDecodeError:
            raise Malformed("a text is not UTF-8") from None
        return cls(identifier, int.from_bytes(time, "big"), shown, checkpoint, sas)
