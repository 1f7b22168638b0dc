"""A witness: cosigns each checkpoint that continues the one it cosigned before (protocol §12.2, C2SP tlog-cosignature).

The account's own follower has verified the checkpoint already. A witness has a second memory, its own, and goes by
that: what it has cosigned is stored before a cosignature leaves, so no crash makes it say two things.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from messageapp.errors import RequestRefused, UnusableSetup
from messageapp.store.witness import find_cosigned, open_witness_key, save_cosigned
from messageapp_keys.codec import Malformed
from messageapp_keys.merkle import ProofRefused, verify_consistency_untrusted
from messageapp_keys.notes import (
    COSIGNER,
    Checkpoint,
    LogKey,
    Note,
    VerifierKey,
    cosign,
    verify_cosignature_untrusted,
)

from .lies import Lie, LogLied

if TYPE_CHECKING:
    from .client import Client

__all__ = ["Witness", "cosign_newest", "open_witness"]


@dataclass(frozen=True, slots=True)
class Witness:
    name: str
    key: LogKey

    @property
    def verifier(self) -> VerifierKey:
        """What server and clients are given."""
        return self.key.verifier(self.name, COSIGNER)


def open_witness(path: Path, name: str) -> Witness:
    """The witness whose key lies at `path`; the first time it is made and called `name`. `UnusableSetup`."""
    return Witness(*open_witness_key(path, name))


async def cosign_newest(client: Client, witness: Witness, seconds: int) -> Checkpoint | None:
    """Cosign what the client holds by now, at `seconds` (POSIX); None where nothing is new.

    Raises what `LogFollower.caught_up` raises, `LogLied` where the checkpoint does not continue what was cosigned
    before, `UnusableSetup` where the server does not take this witness.
    """
    await client.log.caught_up()
    database, server = client.account.trust.database, client.server_name
    data, before = client.log.note(), find_cosigned(database, server)
    note, checkpoint = _read(data, "the stored checkpoint")
    if before:
        _, last = _read(before, "what was cosigned last")
        same = (last.size, last.root) == (checkpoint.size, checkpoint.root)
        if same and verify_cosignature_untrusted(note, witness.verifier) is not None:
            return None
        await _check_continues(client, last, checkpoint, shown=data, stored=before)
    line = cosign(note.text, witness.name, witness.key, seconds).encode().encode()
    if not save_cosigned(database, server, before, data):
        return None  # another process with this key is at it
    try:
        await client.log.ask.cosign(line)
    except RequestRefused:
        await _explain(client, witness, checkpoint)
        return None
    return checkpoint


def _read(data: bytes, what: str) -> tuple[Note, Checkpoint]:
    try:
        note = Note.parse_untrusted(data)
        return note, Checkpoint.parse_untrusted(note.text)
    except Malformed:
        raise UnusableSetup(f"{what} is damaged; nothing is cosigned") from None


async def _check_continues(client: Client, last: Checkpoint, now: Checkpoint, *, shown: bytes, stored: bytes) -> None:
    if now.size < last.size:
        raise LogLied(Lie.ROLLBACK, f"{now.size:,} entries, {last.size:,} were cosigned", shown, stored)
    proof = () if now.size == last.size else await client.log.ask.consistency(last.size, now.size)
    try:
        verify_consistency_untrusted(last.size, last.root, now.size, now.root, proof)
    except ProofRefused as error:
        detail = f"{now.size:,} entries do not continue the {last.size:,} that were cosigned ({error})"
        raise LogLied(Lie.FORK, detail, shown, stored) from None


async def _explain(client: Client, witness: Witness, cosigned: Checkpoint) -> None:
    """The server did not take it. If its log has grown meanwhile, the next one will do."""
    _, newest = _read((await client.log.ask.head()).note, "the server's checkpoint")
    if newest.size == cosigned.size:
        raise UnusableSetup(
            "the server takes no cosignatures of this witness; its owner writes into server.toml: "
            f'witnesses = ["{witness.verifier.encode()}"]'
        )
