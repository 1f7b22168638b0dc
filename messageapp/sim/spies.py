"""Eyes on what the product does inside, while a simulation runs; the product knows nothing of them.

- records: what opens is, in order and byte for byte, what was sealed in the same direction under the same secret
- the server's queues: never more than their bounds, and only who has a full one is told that he is too slow
- conversations: which texts are sealed for whom, in which chat
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Final
from unittest.mock import patch

from messageapp.client import keying, prekeys
from messageapp.client.conversations import Conversation
from messageapp.e2ee.envelope import Envelope
from messageapp.e2ee.exchange import Parties
from messageapp.e2ee.session import ChatSession
from messageapp.limits import Limits
from messageapp.server import serve
from messageapp.server.outbox import Outbox
from messageapp.server.session import Session
from messageapp.wire import records
from messageapp.wire.commands import ByeReason
from messageapp.wire.records import Packed, RecordOpener, RecordSealer
from messageapp_keys.primitives import Buffer
from messageapp_keys.types import TrafficSecret

from .history import History
from .ledger import End, Ledger
from .materials import Seeded

__all__ = ["spying"]

_MOST_RECORD: Final = 131_072  # an empty queue takes one of any size
_GOODBYE: Final = 1
_TICK_SECONDS: Final = 2.0  # looking four times a second for what seldom comes was half of a run's cost
FEW_PREKEYS: Final = 4  # so that the last-resort one has its turn, and a login costs little


@contextmanager
def spying(history: History, ledger: Ledger, limits: Limits) -> Iterator[None]:
    with ExitStack() as stack:
        for target, name, replacement in (
            *_records(history),
            (Outbox, "_queue", _watched_queue(history, limits)),
            (Session, "end", _watched_end(history, limits)),
            (keying, "Conversation", _watched_conversation(ledger)),
            (ChatSession, "seal_envelope", _counted_seal(ledger)),
            (prekeys, "ONE_TIME", FEW_PREKEYS),
            (prekeys, "REFILL", FEW_PREKEYS // 2),
            (serve, "_CHECK_SECONDS", _TICK_SECONDS),
        ):
            stack.enter_context(patch.object(target, name, replacement))
        yield


def _records(history: History) -> list[tuple[Any, str, Any]]:
    begin, seal, open_ = records._Direction.__init__, RecordSealer.seal_run, RecordOpener.open_packed_untrusted
    streams: dict[int, tuple[object, bytes]] = {}  # with the object: its id stays its own
    sealed: dict[bytes, list[int]] = {}
    opened: dict[bytes, int] = {}

    def spied_begin(self: records._Direction, secret: TrafficSecret, username: str) -> None:
        streams[id(self)] = self, secret.expose()
        begin(self, secret, username)

    def spied_seal(self: RecordSealer, batch: Iterable[Packed], parts: list[Buffer]) -> int:
        batch = list(batch)
        prints = [hash(bytes(packed)) for packed in batch]
        done = seal(self, batch, parts)
        sealed.setdefault(streams[id(self)][1], []).extend(prints[:done])
        return done

    def spied_open(self: RecordOpener, body: Buffer) -> Packed:
        packed = open_(self, body)
        stream = streams[id(self)][1]
        place = opened.get(stream, 0)
        opened[stream] = place + 1
        if sealed.get(stream, [])[place : place + 1] != [hash(bytes(packed))]:
            history.breaks("counters are strict", f"record {place} of a direction is not the one that was sealed there")
        return packed

    return [
        (records._Direction, "__init__", spied_begin),
        (RecordSealer, "seal_run", spied_seal),
        (RecordOpener, "open_packed_untrusted", spied_open),
    ]


def _watched_queue(history: History, limits: Limits) -> Any:
    queue = Outbox._queue
    most = limits.queue_frames + limits.queue_frames // 4 + _GOODBYE
    most_bytes = limits.queue_bytes + limits.queue_bytes // 4 + _MOST_RECORD

    def spied(self: Outbox, item: Any, size: int) -> None:
        queue(self, item, size)
        waiting = self._send.statistics().current_buffer_used
        if waiting > most or self._queued_bytes > most_bytes:
            history.breaks("queues are bounded", f"{waiting} records, {self._queued_bytes} bytes wait for one peer")

    return spied


def _watched_end(history: History, limits: Limits) -> Any:
    end = Session.end

    def spied(self: Session, reason: ByeReason, reply_to: int | None = None) -> None:
        queue = self.outbox
        full = queue._queued_count >= limits.queue_frames or queue._queued_bytes >= limits.queue_bytes
        if reason is ByeReason.SLOW and self.ended is None and not full:
            history.breaks("no session ends without a reason", f"{self.user} is too slow, and his queue is not full")
        end(self, reason, reply_to)

    return spied


def _counted_seal(ledger: Ledger) -> Any:
    seal = ChatSession.seal_envelope

    def spied(self: ChatSession, envelope: Envelope) -> bytes:
        ledger.in_session[self.user, self.chat_id] += 1
        return seal(self, envelope)

    return spied


def _watched_conversation(ledger: Ledger) -> type[Conversation]:
    class Watched(Conversation):
        def __init__(self, *, user: str, peer: str, parties: Parties, random: Any, **others: Any) -> None:
            super().__init__(user=user, peer=peer, parties=parties, random=random, **others)
            assert isinstance(random, Seeded)  # noqa: S101 - clients of a simulation have no other
            self._end = End(random.owner, user, peer, parties.invite)
            ledger.opened(self._end)

        def seal_envelope(self, envelope: Envelope) -> bytes:
            content = super().seal_envelope(envelope)
            self._end.chat = self.session.chat_id
            ledger.sealed(self._end, envelope.text, content)
            return content

    return Watched
