"""A logged-in connection seen from the client: requests with their replies, events, keep-alive, the end (protocol §6).

One task reads, one writes, one keeps the connection alive; the outbox between is bounded. What a reply means is decided
in the reader, in the order of the wire, before whoever asked wakes up: a `pubk` and the C1 behind it may come in one
read. Whoever owns the session reacts to each record through one callback, in that order.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

import trio

from messageapp.errors import ConnectionCut, MessageAppError, RemoteProtocolError, RequestRefused, ServerGoodbye
from messageapp.link import Link
from messageapp.wire.commands import (
    Argument,
    BadArgument,
    Bye,
    ByeReason,
    Echo,
    Errors,
    UnknownVerb,
    make,
    parse_untrusted,
)
from messageapp.wire.records import Kind, Record
from messageapp.wire.states import Role
from messageapp_keys.primitives import Random

__all__ = ["Incoming", "Session", "expect"]

QUEUE: Final = 64  # records waiting for the writer; then whoever sends waits
PING_SECONDS: Final = 60.0
DEAD_SECONDS: Final = 150.0

_GOODBYES: Final[dict[int, str]] = {
    ByeReason.SHUTDOWN: "the server is shutting down",
    ByeReason.REPLACED: "this account logged in again on this device",
    ByeReason.AGE: "the session reached its age limit; connect again",
    ByeReason.SLOW: "this client was too slow in reading",
    ByeReason.REMOVED: "this user was removed from the server, or has a new key there",
}


@dataclass(slots=True)
class _Request:
    """A request under way: `apply` runs in the reader when the reply comes, `done` is set afterwards."""

    apply: Callable[[Any], Any]
    done: trio.Event
    result: Any = None
    error: MessageAppError | None = None


@dataclass(frozen=True, slots=True)
class Incoming:
    """A reply or an event, after the request that it answers (if one waited for it) was settled."""

    kind: Kind
    id: int
    verb: bytes
    argument: Any
    awaited: bool


class Session:
    """`react` is called in the reader for every reply and event; `at_end` once, with what ended the session.

    Both may wait, which holds up the reading and so the server's sending, nothing else.
    """

    def __init__(
        self,
        link: Link,
        random: Random,
        react: Callable[[Incoming], Awaitable[None]],
        at_end: Callable[[MessageAppError], Awaitable[None]],
        after_batch: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint_if_cancelled,
    ) -> None:
        """`after_batch` is called in the reader when all that came in one read was reacted to."""
        self._link = link
        self._random = random
        self._react = react
        self._at_end = at_end
        self._after_batch = after_batch
        self._to_writer, self._writer_inbox = trio.open_memory_channel[Record](QUEUE)
        self._requests: dict[int, _Request] = {}
        self._next_id = 1
        self._heard = trio.current_time()
        self.ended: MessageAppError | None = None

    def start(self, nursery: trio.Nursery) -> None:
        """Run the three tasks in `nursery`, until it is cancelled."""
        self._heard = trio.current_time()
        for task in (self._reader, self._writer, self._keep_alive):
            nursery.start_soon(task)

    # sending ----------------------------------------------------------------------------------------------------------

    async def request(self, verb: str, argument: Argument, apply: Callable[[Any], Any] | None = None) -> Any:
        """Send a request and wait for its reply; `apply` sees it in the reader, a refusal as `RequestRefused`.

        Raises what `apply` raises, or the session's error once it ended. Cancelling leaves the reply to be applied.
        """
        request = _Request(apply or _anything, trio.Event())
        await self.post(verb, argument, request)
        await request.done.wait()
        if request.error is not None:
            raise request.error
        return request.result

    async def begin(self, verb: str, argument: Argument, apply: Callable[[Any], Any]) -> None:
        """Send a request as `request` does; nobody waits for the reply, which `apply` sees in the reader."""
        await self.post(verb, argument, _Request(apply, trio.Event()))

    async def post(
        self,
        verb: str,
        argument: Argument,
        request: _Request | None = None,
        noted: Callable[[int], None] = lambda identifier: None,
    ) -> None:
        """Send a request whose reply nobody waits for; `noted` learns its id before it is sent."""
        if self.ended is not None:
            raise self.ended
        identifier, self._next_id = self._next_id, self._next_id % 0xFFFFFFFF + 1
        if request is not None:
            self._requests[identifier] = request
        noted(identifier)
        await self._send(make(Kind.REQUEST, identifier, verb, argument))

    async def _send(self, record: Record) -> None:
        """Gives way only where the queue is full: what is sent in one go is one `send` of the writer's."""
        await trio.lowlevel.checkpoint_if_cancelled()
        try:
            try:
                self._to_writer.send_nowait(record)
            except trio.WouldBlock:
                await self._to_writer.send(record)
        except trio.BrokenResourceError:  # the session ended while we waited for room
            raise self._over() from None

    def _over(self) -> MessageAppError:
        return self.ended or ConnectionCut()

    # tasks ------------------------------------------------------------------------------------------------------------

    async def _reader(self) -> None:
        try:
            while True:
                records = await self._link.receive_records()
                self._heard = trio.current_time()
                for record in records:
                    await self._receive(record)
                await self._after_batch()
        except MessageAppError as error:  # a file of pins that cannot be used among them
            await self.end(error)

    async def _writer(self) -> None:
        try:
            while True:
                records = [await self._writer_inbox.receive()]
                while len(records) < QUEUE:
                    try:
                        records.append(self._writer_inbox.receive_nowait())
                    except trio.WouldBlock:
                        break
                await self._link.send_records(records)
        except (ConnectionCut, trio.ClosedResourceError):
            return  # the reader sees the same and tells why; or has

    async def _keep_alive(self) -> None:
        """Ping when nothing was heard for a minute; silence for much longer means that nobody is there."""
        pinged = self._heard
        while self.ended is None:
            now = trio.current_time()
            if now >= self._heard + DEAD_SECONDS:  # the sums that it sleeps until: a difference rounds otherwise
                await self.end(ConnectionCut())
                return
            if now >= max(self._heard, pinged) + PING_SECONDS:
                pinged = now
                # A full queue means that the writer is stuck; then silence decides.
                with trio.move_on_after(1), contextlib.suppress(MessageAppError):
                    await self.request("ping", Echo(self._random(8)))
            await trio.sleep_until(min(self._heard + DEAD_SECONDS, max(self._heard, pinged) + PING_SECONDS))

    async def end(self, error: MessageAppError) -> None:
        """The session is over: whoever waits is woken. Only the first reason counts."""
        if self.ended is not None:
            return
        self.ended = error
        for request in self._requests.values():
            request.error = error
            request.done.set()
        self._requests.clear()
        self._writer_inbox.close()
        await self._at_end(error)

    # receiving --------------------------------------------------------------------------------------------------------

    async def _receive(self, record: Record) -> None:
        try:
            argument = parse_untrusted(Role.SERVER, record)
        except (BadArgument, UnknownVerb):
            if record.kind is Kind.EVENT:
                return  # of a later version, or none of ours to judge: it changes nothing
            raise RemoteProtocolError("the server sent what cannot be read") from None
        if record.verb == b"byee":
            raise _goodbye(expect(argument, Bye))
        if record.kind is Kind.REQUEST:
            await self._send(make(Kind.REPLY, record.id, "pong", argument))
            return
        request = self._requests.pop(record.id, None) if record.kind is Kind.REPLY else None
        if request is not None:
            _settle(request, argument)
        await self._react(Incoming(record.kind, record.id, record.verb, argument, request is not None))


def _settle(request: _Request, argument: Any) -> None:
    reply = RequestRefused(argument.code, argument.text) if isinstance(argument, Errors) else argument
    try:
        request.result = request.apply(reply)
    except MessageAppError as error:
        request.error = error
        if not isinstance(error, RequestRefused):
            raise
    finally:
        request.done.set()


def _anything(reply: Any) -> Any:
    return expect(reply, object)


def _goodbye(bye: Bye) -> ServerGoodbye:
    return ServerGoodbye(_GOODBYES.get(bye.reason, "the server said goodbye"), bye.reason)


def expect(reply: Any, kind: type[Any]) -> Any:
    """`reply` if it is of `kind`; a refusal is raised, anything else is the server's fault."""
    if isinstance(reply, MessageAppError):
        raise reply
    if not isinstance(reply, kind):
        raise RemoteProtocolError("the server's reply does not fit the request")
    return reply
