"""Two people log in, call, chat and leave: the whole system over memory streams on trio's clock."""

from __future__ import annotations

import trio
import trio.testing

from messageapp.client.client import State
from messageapp.client.events import ChatOver, ChatSecure, TextReceived
from support.world import expect, identity, open_world


async def test_two_people_chat(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(60):
        async with open_world() as world, world.client("alice") as alice, world.client("bob") as bob:
            names = sorted(entry.user for entry in (await alice.list_users()).entries)
            assert names == ["alice", "bob"]
            assert await alice.chat("bob") is True
            assert alice.state is State.CALLING
            await expect(bob, "IncomingCall")
            await bob.accept()
            await alice.say("typed early")
            secure = await expect(alice, "ChatSecure")
            assert isinstance(secure, ChatSecure)
            other = await expect(bob, "ChatSecure")
            assert isinstance(other, ChatSecure)
            numbers = {
                client.account.trust.number(peer, client.server_name, identity(peer).bundle)
                for client, peer in ((alice, "bob"), (bob, "alice"))
            }
            assert len(numbers) == 1
            assert secure.suite == other.suite == "hybrid"
            text = await expect(bob, "TextReceived")
            assert isinstance(text, TextReceived)
            assert text.text == "typed early"
            for number in range(20):
                await bob.say(f"to alice {number}")
                await alice.say(f"to bob {number}")
            for number in range(20):
                event = await expect(bob, "TextReceived")
                assert isinstance(event, TextReceived)
                assert event.text == f"to bob {number}"
                event = await expect(alice, "TextReceived")
                assert isinstance(event, TextReceived)
                assert event.text == f"to alice {number}"
            await alice.leave()
            over = await expect(bob, "ChatOver")
            assert over == ChatOver("alice", by_us=False, disconnected=False)
            await alice.exit()
            ended = await expect(alice, "Ended")
            assert ended.error is None
