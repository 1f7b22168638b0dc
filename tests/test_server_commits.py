"""Many changes with one commit: what is refused, what fails, and who hears of it when."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from messageapp.server.commits import Commits, in_thread
from messageapp.server.denial import RequestDenied
from messageapp.store.mailbox import open_mailbox
from messageapp.wire.commands import ErrorCode


class Site:
    """A file, and whether it is written at the moment."""

    def __init__(self, database: sqlite3.Connection, most: int = 100) -> None:
        self.database = database
        self.gate = trio.Event()
        self.commits = Commits(database, most, self._run)
        self.heard: list[Any] = []

    async def _run(self, call: Callable[[], Any]) -> Any:
        await self.gate.wait()
        return call()

    def add(self, name: str, *, always: bool = False) -> bool:
        def act(database: sqlite3.Connection) -> str:
            database.execute("INSERT INTO devices VALUES (?, x'', 0, 1, 0, 0)", (name,))
            if name == "refused":
                raise RequestDenied(ErrorCode.NOT_NOW, name)
            return name

        def refused(error: RequestDenied) -> None:
            self.heard.append((error.code, str(error)))

        return self.commits.put(act, self.heard.append, refused, always=always)

    def stored(self) -> list[str]:
        return [name for (name,) in self.database.execute("SELECT folded FROM devices ORDER BY folded")]


@pytest.fixture
def database(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    with closing(open_mailbox(tmp_path / "mail.db")) as found:
        yield found


async def test_what_waits_is_one_commit_and_each_hears_in_order(database: sqlite3.Connection) -> None:
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            site = Site(database)
            nursery.start_soon(site.commits.run)
            site.add("a")
            await trio.testing.wait_all_tasks_blocked()
            for name in ("b", "refused", "c"):
                site.add(name)
            assert site.heard == []
            site.gate.set()
            await site.commits.ask(lambda _: None)
            assert site.heard == ["a", "b", (ErrorCode.NOT_NOW, "refused"), "c"]
            assert site.stored() == ["a", "b", "c"], "what is refused is undone alone"
            assert site.commits.commits == 2
            nursery.cancel_scope.cancel()


async def test_where_the_disk_fails_each_is_tried_alone(database: sqlite3.Connection) -> None:
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            site = Site(database)
            site.gate.set()
            database.execute(
                "CREATE TRIGGER full BEFORE INSERT ON devices WHEN new.folded = 'large'"
                " BEGIN SELECT RAISE(ROLLBACK, 'disk full'); END"  # as SQLite does where the disk is full
            )
            nursery.start_soon(site.commits.run)
            for name in ("a", "large", "b"):
                site.add(name)
            await site.commits.ask(lambda _: None)
            refused = (ErrorCode.STORAGE, "the mailbox cannot be written; try again later")
            assert site.heard == ["a", refused, "b"]
            assert site.stored() == ["a", "b"]
            nursery.cancel_scope.cancel()


async def test_nobody_hears_of_what_is_not_committed(database: sqlite3.Connection, tmp_path: Path) -> None:
    """Another process has the file: it waits five seconds, and then all are refused."""
    with trio.fail_after(10), closing(sqlite3.connect(tmp_path / "mail.db", isolation_level=None)) as other:
        database.execute("PRAGMA busy_timeout = 1")
        other.execute("BEGIN IMMEDIATE")
        async with trio.open_nursery() as nursery:
            site = Site(database)
            site.gate.set()
            nursery.start_soon(site.commits.run)
            site.add("a")
            await trio.testing.wait_all_tasks_blocked()
            assert [code for code, _ in site.heard] == [ErrorCode.STORAGE]
            other.execute("ROLLBACK")
            with pytest.raises(RequestDenied, match="why"):
                await site.commits.ask(_refusing)
            site.add("b")
            await site.commits.ask(lambda _: None)
            assert site.stored() == ["b"]
            nursery.cancel_scope.cancel()


def _refusing(_: sqlite3.Connection) -> None:
    raise RequestDenied(ErrorCode.NOT_NOW, "why")


async def test_the_queue_is_bounded_but_for_what_the_server_needs(database: sqlite3.Connection) -> None:
    with trio.fail_after(10):
        site = Site(database, most=2)
        assert [site.add(name) for name in "abc"] == [True, True, False]
        assert site.add("d", always=True)
        site.gate.set()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(site.commits.run)
            await site.commits.ask(lambda _: None)
            assert site.add("e")
            await site.commits.ask(lambda _: None)
            assert site.stored() == ["a", "b", "d", "e"]
            nursery.cancel_scope.cancel()


async def test_what_is_being_written_when_all_ends_is_told(database: sqlite3.Connection) -> None:
    """In a real thread."""
    with trio.fail_after(10):
        heard: list[str] = []
        commits = Commits(database, 10, in_thread)
        async with trio.open_nursery() as nursery:

            def act(_: sqlite3.Connection) -> str:
                trio.from_thread.run_sync(nursery.cancel_scope.cancel)
                return "written"

            nursery.start_soon(commits.run)
            commits.put(act, heard.append, lambda error: heard.append(str(error)))
        assert heard == ["written"]
