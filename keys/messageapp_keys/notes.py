"""Signed notes, cosignatures and checkpoints, as every transparency log writes them (C2SP signed-note, tlog-checkpoint,
tlog-cosignature; golang.org/x/mod/sumdb/note).

These signatures are bare Ed25519, without our labels, so that other tools can check them. The key signs nothing else.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

from .codec import Malformed, Reader, u8, u64
from .merkle import HASH_SIZE
from .primitives import hash_bytes
from .signing import UNREADABLE_KEY

__all__ = [
    "COSIGNER",
    "SIGNER",
    "Checkpoint",
    "LogKey",
    "Note",
    "NoteSignature",
    "VerifierKey",
    "cosign",
    "sign_note",
    "verify_cosignature_untrusted",
    "verify_untrusted",
]

SIGNER: Final = 0x01
"""Kind of a key whose signature is over the note's text alone."""
COSIGNER: Final = 0x04
"""Kind of a key whose signature is over a time and the note's text."""

MAX_NOTE: Final = 16_384
MAX_SIGNATURES: Final = 32
MAX_SIZE: Final = 2**63 - 1  # what SQLite counts to
_SIGNATURE_SIZE: Final = 64
_DASH: Final = "\N{EM DASH} "
_CONTROL: Final = re.compile(r"[\x00-\x09\x0b-\x1f]")
_NUMBER: Final = re.compile(r"[1-9][0-9]{0,18}", re.ASCII)
_VKEY: Final = re.compile(r"(?P<name>[^+]+)\+(?P<hash>[0-9a-f]{8})\+(?P<key>[A-Za-z0-9+/]{44})", re.ASCII)


def _unarmoured(text: str) -> bytes:
    """Base64 in its one encoding. `Malformed`."""
    try:
        data = base64.b64decode(text.encode("ascii"), validate=True)
    except (UnicodeEncodeError, binascii.Error):
        raise Malformed("base64 cannot be read") from None
    if _armoured(data) != text:
        raise Malformed("base64 is not in its one encoding")
    return data


def _armoured(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _check_name(name: str) -> str:
    if not name or "+" in name or any(letter.isspace() for letter in name) or _CONTROL.search(name):
        raise Malformed("the name of a key is empty or has a blank or + in it")
    return name


@dataclass(frozen=True)
class VerifierKey:
    """Whose signature counts: a name and an Ed25519 key. `kind` is `SIGNER` for a log, `COSIGNER` for a witness."""

    name: str
    public: bytes
    kind: int = SIGNER

    @cached_property
    def key_hash(self) -> bytes:
        """[4] Which key of this name; no protection against collisions."""
        return hash_bytes(self.name.encode() + b"\n" + u8(self.kind) + self.public)[:4]

    def encode(self) -> str:
        """The text form: `name+hash+key`."""
        return f"{self.name}+{self.key_hash.hex()}+{_armoured(u8(self.kind) + self.public)}"

    @classmethod
    def parse_untrusted(cls, text: str) -> VerifierKey:
        """`Malformed` for what is no verifier key, or one of another algorithm."""
        found = _VKEY.fullmatch(text)
        if found is None:
            raise Malformed("a verifier key is name+hash+key")
        data = _unarmoured(found["key"])
        key = cls(_check_name(found["name"]), data[1:], data[0])
        if key.kind not in (SIGNER, COSIGNER):
            raise Malformed("a verifier key is of no kind that is known")
        if key.key_hash.hex() != found["hash"]:
            raise Malformed("the hash in a verifier key is not that of the key")
        return key

    def _signed_untrusted(self, signature: bytes, message: bytes) -> bool:
        try:
            ed25519.Ed25519PublicKey.from_public_bytes(self.public).verify(signature, message)
        except (InvalidSignature, *UNREADABLE_KEY):
            return False
        return True


class LogKey:
    """The private Ed25519 key of a log or of a witness."""

    __slots__ = ("_key", "public")

    def __init__(self, key: ed25519.Ed25519PrivateKey) -> None:
        self._key = key
        self.public = key.public_key().public_bytes_raw()

    def __repr__(self) -> str:
        return f"<LogKey {self.public.hex()[:16]}>"

    @classmethod
    def generate(cls) -> LogKey:
        return cls(ed25519.Ed25519PrivateKey.generate())

    @classmethod
    def from_pem(cls, pem: bytes) -> LogKey:
        """`Malformed` for anything but an unencrypted Ed25519 key in PKCS#8."""
        try:
            key = serialization.load_pem_private_key(pem, None)
        except UNREADABLE_KEY:
            raise Malformed("the key of a log cannot be read") from None
        if not isinstance(key, ed25519.Ed25519PrivateKey):
            raise Malformed("the key of a log is an Ed25519 key")
        return cls(key)

    def pem(self) -> bytes:
        """PKCS#8, not encrypted: the file has to be its owner's alone."""
        return self._key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )

    def verifier(self, name: str, kind: int = SIGNER) -> VerifierKey:
        """The public half under this name. `Malformed` for a name that cannot be one."""
        return VerifierKey(_check_name(name), self.public, kind)

    def sign(self, message: bytes) -> bytes:
        return self._key.sign(message)


@dataclass(frozen=True, slots=True)
class NoteSignature:
    """One line below a note."""

    name: str
    key_hash: bytes
    signature: bytes

    def encode(self) -> str:
        """The line, with its end."""
        return f"{_DASH}{self.name} {_armoured(self.key_hash + self.signature)}\n"

    @classmethod
    def parse_untrusted(cls, line: str) -> NoteSignature:
        """`Malformed`. The end of the line has to be there."""
        name, blank, text = line.removeprefix(_DASH).removesuffix("\n").partition(" ")
        if not (line.startswith(_DASH) and line.endswith("\n") and blank):
            raise Malformed("a signature line of a note is not one")
        data = _unarmoured(text)
        if len(data) < 5:
            raise Malformed("a signature of a note is too short")
        return cls(_check_name(name), data[:4], data[4:])

    def of(self, key: VerifierKey) -> bool:
        """Does it say that it is of this key?"""
        return self.name == key.name and self.key_hash == key.key_hash


@dataclass(frozen=True, slots=True)
class Note:
    """A text that ends with a newline, and signatures under it, of which nothing is known yet."""

    text: str
    signatures: tuple[NoteSignature, ...] = ()

    def encode(self) -> bytes:
        return (self.text + "\n" + "".join([entry.encode() for entry in self.signatures])).encode()

    @classmethod
    def parse_untrusted(cls, data: bytes) -> Note:
        """`Malformed` for what is no signed note, is over 16 KiB, or has none or more than 32 signatures."""
        if len(data) > MAX_NOTE:
            raise Malformed("a note is too long")
        try:
            whole = data.decode()
        except UnicodeDecodeError:
            raise Malformed("a note is not UTF-8") from None
        if _CONTROL.search(whole):
            raise Malformed("a note has control characters")
        text, blank, below = whole.rpartition("\n\n")
        lines = below.split("\n")
        if not blank or lines.pop() or not 1 <= len(lines) <= MAX_SIGNATURES:
            raise Malformed("a note is a text, an empty line, and 1 to 32 signatures")
        return cls(text + "\n", tuple([NoteSignature.parse_untrusted(line + "\n") for line in lines]))

    def adding(self, signatures: Iterable[NoteSignature]) -> Note:
        """The same with more below it."""
        return Note(self.text, (*self.signatures, *signatures))


def sign_note(text: str, name: str, key: LogKey) -> Note:
    """`text` must end with a newline. `Malformed` for a name that cannot be one."""
    return Note(text, (NoteSignature(name, key.verifier(name).key_hash, key.sign(text.encode())),))


def verify_untrusted(note: Note, key: VerifierKey) -> bool:
    """Is there a signature by `key`, and does every one that says it is by `key` verify?"""
    claimed = [entry for entry in note.signatures if entry.of(key)]
    return (
        key.kind == SIGNER
        and bool(claimed)
        and all(key._signed_untrusted(entry.signature, note.text.encode()) for entry in claimed)
    )


def _cosigned(text: str, seconds: int) -> bytes:
    return f"cosignature/v1\ntime {seconds}\n{text}".encode()


def cosign(text: str, name: str, key: LogKey, seconds: int) -> NoteSignature:
    """The witness `name` saw this checkpoint, consistent with all before it, at that time (POSIX, UTC)."""
    signature = u64(seconds) + key.sign(_cosigned(text, seconds))
    return NoteSignature(name, key.verifier(name, COSIGNER).key_hash, signature)


def verify_cosignature_untrusted(note: Note, key: VerifierKey) -> int | None:
    """The latest time, in POSIX seconds, at which `key` cosigned this note, or None where it did not."""
    if key.kind != COSIGNER:
        return None
    times = []
    for entry in note.signatures:
        if entry.of(key) and len(entry.signature) == 8 + _SIGNATURE_SIZE:
            reader = Reader(entry.signature)
            seconds = reader.u64()
            if seconds <= MAX_SIZE and key._signed_untrusted(reader.rest(), _cosigned(note.text, seconds)):
                times.append(seconds)
    return max(times, default=None)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a log says that it is: its name, how many leaves it has, and their root [32]."""

    origin: str
    size: int
    root: bytes

    def encode(self) -> str:
        """The text of a note."""
        return f"{self.origin}\n{self.size}\n{_armoured(self.root)}\n"

    @classmethod
    def parse_untrusted(cls, text: str) -> Checkpoint:
        """`Malformed` unless it is exactly these three lines; a size of 0 is none."""
        lines = text.split("\n")
        if len(lines) != 4 or lines[3]:
            raise Malformed("a checkpoint has three lines")
        origin, size, root = lines[0], lines[1], _unarmoured(lines[2])
        if not origin:
            raise Malformed("a checkpoint has no origin")
        if not _NUMBER.fullmatch(size) or int(size) > MAX_SIZE:
            raise Malformed("the size of a checkpoint is no number from 1 on")
        if len(root) != HASH_SIZE:
            raise Malformed("the root of a checkpoint has a wrong length")
        return cls(origin, int(size), root)
