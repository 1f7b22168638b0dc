"""Whose key is it? What the key log says of a sender of whom nothing is known yet (protocol §9.3, §12.5)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import trio
import trio.testing

from lies.world import new_identity, open_log_world, until
from messageapp.client import events as ev
from messageapp.client.asking import LogUnavailable, NoLog
from messageapp.client.lies import KeyRefused, Refusal
from messageapp.store.logs import save_policy
from messageapp.store.states import Cause, State
from messageapp.wire.keylog_forms import LogBundle, LogInclusion
from messageapp_keys.notes import COSIGNER, LogKey
from support.world import SERVER_NAME, identity, open_world, settle


@pytest.mark.parametrize("thin", [False, True])
async def test_the_newest_key_of_a_user(autojump_clock: trio.testing.MockClock, thin: bool) -> None:
    with trio.fail_after(60):
        async with open_log_world() as w, w.client("alice", thin=thin) as alice:
            w.directory.enrol("bob", identity("bob").bundle)
            w.directory.enrol("carol", identity("carol").bundle)
            await trio.sleep(1)
            assert await alice.log.key_of("bob") == identity("bob").bundle
            new = new_identity()
            w.directory.reset("bob", new.bundle)
            await trio.sleep(5)
            assert await alice.log.key_of("bob") == new.bundle
            assert await alice.log.key_of("carol") == identity("carol").bundle


@pytest.mark.parametrize("thin", [False, True])
async def test_a_user_without_a_key_has_none(autojump_clock: trio.testing.MockClock, thin: bool) -> None:
    with trio.fail_after(60):
        async with open_log_world() as w, w.client("alice", thin=thin) as alice:
            w.directory.enrol("bob", identity("bob").bundle)
            w.directory.revoke("bob")
            await trio.sleep(1)
            for user, refusal in (
                ("bob", Refusal.REVOKED),
                ("nobody", Refusal.NOT_INCLUDED),
                ("BOB", Refusal.WRONG_USER),
            ):
                with pytest.raises(KeyRefused) as caught:
                    await alice.log.key_of(user)
                assert caught.value.refusal is refusal, user
            assert alice.log.alarm == ""


async def test_witnesses_are_waited_for(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(60):
        witness = LogKey.generate()
        vkey = witness.verifier("witness.example", COSIGNER)
        async with open_log_world(witnesses=[vkey]) as w, w.client("alice") as alice:
            w.directory.enrol("bob", identity("bob").bundle)
            await trio.sleep(1)
            save_policy(alice.account.trust.database, SERVER_NAME, 1, [vkey.encode()])
            alice.log.log.refresh()
            with pytest.raises(KeyRefused) as caught:
                await alice.log.key_of("bob")
            assert caught.value.refusal is Refusal.NOT_WITNESSED


async def test_without_a_log_nobody_can_say(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(60):
        async with open_world() as world, world.client("alice") as alice:
            with pytest.raises(NoLog):
                await alice.log.key_of("bob")


async def test_a_bundle_that_is_not_the_one_of_the_log(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    with trio.fail_after(60):
        async with open_log_world(monkeypatch) as w, w.client("alice") as alice:
            w.directory.enrol("bob", identity("bob").bundle)
            await trio.sleep(1)

            def twist(user: str, verb: str, argument: Any) -> Any:
                return LogBundle(identity("carol").bundle.encode()) if isinstance(argument, LogBundle) else argument

            w.liar.twist = twist
            with pytest.raises(LogUnavailable):
                await alice.log.key_of("bob")


async def test_a_proof_that_does_not_fit_is_an_alarm(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    with trio.fail_after(60):
        async with open_log_world(monkeypatch) as w, w.client("alice", thin=True) as alice:
            for user in ("bob", "carol", "dave"):
                w.directory.enrol(user, identity(user).bundle)
            await trio.sleep(1)

            def twist(user: str, verb: str, argument: Any) -> Any:
                if isinstance(argument, LogInclusion) and argument.proof:
                    return replace(argument, proof=(bytes(32), *argument.proof[1:]))
                return argument

            w.liar.twist = twist
            with pytest.raises(KeyRefused) as caught:
                await alice.log.key_of("bob")
            assert caught.value.refusal is Refusal.ALARM
            await until(alice, ev.LogAlarmed)
            assert alice.log.alarm.startswith("fork")


# with the real server and its log -------------------------------------------------------------------------------------


async def test_a_first_message_is_opened_with_the_key_that_the_log_has(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(120):
        async with open_log_world(mail=True) as w:
            async with w.client("bob") as bob:
                await settle(bob)
            async with w.client("alice") as alice:
                number = await alice.write("bob", "see you tomorrow")
                await trio.sleep(5)
                assert alice.messages.message(number).state is State.SENT
            async with w.client("bob") as bob:
                received = await until(bob, ev.MessageReceived)
                assert (received.text, received.first) == ("see you tomorrow", identity("alice").bundle)
                await bob.write("alice", "till then")
                await trio.sleep(5)
            async with w.client("alice") as alice:
                assert (await until(alice, ev.MessageReceived)).text == "till then"
                await trio.sleep(5)
                assert alice.messages.message(number).state is State.DELIVERED


async def test_while_the_log_cannot_be_read_a_strangers_message_is_held_and_then_opened(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    with trio.fail_after(300):
        async with open_log_world(monkeypatch, mail=True) as w:
            async with w.client("bob") as bob:
                await settle(bob)
            async with w.client("alice") as alice:
                await alice.write("bob", "see you tomorrow")
                await trio.sleep(5)
            mute = True

            def twist(user: str, verb: str, argument: Any) -> Any:
                return None if mute and user == "bob" and verb == "klog" else argument

            w.liar.twist = twist
            async with w.client("bob") as bob:
                held = await until(bob, ev.MessageHeld)
                message = bob.messages.message(held.number)
                assert (message.state, message.cause) == (State.HELD, Cause.HELD_LOG)
                mute = False
                received = await until(bob, ev.MessageReceived)
                assert (received.number, received.text) == (held.number, "see you tomorrow")


async def test_after_a_reset_what_comes_waits_for_the_user_to_trust_the_key(
    autojump_clock: trio.testing.MockClock,
) -> None:
    with trio.fail_after(120):
        new = new_identity()
        async with open_log_world(mail=True) as w:
            async with w.client("bob") as bob, w.client("alice") as alice:
                await settle(bob, alice)
                await alice.write("bob", "one")
                await until(bob, ev.MessageReceived)
                await trio.sleep(5)
            w.directory.reset("alice", new.bundle)
            async with w.client("alice", identity=new, device="new") as alice:
                await alice.log.caught_up()
                await alice.write("bob", "two")
                await trio.sleep(30)
            async with w.client("bob") as bob:
                held = await until(bob, ev.MessageHeld)
                assert bob.messages.message(held.number).cause is Cause.HELD_KEY
                trust = bob.account.trust
                trust.accept_offered("alice", SERVER_NAME, trust.number("alice", SERVER_NAME, new.bundle)[:10])
                bob.mail.poke("alice")
                received = await until(bob, ev.MessageReceived)
                assert (received.number, received.text) == (held.number, "two")
