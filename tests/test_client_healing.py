"""What cannot be read heals by itself, with the real server between two real clients (protocol §16, rule 6)."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from lies.world import until
from messageapp.client import events as ev
from messageapp.client.client import Client
from messageapp.store.arrivals import note_seen, was_seen
from messageapp.store.states import Cause, State
from support.mail_ends import SERVER, End
from support.messaging import enrol
from support.world import open_world, settle


def _said(client: Client, peer: str) -> list[tuple[str | None, State]]:
    return [(message.text, message.state) for message in client.messages.history(peer, 100)]


async def test_a_new_device_gets_what_was_written_to_the_old_one(autojump_clock: trio.testing.MockClock) -> None:
    """The user has lost the old one: none of its sessions is there, and messages lie at the server."""
    with trio.fail_after(120):
        async with open_world(mail=True) as world:
            await enrol(world, "bob")
            async with world.client("alice") as alice:
                async with world.client("bob") as bob:
                    await alice.write("bob", "one")
                    await until(bob, ev.MessageReceived)
                    await settle(bob, alice)
                number = await alice.write("bob", "two")
                await settle(alice)
                assert alice.messages.message(number).state is State.SENT
                async with world.client("bob", device="new") as bob:
                    unreadable = await until(bob, ev.MessageUnreadable)
                    healed = await until(bob, ev.MessageReceived)
                    assert (healed.number, healed.text, healed.healed) == (unreadable.number, "two", True)
                    await settle(bob, alice)
                    assert _said(bob, "alice") == [("two", State.RECEIVED)]
                    assert bob.messages.message(healed.number).cause is Cause.HEALED
                    assert _said(alice, "bob") == [("one", State.DELIVERED), ("two", State.DELIVERED)]


async def test_whoever_cannot_be_asked_is_asked_when_he_has_prekeys(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(300):
        async with open_world(mail=True) as world:
            await enrol(world, "bob")
            async with world.client("alice") as alice:
                await settle(alice)
                number = await alice.write("bob", "one")
                await settle(alice)
            assert world.mail is not None
            world.mail.execute("DELETE FROM prekeys WHERE folded = 'alice'")
            world.mail.execute("UPDATE mail SET blob = CAST(x'01' || zeroblob(3000) AS BLOB)")
            async with world.client("bob") as bob:
                unreadable = await until(bob, ev.MessageUnreadable)
                changed = await until(bob, ev.MessageChanged)
                assert (changed.number, changed.cause) == (unreadable.number, Cause.CANNOT_ASK)
                async with world.client("alice") as alice:  # and makes new prekeys
                    await settle(alice)
                    bob.mail.poke("alice")
                    healed = await until(bob, ev.MessageReceived)
                    assert (healed.number, healed.text) == (unreadable.number, "one")
                    await settle(bob, alice)
                    assert alice.messages.message(number).state is State.DELIVERED


@pytest.mark.parametrize(("days", "known"), [(90, True), (91, False)])
async def test_what_came_is_known_for_90_days(days: int, known: bool) -> None:
    end = End("alice")
    note_seen(end.database, SERVER, b"m" * 16, end.ms)
    end.ms += days * 86_400_000
    end.incoming.purge()
    assert was_seen(end.database, SERVER, b"m" * 16) is known
