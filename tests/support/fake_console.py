"""A stage for the client's prompt: real clients and a real server in memory, each player at a console of lists.

A player's lines are taken one by one and in order; `Stage.perform` reads a transcript of them (see tests/scripts).
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import trio
import trio.testing

from messageapp.client.client import Client
from messageapp.client.trust import changed_digits
from messageapp.errors import MessageAppError
from messageapp_cli.console import BadInput, EndOfInput, Input, Interrupt, Jump, Line
from messageapp_cli.repl import Repl

from .world import Stream, World, identity, open_world, some_limits

LAST_OF_GREETING = "User Login Complete!"
_CLOCK = re.compile(r"^\d\d:\d\d (#\d+ )?")
_QR = re.compile(r"(?:^[ ▀▄█]+\n){15,}", re.MULTILINE)
_STEP = re.compile(r"(?P<who>[a-z]+)(?P<kind>> ?|\| |= |\? |~ |\^ | )(?P<rest>.*)", re.DOTALL)


class FakeConsole:
    """What a user sees and types, without a terminal."""

    def __init__(self) -> None:
        self._send, self.inputs = trio.open_memory_channel[Input](1000)
        self.lines: list[str] = []
        self.dim: list[str] = []
        self.half_typed = ""
        self.refreshed = 0

    def write(self, text: str, *, dim: bool = False) -> None:
        self.lines += text.removesuffix("\n").split("\n")
        if dim:
            self.dim.append(text)

    def refresh(self) -> None:
        self.refreshed += 1

    def typed(self) -> str:
        return self.half_typed

    def put_back(self, text: str) -> None:
        self.half_typed = text + self.half_typed

    def put(self, item: Input) -> None:
        self._send.send_nowait(item)


class Player:
    """One logged-in user at a console."""

    def __init__(self, client: Client, stream: Stream, *, plain: bool) -> None:
        self.client = client
        self.stream = stream
        self.console = FakeConsole()
        self.repl = Repl(client, plain=plain)
        self.left = False
        self.error: MessageAppError | None = None
        self._read = 0

    async def run(self) -> None:
        self.error = await self.repl.run(self.console)
        self.left = True

    def type(self, *lines: str) -> None:
        for line in lines:
            self.console.put(Line(line))

    def jump(self, place: int) -> None:
        """Alt+`place`, with what is half typed."""
        self.console.put(Jump(place, self.console.half_typed))
        self.console.half_typed = ""

    def interrupt(self) -> None:
        self.console.put(Interrupt(had_text=False))

    def end(self) -> None:
        self.console.put(EndOfInput())

    def bad(self, reason: str) -> None:
        self.console.put(BadInput(reason))

    def new(self) -> list[str]:
        """The lines since the last call, a time and a number before them taken away; a QR code is one line."""
        whole = _QR.sub("[QR code]\n", "".join(f"{line}\n" for line in self.console.lines[self._read :]))
        found = [_CLOCK.sub("", line) for line in whole.split("\n")[:-1]]
        self._read = len(self.console.lines)
        return found

    def skip_greeting(self) -> None:
        """What follows it (messages that waited) is new."""
        self._read = self.console.lines.index(LAST_OF_GREETING) + 1

    def completions(self, text: str) -> list[str]:
        """Each as the whole line that it would make."""
        return [text[: len(text) + item.start] + item.text for item in self.repl.complete(text)]


class Stage:
    def __init__(self, world: World, nursery: trio.Nursery, *, plain: bool) -> None:
        self.world = world
        self.players: dict[str, Player] = {}
        self._nursery = nursery
        self._plain = plain
        self._keys: dict[str, Any] = {}

    async def enter(self, name: str, *, plain: bool | None = None, **changes: Any) -> Player:
        """Log in; the greeting is taken from the player's lines."""
        plain = self._plain if plain is None else plain
        if name in self._keys:
            changes.setdefault("identity", self._keys[name])

        async def play(*, task_status: trio.TaskStatus[Player]) -> None:
            stream = self.world.connect()
            async with self.world.client(name, stream=stream, **changes) as client:
                player = Player(client, stream, plain=plain)
                task_status.started(player)
                await player.run()

        player: Player = await self._nursery.start(play)
        self.players[name] = player
        await settled()
        player.skip_greeting()
        return player

    def renew_key(self, name: str) -> None:
        """The user is removed and enrolled again with another key."""
        self._keys[name] = identity(f"{name}, anew")
        self.world.directory.enrol(name, self._keys[name].bundle)

    async def chat(self, caller: str, receiver: str) -> tuple[Player, Player]:
        """Both in a secure chat, the lines up to it taken."""
        a, b = self.players[caller], self.players[receiver]
        a.type(f"chat {receiver}")
        await settled()
        b.type("acpt")
        await settled()
        assert f"CHAT IS SECURE! with {receiver}" in a.new()
        assert f"CHAT IS SECURE! with {caller}" in b.new()
        return a, b

    async def perform(self, script: str) -> None:
        """Play a transcript. Every line that a player sees must be in it, in the order of that player."""
        unread: dict[str, list[str]] = {}
        for number, step in enumerate(script.splitlines(), 1):
            if not step.strip() or step.startswith("#"):
                continue
            match = _STEP.fullmatch(step)
            assert match, f"line {number} is no step: {step}"
            who, kind, rest = match["who"], match["kind"].strip(), match["rest"]
            where = f"line {number}: {step}"
            if kind != "|":
                await settled()
                for name, player in self.players.items():
                    unread.setdefault(name, []).extend(player.new())
            match kind:
                case "|":
                    lines = unread.get(who, [])
                    assert lines, f"{where}: {who} sees nothing more"
                    seen = lines.pop(0)
                    assert _like(rest, seen), f"{where}: {who} sees {seen!r}"
                    continue
                case ">":
                    self.players[who].type(rest.replace("⏎", "\n").replace("{number}", self._digits(who, rest)))
                case "=":
                    assert self.players[who].repl.prompt().strip() == rest, where
                case "~":
                    assert _like(rest, self.players[who].repl.toolbar()), self.players[who].repl.toolbar()
                case "?":
                    typed, _, offered = rest.partition(" => ")
                    assert self.players[who].completions(typed) == [item for item in offered.split(", ") if item], where
                case "^":
                    player = self.players[who]
                    player.interrupt() if rest == "C" else player.end()
                case _:
                    await self._event(who, rest, where)
            await settled()
            for name, player in self.players.items():
                unread.setdefault(name, []).extend(player.new())
        assert not any(unread.values()), f"not in the transcript: {unread}"

    async def _event(self, who: str, what: str, where: str) -> None:
        match what:
            case "logs in":
                await self.enter(who)
            case "vanishes":
                await trio.aclose_forcefully(self.players[who].stream)
            case "has a new key":
                self.renew_key(who)
            case "has left":
                assert self.players[who].left, where
                assert self.players[who].error is None, where
            case "is still there":
                assert not self.players[who].left, where
            case _:
                raise AssertionError(where)

    def _digits(self, who: str, line: str) -> str:
        """{number}: the first ten digits that `trust` wants, of the peer named in the line."""
        if "{number}" not in line:
            return ""
        client, peer = self.players[who].client, line.split()[1]
        pin = client.account.trust.pin(peer, client.server_name)
        assert pin is not None
        assert pin.offered is not None
        trust, server = client.account.trust, client.server_name
        return changed_digits(trust.number(peer, server, pin.bundle), trust.number(peer, server, pin.offered))[:10]


def _like(wanted: str, seen: str) -> bool:
    """`…` stands for anything."""
    return re.fullmatch(".+".join(map(re.escape, wanted.split("…"))), seen) is not None


async def settled() -> None:
    """Nothing happens any more but for the passing of time."""
    await trio.testing.wait_all_tasks_blocked()


@asynccontextmanager
async def open_stage(*names: str, plain: bool = False, **changes: Any) -> AsyncIterator[Stage]:
    """A server and those players; leaving cancels everything."""
    changes.setdefault("limits", some_limits(chats_per_minute=1000))
    async with open_world(**changes) as world, trio.open_nursery() as nursery:
        stage = Stage(world, nursery, plain=plain)
        for name in names:
            await stage.enter(name)
        yield stage
        nursery.cancel_scope.cancel()
