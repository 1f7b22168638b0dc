"""The client's loop: lines → client, events → screen. It knows no terminal; `Console` is one, or a script's pipe.

Two tasks: one carries out the lines, one by one, the other shows what comes in. `plain` is the strict reading for
scripts: a command is carried out before the next line is read, and a line that is no command waits while a call is
under way until the chat is secure or the call is over.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import trio

from messageapp.client import events as ev
from messageapp.client.client import Client, State
from messageapp.client.trust import TrustRefused
from messageapp.errors import MessageAppError, RequestRefused
from messageapp.wire.commands import ErrorCode
from messageapp_keys.names import fold

from . import modes
from .checking import MARK, answer_lines, printable, shown_lines
from .commands import VERIFY_WORDS, help_lines
from .console import BadInput, Completion, Console, EndOfInput, Input, Interrupt, Line
from .modes import Complain, Run, Say, Screen
from .qr import qr_lines
from .render import (
    NO_LOG,
    auth,
    blocked_lines,
    error_line,
    first_chat_lines,
    listing_lines,
    log_line,
    number_lines,
    one_line,
    render,
)

__all__ = ["Repl"]

_LEAVE_HINT: Final = "Press Ctrl-C once more to log off, or go on typing."


class Repl:
    """A `View` for the console and the loop behind it. `run` returns the error that ended the session, or None."""

    def __init__(self, client: Client, *, plain: bool, encoding: str = "utf-8") -> None:
        """`encoding` is the screen's: it may have no pictures."""
        self._client = client
        self._plain = plain
        self._pictures = not plain and printable(encoding)
        self._mark = "" if plain else MARK if self._pictures else "verified"
        self._console: Console | None = None
        self._token = trio.lowlevel.current_trio_token()
        self._changed = trio.Event()
        self._chat_just_ended = False
        self._asked_to_leave = False
        self._verified = False  # the peer, by the key of this chat: the trust store is not read while drawing
        self._handlers: dict[str, Callable[[Sequence[str]], Awaitable[None]]] = {
            "list": self._list,
            "chat": self._chat,
            "acpt": self._accept,
            "refu": self._refuse,
            "cach": self._cancel,
            "verify": self._verify,
            "trust": self._trust,
            "block": self._block,
            "unblock": self._unblock,
            "blocked": self._blocked,
            "status": self._status,
            "help": self._help,
        }

    # the view: pure reads, also from the console's thread -------------------------------------------------------------

    def screen(self) -> Screen:
        client = self._client
        return Screen(
            client.account.user,
            client.state,
            client.peer,
            client.caller,
            client.online,
            self._chat_just_ended,
            f"{self._mark} " if self._mark and self._is_verified() else "",
            client.checks.waits,
        )

    def prompt(self) -> str:
        return modes.prompt(self.screen())

    def complete(self, text: str) -> Sequence[Completion]:
        self._token.run_sync_soon(self._client.want_refresh)
        return modes.complete(self.screen(), text)

    def toolbar(self) -> str:
        client = self._client
        login = f"login {client.info.suite.name}, {auth(client.account.identity.bundle)}"
        parts = [f"{client.account.user}@{client.server_name}", login]
        match client.state:
            case State.CHAT:
                trusted = "verified" if self._is_verified() else "not verified"
                bundle = client.peer_bundle
                theirs = "" if bundle is None else f"{auth(bundle)}, "
                parts.append(f"chat with {client.peer}, {client.chat_suite}, {theirs}{trusted}")
            case State.KEYING:
                parts.append(f"making keys with {client.peer} …")
            case State.CALLING:
                parts.append(f"calling {client.peer} … (cach cancels)")
            case State.RINGING:
                parts.append(f"{client.caller} is calling: acpt or refu")
            case State.ONLINE:
                parts.append("help lists the commands")
        return " · ".join(parts)

    def _is_verified(self) -> bool:
        return self._verified and self._client.state is State.CHAT

    # the loop ---------------------------------------------------------------------------------------------------------

    async def run(self, console: Console) -> MessageAppError | None:
        """Until the user leaves or the session ends. Leaves the chat and logs off by itself when the input ends."""
        self._console = console
        self._greet()
        ended: MessageAppError | None = None
        async with trio.open_nursery() as nursery:

            async def show_events() -> None:
                nonlocal ended
                async for event in self._client.events:
                    if isinstance(event, ev.Ended):
                        ended = event.error
                    self._show(event)
                nursery.cancel_scope.cancel()

            nursery.start_soon(show_events)
            async for item in console.inputs:
                if not await self._take(item):
                    break
            await self.leave()
        return ended

    async def leave(self) -> None:
        """Out of the chat, if there is one, and off; the `Ended` event follows."""
        try:
            if self._client.state in (State.CHAT, State.KEYING):
                await self._client.leave()
        except MessageAppError:
            pass
        await self._client.exit()

    def _write(self, *lines: str) -> None:
        assert self._console is not None  # noqa: S101 - set by run
        self._console.write("\n".join(lines))

    def _show(self, event: ev.Event) -> None:
        assert self._console is not None  # noqa: S101 - set by run
        if isinstance(event, (ev.ChatOver, ev.ChatFailed, ev.ChatStopped, ev.KeyChanged)):
            self._chat_just_ended = not (isinstance(event, ev.ChatOver) and event.by_us)
        self._verified = self._client.peer_verified
        lines = shown_lines(event, pictures=self._pictures) if isinstance(event, ev.CheckShown) else render(event)
        if isinstance(event, ev.TextReceived) and not self._plain:
            clock = time.strftime("%H:%M ")
            mark = f"{self._mark} " if self._mark and self._is_verified() else ""
            lines = [clock + (mark if line.startswith("<") else "") + line for line in lines]
        if lines:
            self._write(*lines)
        if isinstance(event, ev.ChatSecure) and event.first:  # the number takes a moment: the line above is out by then
            number = self._client.account.trust.number(event.peer, self._client.server_name, event.bundle)
            self._write(*first_chat_lines(event.peer, number))
        self._console.refresh()
        self._changed.set()
        self._changed = trio.Event()

    async def _take(self, item: Input) -> bool:
        """One input; False when it is time to leave."""
        asked, self._asked_to_leave = self._asked_to_leave, False
        match item:
            case EndOfInput():
                return False
            case Interrupt():
                if asked or self._plain:
                    return False
                self._asked_to_leave = True
                self._write(_LEAVE_HINT)
            case BadInput(reason):
                self._write(error_line(reason))
            case Line(text):
                return await self._carry_out(text)
        return True

    async def _carry_out(self, line: str) -> bool:
        screen = self.screen()
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
                    await self._client.say(text)
                case Complain(text):
                    self._write(error_line(text))
                case Run(command, _) if command.name == "exit":
                    return await self._exit(screen)
                case Run(command, words):
                    await self._handlers[command.name](words)
        except RequestRefused as error:
            # Only `chat` has a text of ours then; the server's own, without `error:`, could pass for any line of ours.
            calls = isinstance(action, Run) and action.command.name == "chat"
            unavailable = calls and error.code == ErrorCode.NOT_AVAILABLE
            self._write(one_line(str(error)) if unavailable else error_line(error))
        except MessageAppError as error:
            if self._client.ended is None:  # otherwise the event says it
                self._write(error_line(error))
        self._verified = self._client.peer_verified
        assert self._console is not None  # noqa: S101 - set by run
        self._console.refresh()
        return True

    async def _settle(self) -> None:
        """Wait until a call has become a secure chat or nothing."""
        while self._client.state in (State.CALLING, State.KEYING):
            await self._changed.wait()

    async def _exit(self, screen: Screen) -> bool:
        if not screen.in_chat:
            return False
        await self._client.leave()
        return True

    # commands ---------------------------------------------------------------------------------------------------------

    async def _list(self, _: Sequence[str]) -> None:
        listing = await self._client.list_users()
        verified = self._client.account.trust.verified(self._client.server_name) if self._mark else {}
        self._write(*listing_lines(listing, verified, f" {self._mark}"))

    async def _chat(self, words: Sequence[str]) -> None:
        user = self._spelled(words[0])
        if await self._client.chat(user):
            self._write(f"Request sent to {user}")

    async def _accept(self, words: Sequence[str]) -> None:
        self._check_caller(words)
        await self._client.accept()

    async def _refuse(self, words: Sequence[str]) -> None:
        self._check_caller(words)
        caller = self._client.caller
        await self._client.refuse()
        self._write(f"Call from {caller} refused")

    async def _cancel(self, words: Sequence[str]) -> None:
        called = self._client.peer if self._client.state is State.CALLING else None
        if words and words[0] != "x" and called and fold(words[0]) != fold(called):
            raise RequestRefused(ErrorCode.NOT_NOW, f"you are calling {called}, not {words[0]}")
        self._write(f"Call to {await self._client.cancel()} canceled")

    def _check_caller(self, words: Sequence[str]) -> None:
        """A name that is typed must be who is calling now: never accept somebody else by accident."""
        caller = self._client.caller
        if words and (caller is None or fold(words[0]) != fold(caller)) and not (words[0] == "x" and caller):
            raise RequestRefused(ErrorCode.NOT_NOW, f"{words[0]} is not calling")

    async def _verify(self, words: Sequence[str]) -> None:
        peer, action = self._whom(words)
        trust, server = self._client.account.trust, self._client.server_name
        if action in ("yes", "no"):
            if not self._client.checks.waits or not self._in_chat_with(peer):
                raise TrustRefused("no live check is waiting for an answer")
            await self._client.checks.answer(action == "yes")
            self._write(*answer_lines(peer or "", action == "yes"))
            return
        if peer is None:
            raise TrustRefused("verify whom? verify USER")
        if action == "live":
            if not self._in_chat_with(peer):
                raise TrustRefused(f"a live check is made within a chat with {peer}")
            await self._client.checks.start()
            self._write(f"Live check with {peer}: waiting for the other side …")
            return
        if action == "confirm":
            trust.verify(peer, server)
            self._write(f"{peer} is verified")
            return
        pin = trust.pin(peer, server)
        if pin is None:
            self._write(*self._unpinned_number(peer))
            return
        lines = number_lines(peer, trust.number(peer, server, pin.bundle))
        lines.append(f"{peer} is {'verified' if pin.verified else 'not verified'}")
        if pin.offered is not None:
            lines += ["KEY CHANGED; with the new key the", *number_lines(peer, trust.number(peer, server, pin.offered))]
        if self._pictures:
            lines += qr_lines(trust.code(peer, server, pin.offered or pin.bundle))
        self._write(*lines)

    def _whom(self, words: Sequence[str]) -> tuple[str | None, str]:
        """(peer, what to do). A single `live`, `yes`, `no` is a user outside of a chat, if there is a key of one."""
        *names, last = words or ("",)
        single = not names and self._client.state is not State.CHAT and last in VERIFY_WORDS[:-1]
        if single and self._client.account.trust.pin(last, self._client.server_name) is not None:
            return self._spelled(last), ""
        if last in VERIFY_WORDS:
            return self._spelled(names[0]) if names else self._client.peer, last
        return self._spelled(last) if last else self._client.peer, ""

    def _in_chat_with(self, peer: str | None) -> bool:
        client = self._client
        return peer is not None and client.state is State.CHAT and fold(peer) == fold(client.peer or "")

    def _unpinned_number(self, peer: str) -> list[str]:
        """The number of a key that the server has given, before a chat was secure."""
        bundle = self._client.key_seen(peer)
        if bundle is None:
            raise TrustRefused(f"no key of {peer} is known yet; chat first")
        number = self._client.account.trust.number(peer, self._client.server_name, bundle)
        return [*number_lines(peer, number), f"{peer} is not verified; no chat was secure yet"]

    async def _trust(self, words: Sequence[str]) -> None:
        peer = self._spelled(words[0])
        self._client.account.trust.accept_offered(peer, self._client.server_name, "".join(words[1:]))
        self._write(f"the new key of {peer} is trusted; not verified")

    async def _block(self, words: Sequence[str]) -> None:
        user = self._spelled(words[0])
        await self._client.block(user)
        self._write(f"{user} is blocked, and is not told; unblock {user} ends it")

    async def _unblock(self, words: Sequence[str]) -> None:
        user = self._spelled(words[0])
        await self._client.unblock(user)
        self._write(f"{user} is not blocked any more")

    async def _blocked(self, _: Sequence[str]) -> None:
        self._write(*blocked_lines(await self._client.blocked()))

    async def _status(self, _: Sequence[str]) -> None:
        info = self._client.info
        self._write(self.toolbar(), f"session {info.session_id.hex()}", log_line(self._client.log.state()))

    async def _help(self, _: Sequence[str]) -> None:
        self._write(*help_lines())

    def _spelled(self, name: str) -> str:
        """The registered spelling, where we have seen it."""
        return next((user for user in self._client.online if fold(user) == fold(name)), name)

    def _greet(self) -> None:
        client, info = self._client, self._client.info
        for line in login_lines(client):
            self._write(line)
        if info.welcome.other_sessions:
            self._write(f"You are logged in on {info.welcome.other_sessions} other device(s).")


def login_lines(client: Client) -> list[str]:
    """What the report shows at login: certificate and temporary key; the session's id in place of its key."""
    from messageapp_keys.certificate import describe

    info, summary = client.info, describe(client.info.leaf.cert)
    return [
        f"server certificate: subject {one_line(summary.subject)}, issuer {one_line(summary.issuer)}",
        f"  valid {summary.not_before:%Y-%m-%d} to {summary.not_after:%Y-%m-%d}",
        f"  fingerprint of the certificate {summary.fingerprint_sha256}",
        f"  fingerprint of its authority {describe(info.leaf.successor or info.authority).fingerprint_sha256}",
        f"temporary key: {info.suite.name}, fingerprint {info.temp_fingerprint.hex()[:32]}",
        f"session: {info.session_id.hex()}, {auth(client.account.identity.bundle)}",
        *([] if client.log.kept else [NO_LOG]),
        *(f"NOTE: {one_line(line, 400)}" for line in info.news),
        one_line(info.welcome.text),
    ]
