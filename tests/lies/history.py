"""A log by hand: leaves, checkpoints and proofs for the judgement alone, without server or session."""

from __future__ import annotations

import sqlite3
from functools import cache
from typing import Any

from messageapp.client.keylog import KeyLog
from messageapp.store.database import apply_schemas, schemas
from messageapp.store.keylog import LogStore
from messageapp.wire.keylog_forms import LogHead, PeerProof
from messageapp_keys import labels
from messageapp_keys.identity import PrivateIdentity
from messageapp_keys.keylog import FLAG_RESET, FLAG_REVOKED, Leaf, change_body, log_key_body, log_origin
from messageapp_keys.notes import Checkpoint, LogKey, sign_note
from messageapp_keys.signing import SignatureAlgorithm, VerifyingKey, sign
from support.world import server_offer

SERVER = "chat.example"


@cache
def person(name: str) -> PrivateIdentity:
    return PrivateIdentity.generate("ed25519")


@cache
def log_key(name: str = "log") -> LogKey:
    return LogKey.generate()


def memory(kind: str) -> sqlite3.Connection:
    """An empty database of this kind, in memory."""
    database = sqlite3.connect(":memory:", isolation_level=None)
    apply_schemas(database, schemas(kind))
    return database


def server_key() -> VerifyingKey:
    return VerifyingKey.of(server_offer().key.public_key())


class History:
    """What a server has written. `enrol`, `change`, `reset` and `revoke` add a leaf as an honest one does."""

    def __init__(self) -> None:
        self.database = memory("server")
        self.store = LogStore(self.database)
        self.keys: dict[str, PrivateIdentity] = {}

    def __enter__(self) -> History:
        return self

    def __exit__(self, *_: object) -> None:
        self.database.close()

    @property
    def size(self) -> int:
        return self.store.size

    def add(self, name: str, key_id: bytes, flags: int = 0, signatures: Any = ()) -> Leaf:
        leaf = Leaf.after(self.store.latest(name), 1000 * self.size, name, key_id, flags, signatures)
        self.store.append([leaf.encode()])
        return leaf

    def enrol(self, name: str, key: str = "") -> None:
        self._now(name, key or name)
        flags = 0 if self.store.latest(name) is None else FLAG_RESET
        self.add(name, self.keys[name].key_id, flags)

    def change(self, name: str, key: str, signer: PrivateIdentity | None = None) -> None:
        old, latest = self.keys[name], self.store.latest(name)
        assert latest is not None
        self._now(name, key)
        new = self.keys[name].key_id
        body = change_body(SERVER, name, latest[1].version + 1, old.key_id, new)
        self.add(name, new, 0, (signer or old).sign(labels.SIG_KEY_CHANGE, body))

    def reset(self, name: str, key: str) -> None:
        self._now(name, key)
        self.add(name, self.keys[name].key_id, FLAG_RESET)

    def revoke(self, name: str) -> None:
        self.add(name, self.keys[name].key_id, FLAG_REVOKED)

    def _now(self, name: str, key: str) -> None:
        self.keys[name] = person(key)

    def encoded(self, start: int = 0, stop: int | None = None) -> list[bytes]:
        return list(self.store.encoded_leaves(start, self.size if stop is None else stop))

    def note(self, size: int | None = None, key: LogKey | None = None, origin: str = log_origin(SERVER)) -> bytes:
        size = self.size if size is None else size
        text = Checkpoint(origin, size, self.store.root(size)).encode()
        return sign_note(text, origin, key or log_key()).encode()

    def head(self, key: LogKey | None = None, **changes: Any) -> LogHead:
        key, offer = key or log_key(), server_offer()
        signature = sign(offer.key, labels.SIG_LOG_KEY, log_key_body(changes.pop("server", SERVER), key.public))
        sigalg = changes.pop("sigalg", int(SignatureAlgorithm.ECDSA_P256))
        return LogHead(changes.pop("note", self.note(key=key)), key.public, sigalg, signature)

    def proof(self, name: str, size: int | None = None, number: int | None = None) -> PeerProof:
        size = self.size if size is None else size
        if number is None:
            number = max(at for at, _ in self.store.of_user(name) if at < size)
        path = tuple(self.store.inclusion(number, size))
        return PeerProof(self.note(size), number, self.store.encoded(number), path)


class Reader:
    """An account that follows it."""

    def __init__(self, user: str = "alice") -> None:
        self.database = memory("account")
        self.log = KeyLog(self.database, SERVER, user)

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self.database.close()

    def follow(self, history: History, size: int | None = None) -> None:
        """Pin if it is the first time, then take all leaves up to `size`."""
        if self.log.known is None:
            self.log.pin_untrusted(history.head(), server_key())
        shown = self.log.read_untrusted(history.note(size))
        if shown.size > self.log.size or self.log.thin:
            assert self.log.replay(shown, history.encoded(self.log.replay_start, shown.size))

    def follow_thin(self, history: History, size: int | None = None) -> None:
        if self.log.known is None:
            self.log.pin_untrusted(history.head(), server_key())
        shown, before = self.log.read_untrusted(history.note(size)), self.log.size
        assert self.log.step(shown, history.store.consistency(before, shown.size) if before else [])

    def dump(self) -> list[str]:
        """All that is stored."""
        return list(self.database.iterdump())
