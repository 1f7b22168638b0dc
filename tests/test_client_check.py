"""Live checks between real clients, with somebody in the middle, and with peers that do not go on."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
import trio.testing

from messageapp.client import events as ev
from messageapp.client.checks import CHECK_SECONDS
from messageapp.client.client import Client
from messageapp.client.conversations import Conversation, NeedKey
from messageapp.client.trust import TrustRefused
from messageapp.e2ee.exchange import Parties
from messageapp.e2ee.sas import MAX_RUNS, CheckRefused, SasMessage
from messageapp.wire.commands import Call, Nothing, PeerKey, Raw
from messageapp.wire.records import Kind
from messageapp_keys.kem import SWIFT, TemporaryKey
from support.world import (
    SERVER_NAME,
    FakeServer,
    by_key_id,
    expect,
    identity,
    on_forward,
    open_world,
    settle,
    start_chat,
    with_fake_server,
)


def verified(client: Client, peer: str) -> bool:
    pin = client.account.trust.pin(peer, client.server_name)
    return pin is not None and pin.verified


async def shown(*clients: Client) -> list[tuple[int, ...]]:
    return [(await expect(client, "CheckShown")).numbers for client in clients]


async def test_both_see_the_same_and_each_marks_his_own_pin() -> None:
    with trio.fail_after(30):
        async with open_world() as world, world.chat() as (alice, bob):
            await alice.checks.start()
            at_alice, at_bob = await shown(alice, bob)
            assert at_alice == at_bob
            assert alice.checks.waits
            await alice.checks.answer(True)
            assert verified(alice, "bob")
            assert alice.peer_verified
            assert await expect(bob, "CheckAnswered") == ev.CheckAnswered("alice", True, awaits_ours=True)
            assert not verified(bob, "alice")
            await bob.checks.answer(True)
            assert verified(bob, "alice")
            assert await expect(alice, "CheckAnswered") == ev.CheckAnswered("bob", True, awaits_ours=False)
            assert not alice.checks.waits


@pytest.mark.parametrize("says_no", [0, 1])
async def test_a_no_of_either_side_unverifies_both(says_no: int) -> None:
    with trio.fail_after(30):
        async with open_world() as world, world.chat() as people:
            for client in people:
                client.account.trust.verify(next(p.account.user for p in people if p is not client), SERVER_NAME)
            await people[0].checks.start()
            await shown(*people)
            await people[says_no].checks.answer(False)
            answered = await expect(people[1 - says_no], "CheckAnswered")
            assert (answered.all_same, answered.awaits_ours) == (False, False)
            assert not verified(people[0], "bob")
            assert not verified(people[1], "alice")
            with pytest.raises(CheckRefused):
                await people[1 - says_no].checks.answer(True)


async def test_both_ask_at_once() -> None:
    with trio.fail_after(30):
        async with open_world() as world, world.chat(*by_key_id("alice", "bob")) as (a, b):
            await a.checks.start()
            await b.checks.start()
            at_a, at_b = await shown(a, b)
            assert at_a == at_b
            assert (await settle(a, b)) == [[], []]


async def test_texts_go_on_beside_a_check() -> None:
    with trio.fail_after(30):
        async with open_world() as world, world.chat() as (alice, bob):
            await alice.say("before")
            await alice.checks.start()
            await alice.say("after")
            told, _ = await settle(bob, alice)
            assert [type(event).__name__ for event in told] == ["TextReceived", "TextReceived", "CheckShown"]


async def test_the_mark_is_for_exactly_the_key_of_this_chat() -> None:
    """Another client of the account has pinned another key meanwhile."""
    with trio.fail_after(30):
        async with open_world() as world, world.chat() as (alice, bob):
            await alice.checks.start()
            await shown(alice, bob)
            trust = alice.account.trust
            trust.judge("bob", SERVER_NAME, identity("mallory").bundle)
            with pytest.raises(TrustRefused, match="has changed since this chat began; nothing is verified"):
                await alice.checks.answer(True)
            assert not verified(alice, "bob")
            number = trust.number("bob", SERVER_NAME, identity("mallory").bundle)
            trust.accept_offered("bob", SERVER_NAME, number[:10])
            with pytest.raises(TrustRefused):
                await alice.checks.answer(True)
            assert not verified(alice, "bob")
            trust.verify("bob", SERVER_NAME)
            assert not alice.peer_verified  # the pinned key is, not that of this chat
            assert (await settle(bob))[0] == []
            await alice.checks.answer(False)
            assert verified(alice, "bob")  # it said nothing of that key


async def test_answers_after_the_end_of_the_chat_do_nothing() -> None:
    with trio.fail_after(30):
        async with open_world() as world, world.chat() as (alice, bob):
            await alice.checks.start()
            await shown(alice, bob)
            await bob.leave()
            await expect(alice, "ChatOver")
            with pytest.raises(CheckRefused, match="no live check is waiting"):
                await alice.checks.answer(True)
            with pytest.raises(CheckRefused, match="within a chat"):
                await alice.checks.start()
            assert not verified(alice, "bob")
            await expect(bob, "ChatOver")
            await start_chat(alice, bob)
            assert not alice.checks.waits
            await alice.checks.start()  # and its runs are its own
            await shown(alice, bob)


async def test_a_peer_that_does_not_go_on_ends_the_check_after_a_minute(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing that is forwarded arrives: so it is with a program that is older than live checks, too."""
    with trio.fail_after(600):
        async with open_world() as world, world.chat() as (alice, bob):
            on_forward(monkeypatch, lambda router, session, record, on: None)
            for _ in range(MAX_RUNS):
                started = trio.current_time()
                await alice.checks.start()
                failed = await expect(alice, "CheckFailed")
                assert failed.peer == "bob"
                assert "may be older than live checks" in failed.reason
                assert trio.current_time() - started == pytest.approx(CHECK_SECONDS, abs=0.01)
            with pytest.raises(CheckRefused, match="3 live checks at most"):
                await alice.checks.start()
            assert (await settle(bob))[0] == []


async def test_nothing_is_told_of_a_check_whose_chat_is_over(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(600):
        async with open_world() as world, world.chat() as (alice, bob):
            await alice.checks.start()
            await alice.leave()
            await trio.sleep(CHECK_SECONDS + 1)
            told = [type(event).__name__ for event in (await settle(alice, bob))[0]]
            assert told == ["ChatOver"]


async def test_steps_that_are_lost_are_said_and_end_the_check(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    with trio.fail_after(600):
        async with open_world() as world, world.chat() as (alice, bob):
            await settle(alice, bob)
            passed: list[Any] = []

            def forward(router: Any, session: Any, record: Any, on: Callable[[Any], None]) -> None:
                passed.append(record)
                if len(passed) != 3:  # the opening
                    on(record)

            on_forward(monkeypatch, forward)
            await alice.checks.start()
            await shown(alice)
            await alice.checks.answer(True)
            told = [type(event).__name__ for event in (await settle(bob))[0]]
            assert told == ["Missing", "CheckFailed"]
            assert not verified(bob, "alice")


async def test_a_peer_that_answers_no_unverifies_only_himself() -> None:
    with trio.fail_after(30):
        async with open_world() as world, world.chat() as (alice, bob):
            trust = alice.account.trust
            trust.pin_first("carol", SERVER_NAME, identity("carol").bundle)
            trust.verify("carol", SERVER_NAME)
            trust.verify("bob", SERVER_NAME)
            await bob.checks.start()
            await shown(alice, bob)
            await bob.checks.answer(False)
            await expect(alice, "CheckAnswered")
            assert not verified(alice, "bob")
            assert verified(alice, "carol")


# somebody in the middle -----------------------------------------------------------------------------------------------


class Leg:
    """Mallory, who runs the server, as the peer of one real client, under her own key."""

    def __init__(self, server: FakeServer, client: Client, plays: str) -> None:
        self.server, self.client, self.plays = server, client, plays
        self.on_check: Callable[[SasMessage], Awaitable[None]]
        self.conversation: Conversation

    def _meet(self, invite: bytes, *, client_calls: bool) -> PeerKey:
        mallory, user = identity("mallory"), self.client.account.user
        own, other = (self.plays, mallory.bundle), (user, identity(user).bundle)
        caller, receiver = (other, own) if client_calls else (own, other)
        self.conversation = Conversation(
            user=self.plays,
            peer=user,
            bundle=other[1],
            parties=Parties(SERVER_NAME, invite, *caller, *receiver),
            identity=mallory,
            suites=[SWIFT],
            random=os.urandom,
        )
        return PeerKey(invite, client_calls, self.plays, mallory.bundle.encode())

    async def run(self) -> None:
        while True:
            record = await self.server.receive()
            match record.verb:
                case b"chat":
                    invite = bytes(record.argument)[-16:]
                    await self.server.send(Kind.REPLY, record.id, "reqt", Call(self.plays, invite))
                    await self.server.event("pubk", self._meet(invite, client_calls=True))
                case b"acpt":
                    key = self._meet(bytes(record.argument)[-16:], client_calls=False)
                    await self.server.send(Kind.REPLY, record.id, "pubk", key)
                    await self._send(*self.conversation.start())
                case b"frwd":
                    await self._take(bytes(record.argument))
                case _:
                    await self.server.send(Kind.REPLY, record.id, "okay", Nothing())

    async def _take(self, content: bytes) -> None:
        step = self.conversation.receive_untrusted(content, 0, trio.current_time())
        if isinstance(step, NeedKey):
            step = self.conversation.offer(TemporaryKey.generate(SWIFT))
        await self._send(*step.send)
        if step.received is not None and step.received.envelope.sas is not None:
            await self.on_check(step.received.envelope.sas)

    async def _send(self, *contents: bytes) -> None:
        for content in contents:
            await self.server.event("frwd", Raw(content))

    async def pass_on(self, message: SasMessage) -> None:
        """What the other client said."""
        await self._send(self.conversation.seal_check(message, 0))

    async def take_part(self, message: SasMessage) -> None:
        """A check of her own with this client."""
        reaction = self.conversation.check.receive_untrusted(message)
        if reaction.send is not None:
            await self.pass_on(reaction.send)


@pytest.mark.parametrize("relays", [True, False], ids=["passes every step on", "plays both parts herself"])
async def test_with_somebody_in_the_middle_the_two_see_other_emoji(relays: bool) -> None:
    """No pin was there: the server gave each a key of its own, and both chats are secure, with the wrong person."""
    with trio.fail_after(30):
        async with (
            open_world() as world,
            with_fake_server(world, "alice") as (alice, near),
            with_fake_server(world, "bob") as (bob, far),
            trio.open_nursery() as nursery,
        ):
            to_alice, to_bob = Leg(near, alice, "bob"), Leg(far, bob, "alice")
            to_alice.on_check = to_bob.pass_on if relays else to_alice.take_part
            to_bob.on_check = to_alice.pass_on if relays else to_bob.take_part
            nursery.start_soon(to_alice.run)
            nursery.start_soon(to_bob.run)
            await alice.chat("bob")
            await far.event("reqt", Call("alice", os.urandom(16)))
            await expect(bob, "IncomingCall")
            await bob.accept()
            for client in (alice, bob):
                assert (await expect(client, "ChatSecure")).first
            await alice.checks.start()
            if not relays:
                await to_bob.pass_on(to_bob.conversation.check.start())
            at_alice, at_bob = await shown(alice, bob)
            assert at_alice != at_bob
            await alice.checks.answer(False)
            assert not verified(alice, "bob")
            nursery.cancel_scope.cancel()
