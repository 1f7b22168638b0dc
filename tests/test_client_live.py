"""The chat under way as messages: rows, receipts, and what becomes of texts when the chat is cut (protocol §16)."""

from __future__ import annotations

import os
from typing import Any

import pytest
import trio
import trio.testing

from messageapp.client import events as ev
from messageapp.client.chat import RECEIPT_SECONDS
from messageapp.client.conversations import Conversation, NeedKey
from messageapp.client.live import LiveChat
from messageapp.client.messages import State
from messageapp.e2ee.envelope import Envelope
from messageapp.e2ee.exchange import Parties
from messageapp.server.outbox import Outbox
from messageapp.store import outbox
from messageapp.store.database import transaction
from messageapp.store.states import Cause
from messageapp.wire.commands import Call, ErrorCode, Errors, PeerKey, Raw
from messageapp.wire.records import Kind, Record
from messageapp_keys.kem import SWIFT, TemporaryKey
from support.messaging import enrol, of, state, texts, waiting
from support.world import (
    SERVER_NAME,
    FakeServer,
    Pass,
    expect,
    hold_back,
    identity,
    on_forward,
    open_world,
    settle,
    start_chat,
    with_fake_server,
)


def drop_texts(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """From now on the server loses what is said in a chat. The ratchet messages that were lost."""
    lost: list[bytes] = []

    def forward(router: Any, session: Any, record: Record, on: Pass) -> None:
        lost.append(bytes(record.argument)[1:])

    on_forward(monkeypatch, forward)
    return lost


@pytest.mark.parametrize("mail", [True, False], ids=["with storage", "without"])
async def test_what_is_said_in_a_chat_is_kept_and_confirmed(autojump_clock: trio.testing.MockClock, mail: bool) -> None:
    with trio.fail_after(60):
        async with open_world(mail=mail) as world, world.chat() as (alice, bob):
            await settle(alice, bob)
            number = await alice.say("hello")
            assert state(alice, number) == (State.QUEUED, Cause.IN_CHAT)
            alices, bobs = await settle(alice, bob)
            (heard,) = of(bobs, ev.TextReceived)
            assert bob.messages.message(heard.number).text == heard.text == "hello"
            assert state(alice, number) == (State.DELIVERED, Cause.NONE)
            assert ev.MessageChanged(number, "bob", State.DELIVERED, Cause.NONE) in alices
            answer = await bob.write("alice", "hello too", reply_to=heard.number)
            alices, _ = await settle(alice, bob)
            (heard,) = of(alices, ev.TextReceived)
            assert alice.messages.message(heard.number).reply_to == number
            assert state(bob, answer) == (State.DELIVERED, Cause.NONE)
            assert waiting(alice) == waiting(bob) == 0


async def test_one_receipt_confirms_all_that_came_together(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    with trio.fail_after(60):
        async with open_world() as world, world.chat() as (alice, bob):
            await settle(alice, bob)
            passed: list[Any] = []

            def forward(router: Any, session: Any, record: Record, on: Pass) -> None:
                passed.append(session.user)
                on(record)

            on_forward(monkeypatch, forward)
            numbers = [await alice.say(f"text {number}") for number in range(30)]
            await settle(alice, bob)
            assert {state(alice, number)[0] for number in numbers} == {State.DELIVERED}
            assert passed.count("alice") == 30
            assert passed.count("bob") < 5


async def test_what_a_chat_loses_comes_by_mail_as_the_same_bytes(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    with trio.fail_after(60):
        async with open_world(mail=True) as world:
            await enrol(world, "bob")
            async with world.client("alice") as alice:
                async with world.client("bob") as bob:
                    await start_chat(alice, bob)
                    await settle(alice, bob)
                    await alice.say("one")
                    await settle(alice, bob)
                    lost = drop_texts(monkeypatch)
                    numbers = [await alice.say(text) for text in ("two", "three")]
                    await settle(alice)
                    assert {state(alice, number) for number in numbers} == {(State.QUEUED, Cause.IN_CHAT)}
                assert len(lost) == 2
                await settle(alice)
                assert {state(alice, number) for number in numbers} == {(State.SENT, Cause.AT_SERVER)}
                assert world.mail is not None
                blobs = [bytes(blob) for (blob,) in world.mail.execute("SELECT blob FROM mail ORDER BY seq")]
                assert blobs == [b"\1" + message for message in lost]
                async with world.client("bob") as bob:
                    _, told = await settle(alice, bob)
                    assert [event.text for event in of(told, ev.MessageReceived)] == ["two", "three"]
                    assert texts(bob, "alice") == ["one", "two", "three"]
                    await settle(alice, bob)
                    assert {state(alice, number)[0] for number in numbers} == {State.DELIVERED}
                    assert waiting(alice) == waiting(bob) == 0


async def test_what_came_and_was_not_confirmed_appears_once(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    with trio.fail_after(60):
        async with open_world(mail=True) as world, world.client("alice") as alice:
            async with world.client("bob") as bob:
                await start_chat(alice, bob)
                await settle(alice, bob)

                def forward(router: Any, session: Any, record: Record, on: Pass) -> None:
                    if session.user == "alice":
                        on(record)

                on_forward(monkeypatch, forward)  # no receipt comes through
                number = await alice.say("once")
                _, told = await settle(alice, bob)
                assert len(of(told, ev.TextReceived)) == 1
                assert state(alice, number) == (State.QUEUED, Cause.IN_CHAT)
            async with world.client("bob") as bob:
                _, told = await settle(alice, bob)
                assert not of(told, ev.MessageReceived) + of(told, ev.MessageUnreadable)
                assert texts(bob, "alice") == ["once"]
                await settle(alice, bob)
                assert state(alice, number) == (State.DELIVERED, Cause.NONE)


async def test_without_storage_what_a_chat_loses_has_failed(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    with trio.fail_after(60):
        async with open_world() as world, world.client("alice") as alice:
            async with world.client("bob") as bob:
                await start_chat(alice, bob)
                await settle(alice, bob)
                drop_texts(monkeypatch)
                number = await alice.say("lost")
                await settle(alice, bob)
            (told,) = await settle(alice)
            assert state(alice, number) == (State.FAILED, Cause.CHAT_CUT)
            assert ev.MessageChanged(number, "bob", State.FAILED, Cause.CHAT_CUT) in told
            assert waiting(alice) == 0


async def test_who_leaves_waits_a_little_for_the_last_receipt(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    with trio.fail_after(60):
        async with open_world() as world, world.chat() as (alice, bob):
            await settle(alice, bob)
            number = await alice.say("bye")
            await alice.leave()
            assert state(alice, number) == (State.DELIVERED, Cause.NONE)
            await settle(alice, bob)
            await start_chat(alice, bob)
            await settle(alice, bob)
            drop_texts(monkeypatch)
            number = await alice.say("into the void")
            before = trio.current_time()
            await alice.leave()
            assert trio.current_time() - before == pytest.approx(RECEIPT_SECONDS)
            assert state(alice, number) == (State.FAILED, Cause.CHAT_CUT)


async def test_a_chat_and_mail_share_their_sessions(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(60):
        async with open_world(mail=True) as world, world.client("alice") as alice:
            async with world.client("bob") as bob:
                await start_chat(alice, bob)
                await settle(alice, bob)
            number = await alice.write("bob", "by mail")
            await settle(alice)
            assert world.mail is not None
            ((blob,),) = world.mail.execute("SELECT blob FROM mail").fetchall()
            assert blob[:1] == b"\1", "no prekey was needed"
            async with world.client("bob") as bob:
                await settle(alice, bob)
                assert texts(bob, "alice") == ["by mail"]
                assert state(alice, number)[0] is State.DELIVERED


async def test_what_goes_through_the_storage_during_a_chat_leaves_no_gap_in_it(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """What is said at once afterwards is there before it."""
    with trio.fail_after(60):
        async with open_world(mail=True) as world:
            await enrol(world, "alice", "bob")
            async with world.client("alice") as alice, world.client("bob") as bob:
                await start_chat(alice, bob)
                await settle(alice, bob)
                number = await bob.say("look")
                alices, _ = await settle(alice, bob)
                (heard,) = of(alices, ev.TextReceived)
                alice.messages.react(heard.number, "👍")
                alice.mail.poke("bob")
                while not all(row.blob for row in outbox.due(alice.mail.database, SERVER_NAME, 10**15)):
                    await trio.lowlevel.checkpoint()  # until it is sealed, and on its way to the server's disk
                await alice.say("nice")
                _, bobs = await settle(alice, bob)
                assert of(bobs, ev.Missing) == []
                assert [event.text for event in of(bobs, ev.TextReceived)] == ["nice"]
                assert [event.number for event in of(bobs, ev.Reacted)] == [number]
                await alice.leave()
                await alice.write("bob", "see you")
                _, bobs = await settle(alice, bob)
                assert [event.text for event in of(bobs, ev.MessageReceived)] == ["see you"]


# a peer whose client confirms nothing ---------------------------------------------------------------------------------


class OldPeer:
    """Bob with a client of before, at the other end of a server by hand. `heard` are alice's envelopes."""

    def __init__(self, server: FakeServer) -> None:
        self.server = server
        self.heard: list[Envelope] = []
        self.forwarded = 0
        self.conversation: Conversation

    def meet(self, invite: bytes, *, alice_calls: bool) -> PeerKey:
        alice, bob = ("alice", identity("alice").bundle), ("bob", identity("bob").bundle)
        caller, receiver = (alice, bob) if alice_calls else (bob, alice)
        self.conversation = Conversation(
            user="bob",
            peer="alice",
            bundle=alice[1],
            parties=Parties(SERVER_NAME, invite, *caller, *receiver),
            identity=identity("bob"),
            suites=[SWIFT],
            random=os.urandom,
        )
        return PeerKey(invite, alice_calls, "bob", bob[1].encode())

    async def chat(self, record: Record) -> None:
        invite = bytes(record.argument)[-16:]
        await self.server.send(Kind.REPLY, record.id, "reqt", Call("bob", invite))
        await self.server.event("pubk", self.meet(invite, alice_calls=True))

    async def take(self, content: bytes) -> None:
        step = self.conversation.receive_untrusted(content, 0, 0.0)
        if isinstance(step, NeedKey):
            step = self.conversation.offer(TemporaryKey.generate(SWIFT))
        for each in step.send:
            await self.server.event("frwd", Raw(each))
        if step.received is not None:
            self.forwarded += 1
            self.heard.append(step.received.envelope)

    async def say(self, text: str) -> None:
        await self.server.event("frwd", Raw(self.conversation.seal(text, 0)))

    async def run(self) -> None:
        while True:
            record = await self.server.receive()
            match record.verb:
                case b"chat":
                    await self.chat(record)
                case b"frwd":
                    await self.take(bytes(record.argument))
                case _:
                    await self.server.send(Kind.REPLY, record.id, "okay", Raw())


async def test_a_peer_who_confirms_nothing_gets_what_he_always_got(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(60):
        async with open_world() as world, with_fake_server(world, "alice") as (alice, server):
            bob = OldPeer(server)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(bob.run)
                await alice.chat("bob")
                await settle(alice)
                first = await alice.say("before he has said anything")
                assert state(alice, first) == (State.QUEUED, Cause.IN_CHAT)
                await bob.say("hello")
                await bob.say("there")
                (told,) = await settle(alice)
                assert [event.text for event in of(told, ev.TextReceived)] == ["hello", "there"]
                assert state(alice, first) == (State.SENT, Cause.UNCONFIRMED)
                second = await alice.say("and after")
                assert state(alice, second) == (State.SENT, Cause.UNCONFIRMED)
                await settle(alice)
                assert [envelope.text for envelope in bob.heard] == [None, "before he has said anything", "and after"]
                assert [envelope.receipts for envelope in bob.heard] == [(), None, None]
                assert waiting(alice) == 0
                before = trio.current_time()
                await alice.leave()
                assert trio.current_time() == before, "there is no receipt to wait for"
                nursery.cancel_scope.cancel()


async def test_a_caller_who_confirms_nothing_gets_nothing_before_the_first_text(
    autojump_clock: trio.testing.MockClock,
) -> None:
    with trio.fail_after(60):
        async with open_world() as world, with_fake_server(world, "alice") as (alice, server):
            bob = OldPeer(server)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(accept_by_hand, bob)
                await settle(alice)
                await alice.accept()
                (told,) = await settle(alice)
                assert of(told, ev.ChatSecure)
                assert bob.forwarded == 0
                number = await alice.say("hello")
                await settle(alice)
                assert state(alice, number) == (State.SENT, Cause.UNCONFIRMED)
                assert [(envelope.text, envelope.receipts) for envelope in bob.heard] == [("hello", None)]
                nursery.cancel_scope.cancel()


async def accept_by_hand(bob: OldPeer) -> None:
    """Bob calls; what his client seals first says nothing of receipts."""
    invite = bytes(range(16))
    await bob.server.event("reqt", Call("bob", invite))
    while (record := await bob.server.receive()).verb != b"acpt":
        pass
    key = bob.meet(invite, alice_calls=False)
    seal = bob.conversation.seal_envelope

    def old(envelope: Envelope) -> bytes:
        return seal(Envelope(envelope.id, envelope.time_ms, envelope.text))

    bob.conversation.seal_envelope = old  # type: ignore[method-assign]
    await bob.server.send(Kind.REPLY, record.id, "pubk", key)
    for content in bob.conversation.start():
        await bob.server.event("frwd", Raw(content))
    await bob.run()


async def test_a_text_the_server_refuses_in_a_chat_goes_by_mail_at_once(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    with trio.fail_after(60):
        async with open_world(mail=True) as world, world.chat() as (alice, bob):
            await settle(alice, bob)
            monkeypatch.setattr(Outbox, "relay", lambda outbox, records: 0)  # his queue is full
            number = await alice.say("hello")
            alices, bobs = await settle(alice, bob)
            assert not of(alices, ev.NotDelivered)
            assert [event.text for event in of(bobs, ev.MessageReceived)] == ["hello"]
            assert state(alice, number)[0] is State.DELIVERED


# what happens at the edges of a chat ----------------------------------------------------------------------------------


async def test_a_change_waits_for_the_text_that_it_changes(autojump_clock: trio.testing.MockClock) -> None:
    """The text was said in a chat that did not reach its peer; the change would go by mail, and be the first."""
    with trio.fail_after(60):
        async with open_world(mail=True) as world:
            await enrol(world, "bob")
            async with world.client("alice") as alice:
                near, far = world.connect_both()
                async with world.client("bob", stream=near) as bob:
                    await start_chat(alice, bob)
                    await settle(alice, bob)
                    hold_back(far)
                    number = await alice.say("meet at 8 pn")
                    await settle(alice)
                    alice.messages.edit(number, "meet at 9 pm")
                    alice.messages.react(number, "👍")
                    alice.mail.poke()
                    await settle(alice)
                    assert waiting(alice) == 3
                await settle(alice)
                async with world.client("bob") as bob:
                    await settle(alice, bob)
                    await settle(alice, bob)
                    assert texts(bob, "alice") == texts(alice, "bob") == ["meet at 9 pm"]
                    (message,) = bob.messages.history("alice")
                    assert "👍" in str(message.reactions)
                    assert waiting(alice) == 0


async def test_a_change_of_what_is_confirmed_in_the_chat_goes_at_once(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(60):
        async with open_world(mail=True) as world:
            await enrol(world, "alice", "bob")
            async with world.client("alice") as alice, world.client("bob") as bob:
                await start_chat(alice, bob)
                await settle(alice, bob)
                number = await alice.say("meet at 8 pn")
                alice.messages.edit(number, "meet at 9 pm")
                alice.mail.poke()
                await settle(alice, bob)
                assert texts(bob, "alice") == ["meet at 9 pm"]


@pytest.mark.parametrize("refused", [True, False])
async def test_the_first_words_of_a_first_chat_are_not_lost(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch, refused: bool
) -> None:
    """They do not come through, and nothing has said yet whether the peer's client confirms."""
    with trio.fail_after(60):
        async with open_world(mail=True) as world:
            await enrol(world, "bob")
            async with world.client("alice") as alice:
                async with world.client("bob") as bob:
                    await alice.chat("bob")
                    await expect(bob, "IncomingCall")

                    def forward(router: Any, session: Any, record: Record, on: Pass) -> None:
                        if session.user == "bob" or alice.state.value != "chat":
                            on(record)
                        elif refused:
                            full = Errors(ErrorCode.QUEUE_FULL, "the peer's queue is full")
                            session.tell(Kind.REPLY, record.id, "erro", full)

                    on_forward(monkeypatch, forward)
                    await bob.accept()
                    await expect(alice, "ChatSecure")
                    number = await alice.say("important")
                    told, _ = await settle(alice, bob)
                    assert of(told, ev.NotDelivered) == []
                await settle(alice)
                async with world.client("bob") as bob:
                    await settle(alice, bob)
                    assert texts(bob, "alice") == ["important"]
                    assert state(alice, number)[0] is State.DELIVERED


async def test_who_only_listens_and_leaves_is_sent_nothing_twice(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client of another make may have no receipts, and its user nothing to say."""
    with trio.fail_after(60):
        async with open_world(mail=True) as world:
            await enrol(world, "bob")
            async with world.client("alice") as alice, world.client("bob") as bob:
                monkeypatch.setattr(LiveChat, "hello", lambda self: None)
                monkeypatch.setattr(LiveChat, "receipt", lambda self: None)
                await start_chat(alice, bob)
                number = await alice.say("hello")
                await settle(alice, bob)
                await bob.leave()
                await settle(alice, bob)
                assert state(alice, number) == (State.SENT, Cause.UNCONFIRMED)
                assert waiting(alice) == 0


async def test_what_was_deleted_before_its_receipt_came_is_confirmed_and_stays_deleted(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    with trio.fail_after(60):
        async with open_world(mail=True) as world, world.client("alice") as alice:
            async with world.client("bob") as bob:
                await start_chat(alice, bob)
                await settle(alice, bob)

                def forward(router: Any, session: Any, record: Record, on: Pass) -> None:
                    if session.user == "alice":
                        on(record)

                on_forward(monkeypatch, forward)  # no receipt comes through
                number = await alice.say("once")
                _, told = await settle(alice, bob)
                (heard,) = of(told, ev.TextReceived)
                bob.messages.delete(heard.number)
            await settle(alice)
            # Sealed anew, it is another message for the ratchet, and the same for people.
            with transaction(alice.mail.database):
                alice.mail.database.execute("DELETE FROM outbox")
            alice.messages.retry(number)
            async with world.client("bob") as bob:
                _, told = await settle(alice, bob)
                await settle(alice, bob)
                assert texts(bob, "alice") == []
                assert of(told, ev.MessageReceived) == []
                assert state(alice, number)[0] is State.DELIVERED
