"""More of what peers and servers try with stored messages (protocol §9, §16): each line was a fault once."""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio
import trio.testing

from messageapp.client import events as ev
from messageapp.client.mailing import UPKEEP_PAUSE_SECONDS
from messageapp.e2ee.envelope import Envelope
from messageapp.server.commits import Commits
from messageapp.server.delivery import Deliveries
from messageapp.server.denial import RequestDenied
from messageapp.server.outbox import Outbox
from messageapp.server.session import Session
from messageapp.store import messages as rows
from messageapp.store import outbox
from messageapp.store.changes import PURGED_AT_ONCE
from messageapp.store.conversations import conversation_of
from messageapp.store.mailbox import MailboxFull, add_mail, forget_blocked, open_mailbox
from messageapp.store.states import Cause, State
from messageapp.store.users import Holder
from messageapp.wire.commands import ErrorCode
from messageapp.wire.mail_forms import PrekeyState
from messageapp_cli.message_lines import Style
from messageapp_cli.messaging import Messaging
from messageapp_cli.notices import HEALING_SECONDS, UNREADABLE_SECONDS, Notices
from support.mail_desk import KEPT_S, at_desk
from support.mail_ends import SERVER, End, two_ends
from support.world import open_world, settle, some_limits

# junk on the screen ---------------------------------------------------------------------------------------------------


class Screen:
    """Notices on it, of messages that all wait for `cause`."""

    def __init__(self, cause: Cause) -> None:
        self.lines: list[str] = []
        found = SimpleNamespace(state=State.UNREADABLE, cause=cause)
        memory: Any = SimpleNamespace(found=lambda number: found)
        self.notices = Notices(memory, Style("bob", False), lambda *lines, dim=False: self.lines.extend(lines))

    async def flood(self, peer: str, count: int, seconds: float) -> None:
        """The task of the prompt, while `count` come in so many seconds."""
        for number in range(count):
            self.notices.unreadable(peer, number)
            await trio.sleep(seconds / count)
            if self.notices.due() <= trio.current_time():
                self.notices.flush()


@pytest.mark.parametrize("cause", [Cause.ASKED_AGAIN, Cause.GAVE_UP])
async def test_a_stranger_who_sends_junk_does_not_fill_the_screen(
    autojump_clock: trio.testing.MockClock, cause: Cause
) -> None:
    with trio.fail_after(1000):
        screen = Screen(cause)
        await screen.flood("mallory", 500, UNREADABLE_SECONDS - 2 * HEALING_SECONDS)
        assert len(screen.lines) == 1
        screen.notices.unreadable("carol", 1000)  # has nothing to do with it
        await trio.sleep(HEALING_SECONDS)
        screen.notices.flush()
        assert [line for line in screen.lines if "carol" in line]
        await trio.sleep_until(screen.notices.due())
        screen.notices.flush()
        assert len([line for line in screen.lines if "mallory" in line]) == 2
        assert screen.notices.due() == float("inf")


async def test_a_note_that_goes_back_to_a_stranger_is_no_first_message(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Of a key that is pinned because of it there is a line with the first text."""
    with trio.fail_after(60):
        async with open_world() as world, at_desk(world, "alice") as (alice, desk):
            await settle(alice)
            database, server = alice.account.trust.database, alice.server_name
            note = Envelope(os.urandom(16), 1, resend=(os.urandom(16),))
            outbox.add(database, server, "mallory", note.id, now_ms=1, content=note.encode())
            alice.mail.poke()
            (events,) = await settle(alice)
            assert [request.to for request in desk.sent] == ["mallory"]
            assert not [event for event in events if isinstance(event, ev.KeyPinned)]
            for expected in (["mallory"], []):
                await alice.write("mallory", "what is it?")
                (events,) = await settle(alice)
                assert [event.peer for event in events if isinstance(event, ev.KeyPinned)] == expected


async def test_the_first_text_of_who_was_sent_a_note_before_shows_his_number(
    autojump_clock: trio.testing.MockClock,
) -> None:
    with trio.fail_after(60):
        async with open_world(mail=True) as world, world.client("alice") as alice, world.client("bob") as bob:
            await settle(alice, bob)
            note = Envelope(os.urandom(16), 1, read=(os.urandom(16),))
            database, server = alice.account.trust.database, alice.server_name
            outbox.add(database, server, "bob", note.id, now_ms=1, content=note.encode())
            alice.mail.poke()
            await settle(alice, bob)
            await bob.write("alice", "hello")
            events = [event for some in await settle(bob, alice) for event in some]
            (received,) = [event for event in events if isinstance(event, ev.MessageReceived)]
            assert received.first is not None


# forgetting -----------------------------------------------------------------------------------------------------------


def said(end: End, peer: str, count: int) -> list[int]:
    """So many texts of `peer`, each as long as what is deleted at once."""
    of = conversation_of(end.database, SERVER, peer)
    texts = ["x" * PURGED_AT_ONCE] * count
    found = [rows.add_received(end.database, of, os.urandom(16), text, written_ms=1, now_ms=1) for text in texts]
    return [number for number in found if number is not None]


async def test_forgetting_gives_the_others_their_turns() -> None:
    """Each word is overwritten: all at once would hold up the keep-alive, and the server would hang up."""
    with trio.fail_after(60):
        _, bob = await two_ends()
        said(bob, "alice", 6)
        turns, lines = 0, list[str]()

        async def others() -> None:
            nonlocal turns
            while True:
                turns += 1
                await trio.lowlevel.checkpoint()

        memory = SimpleNamespace(spelled=lambda peer: peer)
        current = SimpleNamespace(look=list)
        inbox: Any = SimpleNamespace(memory=memory, forgot=lambda peer: None, say=lines.append, current=current)
        client: Any = SimpleNamespace(messages=bob.messages)
        messaging = Messaging(lambda: client, inbox, None, plain=True)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(others)
            await messaging.handlers["forget"](["alice"])
            nursery.cancel_scope.cancel()
        assert turns >= 3
        assert lines == ["6 messages with alice deleted here"]
        assert bob.messages.conversation("alice") is None


async def test_what_comes_while_a_conversation_is_forgotten_stays() -> None:
    with trio.fail_after(60):
        _, bob = await two_ends()
        old = said(bob, "alice", 2)
        bob.messages.save_draft("alice", "half typed")
        note = Envelope(os.urandom(16), 1, receipts=(os.urandom(16),))
        parts = bob.messages.forgetting("alice")
        assert next(parts) == 1
        (new,) = said(bob, "alice", 1)
        outbox.add(bob.database, SERVER, "alice", note.id, now_ms=1, content=note.encode())
        assert sum(parts) == len(old) - 1
        assert [message.number for message in bob.history("alice")] == [new]
        assert bob.messages.draft("alice") == ""
        assert outbox.count(bob.database, SERVER, "alice") == 1, "its receipt"
        assert bob.messages.forget("alice") == 1
        assert bob.messages.conversation("alice") is None
        assert outbox.count(bob.database, SERVER, "alice") == 0


# who is blocked -------------------------------------------------------------------------------------------------------


def test_who_is_blocked_finds_the_mailbox_full_of_bytes_too(tmp_path: Path) -> None:
    """Were nothing counted but that something came, he would know it by sending more than there is room for."""
    database = open_mailbox(tmp_path / "mail.db")
    holder = Holder("bob", bytes(32), b"", 1)

    def taken(sender: str, *, blocked: bool) -> int:
        for count in range(10):
            try:
                add_mail(
                    database, holder, sender, os.urandom(16), bytes(40), 1, most=100, most_bytes=100, blocked=blocked
                )
            except MailboxFull:
                return count
        return 10

    assert taken("mallory", blocked=True) == 2
    assert taken("alice", blocked=False) == 2, "what is blocked takes nobody's room"
    assert taken("carol", blocked=True) == 0, "when it is full for others it is for him"
    database.execute("DELETE FROM mail WHERE sender = 'alice'")
    assert taken("mallory", blocked=True) == 0
    forget_blocked(database, "bob", "mallory")
    assert taken("mallory", blocked=True) == 2
    database.close()


# servers and their disks ----------------------------------------------------------------------------------------------


async def test_a_session_whose_first_read_failed_gets_what_waits_all_the_same(tmp_path: Path) -> None:
    with trio.fail_after(20):
        database = open_mailbox(tmp_path / "mail.db")
        holder, device = Holder("bob", bytes(32), b"", 1), b"\2" * 16
        add_mail(database, holder, "alice", bytes(16), b"sealed", 1, most=10, most_bytes=100)
        database.execute("UPDATE devices SET device = ?", (device,))
        database.execute("UPDATE mail SET device = ?", (device,))
        broken, sent = True, list[bytes]()

        async def run(call: Any) -> Any:
            outcomes = call()
            return [RequestDenied(ErrorCode.STORAGE, "")] * len(outcomes) if broken else outcomes

        commits = Commits(database, 10, run)
        deliveries = Deliveries(commits, some_limits())

        def offer(frame: bytes) -> bool:
            sent.append(frame)
            return True

        queue = SimpleNamespace(offer=offer)
        session = Session(1, "bob", device, cast(Outbox, queue))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(commits.run)
            deliveries.offer(session, holder)
            await trio.testing.wait_all_tasks_blocked()
            assert not sent
            broken = False
            deliveries.retry()
            await trio.testing.wait_all_tasks_blocked()
            assert len(sent) == 1
            deliveries.retry()
            await trio.testing.wait_all_tasks_blocked()
            assert len(sent) == 1
            nursery.cancel_scope.cancel()
        database.close()


async def test_a_server_that_keeps_asking_for_prekeys_does_not_keep_us_signing(
    autojump_clock: trio.testing.MockClock,
) -> None:
    with trio.fail_after(1000):
        async with open_world() as world, at_desk(world, "alice") as (alice, desk):
            await settle(alice)
            await trio.sleep(UPKEEP_PAUSE_SECONDS)
            rounds, upkeep = list[float](), alice.mail.prekeys.upkeep

            async def counted(state: PrekeyState, upload: Any) -> bool:
                rounds.append(trio.current_time())
                return await upkeep(state, upload)

            alice.mail.prekeys.upkeep = counted  # type: ignore[method-assign]
            for _ in range(20):
                await desk.server.event("prek", PrekeyState(50, desk.last_resort_ms, True, KEPT_S))
                await trio.sleep(UPKEEP_PAUSE_SECONDS / 10)
            assert 2 <= len(rounds) <= 3
            assert all(later - before >= UPKEEP_PAUSE_SECONDS for before, later in pairwise(rounds))


async def test_what_is_held_is_bounded_over_all_peers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("messageapp.client.incoming.MAX_HELD_IN_ALL", 5)
    with trio.fail_after(20):
        alice, bob = await two_ends()
        carol = End("carol", log=alice.log)
        bob.log.alarm = "forked"
        for peer in (alice, carol):
            await bob.take([peer.deliver(bob, os.urandom(16), b"\1" + os.urandom(100)) for _ in range(4)])
        assert bob.count("held") == 5
        assert [each.state for each in bob.history("carol")].count(State.UNREADABLE) == 3


# many names -----------------------------------------------------------------------------------------------------------


async def test_thousands_of_conversations_are_read_in_one_query() -> None:
    with trio.fail_after(60):
        _, bob = await two_ends()
        for number in range(30):
            of = conversation_of(bob.database, SERVER, f"user{number}")
            for text in ("one", f"two of {number}")[: number % 3]:
                rows.add_received(bob.database, of, os.urandom(16), text, written_ms=1, now_ms=1)
        before = bob.database.statements
        found = bob.messages.conversations()
        assert bob.database.statements - before <= 3
        assert len(found) == 30
        for each in found:
            last = bob.history(each.peer)[-1:]
            assert ([each.last] if each.last else []) == last
            assert each.unread == int(each.peer[4:]) % 3
