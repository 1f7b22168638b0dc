"""Vector files of the package `cryptography-vectors` as blocks of fields, and the count of what became of each."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import cryptography_vectors

FOLDER = Path(cryptography_vectors.__path__[0])

Block = dict[str, str]
Drive = Callable[[Block], str | None]
"""Puts one vector through our code and asserts what comes out; or says why it cannot go through."""

_SECTION = re.compile(r"\[(.*)\]")


def drive(vectors: Iterator[Block], one: Drive) -> tuple[int, dict[str, int]]:
    """(used, passed over by reason)."""
    outcomes = Counter(one(vector) for vector in vectors)
    used = outcomes.pop(None, 0)
    return used, {reason or "": number for reason, number in outcomes.items()}


_SHARED = ("n", "e")  # an RSA key stands once, before its signatures or with the first of them


def blocks(file: str, needs: str) -> Iterator[Block]:
    """The vectors of a NIST or RFC file: `name = value` lines, apart by an empty line or by a name that comes again.

    A block without the field `needs` is no vector: it is carried into those behind it, as is what stands in brackets.
    """
    carried: Block = {}
    for block in _blocks(FOLDER / file):
        carried |= {name: block[name] for name in _SHARED if name in block}
        if "[" in block:
            carried |= _bracketed(block["["])
        elif needs in block:
            yield carried | block
        else:
            carried |= block


def _blocks(path: Path) -> Iterator[Block]:
    block: Block = {}
    for line in [*path.read_text().splitlines(), ""]:
        text = line.strip()
        if text.startswith("#"):
            continue
        name, _, value = (part.strip() for part in text.partition("="))
        section = _SECTION.fullmatch(text)
        if block and (not text or section or name in block):
            yield block
            block = {}
        if section:
            yield {"[": section[1]}
        elif text:
            block[name] = value


def _bracketed(text: str) -> Block:
    name, equals, value = (part.strip() for part in text.partition("="))
    return {name: value} if equals else {"section": text}


def colons(file: str) -> Iterator[Block]:
    """Ed25519's own file: sk||pk : pk : message : signature||message."""
    for line in (FOLDER / file).read_text().splitlines():
        private, public, message, signed, _ = line.split(":")
        yield {"private": private[:64], "public": public, "message": message, "signature": signed[:128]}


def examples(file: str) -> Iterator[Block]:
    """The files of RSA-OAEP: a line with `# name:` and one with its value; the last name of a vector is Encryption."""
    found: Block = {}
    name = ""
    for line in (FOLDER / file).read_text().splitlines():
        if line.startswith("#"):
            name = line.strip("# :")
            continue
        found[name] = line.strip()
        if name == "Encryption":
            yield dict(found)


def evp(file: str) -> Iterator[Block]:
    """OpenSSL's own form: named keys as PEM, and blocks that refer to them."""
    text = (FOLDER / file).read_text()
    keys = dict(re.findall(r"(?ms)^PublicKey=(\S+)\n(-----BEGIN.*?-----END PUBLIC KEY-----\n)", text))
    for part in text.split("\n\n"):
        block = dict(re.findall(r"^(\w+) = (.*)$", part, re.MULTILINE))
        if "Output" in block:
            yield block | {"pem": keys[block["Key"].replace("_PRIV", "_PUB")]}


def whole(file: str) -> Iterator[Block]:
    """A file that is one vector: a certificate or a key."""
    yield {"hex": (FOLDER / file).read_bytes().hex()}
