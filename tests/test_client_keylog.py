"""The client and the key log of an honest server: following, pins, own keys, restarts, no log (protocol §12.5)."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from lies.world import LogDirectory, new_identity, open_log_world, until
from messageapp.client import asking, checkpoints, entries
from messageapp.client import events as ev
from messageapp.client.asking import ASK_SECONDS, RATE_SECONDS, RATE_TRIES, LogQuestions, LogUnavailable
from messageapp.client.checkpoints import WITHHELD_SECONDS
from messageapp.client.client import State, open_client
from messageapp.client.conversations import Conversation
from messageapp.client.entries import OWN_SECONDS
from messageapp.client.following import NOTES, RETRY_SECONDS, WITNESS_SECONDS
from messageapp.client.keying import HELD_FRAMES, Keying
from messageapp.client.keys import change_key
from messageapp.client.lies import _SAME_SECOND, KeyRefused, Lie, LogLied, Refusal, write_evidence
from messageapp.errors import RequestRefused, ServerGoodbye
from messageapp.server.denial import RequestDenied, deny
from messageapp.server.router import Router
from messageapp.store.logs import find_log, own_keys, save_log, save_policy
from messageapp.wire.commands import ErrorCode
from messageapp.wire.keylog_forms import LogBundle, LogConsistency, LogInclusion, LogLeaves, LogRequest, LogUser
from messageapp.wire.records import Record
from messageapp_keys.notes import COSIGNER, LogKey, Note, cosign
from support.world import SERVER_NAME, Pass, identity, on_forward, open_world, settle, start_chat


async def test_the_log_is_followed_from_the_login_on(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(60):
        async with open_log_world() as w, w.client("alice") as alice:
            pinned = await until(alice, ev.LogPinned)
            assert (pinned.size, pinned.vkey) == (1, w.log_key.verifier(f"{SERVER_NAME}/msgapp-keys").encode())
            await alice.log.caught_up()
            assert alice.log.state().size == 1
            w.directory.enrol("bob", identity("bob").bundle)
            assert await until(alice, ev.LogGrew) == ev.LogGrew(0, 1)
            assert await until(alice, ev.LogGrew) == ev.LogGrew(1, 2)
            state = alice.log.state()
            assert state.caught_up
            assert state.note == w.log.note()
            assert [leaf.user for leaf in alice.log.store.leaves(0, 2)] == ["alice", "bob"]


async def test_two_people_chat_and_each_turn_shows_the_checkpoint(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(60):
        async with open_log_world() as w, w.world.chat() as (alice, bob):
            await alice.say("hello")
            assert (await until(bob, ev.TextReceived)).text == "hello"
            await bob.say("you")
            assert (await until(alice, ev.TextReceived)).text == "you"
            assert alice.log.alarm == bob.log.alarm == ""
            assert alice.log.note() == bob.log.note() == w.log.note()


def questions(client: Any) -> list[str]:
    """What the client asks about the log from now on."""
    asked: list[str] = []
    request = client.log.ask._request

    async def spied(verb: str, argument: LogRequest) -> Any:
        asked.append(argument.op.name)
        return await request(verb, argument)

    client.log.ask._request = spied
    return asked


async def test_a_chat_asks_nothing_when_the_log_is_read(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(60):
        async with open_log_world() as w, w.client("alice") as alice, w.client("bob") as bob:
            await trio.sleep(1)
            asked = [questions(alice), questions(bob)]
            await start_chat(alice, bob)
            await alice.say("hello")
            await until(bob, ev.TextReceived)
            assert asked == [[], []]


async def test_a_login_asks_nothing_when_nothing_is_new(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(60):
        async with open_log_world() as w:
            async with w.client("alice") as alice:
                await alice.log.caught_up()
            async with w.client("alice") as alice:
                asked = questions(alice)
                await alice.log.caught_up()
                assert asked == []
                (events,) = await settle(alice)
                assert events == []


async def test_the_peer_hears_each_checkpoint_once_a_turn(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(60):
        async with open_log_world() as w, w.world.chat() as (alice, bob):
            heard: list[bytes] = []
            bob.log.hear_peer = lambda peer, data: heard.append(data)  # type: ignore[method-assign]
            await settle(alice, bob)
            note = w.log.note()
            for text in ("one", "two"):
                await alice.say(text)
            await settle(alice, bob)
            assert heard == [note, b""]  # a turn begins when something of bob's came: here, that he confirms
            await bob.say("three")
            await settle(alice, bob)
            assert heard == [note, b"", note]  # the receipt
            await alice.say("four")
            await settle(alice, bob)
            assert heard == [note, b"", note, b""]


async def test_a_peer_who_was_just_enrolled_is_looked_up_before_the_chat(
    autojump_clock: trio.testing.MockClock,
) -> None:
    with trio.fail_after(60):
        async with open_log_world() as w, w.client("alice") as alice:
            await alice.log.caught_up()
            asked = questions(alice)
            async with w.client("bob") as bob:
                assert alice.log.state().size == 1  # nobody has told yet
                await start_chat(alice, bob)
                assert asked == ["RANGE"]
                assert alice.log.state().size == 2


async def test_frames_wait_for_the_log_but_not_without_end(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The peer's C1 comes before our log is read: it is answered then. A peer that goes on sending is left."""
    with trio.fail_after(120):
        async with open_log_world(monkeypatch) as w, w.client("bob") as bob:
            await bob.log.caught_up()
            gate = trio.Event()
            async with w.client("alice") as alice:
                request = alice.log.ask._request

                async def slow(verb: str, argument: LogRequest) -> Any:
                    await gate.wait()
                    return await request(verb, argument)

                alice.log.ask._request = slow
                await bob.chat("alice")
                await until(alice, ev.IncomingCall)
                await alice.accept()
                await trio.sleep(1)
                assert (alice.state, bob.state) == (State.KEYING, State.KEYING)
                gate.set()
                await until(alice, ev.ChatSecure)
                await until(bob, ev.ChatSecure)
                await alice.leave()

                gate = trio.Event()
                w.directory.enrol("carol", identity("carol").bundle)
                await trio.sleep(1)
                await bob.chat("alice")
                await until(alice, ev.IncomingCall)
                await alice.accept()
                for _ in range(HELD_FRAMES + 1):
                    await bob._chat.forward("alice", b"\1")
                failed = await until(alice, ev.ChatFailed)
                assert "too much" in failed.reason


async def test_a_key_that_is_confirmed_is_confirmed_once(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The follower may look again while the reader is about to begin the exchange."""
    with trio.fail_after(60):
        begun: list[str] = []
        go_on = Keying._go_on

        async def interrupted(keying: Keying, conversation: Conversation) -> None:
            begun.append(keying._context.account.user)
            if len(begun) < 9:
                await keying.log_checked()
            await go_on(keying, conversation)

        monkeypatch.setattr(Keying, "_go_on", interrupted)
        async with open_log_world() as w, w.world.chat():
            assert sorted(begun) == ["alice", "bob"]


async def test_a_signed_change_moves_the_pin_without_an_alarm(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(60):
        new = new_identity()
        async with open_log_world() as w, w.client("alice") as alice:
            async with w.client("bob") as bob:
                await start_chat(alice, bob)
                alice.account.trust.verify("bob", SERVER_NAME)
                await change_key(bob, new)
                ended = await until(bob, ev.Ended)
                assert isinstance(ended.error, ServerGoodbye)
            assert await until(alice, ev.KeyFollowed) == ev.KeyFollowed("bob", was_verified=True)
            pin = alice.account.trust.pin("bob", SERVER_NAME)
            assert pin is not None
            assert (pin.bundle, pin.verified, pin.changed) == (new.bundle, False, False)
            async with w.client("bob", identity=new) as bob:
                await start_chat(alice, bob)
                assert bob.log.alarm == ""


async def test_changes_while_away_are_followed_at_the_login(autojump_clock: trio.testing.MockClock) -> None:
    """Two changes, one after the other: each signature is by the key before."""
    with trio.fail_after(60):
        second, third = new_identity(), new_identity()
        async with open_log_world() as w:
            async with w.world.chat():
                pass
            for old, new in ((identity("bob"), second), (second, third)):
                async with w.client("bob", identity=old) as bob:
                    await change_key(bob, new)
                    await until(bob, ev.Ended)
            async with w.client("alice") as alice:
                assert await until(alice, ev.KeyFollowed) == ev.KeyFollowed("bob", was_verified=False)
                pin = alice.account.trust.pin("bob", SERVER_NAME)
                assert pin is not None
                assert pin.bundle == third.bundle
            async with w.client("alice") as alice:
                await alice.log.caught_up()
                assert await settle(alice) == [[]]


@pytest.mark.parametrize("how", ["reset", "revoked"])
async def test_the_administrators_change_blocks_and_says_so(autojump_clock: trio.testing.MockClock, how: str) -> None:
    with trio.fail_after(60):
        new = new_identity()
        async with open_log_world() as w, w.client("alice") as alice:
            async with w.client("bob") as bob:
                await start_chat(alice, bob)
                alice.account.trust.verify("bob", SERVER_NAME)
                if how == "reset":
                    w.directory.reset("bob", new.bundle)
                else:
                    w.directory.revoke("bob")
                assert isinstance((await until(bob, ev.Ended)).error, ServerGoodbye)
            assert await until(alice, ev.PeerKeyChanged) == ev.PeerKeyChanged("bob", how, was_verified=True)
            pin = alice.account.trust.pin("bob", SERVER_NAME)
            assert pin is not None
            assert (pin.bundle, pin.verified, pin.how) == (identity("bob").bundle, False, how)
            if how == "revoked":
                w.directory.reset("bob", new.bundle)
                assert (await until(alice, ev.PeerKeyChanged)).how == "reset"
            async with w.client("bob", identity=new) as bob:
                await alice.chat("bob")
                await until(bob, ev.IncomingCall)
                await bob.accept()
                changed = await until(alice, ev.KeyChanged)
                assert (changed.how, changed.was_verified) == ("reset", False)
                alice.account.trust.accept_offered("bob", SERVER_NAME, changed.new_number[:10])
                await settle(bob)
                await start_chat(alice, bob)


async def test_a_running_chat_ends_when_the_key_was_revoked(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the server lets the old session go on."""
    with trio.fail_after(60):
        monkeypatch.setattr("messageapp.server.router.Router.end_unenrolled", lambda self: None)
        async with open_log_world() as w, w.world.chat() as (alice, bob):
            w.directory.revoke("bob")
            stopped = await until(alice, ev.ChatStopped)
            assert (stopped.peer, alice.state) == ("bob", State.ONLINE)
            assert (await until(alice, ev.PeerKeyChanged)).how == "revoked"
            await until(bob, ev.ChatOver)


async def test_a_key_that_ends_while_the_keys_are_made_is_not_pinned(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Confirmed when the exchange began, revoked before it ended: there is no pin yet that would tell."""
    with trio.fail_after(60):
        monkeypatch.setattr("messageapp.server.router.Router.end_unenrolled", lambda self: None)
        kept: list[Callable[[], None]] = []

        def forward(router: Router, session: Any, record: Record, go_on: Pass) -> None:
            if session.user == "bob" and not kept:
                kept.append(partial(go_on, record))
            else:
                go_on(record)

        on_forward(monkeypatch, forward)
        async with open_log_world(monkeypatch) as w, w.client("alice") as alice, w.client("bob") as bob:
            await trio.sleep(1)
            await alice.chat("bob")
            await until(bob, ev.IncomingCall)
            await bob.accept()
            await trio.sleep(1)
            w.directory.revoke("bob")
            await trio.sleep(1)
            assert alice.state is State.KEYING
            kept[0]()
            failed = await until(alice, ev.ChatFailed)
            assert "changed meanwhile" in failed.reason
            assert alice.account.trust.pin("bob", SERVER_NAME) is None


async def test_the_own_key_revoked_is_told(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    with trio.fail_after(60):
        monkeypatch.setattr("messageapp.server.router.Router.end_unenrolled", lambda self: None)
        async with open_log_world() as w, w.client("alice") as alice:
            await alice.log.caught_up()
            w.directory.revoke("alice")
            await until(alice, ev.OwnKeyRevoked)
            assert alice.log.alarm == ""


async def test_the_own_change_is_no_alarm_and_survives_a_restart(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(60):
        new = new_identity()
        async with open_log_world() as w:
            async with w.client("alice") as alice:
                await change_key(alice, new)
                await until(alice, ev.Ended)
            async with w.client("alice", identity=new) as alice:
                await alice.log.caught_up()
                assert alice.log.alarm == ""
                assert own_keys(alice.account.trust.database) == {identity("alice").key_id, new.key_id}


async def test_entries_before_the_first_own_key_are_history(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(60):
        async with open_log_world() as w:
            w.directory.enrol("alice", new_identity().bundle)
            w.directory.reset("alice", identity("alice").bundle)
            async with w.client("alice") as alice:
                assert await until(alice, ev.OwnKeyHistory) == ev.OwnKeyHistory(1)
                await alice.log.caught_up()
            async with w.client("alice") as alice:
                await alice.log.caught_up()
                assert await settle(alice) == [[]]  # once


async def test_a_server_without_a_log_is_as_before(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(60):
        async with open_world() as world, world.chat() as (alice, bob):
            assert not alice.log.kept
            assert find_log(alice.account.trust.database, SERVER_NAME) is None
            await bob.say("hello")
            await until(alice, ev.TextReceived)
            with pytest.raises(Exception, match="keeps no key log"):
                await change_key(alice, new_identity())


async def test_a_server_that_shows_a_checkpoint_but_knows_no_question_keeps_no_log(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """At the first contact only: no worse than a server that shows none."""
    with trio.fail_after(60):
        async with open_log_world() as w:
            async with w.client("alice") as alice:
                await alice.log.caught_up()
            router = w.world.server.router
            router._handlers[b"klog"] = lambda session, identifier, _: deny(
                session, identifier, RequestDenied(ErrorCode.UNKNOWN_VERB, "unknown verb")
            )
            async with w.client("bob") as bob, w.client("carol") as carol:
                for client in (bob, carol):
                    assert await until(client, ev.LogAbsent) == ev.LogAbsent()
                    assert not client.log.kept
                await start_chat(carol, bob)
            async with w.client("alice") as again:  # she knows the log
                w.directory.enrol("dave", identity("dave").bundle)
                assert (await until(again, ev.LogTrouble)).reason == "this server keeps no key log"


async def test_two_clients_of_one_account_read_the_log_together(autojump_clock: trio.testing.MockClock) -> None:
    """One database, two devices: whoever is first stores it, the other goes on from there."""
    with trio.fail_after(60):
        async with open_log_world() as w, w.client("alice") as one:
            account = replace(one.account, device=os.urandom(16))
            async with open_client(w.world.connect(), account, w.world.keys) as two:
                for name in ("bob", "carol", "dave"):
                    w.directory.enrol(name, identity(name).bundle)
                    await trio.sleep(1)
                await one.log.caught_up()
                await two.log.caught_up()
                assert one.log.state().size == two.log.state().size == 4
                assert one.log.alarm == two.log.alarm == ""
                assert one.log.state().root == one.log.store.root()
                one.log.log.raise_alarm("fork: seen by one of them")
                w.directory.enrol("erin", identity("erin").bundle)
                assert (await until(two, ev.LogAlarmed)).stored


async def test_a_long_log_comes_in_parts(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    with trio.fail_after(60):
        monkeypatch.setattr("messageapp.server.keylog.MAX_LOG_BYTES", 300)
        async with open_log_world() as w:
            for number in range(20):
                w.directory.enrol(f"user{number}", identity("bob").bundle)
            async with w.client("alice") as alice:
                asked = questions(alice)
                await alice.log.caught_up()
                assert asked.count("RANGE") > 5
                assert alice.log.state().root == w.log._store.root()


async def test_a_log_that_was_held_whole_is_read_on_whatever_its_growth(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a server could hide a leaf under alice's name behind many others."""
    monkeypatch.setattr(checkpoints, "LOG_REPLAY", 3)
    with trio.fail_after(60):
        async with open_log_world() as w:
            async with w.client("alice") as alice:
                await alice.log.caught_up()
            for number in range(20):
                w.directory.enrol(f"user{number}", identity("bob").bundle)
            async with w.client("alice") as alice, w.client("late") as late:
                for client, thin in ((alice, False), (late, True)):
                    await client.log.caught_up()
                    assert client.log.state().thin is thin


# Witnesses ------------------------------------------------------------------------------------------------------------


def cosigned(w: Any, witness: LogKey, name: str = "witness.example") -> bytes:
    return (
        cosign(Note.parse_untrusted(w.log.note()).text, name, witness, 1_767_268_800)
        .encode()
        .removesuffix("\n")
        .encode()
    )


async def test_a_chat_waits_for_the_witnesses_that_are_asked_for(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(120):
        witness = LogKey.generate()
        vkey = witness.verifier("witness.example", COSIGNER)
        async with open_log_world(witnesses=[vkey]) as w, w.client("alice") as alice, w.client("bob") as bob:
            await trio.sleep(1)
            save_policy(alice.account.trust.database, SERVER_NAME, 1, [vkey.encode()])
            alice.log.log.refresh()
            began = trio.current_time()
            await alice.chat("bob")
            await until(bob, ev.IncomingCall)
            await bob.accept()
            failed = await until(alice, ev.ChatFailed)
            assert failed.reason == Refusal.NOT_WITNESSED.value.format(peer="bob")
            assert trio.current_time() - began == WITNESS_SECONDS

            await alice.chat("bob")  # once more: this time the witness comes while the call waits
            await bob.accept()
            await trio.sleep(3)
            assert alice.state is State.KEYING
            await alice.log.ask.cosign(cosigned(w, witness) + b"\n")
            await until(alice, ev.ChatSecure)
            assert alice.log.state().witnessed_size == 2


async def test_cosignatures_of_others_do_not_count(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(120):
        ours, theirs = LogKey.generate(), LogKey.generate()
        known = theirs.verifier("witness.example", COSIGNER)
        wanted = ours.verifier("witness.example", COSIGNER)
        async with open_log_world(witnesses=[known]) as w, w.client("alice") as alice, w.client("bob") as bob:
            await trio.sleep(1)
            save_policy(alice.account.trust.database, SERVER_NAME, 1, [wanted.encode()])
            await alice.log.ask.cosign(cosigned(w, theirs) + b"\n")
            await trio.sleep(1)
            await alice.chat("bob")
            await until(bob, ev.IncomingCall)
            await bob.accept()
            await until(alice, ev.ChatFailed)
            assert alice.log.state().witnessed_size == 0


# Proofs alone ---------------------------------------------------------------------------------------------------------


async def test_proofs_alone_are_enough_for_a_chat_and_tell_a_reset(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(60):
        new = new_identity()
        async with open_log_world() as w, w.client("alice", thin=True) as alice:
            for number in range(9):
                w.directory.enrol(f"user{number}", identity("carol").bundle)
            async with w.client("bob") as bob:
                await start_chat(alice, bob)
                await alice.say("hello")
                await until(bob, ev.TextReceived)
            assert alice.log.state().thin
            assert [leaf.user for _, leaf in alice.log.store.of_user("bob")] == ["bob"]
            assert alice.log.store.of_user("user1") == []
            w.directory.reset("bob", new.bundle)
            async with w.client("bob", identity=new) as bob:
                await alice.chat("bob")
                await until(bob, ev.IncomingCall)
                await bob.accept()
                assert (await until(alice, ev.PeerKeyChanged)).how == "reset"


async def test_from_proofs_back_to_all_leaves(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(60):
        async with open_log_world() as w:
            w.directory.enrol("bob", identity("bob").bundle)
            async with w.client("alice", thin=True) as alice:
                await alice.log.caught_up()
                assert alice.log.state().thin
            w.directory.enrol("carol", identity("carol").bundle)
            async with w.client("alice") as alice:
                await alice.log.caught_up()
                assert not alice.log.state().thin
                assert alice.log.store.root() == w.log._store.root()


# What goes wrong ------------------------------------------------------------------------------------------------------


async def test_a_log_that_cannot_be_read_is_told_and_tried_again(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    with trio.fail_after(120):
        async with open_log_world(monkeypatch) as w, w.client("bob") as bob:
            mute = True
            w.liar.twist = lambda user, verb, argument: (
                None if mute and user == "alice" and verb == "klog" else argument
            )
            async with w.client("alice") as alice:
                trouble = await until(alice, ev.LogTrouble)
                assert "does not answer" in trouble.reason
                with pytest.raises(Exception, match="does not answer"):
                    await alice.log.caught_up()
                await bob.chat("alice")
                await until(alice, ev.IncomingCall)
                mute = False
                await alice.accept()
                await until(alice, ev.ChatSecure)
                assert alice.log.state().trouble == ""


async def test_no_chat_begins_while_the_log_cannot_be_read(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    with trio.fail_after(120):
        async with open_log_world(monkeypatch) as w, w.client("bob") as bob:
            w.liar.twist = lambda user, verb, argument: None if user == "alice" and verb == "klog" else argument
            async with w.client("alice") as alice:
                await until(alice, ev.LogTrouble)
                await alice.chat("bob")
                await until(bob, ev.IncomingCall)
                await bob.accept()
                failed = await until(alice, ev.ChatFailed)
                assert failed.reason.startswith(Refusal.NOT_FOLLOWED.value + ": ")
                assert alice.log.alarm == ""


async def test_a_new_key_is_ones_own_before_the_server_has_it(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The leaf may come before the reply, and to another client of this account."""
    with trio.fail_after(60):
        new = new_identity()
        async with open_log_world() as w, w.client("alice") as alice:
            await alice.log.caught_up()

            async def refused(verb: str, argument: Any) -> Any:
                assert new.key_id in own_keys(alice.account.trust.database)
                raise RequestRefused(ErrorCode.RATE, "too many changes")

            monkeypatch.setattr(alice, "ask", refused)
            with pytest.raises(RequestRefused):
                await change_key(alice, new)


async def test_an_alarm_stands_until_it_is_settled(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(60):
        async with open_log_world() as w, w.client("bob"):
            async with w.client("alice") as alice:
                await alice.log.caught_up()
                database = alice.account.trust.database
            known = find_log(database, SERVER_NAME)
            assert known is not None
            save_log(database, replace(known, alarm="fork: for this test"))
            async with w.client("alice") as alice:
                told = await until(alice, ev.LogAlarmed)
                assert told == ev.LogAlarmed("fork: for this test", "", stored=True)
                with pytest.raises(KeyRefused, match="messageapp log accept"):
                    await alice.chat("bob")
                with pytest.raises(KeyRefused):
                    await alice.log.caught_up()


# Limits ---------------------------------------------------------------------------------------------------------------


async def test_a_long_log_is_not_fetched_whole(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert checkpoints.LOG_REPLAY == 50_000
    monkeypatch.setattr(checkpoints, "LOG_REPLAY", 6)
    with trio.fail_after(60):
        async with open_log_world() as w:
            for number in range(5):
                w.directory.enrol(f"user{number}", identity("bob").bundle)
            async with w.client("alice") as alice:
                await alice.log.caught_up()
                assert (alice.log.state().size, alice.log.state().thin) == (6, False)
            async with w.client("bob") as bob:
                await bob.log.caught_up()
                assert (bob.log.state().size, bob.log.state().thin) == (7, True)


async def test_so_many_checkpoints_of_peers_wait(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(60):
        async with open_log_world() as w, w.client("alice") as alice:
            await alice.log.caught_up()
            for number in range(NOTES + 1):
                w.directory.enrol(f"user{number}", identity("bob").bundle)
                alice.log.hear_peer("bob", w.log.note())
                alice.log.hear_peer("bob", w.log.note())  # the same once more
            assert len(alice.log._notes) == NOTES
            await alice.log.caught_up()
            assert alice.log.state().size == NOTES + 2


async def test_junk_of_a_peer_raises_no_alarm(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(60):
        async with open_log_world() as w, w.client("alice") as alice:
            await alice.log.caught_up()
            other = w.server_log(w.directory, LogKey.generate()).note()
            for junk in (b"", b"junk", other, w.log.note()[:-2], w.log.note().replace(b"chat", b"chut")):
                alice.log.hear_peer("mallory", junk)
                assert alice.log.state().caught_up


async def test_a_chain_of_changes_is_followed_so_far(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert entries.CHAIN == 64
    monkeypatch.setattr(entries, "CHAIN", 3)
    with trio.fail_after(60):
        async with open_log_world() as w, w.client("alice", thin=True) as alice:
            w.directory.enrol("bob", new_identity().bundle)
            for _ in range(4):
                w.directory.reset("bob", new_identity().bundle)
            w.directory.reset("bob", identity("bob").bundle)
            async with w.client("bob") as bob:
                await start_chat(alice, bob)
            assert len(alice.log.store.of_user("bob")) == 3


async def test_the_own_key_may_come_a_little_late(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server has let us in; its log is written by another process."""
    with trio.fail_after(60):
        async with open_log_world(monkeypatch) as w:
            late = LogDirectory(w.folder, "late")
            late.enrol("bob", identity("bob").bundle)
            w.liar.logs["alice"] = w.server_log(late)
            async with w.client("alice") as alice:
                await trio.sleep(OWN_SECONDS - 1)
                late.enrol("alice", identity("alice").bundle)
                for session in w.world.server.router.sessions():
                    session.event("klog", w.log.head())
                await trio.sleep(OWN_SECONDS)
                assert alice.log.alarm == ""
            late.close()


@pytest.mark.parametrize(("after", "alarm"), [(WITHHELD_SECONDS - 1, False), (WITHHELD_SECONDS + 1, True)])
async def test_what_others_have_seen_may_come_a_little_later(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch, after: float, alarm: bool
) -> None:
    with trio.fail_after(60):
        async with open_log_world(monkeypatch) as w, w.client("alice") as alice:
            await alice.log.caught_up()
            behind, w.liar.logs["alice"] = w.fork("behind")
            w.directory.enrol("bob", identity("bob").bundle)
            alice.log.hear_peer("carol", w.log.note())
            await trio.sleep(after)
            w.liar.logs.clear()
            await trio.sleep(10)
            assert alice.log.alarm.startswith("withheld") == alarm
            behind.close()


async def test_what_went_wrong_is_tried_again_by_itself(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    with trio.fail_after(120):
        async with open_log_world(monkeypatch) as w:
            w.liar.twist = lambda user, verb, argument: LogUser(()) if verb == "klog" else argument
            async with w.client("alice") as alice:
                await until(alice, ev.LogTrouble)
                w.liar.twist = lambda user, verb, argument: argument
                began = trio.current_time()
                await until(alice, ev.LogGrew)
                assert trio.current_time() - began == RETRY_SECONDS


class Answers:
    """A server that says to the question what it was told."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.asked: list[LogRequest] = []

    async def __call__(self, verb: str, argument: LogRequest) -> Any:
        await trio.lowlevel.checkpoint()
        self.asked.append(argument)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if answer is None:
            await trio.sleep_forever()
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.mark.parametrize(
    "answer",
    [
        LogLeaves(1, (b"a",)),  # from another place
        LogLeaves(0, (b"a", b"b", b"c", b"d")),  # more
        LogInclusion(b"a", ()),
        RequestRefused(ErrorCode.NOT_AVAILABLE, "not available"),
    ],
)
async def test_an_answer_to_another_question_is_none(autojump_clock: trio.testing.MockClock, answer: Any) -> None:
    with trio.fail_after(60), pytest.raises(LogUnavailable):
        await LogQuestions(Answers(answer)).leaves(0, 3)


async def test_leaves_come_in_parts_and_have_so_many_bytes_in_all(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert asking.REPLAY_BYTES == 64 << 20
    monkeypatch.setattr(asking, "REPLAY_BYTES", 20)
    parts = [LogLeaves(0, (b"a" * 10,)), LogLeaves(1, (b"b" * 5, b"c" * 5))]
    with trio.fail_after(60):
        assert await LogQuestions(Answers(*parts)).leaves(0, 3) == [b"a" * 10, b"b" * 5, b"c" * 5]
        parts[1] = LogLeaves(1, (b"b" * 5, b"c" * 6))
        with pytest.raises(LogUnavailable):
            await LogQuestions(Answers(*parts)).leaves(0, 3)


async def test_a_server_that_does_not_answer_is_given_up(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(60):
        began = trio.current_time()
        with pytest.raises(LogUnavailable):
            await LogQuestions(Answers(None)).head()
        assert trio.current_time() - began == ASK_SECONDS


async def test_a_server_that_is_asked_too_fast_is_asked_again_but_not_for_ever(
    autojump_clock: trio.testing.MockClock,
) -> None:
    too_fast = RequestRefused(ErrorCode.RATE, "wait a little")
    with trio.fail_after(600):
        answers = Answers(*[too_fast] * (RATE_TRIES - 1), LogConsistency(()))
        assert await LogQuestions(answers).consistency(1, 2) == ()
        assert trio.current_time() == RATE_SECONDS * (RATE_TRIES - 1)
        answers = Answers(too_fast)
        with pytest.raises(LogUnavailable):
            await LogQuestions(answers).consistency(1, 2)
        assert len(answers.asked) == RATE_TRIES


async def test_a_bundle_is_the_one_that_was_asked_for() -> None:
    with trio.fail_after(60):
        bob = identity("bob").bundle
        assert await LogQuestions(Answers(LogBundle(bob.encode()))).bundle(bob.key_id) == bob
        for wrong in (bob.encode() + b"\0", identity("carol").bundle.encode()):
            with pytest.raises(LogUnavailable):
                await LogQuestions(Answers(LogBundle(wrong))).bundle(bob.key_id)


def test_evidence_of_one_second_does_not_overwrite(tmp_path: Path) -> None:
    lied = LogLied(Lie.FORK, "here", b"shown\n", b"stored\n")
    files = [write_evidence(tmp_path, SERVER_NAME, "alice", "vkey", lied, 0) for _ in range(_SAME_SECOND + 1)]
    assert len(set(files[:-1])) == _SAME_SECOND
    assert files[-1] is None
    assert files[0] is not None
    text = files[0].read_text()
    assert (files[0].stat().st_mode & 0o777) == 0o600
    assert all(part in text for part in ("shown\n", "stored\n", "here", "1970-01-01T00:00:00Z", "alice"))
    dash = "a \N{EM DASH} b\n".encode()
    lied = LogLied(Lie.UNSIGNED, "", b"\x1b[2J \xff\r\n", dash)
    file = write_evidence(tmp_path, SERVER_NAME, "alice", "vkey", lied, 1)
    assert file is not None
    assert file.read_text().endswith("shown\n\\x1b[2J \\xff\\r\n")
    assert dash in file.read_bytes()
    assert write_evidence(None, SERVER_NAME, "alice", "vkey", lied, 0) is None
