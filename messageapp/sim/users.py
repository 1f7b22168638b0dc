"""Users: each seat logs in, reads what it is told, answers calls, and logs in again when its session is over."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

import trio

from messageapp.client import events as ev
from messageapp.client.client import Client, State, open_client
from messageapp.client.login import Account
from messageapp.client.trust import Trust
from messageapp.errors import MessageAppError, RemoteProtocolError
from messageapp_keys.kem import DEFAULT_SUITES, SWIFT

from .excuses import ends_session, fails_login
from .history import seeded
from .ledger import Text
from .materials import SERVER_NAME, Keys, Seeded, identity, memory_database, server_keys
from .plan import Step
from .story import Story, brief
from .streams import Wire

if TYPE_CHECKING:
    from .world import World

__all__ = ["Seat"]

_WIDE: Final = "äß€漢🙂 "  # in NFC, of all lengths in UTF-8
_PATIENCE_SECONDS: Final = 5.0
_LOOK_SECONDS: Final = 0.05
_HYBRID_EVERY: Final = 10  # seeds; RSA is slow


class Seat:
    """A user at a device. `client` is there while it is logged in."""

    def __init__(self, world: World, user: str, device: int) -> None:
        self.world, self.user, self.name = world, user, f"{user}/{device}"
        self.client: Client | None = None
        self.wire: Wire | None = None
        self.armed: list[Step] = []  # faults for the next connection
        self.clock_ms = 0  # how wrong the clock is
        self.sessions = 0
        self.closing = False
        self.last: MessageAppError | str | None = "none"  # how the last session ended
        self._texts = 0
        self._failed = ""  # how the last login did
        self._clock_was_wrong = False
        self._leaving = 0
        self._paused_until = 0.0
        self._rng = seeded("seat", world.plan.seed, self.name)
        self._actions: trio.Nursery | None = None
        key = identity(world.plan.seed, user)
        suites = DEFAULT_SUITES if world.plan.seed % _HYBRID_EVERY == 0 else (SWIFT,)
        self.database = memory_database("account")
        self._account = Account(
            user=user,
            identity=key,
            authority=server_keys()[0],
            trust=Trust(self.database, user, key.bundle, self.wall_ms),
            server=SERVER_NAME,
            suites=suites,
            accept_chat=suites,
        )

    @property
    def owner(self) -> str:
        """The current session's name."""
        return f"{self.name}#{self.sessions}"

    def wall_ms(self) -> int:
        return self.world.wall_ms() + self.clock_ms

    def note(self, text: str) -> None:
        self.world.history.note(self.name, text)

    # sessions ---------------------------------------------------------------------------------------------------------

    async def live(self) -> None:
        """Until `closing`."""
        while not self.closing:
            self.sessions += 1
            story = Story(self.owner, self.world.history, self.world.ledger)
            wire = None
            try:
                wire = self.world.connect(self)
                await self._session(wire, story)
            except MessageAppError as error:
                self._check_login(wire, error)
            finally:
                story.close()
            await trio.sleep(self._rng.choice((0.2, 1.0, 3.0)))

    async def _session(self, wire: Wire, story: Story) -> None:
        self._clock_was_wrong = self.clock_ms != 0
        self.wire = wire
        random = Seeded(self.world.plan.seed, self.owner, 0)
        async with (
            open_client(wire.near, self._account, Keys(), random=random, wall_ms=self.wall_ms) as client,
            trio.open_nursery() as actions,
        ):
            self.client, self._actions = client, actions
            self.note(f"is online ({self.owner})")
            self._failed = ""
            try:
                async for event in client.events:
                    if self._paused_until > trio.current_time():
                        await trio.sleep_until(self._paused_until)
                    self._hear(client, wire, story, event)
            finally:
                self.client = self._actions = None
            actions.cancel_scope.cancel()

    def _hear(self, client: Client, wire: Wire, story: Story, event: ev.Event) -> None:
        self.note(brief(event))
        story.tell(event)
        match event:
            case ev.IncomingCall(peer=peer):
                how, after = self.world.answers.get((peer, self.user), ("accept", 0.0))
                if self._actions is not None and how != "ignore":
                    self._actions.start_soon(self._answer, client, peer, how, after)
            case ev.MessageUnreadable(peer=peer):
                self.world.mail.check_unreadable(self, peer)
            case ev.Ended(error=error):
                self.last = error
                self._check_end(client, wire, error)

    async def _answer(self, client: Client, peer: str, how: str, after: float) -> None:
        await trio.sleep(after)
        if client.caller == peer and client.state is State.RINGING:
            await self._try(how, client.accept if how == "accept" else client.refuse)

    # what may go wrong ------------------------------------------------------------------------------------------------

    def _check_login(self, wire: Wire | None, error: MessageAppError) -> None:
        text = f"cannot log in: {type(error).__name__}: {error}"
        if text == self._failed:
            self.world.history.trace(self.name, text)
        else:
            self.note(text)
        self._failed = text
        # Where there was nobody to connect to, the world has looked whether that may be.
        if wire is not None and not fails_login(wire, error, clock_was_wrong=self._clock_was_wrong):
            self.world.history.breaks("nobody is kept out", f"{self.owner}: {type(error).__name__}: {error}")

    def _check_end(self, client: Client, wire: Wire, error: MessageAppError | None) -> None:
        if error is None or ends_session(wire, error, exiting=client.exiting):
            return
        broke = isinstance(error, RemoteProtocolError)
        invariant = "nobody breaks the protocol" if broke else "no session ends without a reason"
        self.world.history.breaks(invariant, f"{self.owner}: {error}")

    # steps ------------------------------------------------------------------------------------------------------------

    def do(self, step: Step) -> None:
        """Start it; where the user is not logged in, nothing happens."""
        client, actions = self.client, self._actions
        if client is None or actions is None:
            return
        self.note(str(step))
        match step.verb:
            case "say":
                actions.start_soon(self._say, client, step)
            case "write":
                actions.start_soon(self._write, client, step)
            case "list":
                for _ in range(step.args["count"]):
                    actions.start_soon(self._try, "list", client.list_users)
            case "call" | "redial":
                self.world.answers[self.user, step.args["to"]] = step.args["answer"], step.args["after"]
                actions.start_soon(self._call, client, step)
            case "idle":
                self._paused_until = trio.current_time() + step.args["seconds"]
            case "reconnect":
                actions.cancel_scope.cancel()
            case "leave":
                actions.start_soon(self._leave, client)
            case verb:
                actions.start_soon(self._try, verb, getattr(client, verb))

    def leave(self) -> None:
        """For good."""
        self.closing, self.last = True, "never"
        if self.client is not None and self._actions is not None:
            self._actions.start_soon(self._try, "exit", self.client.exit)

    async def _try(self, what: str, act: Callable[[], Awaitable[Any]]) -> bool:
        try:
            await act()
        except MessageAppError as error:
            self.note(f"{what}: {error}")
            return False
        return True

    async def _call(self, client: Client, step: Step) -> None:
        if step.verb == "redial":
            await self._try("cancel", client.cancel)
        await self._try("call", lambda: client.chat(step.args["to"]))

    async def _leave(self, client: Client) -> None:
        self._leaving += 1
        try:
            await self._try("leave", client.leave)
        finally:
            self._leaving -= 1

    async def _say(self, client: Client, step: Step) -> None:
        if client.state is State.ONLINE:
            if not await self._try("call", lambda: client.chat(step.args["to"])):
                return
            until = trio.current_time() + _PATIENCE_SECONDS
            while _waits(client) and trio.current_time() < until:  # noqa: ASYNC110 - as a person does
                await trio.sleep(_LOOK_SECONDS)
        for _ in range(step.args["count"]):
            peer = client.peer
            if peer is None or client.state not in (State.KEYING, State.CHAT):
                return
            await self.say(client, peer, step.args["size"])

    async def _write(self, client: Client, step: Step) -> None:
        for _ in range(step.args["count"]):
            await self.write(client, step.args["to"], step.args["size"])

    async def write(self, client: Client, peer: str, size: int = 0) -> None:
        text = self._text(peer, size)
        text.written = True
        await self._utter("write", text, lambda: client.write(peer, text.text))

    async def say(self, client: Client, peer: str, size: int = 0) -> None:
        text = self._text(peer, size)
        await self._utter("say", text, lambda: client.say(text.text))

    def _text(self, peer: str, size: int) -> Text:
        self._texts += 1
        start = f"{self.name} to {peer} {self._texts}."
        said = self.world.ledger.said((start + _WIDE * size)[: max(size, len(start))].rstrip(), self.owner, peer)
        said.leaving = self._leaving > 0
        return said

    async def _utter(self, verb: str, text: Text, act: Callable[[], Awaitable[int]]) -> None:
        text.refused = True  # also where it is cancelled
        text.refused = not await self._try(verb, act)


def _waits(client: Client) -> bool:
    return client.state is State.CALLING
