"""A server and three users, each a process; one of them is killed at a chosen moment, again and again, and comes back.

What has to hold, whoever dies when (protocol §16):

- what its sender saw as written is on his disk, and what he saw as sent or delivered reaches its receiver
- every message is at its receiver exactly once, with the text that was written, and is shown at most once
- nothing is unreadable or comes by healing: no session is ever out of step
- in the end nothing waits, and a further message goes each way
"""

from __future__ import annotations

import json
import queue
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from bench.proc import cpu_of
from support.processes import ROOT, SECONDS, Site, environment, open_account, open_site

__all__ = ["Outcome", "run"]

NAMES: Final = ("alice", "bob", "carol")
LIMITS: Final = tuple(
    part
    for limit in (
        "commands_per_second=1000000",
        "commands_burst=1000000",
        "bndls_per_minute=100000",
        "preks_per_minute=100000",
        "klogs_per_minute=1000000",
    )
    for part in ("--limit", limit)
)
SETTLE_SECONDS: Final = 150.0
_MOST_EVENTS: Final = 40  # between two kills
_MOST_STATEMENTS: Final = 400
_LIVE: Final = frozenset(("alice", "bob"))


@dataclass
class Outcome:
    """`violations` is empty where all went well."""

    points: int = 0
    kills: Counter[str] = field(default_factory=Counter)
    written: int = 0
    acknowledged: int = 0  # seen as sent or delivered by who wrote them
    live: int = 0  # shown in a live chat
    lost: int = 0
    twice: int = 0
    altered: int = 0
    healed: int = 0
    troubles: list[str] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    server_starts: list[float] = field(default_factory=list)  # seconds until it listens
    server_work: list[float] = field(default_factory=list)  # seconds of processor time for it
    client_starts: list[float] = field(default_factory=list)  # until it is logged in
    returns: list[float] = field(default_factory=list)  # of all clients, from the start of the next server


class User:
    """One after another, the processes of a user. What they told is read by a thread."""

    def __init__(self, site: Site, name: str, heard: queue.Queue[tuple[User, list[Any]]]) -> None:
        self.name = name
        self._site, self._heard = site, heard
        self.wrote: dict[int, tuple[str, str]] = {}  # number → (peer, text)
        self.acknowledged: set[int] = set()
        self.shown: Counter[tuple[str, str]] = Counter()  # (peer, text)
        self.pending: list[Any] | None = None
        self.online = False
        self.began = 0.0
        self.start()

    def start(self) -> None:
        others = [name for name in NAMES if name != self.name]
        paths = environment(self._site.path)
        paths["PYTHONPATH"] = f"{ROOT / 'tests'}:{paths['PYTHONPATH']}"
        self.online, self.began = False, time.monotonic()
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", "-m", "crash.person", self.name, str(self._site.port), *others],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=paths,
        )
        self._reader = threading.Thread(target=self._read, args=(self.process,), daemon=True)
        self._reader.start()

    def order(self, *words: object) -> None:
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):
            self.process.stdin.write(" ".join(map(str, words)).encode() + b"\n")
            self.process.stdin.flush()

    def close(self) -> None:
        self.process.kill()
        self.process.wait(SECONDS)
        self._reader.join(SECONDS)
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):
            self.process.stdin.close()

    def _read(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                if line.endswith(b"\n"):
                    self._heard.put((self, json.loads(line)))
        self._heard.put((self, ["gone", process.pid]))


class Story:
    def __init__(self, site: Site, stack: ExitStack, seed: int) -> None:
        self.site, self.random = site, random.Random(seed)
        self.outcome = Outcome()
        self.heard: queue.Queue[tuple[User, list[Any]]] = queue.Queue()
        self._serve(0)
        self.users = [User(site, name, self.heard) for name in NAMES]
        for user in self.users:
            stack.callback(user.close)
        self._until_online()

    # points -----------------------------------------------------------------------------------------------------------

    def point(self) -> None:
        """One process is killed under load, and comes back."""
        chooser, kills = self.random, self.outcome.kills
        self.outcome.points += 1
        alice, bob, _ = self.users
        if chooser.random() < 0.5:
            chooser.choice((alice, bob)).order("call", bob.name if chooser.random() < 0.5 else alice.name)
        elif chooser.random() < 0.3:
            alice.order("leave")
        self._hear(chooser.randrange(1, _MOST_EVENTS))
        who, how = chooser.choice((None, *self.users)), chooser.choice(("statement", "moment"))
        if chooser.random() < 0.5:
            who = None  # the server is half of it
        if who is not None and how == "statement":
            kills["client, at a statement"] += 1
            self._die(who, chooser.randrange(1, _MOST_STATEMENTS))
            return
        time.sleep(chooser.random() * 0.02)  # the moment
        if who is None:
            kills["server"] += 1
            self._restart_server()
        else:
            kills["client"] += 1
            who.process.kill()
            self._come_back(who)

    def _die(self, user: User, statements: int) -> None:
        user.order("die", statements)
        self._hear_until(lambda: user.process.poll() is not None, f"{user.name} does not come to its statement")
        self._come_back(user)

    def _come_back(self, user: User) -> None:
        user.close()
        user.start()
        self._until_online()

    def _restart_server(self) -> None:
        assert self.site.server is not None
        self.site.server.kill()
        for user in self.users:
            user.online = False
        while not self.heard.empty():  # what was told before it died
            self._take(*self.heard.get())
        for user in self.users:
            user.online = False
        began = time.monotonic()
        self._serve(self.site.port)
        self._until_online()
        self.outcome.returns.append(time.monotonic() - began)

    def _serve(self, port: int) -> None:
        before, began = self.site.server, time.monotonic()
        self.site.serve(*LIMITS, port=port)
        self.outcome.server_starts.append(time.monotonic() - began)
        assert self.site.server is not None
        self.outcome.server_work.append(cpu_of(self.site.server.process.pid).loop)
        if before is not None:
            before.close()

    # what the users tell ----------------------------------------------------------------------------------------------

    def _hear(self, count: int) -> None:
        for _ in range(count):
            self._take(*self.heard.get(timeout=SECONDS))

    def _hear_until(self, holds: Any, otherwise: str, seconds: float = SECONDS) -> None:
        deadline = time.monotonic() + seconds
        while not holds():
            if time.monotonic() > deadline:
                waiting = {user.name: user.pending for user in self.users}
                raise AssertionError(f"{otherwise} within {seconds:.0f} s; {waiting}")
            with suppress(queue.Empty):
                self._take(*self.heard.get(timeout=0.2))

    def _until_online(self) -> None:
        self._hear_until(lambda: all(user.online for user in self.users), "not all are back")

    def _take(self, user: User, told: list[Any]) -> None:
        match told:
            case ["online"]:
                if user.began:
                    self.outcome.client_starts.append(time.monotonic() - user.began)
                user.online, user.began = True, 0.0
            case ["wrote", number, peer, text]:
                user.wrote[number] = peer, text
            case ["changed", number, "sent" | "delivered" | "read", _]:
                user.acknowledged.add(number)
            case ["changed", number, "failed", cause]:
                self.outcome.troubles.append(f"{user.name}'s message {number} failed: {cause}")
            case ["shown", peer, text, healed]:
                user.shown[peer, text] += 1
                self.outcome.healed += healed
            case ["live"]:
                self.outcome.live += 1
            case ["trouble", what]:
                self.outcome.troubles.append(f"{user.name}: {what}")
            case ["pending", pending]:
                user.pending = pending
            case ["gone", pid] if pid == user.process.pid and user.process.poll() not in (-9, 0, None):
                self.outcome.troubles.append(f"{user.name} ended by itself with {user.process.poll()}")

    # the end ----------------------------------------------------------------------------------------------------------

    def finish(self) -> None:
        for user in self.users:
            user.order("pause")
        self._until_delivered()
        for user in self.users:
            for name in NAMES:
                if name != user.name:
                    user.order("say", name)
        self._until_delivered()
        for user in self.users:
            user.order("exit")
            user.process.wait(SECONDS)
        for user in self.users:
            user.close()
        while not self.heard.empty():
            self._take(*self.heard.get())
        self._reckon()

    def _until_delivered(self) -> None:
        deadline = time.monotonic() + SETTLE_SECONDS
        while True:
            for user in self.users:
                user.pending = None
                user.order("report")
            self._hear_until(lambda: all(user.pending is not None for user in self.users), "no report")
            if not any(user.pending for user in self.users):
                return
            if time.monotonic() > deadline:
                stuck = {user.name: user.pending for user in self.users}
                self.outcome.violations.append(f"not delivered after {SETTLE_SECONDS:.0f} s: {stuck}")
                return
            time.sleep(0.1)

    def _reckon(self) -> None:
        """Both databases of each pair say the same, and what their users were told."""
        outcome, rows = self.outcome, {}
        for user in self.users:
            with closing(open_account(self.site.home, user.name)) as database:
                if database.execute("PRAGMA integrity_check").fetchall() != [("ok",)]:
                    outcome.violations.append(f"{user.name}'s database is damaged")
                rows[user.name] = database.execute(
                    "SELECT m.number, c.peer, m.own, m.id, m.text, m.state FROM messages m"
                    " JOIN conversations c ON c.id = m.conversation"
                ).fetchall()
        for user in self.users:
            own = {
                number: (peer, bytes(id), text, state)
                for number, peer, is_own, id, text, state in rows[user.name]
                if is_own
            }
            outcome.written += len(own)
            outcome.acknowledged += len(user.acknowledged)
            for number, (peer, text) in user.wrote.items():
                if number not in own or own[number][0] != peer or own[number][2] != text:
                    outcome.violations.append(f"{user.name} wrote {number} {text!r}, and has {own.get(number)}")
            for number in sorted(user.acknowledged - own.keys()):
                outcome.violations.append(f"{user.name} was told of {number}, and it is gone")
            for number, (peer, id, text, state) in own.items():
                self._check(user, number, peer, id, text, state, rows[peer])
            for (peer, text), count in user.shown.items():
                if count > 1:
                    outcome.twice += 1
                    outcome.violations.append(f"{user.name} was shown {text!r} of {peer} {count} times")
        if outcome.troubles:
            outcome.violations.append(f"troubles: {outcome.troubles[:10]}")
        if outcome.healed:
            outcome.violations.append(f"{outcome.healed} messages had to be healed")

    def _check(self, user: User, number: int, peer: str, id: bytes, text: str, state: str, there: list[Any]) -> None:
        outcome = self.outcome
        found = [row for row in there if not row[2] and bytes(row[3]) == id and row[1] == user.name]
        same = [row for row in there if not row[2] and row[4] == text]
        what = f"{user.name}'s {number} to {peer} ({state})"
        if not found:
            outcome.lost += number in user.acknowledged
            outcome.violations.append(f"{what} did not come")
        elif found[0][4] != text:
            outcome.altered += 1
            outcome.violations.append(f"{what} came as {found[0][4]!r}")
        if len(found) > 1 or len(same) > 1:
            outcome.twice += 1
            outcome.violations.append(f"{what} came {max(len(found), len(same))} times")
        if state not in ("delivered", "read"):
            outcome.violations.append(f"{what} is not delivered")


def run(folder: Path, points: int, seed: int, tell: Any = lambda outcome: None) -> Outcome:
    """`tell` hears the outcome so far after each point."""
    with ExitStack() as stack:
        site = stack.enter_context(open_site(folder, *NAMES, serving=False))
        story = Story(site, stack, seed)
        for _ in range(points):
            story.point()
            tell(story.outcome)
        story.finish()
        return story.outcome
