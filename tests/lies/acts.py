"""Each lie of the table, performed: an act gives the client that notices and the event that it told."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import pytest
import trio
import trio.testing

from messageapp.client import events as ev
from messageapp.client.client import Client
from messageapp.client.keys import change_key
from messageapp.server.router import Router
from messageapp.store.keylog import LogStore
from messageapp.store.users import writing_users
from messageapp.wire.commands import PeerKey
from messageapp.wire.keylog_forms import LogBundle, LogHead, LogLeaves, PeerProof
from messageapp.wire.records import Record
from messageapp_keys.identity import PrivateIdentity
from messageapp_keys.keylog import Leaf
from messageapp_keys.notes import LogKey
from support.world import Pass, identity, on_forward, server_offer, start_chat

from .world import LogDirectory, LogWorld, make_log, new_identity, until

Seen = tuple[Client, ev.Event]
Act = Callable[[LogWorld, AsyncExitStack, pytest.MonkeyPatch], Awaitable[Seen]]

ACTS: dict[str, Act] = {}


def act(perform: Act) -> Act:
    ACTS[perform.__name__] = perform
    return perform


async def enter(w: LogWorld, stack: AsyncExitStack, *names: str, **changes: Any) -> list[Client]:
    clients = []
    for name in names:
        clients.append(await stack.enter_async_context(w.client(name, **changes)))
        await clients[-1].log.caught_up()
    await trio.sleep(1)  # all have heard of all
    for client in clients:
        await client.log.caught_up()
    return clients


async def call(caller: Client, receiver: Client) -> None:
    await caller.chat(receiver.account.user)
    await until(receiver, ev.IncomingCall)
    await receiver.accept()


def keys_for(user: str, change: Callable[[PeerKey], PeerKey]) -> Callable[[str, str, Any], Any]:
    """pubk to `user` is changed."""
    return lambda to, verb, argument: change(argument) if to == user and isinstance(argument, PeerKey) else argument


def append(directory: LogDirectory, name: str, who: PrivateIdentity, **changes: Any) -> None:
    """A leaf as only a server that lies writes it, right in all but `changes`."""
    database = directory.writing
    with writing_users(database):
        store = LogStore(database)
        leaf = replace(Leaf.after(store.latest(name), 0, name, who.key_id), **changes)
        store.append([leaf.encode()])
        database.execute("INSERT OR IGNORE INTO bundles VALUES (?, ?)", (who.key_id, who.bundle.encode()))


async def away_and_back(w: LogWorld, **changes: Any) -> None:
    """alice holds the log of now, with bob in it, and leaves."""
    w.directory.enrol("bob", identity("bob").bundle)
    async with w.client("alice", **changes) as alice:
        await alice.log.caught_up()


# A key that is not the peer's -----------------------------------------------------------------------------------------


async def wrong_pubk(w: LogWorld, stack: AsyncExitStack, change: Callable[[PeerKey], PeerKey]) -> Seen:
    alice, bob = await enter(w, stack, "alice", "bob")
    w.liar.twist = keys_for("alice", change)
    await call(alice, bob)
    return alice, await until(alice, ev.ChatFailed)


@act
async def other_key(w: LogWorld, stack: AsyncExitStack, patch: pytest.MonkeyPatch) -> Seen:
    mallory = new_identity()
    return await wrong_pubk(w, stack, lambda key: replace(key, bundle=mallory.bundle.encode()))


@act
async def key_not_logged(w: LogWorld, stack: AsyncExitStack, patch: pytest.MonkeyPatch) -> Seen:
    mallory = new_identity()
    return await wrong_pubk(w, stack, lambda key: replace(key, bundle=mallory.bundle.encode(), proof=b""))


@act
async def forged_proof(w: LogWorld, stack: AsyncExitStack, patch: pytest.MonkeyPatch) -> Seen:
    mallory = new_identity()

    def change(key: PeerKey) -> PeerKey:
        proof = PeerProof.parse_untrusted(key.proof)
        leaf = replace(Leaf.parse_untrusted(proof.leaf), key_id=mallory.key_id)
        return replace(key, bundle=mallory.bundle.encode(), proof=replace(proof, leaf=leaf.encode()).encode())

    return await wrong_pubk(w, stack, change)


@act
async def proof_of_another_log(w: LogWorld, stack: AsyncExitStack, patch: pytest.MonkeyPatch) -> Seen:
    mallory = new_identity()
    alice, bob = await enter(w, stack, "alice", "bob")
    directory, _ = w.fork("mallory")
    stack.callback(directory.close)
    directory.reset("bob", mallory.bundle)
    proof = w.server_log(directory, LogKey.generate()).proof_of("bob")
    w.liar.twist = keys_for("alice", lambda key: replace(key, bundle=mallory.bundle.encode(), proof=proof))
    await call(alice, bob)
    return alice, await until(alice, ev.ChatFailed)


@act
async def somebody_elses_leaf(w: LogWorld, stack: AsyncExitStack, patch: pytest.MonkeyPatch) -> Seen:
    w.directory.enrol("carol", identity("carol").bundle)
    bundle = identity("carol").bundle.encode()
    return await wrong_pubk(w, stack, lambda key: replace(key, bundle=bundle, proof=w.log.proof_of("carol")))


@act
async def unreadable_proof(w: LogWorld, stack: AsyncExitStack, patch: pytest.MonkeyPatch) -> Seen:
    return await wrong_pubk(w, stack, lambda key: replace(key, proof=key.proof[:-1]))


@act
async def old_leaf(w: LogWorld, stack: AsyncExitStack, patch: pytest.MonkeyPatch) -> Seen:
    new = new_identity()
    (alice,) = await enter(w, stack, "alice")
    async with w.client("bob") as bob:
        await bob.log.caught_up()
        proof = w.log.proof_of("bob")
        await change_key(bob, new)
        await until(bob, ev.Ended)
    (bob,) = await enter(w, stack, "bob", identity=new)
    await alice.log.caught_up()
    old = identity("bob").bundle.encode()
    w.liar.twist = keys_for("alice", lambda key: replace(key, bundle=old, proof=proof))
    await call(alice, bob)
    return alice, await until(alice, ev.ChatFailed)


@act
async def revocation_ignored(w: LogWorld, stack: AsyncExitStack, patch: pytest.MonkeyPatch) -> Seen:
    patch.setattr(Router, "end_unenrolled", lambda self: None)
    alice, bob = await enter(w, stack, "alice", "bob")
    proof = w.log.proof_of("bob")
    w.directory.revoke("bob")
    await trio.sleep(1)
    w.liar.twist = keys_for("alice", lambda key: replace(key, proof=proof))
    await call(alice, bob)
    return alice, await until(alice, ev.ChatFailed)


# Two logs -------------------------------------------------------------------------------------------------------------


@act
async def hidden_revocation(w: LogWorld, stack: AsyncExitStack, patch: pytest.MonkeyPatch) -> Seen:
    w.directory.enrol("bob", identity("bob").bundle)
    alice, carol = await enter(w, stack, "alice", "carol")
    directory, w.liar.logs["alice"] = w.fork("before")
    stack.callback(directory.close)
    w.directory.revoke("bob")
    await trio.sleep(1)
    await start_chat(alice, carol)
    await carol.say("hello")
    return alice, await until(alice, ev.LogAlarmed)


async def forked(w: LogWorld, stack: AsyncExitStack, looks_away: str) -> list[Client]:
    """alice is shown another bob than carol; they begin a chat, and one of them does not look at checkpoints."""
    mallory = new_identity()
    w.directory.enrol("bob", identity("bob").bundle)
    alice, carol = await enter(w, stack, "alice", "carol")
    directory, w.liar.logs["alice"] = w.fork("for alice")
    stack.callback(directory.close)
    directory.reset("bob", mallory.bundle)
    w.directory.enrol("dave", identity("dave").bundle)
    await trio.sleep(1)
    assert alice.log.state().root != carol.log.state().root
    assert alice.log.alarm == carol.log.alarm == ""
    blind = alice if looks_away == "alice" else carol
    blind.log.hear_peer = lambda peer, data: None  # type: ignore[method-assign]
    await start_chat(alice, carol)
    return [alice, carol]


@act
async def fork(w: LogWorld, stack: AsyncExitStack, patch: pytest.MonkeyPatch) -> Seen:
    alice, carol = await forked(w, stack, "carol")
    await carol.say("hello")
    return alice, await until(alice, ev.LogAlarmed)


@act
async def fork_seen_by_the_other(w: LogWorld, stack: AsyncExitStack, patch: pytest.MonkeyPatch) -> Seen:
    _, carol = await forked(w, stack, "alice")  # whose empty message has told
    return carol, await until(carol, ev.LogAlarmed)


async def past_forked(w: LogWorld, stack: AsyncExitStack, **changes: Any) -> Seen:
    await away_and_back(w, **changes)
    other = LogDirectory(w.folder, "other")
    stack.callback(other.close)
    other.enrol("bob", new_identity().bundle)
    other.enrol("alice", identity("alice").bundle)
    other.enrol("carol", identity("carol").bundle)
    w.liar.logs["alice"] = w.server_log(other)
    alice = await stack.enter_async_context(w.client("alice", **changes))
    return alice, await until(alice, ev.LogAlarmed)


@act
async def fork_of_the_past(w: LogWorld, stack: AsyncExitStack, patch: pytest.MonkeyPatch) -> Seen:
    return await past_forked(w, stack)


@act
async def fork_of_proofs(w: LogWorld, stack: AsyncExitStack, patch: pytest.MonkeyPatch) -> Seen:
    return await past_forked(w, stack, thin=True)


@act
async def fork_under_way(w: LogWorld, stack: AsyncExitStack, patch: pytest.MonkeyPatch) -> Seen:
    w.directory.enrol("bob", identity("bob").bundle)
    (alice,) = await enter(w, stack, "alice")
    directory, log = w.fork("other")
    stack.callback(directory.close)
    directory.enrol("mallory", new_identity().bundle)
    w.directory.enrol("carol", identity("carol").bundle)
    await trio.sleep(1)
    await alice.log.caught_up()
    w.liar.logs["alice"] = log
    w.liar.twist = lambda user, verb, argument: log.head() if isinstance(argument, LogHead) else argument
    next(iter(w.world.server.router.sessions())).event("klog", w.log.head())
    return alice, await until(alice, ev.LogAlarmed)


@act
async def fork_in_a_proof(w: LogWorld, stack: AsyncExitStack, patch: pytest.MonkeyPatch) -> Seen:
    mallory = new_identity()
    alice, bob = await enter(w, stack, "alice", "bob")
    directory, log = w.fork("other")
    stack.callback(directory.close)
    directory.reset("bob", mallory.bundle)
    w.directory.enrol("carol", identity("carol").bundle)
    await trio.sleep(1)
    proof = log.proof_of("bob")
    w.liar.twist = keys_for("alice", lambda key: replace(key, bundle=mallory.bundle.encode(), proof=proof))
    await call(alice, bob)
    return alice, await until(alice, ev.LogAlarmed)


@act
async def other_leaves(w: LogWorld, stack: AsyncExitStack, patch: pytest.MonkeyPatch) -> Seen:
    (alice,) = await enter(w, stack, "alice")

    def change(user: str, verb: str, argument: Any) -> Any:
        if not isinstance(argument, LogLeaves):
            return argument
        leaves = [replace(Leaf.parse_untrusted(leaf), key_id=os.urandom(32)).encode() for leaf in argument.leaves]
        return replace(argument, leaves=tuple(leaves))

    w.liar.twist = change
    w.directory.enrol("bob", identity("bob").bundle)
    return alice, await until(alice, ev.LogAlarmed)


# Another log, or none -------------------------------------------------------------------------------------------------


@act
async def rollback(w: LogWorld, stack: AsyncExitStack, patch: pytest.MonkeyPatch) -> Seen:
    directory, w.liar.logs["alice"] = w.fork("before")
    stack.callback(directory.close)
    w.liar.logs.clear()
    await away_and_back(w)
    directory.enrol("alice", identity("alice").bundle)
    w.liar.logs["alice"] = w.server_log(directory)
    alice = await stack.enter_async_context(w.client("alice"))
    return alice, await until(alice, ev.LogAlarmed)


@act
async def no_log_any_more(w: LogWorld, stack: AsyncExitStack, patch: pytest.MonkeyPatch) -> Seen:
    await away_and_back(w)
    w.liar.logs["alice"] = None
    alice = await stack.enter_async_context(w.client("alice"))
    return alice, await until(alice, ev.LogAlarmed)


@act
async def log_key_swapped(w: LogWorld, stack: AsyncExitStack, patch: pytest.MonkeyPatch) -> Seen:
    await away_and_back(w)
    w.liar.logs["alice"] = w.server_log(w.directory, LogKey.generate())
    alice = await stack.enter_async_context(w.client("alice"))
    return alice, await until(alice, ev.LogAlarmed)


@act
async def unsigned_checkpoint(w: LogWorld, stack: AsyncExitStack, patch: pytest.MonkeyPatch) -> Seen:
    await away_and_back(w)
    forged = w.server_log(w.directory, LogKey.generate()).note()
    w.liar.twist = lambda user, verb, argument: forged if verb == "M4" else argument
    alice = await stack.enter_async_context(w.client("alice"))
    return alice, await until(alice, ev.LogAlarmed)


@act
async def unbound_log_key(w: LogWorld, stack: AsyncExitStack, patch: pytest.MonkeyPatch) -> Seen:
    mallory = make_log(w.directory, LogKey.generate(), offer=server_offer("another"))
    w.liar.twist = lambda user, verb, argument: mallory.head() if isinstance(argument, LogHead) else argument
    alice = await stack.enter_async_context(w.client("alice"))
    return alice, await until(alice, ev.LogAlarmed)


# The own name, and a peer's -------------------------------------------------------------------------------------------


@act
async def own_name_reset(w: LogWorld, stack: AsyncExitStack, patch: pytest.MonkeyPatch) -> Seen:
    patch.setattr(Router, "end_unenrolled", lambda self: None)
    (alice,) = await enter(w, stack, "alice")
    w.directory.reset("alice", new_identity().bundle)
    return alice, await until(alice, ev.LogAlarmed)


@act
async def own_name_away(w: LogWorld, stack: AsyncExitStack, patch: pytest.MonkeyPatch) -> Seen:
    await away_and_back(w)
    w.directory.reset("alice", new_identity().bundle)
    w.directory.reset("alice", identity("alice").bundle)
    alice = await stack.enter_async_context(w.client("alice"))
    return alice, await until(alice, ev.LogAlarmed)


@act
async def own_key_missing(w: LogWorld, stack: AsyncExitStack, patch: pytest.MonkeyPatch) -> Seen:
    other = LogDirectory(w.folder, "other")
    stack.callback(other.close)
    other.enrol("bob", identity("bob").bundle)
    w.liar.logs["alice"] = w.server_log(other)
    began = trio.current_time()
    alice = await stack.enter_async_context(w.client("alice"))
    seen = await until(alice, ev.LogAlarmed)
    assert trio.current_time() - began >= 10
    return alice, seen


@act
async def peer_reset(w: LogWorld, stack: AsyncExitStack, patch: pytest.MonkeyPatch) -> Seen:
    alice, bob = await enter(w, stack, "alice", "bob")
    await start_chat(alice, bob)
    w.directory.reset("bob", new_identity().bundle)
    return alice, await until(alice, ev.PeerKeyChanged)


@act
async def peer_changed_unsigned(w: LogWorld, stack: AsyncExitStack, patch: pytest.MonkeyPatch) -> Seen:
    mallory = new_identity()
    alice, bob = await enter(w, stack, "alice", "bob")
    await start_chat(alice, bob)
    append(w.directory, "bob", mallory, signatures=mallory.sign(b"something else", b""))
    return alice, await until(alice, ev.PeerKeyChanged)


@act
async def broken_rules(w: LogWorld, stack: AsyncExitStack, patch: pytest.MonkeyPatch) -> Seen:
    (alice,) = await enter(w, stack, "alice")
    w.directory.enrol("bob", identity("bob").bundle)
    append(w.directory, "bob", new_identity(), version=7)
    return alice, await until(alice, ev.LogAlarmed)


@act
async def silence(w: LogWorld, stack: AsyncExitStack, patch: pytest.MonkeyPatch) -> Seen:
    w.liar.twist = lambda user, verb, argument: None if verb == "klog" else argument
    alice = await stack.enter_async_context(w.client("alice"))
    return alice, await until(alice, ev.LogTrouble)


@act
async def wrong_bundle(w: LogWorld, stack: AsyncExitStack, patch: pytest.MonkeyPatch) -> Seen:
    new, mallory = new_identity(), new_identity()
    alice, bob = await enter(w, stack, "alice", "bob")
    await start_chat(alice, bob)
    w.liar.twist = lambda user, verb, argument: (
        LogBundle(mallory.bundle.encode()) if isinstance(argument, LogBundle) else argument
    )
    await change_key(bob, new)
    return alice, await until(alice, ev.LogTrouble)


# The relay ------------------------------------------------------------------------------------------------------------


async def relayed(
    w: LogWorld, stack: AsyncExitStack, patch: pytest.MonkeyPatch, forward: Callable[[list[Record], Pass], None]
) -> Client:
    """bob says two things to alice; `forward` has the records so far and passes on what it likes."""
    alice, bob = await enter(w, stack, "alice", "bob")
    await start_chat(alice, bob)
    await trio.testing.wait_all_tasks_blocked(0.01)  # both have said that they confirm
    kept: list[Record] = []

    def each(router: Router, session: Any, record: Record, go_on: Pass) -> None:
        if session.user != "bob":  # a receipt
            go_on(record)
            return
        kept.append(record)
        forward(kept, go_on)

    on_forward(patch, each)
    await bob.say("one")
    await bob.say("two")
    return alice


@act
async def withheld_messages(w: LogWorld, stack: AsyncExitStack, patch: pytest.MonkeyPatch) -> Seen:
    alice = await relayed(w, stack, patch, lambda kept, go_on: go_on(kept[-1]) if len(kept) == 2 else None)
    return alice, await until(alice, ev.Missing)


@act
async def late_messages(w: LogWorld, stack: AsyncExitStack, patch: pytest.MonkeyPatch) -> Seen:
    def turned(kept: list[Record], go_on: Pass) -> None:
        if len(kept) == 2:
            go_on(kept[1])
            go_on(kept[0])

    alice = await relayed(w, stack, patch, turned)
    seen = await until(alice, ev.Missing)
    assert not (await until(alice, ev.TextReceived)).late
    assert (await until(alice, ev.TextReceived)).late
    return alice, seen


@act
async def repeated_message(w: LogWorld, stack: AsyncExitStack, patch: pytest.MonkeyPatch) -> Seen:
    def twice(kept: list[Record], go_on: Pass) -> None:
        go_on(kept[-1])
        go_on(kept[0])

    alice = await relayed(w, stack, patch, twice)
    return alice, await until(alice, ev.UndecryptableText)


@act
async def replayed_invite(w: LogWorld, stack: AsyncExitStack, patch: pytest.MonkeyPatch) -> Seen:
    given: list[PeerKey] = []

    def noted(key: PeerKey) -> PeerKey:
        given.append(key)
        return key

    w.liar.twist = keys_for("alice", noted)
    alice, bob = await enter(w, stack, "alice", "bob")
    await start_chat(alice, bob)
    await alice.leave()
    session = next(each for each in w.world.server.router.sessions() if each.user == "alice")
    session.event("pubk", given[0])
    return alice, await until(alice, ev.Ended)


@act
async def replayed_exchange(w: LogWorld, stack: AsyncExitStack, patch: pytest.MonkeyPatch) -> Seen:
    alice, bob = await enter(w, stack, "alice", "bob")
    earlier: list[Record] = []
    again = False

    def each(router: Router, session: Any, record: Record, go_on: Pass) -> None:
        if session.user != "bob":
            go_on(record)
        elif again:
            go_on(earlier.pop(0))
        else:
            earlier.append(record)
            go_on(record)

    on_forward(patch, each)
    await start_chat(alice, bob)
    await alice.leave()
    await until(bob, ev.ChatOver)
    again = True
    await call(alice, bob)
    return alice, await until(alice, ev.ChatFailed)
