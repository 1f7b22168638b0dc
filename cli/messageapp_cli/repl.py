"""The client's loop: lines → client, events → screen. It knows no terminal; `Console` is one, or a script's pipe.

Two tasks: one carries out the lines, one by one, the other shows what comes in. `plain` is the strict reading for
scripts: a command is carried out before the next line is read, and a line that is no command waits while a call is
under way until the chat is secure or the call is over.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Final

import trio

from messageapp.client import events as ev
from messageapp.client.client import Client, State
from messageapp.client.unconnected import AnyClient, Unconnected, connected
from messageapp.errors import CannotStore, ConnectionCut, MessageAppError, RequestRefused
from messageapp.wire.commands import ErrorCode
from messageapp_keys.names import fold

from . import modes
from .calling import Calling
from .checking import MARK, printable, shown_lines
from .commands import help_lines
from .console import BadInput, Completion, Console, EndOfInput, Input, Interrupt, Jump, Line
from .greeting import greeting_lines, news_lines
from .inbox import Inbox
from .messaging import Messaging
from .modes import Complain, Run, Say, Screen, Write
from .reconnect import Connections, caught_up, lost_by
from .render import auth, error_line, first_chat_lines, log_line, one_line, render
from .verifying import Verifying

__all__ = ["Repl"]

_LOST: Final = "connection lost; trying again"
_SLASH_HINT: Final = "sent as text; commands begin with / here"
_LEAVE_HINT: Final = "Press Ctrl-C once more to log off, or go on typing."


class Repl:
    """A `View` for the console and the loop behind it. `run` returns the error that ended the session, or None."""

    def __init__(
        self, client: AnyClient, *, plain: bool, encoding: str = "utf-8", connections: Connections | None = None
    ) -> None:
        """`encoding` is the screen's: it may have no pictures. `connections` bring the next client when this one is
        lost; without them that is the end. An `Unconnected` needs them."""
        self._client = client
        self._connections = connections
        self._leaving = False
        self._lost: int | None = None  # messages, since the connection was lost; None while there is nothing to tell
        self._chat_shown: ev.Keying | ev.ChatSecure | None = None  # the one under way, by the events so far
        self._plain = plain
        self._pictures = not plain and printable(encoding)
        self._mark = "" if plain else MARK if self._pictures else "verified"
        self._console: Console | None = None
        self._token = trio.lowlevel.current_trio_token()
        self._changed = trio.Event()
        self._chat_just_ended = False
        self._asked_to_leave = False
        self._slash_told = False
        self._verified = False  # the peer, by the key of this chat: the trust store is not read while drawing
        self._handlers: dict[str, Callable[[Sequence[str]], Awaitable[None]]] = {
            "status": self._status,
            "reconnect": self._reconnect,
            "help": self._help,
        }

        def now() -> AnyClient:
            return self._client

        self._inbox = Inbox(now, plain=plain, pictures=self._pictures, mark=self._mark)
        self._messaging = Messaging(now, self._inbox, connections, plain=plain)
        self._handlers |= self._messaging.handlers
        self._handlers |= Calling(now, self._inbox, self._mark).handlers
        self._handlers |= Verifying(now, self._inbox, pictures=self._pictures).handlers

    # the view: pure reads, also from the console's thread -------------------------------------------------------------

    def screen(self) -> Screen:
        client, inbox = self._client, self._inbox
        return Screen(
            client.account.user,
            client.state,
            client.peer,
            client.caller,
            client.online,
            self._chat_just_ended,
            f"{self._mark} " if self._mark and self._is_verified() else "",
            isinstance(client, Client) and client.checks.waits,
            inbox.current.peer,
            inbox.current.mark,
            inbox.memory.places,
            inbox.memory.recent,
        )

    def prompt(self) -> str:
        return modes.prompt(self.screen())

    def complete(self, text: str) -> Sequence[Completion]:
        self._token.run_sync_soon(self._client.want_refresh)
        return modes.complete(self.screen(), text)

    def toolbar(self) -> str:
        client = self._client
        lost = self._connection_text()
        parts = [lost] if lost else []  # what matters most comes first: a narrow screen cuts the rest off
        match client.state:
            case State.CHAT:
                trusted = "verified" if self._is_verified() else "not verified"
                bundle = client.peer_bundle
                theirs = "" if bundle is None else f"{auth(bundle)}, "
                live = "LIVE " if self.screen().with_open else ""
                parts.append(f"{live}chat with {client.peer}, {client.chat_suite}, {theirs}{trusted}")
            case State.KEYING:
                parts.append(f"making keys with {client.peer} …")
            case State.CALLING:
                parts.append(f"calling {client.peer} … (cach cancels)")
            case State.RINGING:
                parts.append(f"{client.caller} is calling: acpt or refu")
        parts += [*self._inbox.memory.toolbar_parts(), f"{client.account.user}@{client.server_name}"]
        if not (lost or client.info is None):
            parts.append(f"login {client.info.suite.name}, {auth(client.account.identity.bundle)}")
        parts += ["help lists the commands"] if client.state is State.ONLINE else []
        return " · ".join(parts)

    def _connection_text(self) -> str:
        """Empty while connected."""
        return "" if self._connections is None else one_line(self._connections.text, 100)

    def _is_verified(self) -> bool:
        return self._verified and self._client.state is State.CHAT

    # the loop ---------------------------------------------------------------------------------------------------------

    async def run(self, console: Console) -> MessageAppError | None:
        """Until the user leaves or the session ends for good. Leaves the chat and logs off by itself when the input
        ends. Who leaves while the connection is lost gets the error that lost it."""
        self._console = console
        if self._connections is not None:
            self._connections.changed = self._tick
        self._write(*greeting_lines(self._client))
        self._inbox.begin(console)
        try:
            return await self._run(console)
        finally:
            with suppress(MessageAppError):  # a full disk has no room for a half-typed line
                self._inbox.end()

    async def _run(self, console: Console) -> MessageAppError | None:
        ended: MessageAppError | None = None
        async with trio.open_nursery() as nursery:

            async def show_events() -> None:
                nonlocal ended
                while True:
                    ended = await self._show_session()
                    if self._connections is None or not self._comes_back(ended):
                        break
                    try:
                        client = await self._connections.again()
                    except MessageAppError as error:
                        ended = error
                        self._write(error_line(error))
                        break
                    how = self.attach(client)
                    nursery.start_soon(self._tell_resumed, client, how)
                nursery.cancel_scope.cancel()

            nursery.start_soon(show_events)
            nursery.start_soon(self._inbox.run)
            async for item in console.inputs:
                if not await self._take(item):
                    break
            self._leaving = True
            if self._is_lost():
                nursery.cancel_scope.cancel()
            await self.leave()
        return ended

    async def _show_session(self) -> MessageAppError | None:
        """The events of one client; what ended it."""
        ended = self._client.ended if isinstance(self._client, Unconnected) else None
        async for event in self._client.events:
            if isinstance(event, ev.Ended):
                ended = event.error
            self._show(event)
        return ended

    def attach(self, client: Client) -> str:
        """Go on with `client`, logged in anew, or for the first time, by the same account. What that is called."""
        first, self._client = isinstance(self._client, Unconnected), client
        for line in greeting_lines(client) if first else news_lines(client):
            self._write(line)
        return "connected" if first else "resumed"

    async def _tell_resumed(self, client: Client, how: str) -> None:
        received = await caught_up(client)
        if client.ended is None:
            self._write(f"{how}: {self._lost or 0} lost, {received} received")
            self._lost = None

    def _tick(self) -> None:
        """Each second while there is no session: nobody else deletes what has had its time."""
        assert self._console is not None  # noqa: S101 - set by run
        with suppress(CannotStore):
            self._client.messages.purge()
        self._console.refresh()

    def _comes_back(self, ended: MessageAppError | None) -> bool:
        return self._connections is not None and not self._leaving and self._connections.mends(ended)

    def _is_lost(self) -> bool:
        return self._connections is not None and self._connections.lost

    async def leave(self) -> None:
        """Out of the chat, if there is one, and off; the `Ended` event follows."""
        try:
            if self._client.state in (State.CHAT, State.KEYING):
                await connected(self._client).leave()
        except MessageAppError:
            pass
        await self._client.exit()

    def _write(self, *lines: str) -> None:
        assert self._console is not None  # noqa: S101 - set by run
        self._console.write("\n".join(lines))

    def _show(self, event: ev.Event) -> None:
        assert self._console is not None  # noqa: S101 - set by run
        quietly = isinstance(event, ev.Ended) and self._chat_shown is None and self._loses_nothing(event.error)
        if self._client.ended is not None or self._lost is not None:
            self._lost = (self._lost or 0) + lost_by(event)
        if isinstance(event, (ev.ChatOver, ev.ChatFailed, ev.ChatStopped, ev.KeyChanged)):
            self._chat_just_ended = not (isinstance(event, ev.ChatOver) and event.by_us)
            self._chat_shown = None
        elif isinstance(event, (ev.Keying, ev.ChatSecure)):
            self._chat_shown = event
        elif isinstance(event, ev.Ended) and self._chat_shown is not None:
            self._chat_just_ended = True  # what is being typed is no command
            can_write = isinstance(self._chat_shown, ev.ChatSecure) and not (
                self._plain or self._client.mail.status().absent
            )
            if can_write and self._comes_back(event.error):
                self._inbox.current.stay_with(self._chat_shown.peer)
            self._chat_shown = None
        self._verified = self._client.peer_verified
        if not self._inbox.take(event, f"{self._mark} " if self._mark and self._is_verified() else ""):
            self._write(_LOST) if quietly else self._show_other(event)
        if isinstance(event, ev.ChatSecure) and event.first:  # the number takes a moment: the line above is out by then
            number = self._client.account.trust.number(event.peer, self._client.server_name, event.bundle)
            self._write(*first_chat_lines(event.peer, number))
        self._console.refresh()
        self._changed.set()
        self._changed = trio.Event()

    def _loses_nothing(self, ended: MessageAppError | None) -> bool:
        """Outside of a chat, where whatever is under way is on the disk and comes with the next connection."""
        cut = isinstance(ended, ConnectionCut) and self._comes_back(ended)
        return cut and not self._plain and not self._client.mail.status().absent

    def _show_other(self, event: ev.Event) -> None:
        lines = shown_lines(event, pictures=self._pictures) if isinstance(event, ev.CheckShown) else render(event)
        if lines:
            self._write(*lines)

    async def _take(self, item: Input) -> bool:
        """One input; False when it is time to leave."""
        asked, self._asked_to_leave = self._asked_to_leave, False
        match item:
            case EndOfInput():
                return False
            case Interrupt():
                if asked or self._plain or self._is_lost():
                    return False
                self._asked_to_leave = True
                self._write(_LEAVE_HINT)
            case BadInput(reason):
                self._write(error_line(reason))
            case Jump(place, typed):
                self._jump(place, typed)
            case Line(text):
                peer = self._inbox.current.peer
                goes_on = await self._carry_out(text)
                self._inbox.current.sent(peer)
                return goes_on
        return True

    def _jump(self, place: int, typed: str) -> None:
        assert self._console is not None  # noqa: S101 - set by run
        try:
            self._inbox.current.jump(place, typed)
        except MessageAppError as error:
            self._write(error_line(error))
        self._console.refresh()

    async def _carry_out(self, line: str) -> bool:
        screen, lost = self.screen(), self._is_lost()
        action = modes.step(screen, line)
        if self._plain and isinstance(action, (Say, Complain)) and screen.state in (State.CALLING, State.KEYING):
            await self._settle()
            if self._client.state is not State.CHAT:
                self._write(error_line(f"there is no chat; not sent: {one_line(line, 60)}"))
                return True
            action = modes.step(self.screen(), line)
        self._chat_just_ended = False
        try:
            match action:
                case Say(text):
                    await connected(self._client).say(text)
                case Write(peer, text):
                    await self._messaging.write(peer, text)
                    self._hint_slash(line)
                case Complain(text):
                    self._write(error_line(text))
                case Run(command, _) if command.name == "exit":
                    return await self._exit(screen)
                case Run(command, words):
                    await self._handlers[command.name](words)
                    self._inbox.current.look()
        except RequestRefused as error:
            # Only `chat` has a text of ours then; the server's own, without `error:`, could pass for any line of ours.
            calls = isinstance(action, Run) and action.command.name == "chat"
            unavailable = calls and error.code == ErrorCode.NOT_AVAILABLE
            self._write(one_line(str(error)) if unavailable else error_line(error))
            if unavailable and isinstance(action, Run):
                self._hint_message(self._inbox.memory.spelled(action.words[0]))
        except MessageAppError as error:
            if lost and self._connections is not None and self._connections.mends(error):
                self._write(error_line(self._connections.advice))
            elif lost or self._client.ended is None:  # otherwise the event says it
                self._write(error_line(error))
        self._verified = self._client.peer_verified
        assert self._console is not None  # noqa: S101 - set by run
        self._console.refresh()
        return True

    def _hint_slash(self, line: str) -> None:
        """Once: a command without its slash was sent."""
        if not (self._plain or self._slash_told) and modes.looks_like_command(line):
            self._slash_told = True
            self._inbox.say(_SLASH_HINT, dim=True)

    def _hint_message(self, user: str) -> None:
        if not (self._plain or self._client.mail.status().absent or fold(user) == fold(self._client.account.user)):
            self._write(f"msg {user} TEXT waits for them")

    async def _settle(self) -> None:
        """Wait until a call has become a secure chat or nothing."""
        while self._client.state in (State.CALLING, State.KEYING):
            await self._changed.wait()

    async def _exit(self, screen: Screen) -> bool:
        """Out of what the prompt shows: an open conversation and the chat with its peer, a chat, or all."""
        if screen.open is not None:
            self._inbox.current.close()
            if not screen.with_open:
                return True
        elif not screen.in_chat:
            return False
        await connected(self._client).leave()
        return True

    # commands ---------------------------------------------------------------------------------------------------------

    async def _status(self, _: Sequence[str]) -> None:
        client = self._client
        self._write(self.toolbar())
        if isinstance(client, Client):
            self._write(f"session {client.info.session_id.hex()}", log_line(client.log.state()))

    async def _reconnect(self, _: Sequence[str]) -> None:
        if self._connections is None or not self._connections.lost:
            raise RequestRefused(ErrorCode.NOT_NOW, "the connection is up")
        self._connections.hurry()

    async def _help(self, words: Sequence[str]) -> None:
        self._write(*help_lines("".join(words)))
