"""A reader of tiled transparency logs, from the texts of C2SP alone (signed-note, tlog-checkpoint, tlog-tiles,
tlog-cosignature) with hashlib and base64: nothing of ours is in it, so that what it accepts others accept."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

__all__ = ["SignedCheckpoint", "cosigned_at", "read_checkpoint", "read_export", "tree_hash"]


@dataclass(frozen=True)
class SignedCheckpoint:
    origin: str
    size: int
    root: bytes
    text: str
    signatures: tuple[tuple[str, bytes, bytes], ...]  # (key name, key ID, signature)


def _sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def _key(vkey: str, kind: int) -> tuple[str, bytes, Ed25519PublicKey]:
    """(name, key ID, key) of `<name>+<hash>+<base64 of type and key>`."""
    name, key_id, data = vkey.split("+", 2)
    raw = base64.b64decode(data, validate=True)
    assert raw[0] == kind
    assert len(raw) == 33
    assert bytes.fromhex(key_id) == _sha256(name.encode() + b"\n" + raw)[:4]
    return name, bytes.fromhex(key_id), Ed25519PublicKey.from_public_bytes(raw[1:])


def read_checkpoint(note: bytes, vkey: str) -> SignedCheckpoint:
    """Fails unless the log's key has signed it."""
    whole = note.decode()
    assert not re.search(r"[\x00-\x09\x0b-\x1f]", whole)
    text, _, below = whole.rpartition("\n\n")
    text += "\n"
    assert below.endswith("\n")
    found = []
    for line in below.removesuffix("\n").split("\n"):
        match = re.fullmatch("\u2014 ([^ +]+) ([A-Za-z0-9+/=]+)", line)
        assert match, line
        data = base64.b64decode(match[2], validate=True)
        found.append((match[1], data[:4], data[4:]))
    name, key_id, key = _key(vkey, 0x01)
    ours = [signature for who, which, signature in found if (who, which) == (name, key_id)]
    assert ours, "the log has not signed it"
    for signature in ours:
        key.verify(signature, text.encode())
    origin, size, root, rest = text.split("\n", 3)
    assert rest == ""
    assert str(int(size)) == size
    assert len(base64.b64decode(root, validate=True)) == 32
    return SignedCheckpoint(origin, int(size), base64.b64decode(root), text, tuple(found))


def cosigned_at(checkpoint: SignedCheckpoint, vkey: str) -> list[int]:
    """The times at which this witness has cosigned it; fails for a signature of its that does not verify."""
    name, key_id, key = _key(vkey, 0x04)
    times = []
    for who, which, signature in checkpoint.signatures:
        if (who, which) == (name, key_id):
            time = int.from_bytes(signature[:8], "big")
            key.verify(signature[8:], f"cosignature/v1\ntime {time}\n{checkpoint.text}".encode())
            times.append(time)
    return times


def tree_hash(hashes: list[bytes]) -> bytes:
    """MTH of RFC 6962 §2.1 over leaf hashes."""
    if len(hashes) == 1:
        return hashes[0]
    k = 1
    while 2 * k < len(hashes):
        k *= 2
    return _sha256(b"\x01" + tree_hash(hashes[:k]) + tree_hash(hashes[k:]))


def _path(number: int) -> str:
    """Zero-padded three-digit path elements, all but the last with an x."""
    digits = str(number)
    digits = "0" * (-len(digits) % 3) + digits
    groups = [digits[at : at + 3] for at in range(0, len(digits), 3)]
    return "/".join([*("x" + group for group in groups[:-1]), groups[-1]])


def _names(level: str, count: int) -> list[tuple[str, int]]:
    """(path, how many in it) of the tiles that hold `count` hashes or entries."""
    full, rest = divmod(count, 256)
    found = [(f"tile/{level}/{_path(number)}", 256) for number in range(full)]
    return found + ([(f"tile/{level}/{_path(full)}.p/{rest}", rest)] if rest else [])


def read_export(folder: Path) -> tuple[SignedCheckpoint, list[bytes]]:
    """(checkpoint, entries), every tile of them checked against the others and the signed root."""
    checkpoint = read_checkpoint((folder / "checkpoint").read_bytes(), (folder / "log.vkey").read_text().strip())
    entries: list[bytes] = []
    for name, width in _names("entries", checkpoint.size):
        data, there = (folder / name).read_bytes(), 0
        while data:
            length = int.from_bytes(data[:2], "big")
            assert len(data) >= 2 + length
            entries.append(data[2 : 2 + length])
            data, there = data[2 + length :], there + 1
        assert there == width
    level, hashes = 0, [_sha256(b"\x00" + entry) for entry in entries]
    while hashes:
        for at, (name, width) in enumerate(_names(str(level), len(hashes))):
            assert (folder / name).read_bytes() == b"".join(hashes[256 * at : 256 * at + width]), name
        level, hashes = level + 1, [
            tree_hash(hashes[at : at + 256]) for at in range(0, len(hashes) // 256 * 256, 256)
        ]  # fmt: skip
    assert tree_hash([_sha256(b"\x00" + entry) for entry in entries]) == checkpoint.root
    return checkpoint, entries
