"""Makes tests/data/backup-vector.json from the text of protocol §15.1, with hashlib and hmac; nothing of the product.

The entropy and its words are a published vector of BIP-39 (256 bits, 7f…). The key of the identity is a test key.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

ENTROPY = b"\x7f" * 32
WORDS = (
    "legal winner thank year wave sausage worth useful legal winner thank year wave sausage worth useful "
    "legal winner thank year wave sausage worth title"
)
NONCE, ACCOUNT = bytes(range(12)), b"an account"


def sized(data: bytes, width: int) -> bytes:
    return len(data).to_bytes(width, "big") + data


def main() -> None:
    prk = hmac.digest(b"MessageApp v2 backup", ENTROPY, "sha256")
    info = (32).to_bytes(2, "big") + sized(b"msgapp2 backup key", 1) + sized(b"", 1)
    key = hmac.digest(prk, info + b"\x01", "sha256")
    private = ed25519.Ed25519PrivateKey.from_private_bytes(hashlib.sha256(b"backup vector").digest())
    public = private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    pkcs8 = private.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    one_ed25519 = b"\x01\x08\x07"
    identity = sized(one_ed25519 + sized(public, 2), 2) + one_ed25519 + sized(pkcs8, 2)
    sections = b"".join(
        number.to_bytes(2, "big") + sized(data, 4) for number, data in ((1, identity), (2, ACCOUNT), (9, b"later"))
    )
    header = b"MSGAPPB\x01" + b"\x02" + NONCE + sized(b"alice", 1)
    body = header + sized(AESGCM(key).encrypt(NONCE, sections, header), 4)
    found = {
        "entropy": ENTROPY.hex(),
        "words": WORDS,
        "key": key.hex(),
        "public": public.hex(),
        "account": ACCOUNT.hex(),
        "file": (body + hashlib.sha256(body).digest()).hex(),
    }
    target = Path(__file__).parents[1] / "data" / "backup-vector.json"
    target.write_text(json.dumps(found, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
