"""The key log as the running server shows it: signed checkpoints, proofs, changes that users ask for (protocol §12).

Leaves are written where keys are (store/users.py), by this process and by others; only this one has the key that signs.
Reading is a few rows at a time, some µs each, so it is done between two records; what writes goes through `Writer`.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Sequence
from typing import Final

from messageapp.clock import wall_ms
from messageapp.errors import UnusableSetup
from messageapp.store.home import Home, read_secret, write_file
from messageapp.store.keylog import LogStore
from messageapp.store.users import ChangeRefused, adopt, change_key, find_bundle, writing_users
from messageapp.wire.commands import ErrorCode
from messageapp.wire.keylog_forms import (
    MAX_LOG_BYTES,
    MAX_USER_LEAVES,
    LogBundle,
    LogConsistency,
    LogHead,
    LogInclusion,
    LogLeaves,
    LogOp,
    LogReply,
    LogRequest,
    LogUser,
    NewKey,
    PeerProof,
)
from messageapp.wire.login import ServerOffer
from messageapp_keys import labels
from messageapp_keys.codec import Malformed, reading_untrusted
from messageapp_keys.identity import IdentityBundle, Signatures, read_signatures
from messageapp_keys.keylog import log_key_body, log_origin
from messageapp_keys.notes import (
    COSIGNER,
    Checkpoint,
    LogKey,
    Note,
    NoteSignature,
    VerifierKey,
    sign_note,
    verify_cosignature_untrusted,
)
from messageapp_keys.signing import sign

from .denial import RequestDenied
from .directory import DirectoryUnreadable, Writer, open_writer, reading

__all__ = ["MAX_WITNESSES", "ServerLog", "open_log"]

MAX_WITNESSES: Final = 16
"""Whose cosignatures the server takes: each adds a line to every checkpoint."""
MAX_WITNESS_NAME: Final = 64
"""Bytes in the name of a witness: with the lines of all of them a checkpoint still fits M4 (4,096 bytes)."""
MAX_RANGE: Final = 2_048
"""Leaves that are read for one reply: the shortest have 59 bytes, so that more would not fit."""
_log = logging.getLogger("messageapp.server")


def open_log(home: Home, database: sqlite3.Connection, offer: ServerOffer, witnesses: Sequence[str] = ()) -> ServerLog:
    """The log of this home; the first time its key is made, and users of before get their leaves.

    `witnesses` are verifier keys in their text form. `UnusableSetup`.
    """
    trusted = _read_witnesses(witnesses)
    if not home.log_key.exists():
        write_file(home.log_key, LogKey.generate().pem())
    try:
        key = LogKey.from_pem(read_secret(home.log_key))
    except Malformed as error:
        raise UnusableSetup(f"{home.log_key}: {error}") from None
    adopt(database, wall_ms())
    return ServerLog(database, open_writer(home.directory), key, offer, trusted)


def _read_witnesses(texts: Sequence[str]) -> list[VerifierKey]:
    found: dict[str, VerifierKey] = {}
    for text in texts:
        try:
            witness = VerifierKey.parse_untrusted(text)
        except Malformed as error:
            raise UnusableSetup(f"the witness {text!r}: {error}") from None
        if witness.kind != COSIGNER or witness.name in found or len(witness.name.encode()) > MAX_WITNESS_NAME:
            raise UnusableSetup(
                f"the witness {witness.name} stands twice, its key is not one of a witness, "
                f"or its name has more than {MAX_WITNESS_NAME} bytes"
            )
        found[witness.name] = witness
    if len(found) > MAX_WITNESSES:
        raise UnusableSetup(f"a server has at most {MAX_WITNESSES} witnesses")
    return list(found.values())


class ServerLog:
    """One per server. `database` is read between records, `write` changes the file."""

    def __init__(
        self,
        database: sqlite3.Connection,
        write: Writer,
        key: LogKey,
        offer: ServerOffer,
        witnesses: Sequence[VerifierKey] = (),
        wall_ms: Callable[[], int] = wall_ms,
    ) -> None:
        """`offer` gives the canonical name."""
        self.server = offer.names[0]
        self._origin = log_origin(self.server)
        self._database, self._write = database, write
        self._key, self._offer = key, offer
        self._witnesses = {witness.name: witness for witness in witnesses}
        self._wall_ms = wall_ms
        self._store = LogStore(database)
        self._signed: tuple[int, Note] | None = None
        self._bindings: dict[bytes, bytes] = {}  # by the hash of the certificate's key
        self._answers: dict[LogOp, Callable[[LogRequest], LogReply]] = {
            LogOp.RANGE: self._range,
            LogOp.INCLUSION: self._inclusion,
            LogOp.CONSISTENCY: self._consistency,
            LogOp.KEYS: self._bundle,
            LogOp.USER: self._user,
        }

    # what is shown to everybody ---------------------------------------------------------------------------------------

    def note(self) -> bytes:
        """The newest checkpoint with the cosignatures that came; empty while the log is. `DirectoryUnreadable`."""
        with reading():
            size = self._store.size
            return self._cosigned(size) if size else b""

    def head(self, offer: ServerOffer | None = None) -> LogHead:
        """The note, and the log's key bound to the certificate of `offer` (of the present one without).

        `RequestDenied` while the log is empty, `DirectoryUnreadable`.
        """
        if not (note := self.note()):
            raise RequestDenied(ErrorCode.NOT_AVAILABLE, "the key log is empty")
        offer = offer or self._offer
        if (signature := self._bindings.get(offer.leaf_spki_hash)) is None:
            body = log_key_body(self.server, self._key.public)
            signature = self._bindings[offer.leaf_spki_hash] = sign(offer.key, labels.SIG_LOG_KEY, body)
        return LogHead(note, self._key.public, int(offer.sigalg), signature)

    def proof_of(self, user: str) -> bytes:
        """That the user's newest leaf is in the log, for `pubk`; empty where nothing can be read: no chat begins."""
        try:
            with reading():
                found = self._store.latest(user)
                if found is None:
                    return b""
                number, leaf = found
                size = self._store.size  # behind the leaf, so that it is in
                proof = tuple(self._store.inclusion(number, size))
                return PeerProof(self._cosigned(size), number, leaf.encode(), proof).encode()
        except DirectoryUnreadable as error:
            _log.warning("%s; a call goes without proof", error)
            return b""

    def _checkpoint(self, size: int) -> Note:
        if self._signed is None or self._signed[0] != size:
            checkpoint = Checkpoint(self._origin, size, self._store.root(size))
            self._signed = size, sign_note(checkpoint.encode(), self._origin, self._key)
        return self._signed[1]

    def _cosigned(self, size: int) -> bytes:
        rows = self._database.execute("SELECT witness, line FROM cosignatures WHERE size = ? ORDER BY witness", (size,))
        lines = [line for witness, line in rows if witness in self._witnesses]
        return self._checkpoint(size).encode() + "".join(lines).encode()

    # what clients ask -------------------------------------------------------------------------------------------------

    def answer(self, request: LogRequest, offer: ServerOffer | None) -> LogReply:
        """The reply to all operations but `COSIGN`. `RequestDenied`, `DirectoryUnreadable`."""
        if request.op is LogOp.HEAD:
            return self.head(offer)
        with reading():
            return self._answers[request.op](request)

    def _range(self, request: LogRequest) -> LogReply:
        start, stop = request.first, request.second
        if start >= stop:
            raise RequestDenied(ErrorCode.MALFORMED, "malformed argument")
        self._within(stop)
        taken: list[bytes] = []
        room = MAX_LOG_BYTES
        for leaf in self._store.encoded_leaves(start, min(stop, start + MAX_RANGE)):
            room -= len(leaf) + 2
            if room < 0:
                break
            taken.append(leaf)
        return LogLeaves(start, tuple(taken))

    def _inclusion(self, request: LogRequest) -> LogReply:
        index, size = request.first, request.second
        if index >= size:
            raise RequestDenied(ErrorCode.MALFORMED, "malformed argument")
        self._within(size)
        leaf = self._store.encoded(index)
        return LogInclusion(leaf, tuple(self._store.inclusion(index, size)))

    def _consistency(self, request: LogRequest) -> LogReply:
        old, new = request.first, request.second
        if not 0 < old <= new:
            raise RequestDenied(ErrorCode.MALFORMED, "malformed argument")
        self._within(new)
        return LogConsistency(tuple(self._store.consistency(old, new)))

    def _bundle(self, request: LogRequest) -> LogReply:
        bundle = find_bundle(self._database, request.data)
        if bundle is None:
            raise RequestDenied(ErrorCode.NOT_AVAILABLE, "not available")
        return LogBundle(bundle)

    def _user(self, request: LogRequest) -> LogReply:
        found = self._store.latest(request.data.decode())
        taken: list[tuple[int, bytes]] = []
        room = MAX_LOG_BYTES
        while found is not None and len(taken) < MAX_USER_LEAVES:
            number, leaf = found
            encoded = leaf.encode()
            room -= len(encoded) + 10
            if room < 0:
                break
            taken.append((number, encoded))
            found = None if leaf.previous is None else (leaf.previous, self._store.leaf(leaf.previous))
        return LogUser(tuple(taken))

    def _within(self, size: int) -> None:
        if size > self._store.size:
            raise RequestDenied(ErrorCode.MALFORMED, "the key log has no such leaf")

    # what clients change ----------------------------------------------------------------------------------------------

    async def change_key(self, user: str, old_key_id: bytes, new: NewKey) -> None:
        """newk. `RequestDenied` where anything is wrong with it, `UnusableSetup`; then nothing has changed."""

        def act(database: sqlite3.Connection) -> None:
            try:
                bundle = IdentityBundle.parse_untrusted(new.bundle)
                change, possession = _signatures_untrusted(new.change), _signatures_untrusted(new.possession)
                change_key(database, self.server, user, old_key_id, bundle, change, possession, self._wall_ms())
            except (Malformed, ChangeRefused):
                raise RequestDenied(ErrorCode.MALFORMED, "the key cannot be changed like this") from None

        await self._write(act)

    async def cosign(self, line: bytes) -> None:
        """A witness's line for the present checkpoint. `RequestDenied`, `UnusableSetup`."""
        with reading():
            size = self._store.size
            entry = self._cosignature_untrusted(line, size)

        def act(database: sqlite3.Connection) -> None:
            with writing_users(database):
                database.execute("DELETE FROM cosignatures WHERE size < ?", (size,))
                database.execute(
                    "INSERT OR REPLACE INTO cosignatures (size, witness, line) VALUES (?, ?, ?)",
                    (size, entry.name, entry.encode()),
                )

        await self._write(act)

    def _cosignature_untrusted(self, line: bytes, size: int) -> NoteSignature:
        """`RequestDenied` unless it is of a witness of ours, for the checkpoint of this size."""
        try:
            entry = NoteSignature.parse_untrusted(line.decode())
        except (UnicodeDecodeError, Malformed):
            raise RequestDenied(ErrorCode.MALFORMED, "malformed argument") from None
        witness = self._witnesses.get(entry.name)
        note = None if witness is None or not size else self._checkpoint(size).adding([entry])
        if witness is None or note is None or verify_cosignature_untrusted(note, witness) is None:
            text = "no cosignature of the present checkpoint by a witness of ours"
            raise RequestDenied(ErrorCode.NOT_AVAILABLE, text)
        return entry


def _signatures_untrusted(data: bytes) -> Signatures:
    with reading_untrusted(data) as reader:
        return read_signatures(reader)
