"""What a peer could not read is said again (protocol §16, rule 6): texts by their ids, and what notes have said.

A note that was lost cannot be named by anybody: the sender does not keep it, the receiver could not read it. So an id
that is no text of ours to this peer is answered without a text, and with it goes once more what notes say: what of the
peer's is on this disk and was read, the timer, the last changes and reactions. What is known already changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from messageapp.clock import DAY_MS
from messageapp.e2ee.envelope import MAX_IDS, Envelope
from messageapp.store import messages as rows
from messageapp.store import outbox
from messageapp.store.conversations import find_conversation
from messageapp.store.database import Database
from messageapp.store.messages import Message
from messageapp.store.states import State
from messageapp_keys.primitives import Random

from .messages import envelope_of

__all__ = ["CHANGES", "MAX_QUEUED", "NOTHING_LEFT", "resend"]

NOTHING_LEFT: Final = 64  # answers to one request for what we do not have: a peer must not make us send without end
MAX_QUEUED: Final = 2000  # that wait for one peer: whoever asks for still more gets no answer until they are sent
CHANGES: Final = 16  # of texts, and as many reactions, that are said again
_CONFIRMED: Final = (State.DELIVERED, State.READ)
_RECENT_MS: Final = 30 * DAY_MS  # what is older no server has kept


def resend(database: Database, server: str, peer: str, ids: Sequence[bytes], now_ms: int, random: Random) -> None:
    """Queue the answers to a request of `peer`, in the transaction that is open.

    Only texts to this very peer are sent again, with the id and time that they had; what waits already is not. Nor is
    what he has confirmed: he does not ask for that. Who has stolen his key would, and the server knows all ids.
    """
    if outbox.count(database, server, peer) >= MAX_QUEUED:
        return
    found = find_conversation(database, server, peer)
    assert found is not None  # noqa: S101 - the request has come in it
    nothing: list[bytes] = []
    for id in dict.fromkeys(ids):
        if outbox.find(database, server, peer, id) is not None:
            continue
        own = rows.find_by_id(database, found.id, id, own=True)
        if own is None:
            nothing.append(id)
            continue
        if own.state in _CONFIRMED:
            continue
        content = envelope_of(own).encode()
        outbox.add(database, server, peer, id, now_ms=now_ms, number=own.number, content=content)
    for id in nothing[1:NOTHING_LEFT]:
        outbox.add(database, server, peer, id, now_ms=now_ms, content=Envelope(id, now_ms).encode())
    if nothing:
        recent = rows.history(database, found.id, MAX_IDS)[::-1]
        have = [each for each in recent if each.state is State.RECEIVED]
        answer = Envelope(
            nothing[0],
            now_ms,
            receipts=tuple([each.id for each in have]),
            read=tuple([each.id for each in have if found.receipts and each.number <= found.last_read]),
            expire_s=found.expire_s,
        )
        outbox.add(database, server, peer, answer.id, now_ms=now_ms, content=answer.encode())
        for about, note in _changes(recent, now_ms, random):
            outbox.add(database, server, peer, note.id, now_ms=now_ms, about=about, content=note.encode())


def _changes(recent: Sequence[Message], now_ms: int, random: Random) -> list[tuple[int, Envelope]]:
    """(number of the message, note)."""
    edited = [each for each in recent if each.own and each.text and now_ms - (each.edited_ms or 0) < _RECENT_MS]
    reacted = [(each, emoji) for each in recent for ours, emoji in each.reactions if ours]
    return [(each.number, Envelope(random(16), now_ms, each.text, edits=each.id)) for each in edited[:CHANGES]] + [
        (each.number, Envelope(random(16), now_ms, react=(each.id, emoji))) for each, emoji in reacted[:CHANGES]
    ]
