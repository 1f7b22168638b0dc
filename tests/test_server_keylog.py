"""The key log at the running server: checkpoints, proofs, questions, changes of keys (protocol §12).

What the server says is checked here with other code: the tree by its definition, signatures by the library.
"""

from __future__ import annotations

import base64
import hashlib
import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, TypeVar

import pytest
import trio
import trio.testing
from cryptography.hazmat.primitives.asymmetric import ed25519

from messageapp.errors import ConnectionCut, UnusableSetup
from messageapp.link import Link
from messageapp.server.directory import SqliteDirectory, Writer, open_writer
from messageapp.server.keylog import MAX_RANGE, MAX_WITNESS_NAME, MAX_WITNESSES, ServerLog, open_log
from messageapp.server.router import _WRITES
from messageapp.store.database import open_database
from messageapp.store.home import Home
from messageapp.store.keylog import LogStore
from messageapp.store.users import add_user, find_encoded, list_users, reset_user, revoke_user, writing_users
from messageapp.wire.commands import ByeReason, Call, ErrorCode, parse_untrusted
from messageapp.wire.frames import FRAME_LIMITS, Frame, FrameType
from messageapp.wire.keylog_forms import MAX_LOG_BYTES, MAX_USER_LEAVES, LogHead, LogRequest, NewKey, PeerProof
from messageapp.wire.login import ClientLogin, Welcome, m4_frame
from messageapp.wire.records import Kind, Record, RecordSealer
from messageapp.wire.states import Role
from messageapp_keys import labels
from messageapp_keys.codec import Reader, vec8
from messageapp_keys.identity import PrivateIdentity, read_signatures, write_signatures
from messageapp_keys.kem import SWIFT
from messageapp_keys.keylog import Leaf, change_body, explain
from messageapp_keys.notes import COSIGNER, Checkpoint, LogKey, Note, VerifierKey, cosign
from messageapp_keys.signing import VerifyingKey
from messageapp_keys.types import TrafficSecret
from support.naive_tree import mth, path
from support.naive_tree import proof as proof_between
from support.world import SERVER_NAME, RawPeer, World, authority, identity, open_world, server_offer, some_limits

T = TypeVar("T")
KEY: Final = LogKey.generate()
WITNESS, STRANGER = LogKey.generate(), LogKey.generate()


def read_note(note: bytes) -> tuple[int, bytes]:
    """(size, root) of a note that the log's key has signed."""
    text, _, below = note.decode().partition("\n\n")
    origin, size, root = text.split("\n")
    assert origin == f"{SERVER_NAME}/msgapp-keys"
    _, name, signature = below.split("\n")[0].split(" ")
    assert name == origin
    data = base64.b64decode(signature)
    assert data[:4] == hashlib.sha256(origin.encode() + b"\n\1" + KEY.public).digest()[:4]
    ed25519.Ed25519PublicKey.from_public_bytes(KEY.public).verify(data[4:], f"{text}\n".encode())
    return int(size), base64.b64decode(root)


# a server with a log --------------------------------------------------------------------------------------------------


class LoggedDirectory(SqliteDirectory):
    """As `MemoryDirectory`, over a file."""

    def __init__(self, database: sqlite3.Connection) -> None:
        super().__init__(database)
        self._users = database

    @property
    def users(self) -> set[str]:
        return {user.name for user in list_users(self._users)}

    def enrol(self, name: str, bundle: Any) -> None:
        add_user(self._users, name, bundle, 1)


class Logged:
    """The file as another process has it, and the world that serves it."""

    def __init__(self, file: Path, world: World, log: ServerLog, database: sqlite3.Connection) -> None:
        self.file, self.world, self.log, self.database = file, world, log, database

    def elsewhere(self, act: Callable[..., T], *arguments: Any) -> T:
        with closing(open_database(self.file, "server")) as database:
            return act(database, *arguments)

    @property
    def leaves(self) -> list[bytes]:
        store = LogStore(self.database)
        return list(store.encoded_leaves(0, store.size))


Open = Callable[..., Any]


@pytest.fixture
def logged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Open:
    """`async with logged(...)`: a running server with a log. Writing is done at once: the clock stands still."""

    @asynccontextmanager
    async def opened(
        *, write: Writer | None = None, witnesses: Sequence[VerifierKey] = (), **limits: Any
    ) -> AsyncIterator[Logged]:
        file = tmp_path / "directory.db"

        async def at_once(act: Callable[[sqlite3.Connection], T]) -> T:
            await trio.lowlevel.checkpoint()
            with closing(open_database(file, "server")) as database:
                return act(database)

        with closing(open_database(file, "server")) as database:
            log = ServerLog(database, write or at_once, KEY, server_offer(), witnesses, lambda: 77)
            monkeypatch.setattr("support.world.MemoryDirectory", lambda: LoggedDirectory(database))
            async with open_world(some_limits(**limits), log=log) as world:
                yield Logged(file, world, log, database)

    return opened


def read(record: Record) -> Any:
    return parse_untrusted(Role.SERVER, record)


async def ask(peer: RawPeer, request: LogRequest) -> Any:
    record = await peer.ask("klog", request)
    assert record.verb == b"klog", read(record)
    return read(record)


async def refusal(peer: RawPeer, verb: str, argument: Any) -> ErrorCode:
    record = await peer.ask(verb, argument)
    assert record.verb == b"erro", read(record)
    return ErrorCode(read(record).code)


async def events(peer: RawPeer) -> list[Record]:
    """Those that came, a second later."""
    await trio.sleep(1)
    await peer.ask("list")
    found, peer.events = peer.events, []
    return found


# what everybody is shown ----------------------------------------------------------------------------------------------


async def test_m4_and_head_show_the_checkpoint_of_all_leaves(
    autojump_clock: trio.testing.MockClock, logged: Open
) -> None:
    with trio.fail_after(60):
        async with logged() as site:
            for name in ("alice", "bob", "carol"):
                peer = await site.world.raw(name)
                assert read_note(peer.info.welcome.checkpoint) == (len(site.leaves), mth(site.leaves))
            head = await ask(peer, LogRequest.head())
            assert head.note == peer.info.welcome.checkpoint


async def test_the_logs_key_is_bound_to_the_certificate_by_which_the_client_knows_the_server(
    autojump_clock: trio.testing.MockClock, logged: Open
) -> None:
    with trio.fail_after(60):
        async with logged() as site:
            alice = await site.world.raw("alice")
            first, site.world.server.offer = server_offer(), server_offer("second")
            bob = await site.world.raw("bob")
            assert first.leaf_spki_hash != server_offer("second").leaf_spki_hash
            for peer, offer in ((alice, first), (bob, server_offer("second"))):
                head = await ask(peer, LogRequest.head())
                assert (head.log_key, head.sigalg) == (KEY.public, offer.sigalg)
                body = vec8(SERVER_NAME.encode()) + KEY.public
                key = VerifyingKey.of(offer.key.public_key())
                assert key.verify_untrusted(labels.SIG_LOG_KEY, body, head.signature)
                site.elsewhere(add_user, f"from-{peer is bob}", identity("x").bundle, 1)
                (event,) = [read(record) for record in await events(peer) if record.verb == b"klog"][-1:]
                assert key.verify_untrusted(labels.SIG_LOG_KEY, body, event.signature)


async def test_every_session_is_told_within_a_quarter_of_a_second_when_the_log_has_grown(
    autojump_clock: trio.testing.MockClock, logged: Open
) -> None:
    with trio.fail_after(60):
        async with logged() as site:
            peers = [await site.world.raw(name) for name in ("alice", "bob", "bob")]
            for peer in peers:  # of the enrolments above
                await events(peer)
            site.elsewhere(add_user, "carol", identity("carol").bundle, 1)
            site.elsewhere(add_user, "dave", identity("dave").bundle, 1)
            for peer in peers:
                with trio.fail_after(0.26):
                    record = await peer.receive()
                assert (record.kind, record.verb) == (Kind.EVENT, b"klog")
                assert isinstance(read(record), LogHead)
                assert read_note(read(record).note) == (4, mth(site.leaves))
                assert await events(peer) == [], "once"


async def test_many_sessions_are_told_a_few_at_a_time(autojump_clock: trio.testing.MockClock, logged: Open) -> None:
    """Every 64 (`_TOLD_AT_ONCE`) the others have their turn; all are told in the end."""
    with trio.fail_after(60):
        async with logged(sessions_per_user=70) as site:
            peers = [await site.world.raw("alice") for _ in range(65)]
            site.elsewhere(add_user, "carol", identity("carol").bundle, 1)
            for peer in peers:
                assert (await peer.receive()).verb == b"klog"


async def test_an_empty_log_shows_nothing(tmp_path: Path) -> None:
    with closing(open_database(tmp_path / "directory.db", "server")) as database:
        log = ServerLog(database, open_writer(tmp_path / "directory.db"), KEY, server_offer())
        assert log.note() == b""
        assert log.proof_of("alice") == b""
        add_user(database, "alice", identity("alice").bundle, 1)
        assert read_note(log.note()) == (1, mth(list(LogStore(database).encoded_leaves(0, 1))))


async def test_without_a_log_its_verbs_are_unknown(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(60):
        async with open_world() as world:
            alice = await world.raw("alice")
            assert alice.info.welcome.checkpoint == b""
            assert await refusal(alice, "klog", LogRequest.head()) is ErrorCode.UNKNOWN_VERB
            assert await refusal(alice, "newk", NewKey(b"", b"", b"")) is ErrorCode.UNKNOWN_VERB
            assert b"klog" not in (await alice.ask("help")).argument


# questions ------------------------------------------------------------------------------------------------------------


def fill(database: sqlite3.Connection, count: int) -> None:
    with writing_users(database):
        for number in range(count):
            add_user(database, f"user{number}", identity("anyone").bundle, number)


async def test_proofs_are_those_of_the_definition(autojump_clock: trio.testing.MockClock, logged: Open) -> None:
    with trio.fail_after(60):
        async with logged(klogs_per_minute=10_000, commands_burst=10_000) as site:
            site.elsewhere(fill, 260)  # more than one tile
            alice = await site.world.raw("alice")
            leaves = site.leaves
            for size in (1, 2, 3, 7, 8, 255, 256, 257, 261):
                for number in {0, 1, size // 2, size - 1} - {size}:
                    found = await ask(alice, LogRequest.inclusion(number, size))
                    assert (found.leaf, list(found.proof)) == (leaves[number], path(number, leaves[:size]))
                for old in {1, 2, size // 2, size - 1, size} - {0}:
                    if old <= size:
                        answer = await ask(alice, LogRequest.consistency(old, size))
                        assert list(answer.proof) == proof_between(old, leaves[:size])


async def test_leaves_come_in_their_order_and_below_the_end(
    autojump_clock: trio.testing.MockClock, logged: Open
) -> None:
    with trio.fail_after(60):
        async with logged() as site:
            site.elsewhere(fill, 20)
            alice = await site.world.raw("alice")
            for start, stop in ((0, 21), (0, 1), (7, 9), (20, 21)):
                found = await ask(alice, LogRequest.range(start, stop))
                assert (found.start, list(found.leaves)) == (start, site.leaves[start:stop])


def long_leaves(database: sqlite3.Connection, name: str, count: int) -> None:
    """As a user with a post-quantum identity makes them."""
    with writing_users(database):
        store = LogStore(database)
        for _ in range(count):
            signatures = ((0x0804, bytes(384)), (0x0905, bytes(3309)))
            latest = store.latest(name)
            assert latest is not None
            store.append([Leaf.after(latest, 1, name, bytes(32), 0, signatures).encode()])


async def test_a_reply_holds_as_many_leaves_as_fit_120_000_bytes(
    autojump_clock: trio.testing.MockClock, logged: Open
) -> None:
    with trio.fail_after(60):
        async with logged() as site:
            alice = await site.world.raw("alice")
            site.elsewhere(long_leaves, "alice", 70)
            found = await ask(alice, LogRequest.range(0, 71))
            sizes = [len(leaf) + 2 for leaf in site.leaves]
            taken = len(found.leaves)
            assert list(found.leaves) == site.leaves[:taken]
            assert sum(sizes[:taken]) <= MAX_LOG_BYTES < sum(sizes[: taken + 1])
            rest = await ask(alice, LogRequest.range(taken, 71))
            assert list(rest.leaves)[:5] == site.leaves[taken : taken + 5]
            mine = await ask(alice, LogRequest.user("alice"))
            taken = len(mine.entries)
            assert sum(sizes[-taken:]) <= MAX_LOG_BYTES
            assert [leaf for _, leaf in mine.entries] == site.leaves[: -taken - 1 : -1]


async def test_short_leaves_are_read_2048_at_a_time(autojump_clock: trio.testing.MockClock, logged: Open) -> None:
    def short(database: sqlite3.Connection) -> None:
        with writing_users(database):
            LogStore(database).append([Leaf(1, "a", 1, bytes(32)).encode()] * (MAX_RANGE + 10))

    with trio.fail_after(60):
        async with logged() as site:
            alice = await site.world.raw("alice")
            site.elsewhere(short)
            found = await ask(alice, LogRequest.range(0, MAX_RANGE + 11))
            assert MAX_RANGE - 100 < len(found.leaves) < MAX_RANGE, "the bytes are what ends it"


async def test_leaves_of_a_user_come_newest_first_and_64_at_most(
    autojump_clock: trio.testing.MockClock, logged: Open
) -> None:
    with trio.fail_after(60):
        async with logged() as site:
            alice = await site.world.raw("alice")
            for number in range(MAX_USER_LEAVES + 5):
                site.elsewhere(reset_user, "alice", identity(f"key {number % 2}").bundle, number)
            site.elsewhere(add_user, "bob", identity("bob").bundle, 1)
            await trio.sleep(1)
            bob = await site.world.raw("bob")
            found = (await ask(bob, LogRequest.user("ALICE"))).entries
            assert len(found) == MAX_USER_LEAVES
            assert [number for number, _ in found] == list(range(MAX_USER_LEAVES + 5, 5, -1))
            assert all(leaf == site.leaves[number] for number, leaf in found)
            assert (await ask(bob, LogRequest.user("nobody"))).entries == ()
            assert alice is not bob


async def test_keys_that_once_counted_are_given(autojump_clock: trio.testing.MockClock, logged: Open) -> None:
    with trio.fail_after(60):
        async with logged() as site:
            alice = await site.world.raw("alice")
            site.elsewhere(add_user, "bob", identity("first").bundle, 1)
            site.elsewhere(reset_user, "bob", identity("second").bundle, 1)
            for name in ("first", "second", "alice"):
                bundle = identity(name).bundle
                assert (await ask(alice, LogRequest.keys(bundle.key_id))).bundle == bundle.encode()
            assert await refusal(alice, "klog", LogRequest.keys(bytes(32))) is ErrorCode.NOT_AVAILABLE


@pytest.mark.parametrize(
    "request_",
    [
        LogRequest.range(0, 0),
        LogRequest.range(1, 0),
        LogRequest.range(0, 4),
        LogRequest.range(3, 4),
        LogRequest.range(0, 2**64 - 1),
        LogRequest.range(2**64 - 2, 2**64 - 1),
        LogRequest.inclusion(3, 3),
        LogRequest.inclusion(0, 0),
        LogRequest.inclusion(0, 4),
        LogRequest.inclusion(2**63, 2**63 + 1),
        LogRequest.consistency(0, 3),
        LogRequest.consistency(0, 0),
        LogRequest.consistency(3, 2),
        LogRequest.consistency(1, 4),
        LogRequest.consistency(2**64 - 1, 2**64 - 1),
        LogRequest.cosign(b""),
        LogRequest.cosign(b"\xff\n"),
        LogRequest.cosign(b"x" * 60_000),
    ],
    ids=lambda request: f"{request.op.name}-{request.first}-{request.second}-{len(request.data)}",
)
async def test_what_is_out_of_range_is_refused(
    autojump_clock: trio.testing.MockClock, logged: Open, request_: LogRequest
) -> None:
    with trio.fail_after(60):
        async with logged() as site:
            site.elsewhere(fill, 2)
            alice = await site.world.raw("alice")
            assert await refusal(alice, "klog", request_) is ErrorCode.MALFORMED
            await alice.nothing_new()


async def test_questions_are_bounded_at_sixty_a_minute_for_a_user(
    autojump_clock: trio.testing.MockClock, logged: Open
) -> None:
    """`klogs_per_minute`, over all sessions of the user."""
    with trio.fail_after(600):
        async with logged(commands_burst=1000) as site:
            alice, other = await site.world.raw("alice"), await site.world.raw("alice")
            for number in range(60):
                await ask((alice, other)[number % 2], LogRequest.head())
            assert await refusal(alice, "klog", LogRequest.head()) is ErrorCode.RATE
            assert await refusal(other, "klog", LogRequest.user("alice")) is ErrorCode.RATE
            await ask(await site.world.raw("bob"), LogRequest.head())
            await trio.sleep(1.1)
            await ask(alice, LogRequest.head())
            assert await refusal(alice, "klog", LogRequest.head()) is ErrorCode.RATE


# the proof in pubk ----------------------------------------------------------------------------------------------------


async def test_pubk_proves_the_newest_leaf_of_the_peer_to_both(
    autojump_clock: trio.testing.MockClock, logged: Open
) -> None:
    with trio.fail_after(60):
        async with logged() as site:
            site.elsewhere(fill, 5)
            site.elsewhere(add_user, "bob", identity("before").bundle, 1)
            site.elsewhere(reset_user, "bob", identity("bob").bundle, 2)
            alice, bob = await site.world.raw("alice"), await site.world.raw("bob")
            await alice.ask("chat", Call("bob", bytes(16)))
            assert (await bob.receive()).verb == b"reqt"
            site.elsewhere(add_user, "late", identity("late").bundle, 1)  # in this very moment
            to_bob = read(await bob.ask("acpt", Call("alice", bytes(16))))
            to_alice = read(await alice.receive())
            leaves = site.leaves
            for pubk, name, number in ((to_bob, "alice", 7), (to_alice, "bob", 6)):
                proof = PeerProof.parse_untrusted(pubk.proof)
                assert read_note(proof.note) == (len(leaves), mth(leaves))
                assert (proof.index, proof.leaf) == (number, leaves[number])
                assert list(proof.proof) == path(number, leaves)
                assert Leaf.parse_untrusted(proof.leaf).key_id == identity(name).key_id


# revocation -----------------------------------------------------------------------------------------------------------


async def test_a_revoked_user_is_out_and_peers_are_told(autojump_clock: trio.testing.MockClock, logged: Open) -> None:
    with trio.fail_after(60):
        async with logged() as site:
            alice, bob = await site.world.raw("alice"), await site.world.raw("bob")
            await site.world.raw_chat(alice, "alice", bob, "bob")
            site.elsewhere(revoke_user, "bob", 5)
            with trio.fail_after(0.6):
                records = [await bob.receive()]
                while records[-1].verb != b"byee":
                    records.append(await bob.receive())
            assert read(records[-1]).reason == ByeReason.REMOVED
            assert {(record.verb, record.argument[:1]) for record in await events(alice)} == {
                (b"klog", b"\1"),
                (b"exch", b"\1"),
            }
            await no_login(site.world, "bob", identity("bob"))


# a change by its owner ------------------------------------------------------------------------------------------------


def new_key(old: PrivateIdentity, new: PrivateIdentity, **step: Any) -> NewKey:
    made: dict[str, Any] = {"server": SERVER_NAME, "user": "alice", "version": 2, "from_": old, "to": new} | step
    body = change_body(made["server"], made["user"], made["version"], made["from_"].key_id, made["to"].key_id)
    return NewKey(
        new.bundle.encode(),
        write_signatures(old.sign(labels.SIG_KEY_CHANGE, body)),
        write_signatures(new.sign(labels.SIG_NEW_KEY, body)),
    )


async def begin(world: World, name: str, who: PrivateIdentity) -> tuple[Link, ClientLogin, Frame]:
    """A login up to the server's word on it: M4, or an ALERT."""
    link = Link(world.connect(), Role.CLIENT)
    login = ClientLogin(
        username=name,
        identity=who,
        authority=authority()[1],
        server=SERVER_NAME,
        suites=(SWIFT,),
        random=lambda size: bytes(size),
        device=None,
    )
    await link.send_frame(FrameType.M1, login.start())
    await link.send_frame(FrameType.M3, login.receive_m2_untrusted(await link.receive_frame(), datetime.now(UTC)))
    return link, login, await link.receive_frame()


async def no_login(world: World, name: str, who: PrivateIdentity) -> None:
    _, _, frame = await begin(world, name, who)
    assert frame.type is FrameType.ALERT


async def log_in(world: World, name: str, who: PrivateIdentity) -> RawPeer:
    link, login, frame = await begin(world, name, who)
    info = login.receive_m4_untrusted(frame)
    link.connection.start_session(info.sealer, info.opener, trio.current_time())
    return RawPeer(link, info)


async def until_goodbye(peer: RawPeer) -> list[bytes]:
    """The verbs until the end."""
    verbs: list[bytes] = []
    while True:
        try:
            record = await peer.receive()
        except ConnectionCut:
            return verbs
        verbs.append(record.verb)
        if record.verb == b"byee":
            assert read(record).reason == ByeReason.REMOVED


async def test_a_key_is_changed_by_who_has_both(autojump_clock: trio.testing.MockClock, logged: Open) -> None:
    """okay, then every session of the user ends; the peer of a chat is told, and everybody of the leaf."""
    with trio.fail_after(60):
        async with logged() as site:
            old, new = identity("alice"), identity("alice's next")
            alice, other, bob = [await site.world.raw(name) for name in ("alice", "alice", "bob")]
            await site.world.raw_chat(other, "alice", bob, "bob")
            reply = await alice.ask("newk", new_key(old, new))
            assert (reply.verb, reply.argument) == (b"okay", b"")
            with trio.fail_after(0.01):  # no need to wait until it is noticed
                assert b"byee" in await until_goodbye(alice)
                assert b"byee" in await until_goodbye(other)
            assert {record.verb for record in await events(bob)} == {b"exch", b"klog"}
            leaf = Leaf.parse_untrusted(site.leaves[2])
            assert (leaf.ms, leaf.user, leaf.version, leaf.previous) == (77, "alice", 2, 0)
            assert explain(old.bundle, leaf, SERVER_NAME) == "signed"
            assert read_signatures(Reader(new_key(old, new).change)) == leaf.signatures
            await no_login(site.world, "alice", old)
            back = await log_in(site.world, "alice", new)
            assert read_note(back.info.welcome.checkpoint) == (3, mth(site.leaves))
            assert (await ask(back, LogRequest.keys(old.key_id))).bundle == old.bundle.encode()


OLD, NEW, THIRD = (identity(name) for name in ("alice", "alice's next", "somebody"))
GOOD: Final = new_key(OLD, NEW)
BAD: dict[str, NewKey] = {
    "nothing": NewKey(b"", b"", b""),
    "the bundle is cut": NewKey(GOOD.bundle[:-1], GOOD.change, GOOD.possession),
    "a byte behind the bundle": NewKey(GOOD.bundle + b"\0", GOOD.change, GOOD.possession),
    "another bundle": NewKey(THIRD.bundle.encode(), GOOD.change, GOOD.possession),
    "a byte behind the signatures": NewKey(GOOD.bundle, GOOD.change + b"\0", GOOD.possession),
    "no signature of the old key": NewKey(GOOD.bundle, b"", GOOD.possession),
    "no signature of the new key": NewKey(GOOD.bundle, GOOD.change, b""),
    "the signatures change places": NewKey(GOOD.bundle, GOOD.possession, GOOD.change),
    "by a third key": new_key(THIRD, NEW, from_=OLD),
    "for a third key": NewKey(GOOD.bundle, new_key(OLD, THIRD).change, GOOD.possession),
    "the old key has another name": new_key(OLD, NEW, from_=THIRD),
    "another version": new_key(OLD, NEW, version=3),
    "another user": new_key(OLD, NEW, user="bob"),
    "another spelling": new_key(OLD, NEW, user="Alice"),
    "another server": new_key(OLD, NEW, server="127.0.0.1"),
    "the same key": new_key(OLD, OLD),
    "long": NewKey(bytes(20_000), bytes(20_000), bytes(20_000)),
}


@pytest.mark.parametrize("wrong", BAD)
async def test_anything_wrong_with_a_change_changes_nothing(
    autojump_clock: trio.testing.MockClock, logged: Open, wrong: str
) -> None:
    with trio.fail_after(60):
        async with logged() as site:
            alice = await site.world.raw("alice")
            assert await refusal(alice, "newk", BAD[wrong]) is ErrorCode.MALFORMED
            assert await events(alice) == []
            assert len(site.leaves) == 1
            assert find_encoded(site.database, "alice") == OLD.bundle.encode()
            assert (await alice.ask("newk", GOOD)).verb == b"okay", "and the right one is taken"


async def test_nobody_changes_the_key_of_another(autojump_clock: trio.testing.MockClock, logged: Open) -> None:
    with trio.fail_after(60):
        async with logged() as site:
            await site.world.raw("alice")
            mallory = await site.world.raw("mallory")
            assert await refusal(mallory, "newk", GOOD) is ErrorCode.MALFORMED


async def test_changes_are_bounded_at_six_an_hour(autojump_clock: trio.testing.MockClock, logged: Open) -> None:
    """`newks_per_hour`: tries count too."""
    with trio.fail_after(5000):
        async with logged(ping_seconds=4000, dead_seconds=8000) as site:
            alice = await site.world.raw("alice")
            for _ in range(6):
                assert await refusal(alice, "newk", BAD["nothing"]) is ErrorCode.MALFORMED
            assert await refusal(alice, "newk", GOOD) is ErrorCode.RATE
            bob = await site.world.raw("bob")
            assert await refusal(bob, "newk", BAD["nothing"]) is ErrorCode.MALFORMED
            await trio.sleep(601)
            assert (await alice.ask("newk", GOOD)).verb == b"okay"


async def test_other_requests_do_not_wait_for_the_disk(autojump_clock: trio.testing.MockClock, logged: Open) -> None:
    """A change waits in a queue of `_WRITES`; what is more is refused, and all that was taken is answered in order."""
    gate = trio.Event()

    async def slow(act: Callable[[sqlite3.Connection], T]) -> T:
        await gate.wait()
        with closing(open_database(site.file, "server")) as database:
            return act(database)

    with trio.fail_after(60):
        async with logged(write=slow, newks_per_hour=1000, commands_burst=1000) as site:
            alice, bob = await site.world.raw("alice"), await site.world.raw("bob")
            await alice.send("newk", GOOD, identifier=1000)
            await trio.testing.wait_all_tasks_blocked()
            for number in range(_WRITES):
                await alice.send("newk", BAD["nothing"], identifier=2000 + number)
            assert (await alice.ask("list")).verb == b"list"
            assert (await bob.ask("list")).verb == b"list"
            assert await refusal(bob, "newk", BAD["nothing"]) is ErrorCode.RATE
            assert alice.events == []
            gate.set()
            assert (await alice.receive()).id == 1000
            assert b"byee" in await until_goodbye(alice)
            assert await refusal(bob, "newk", BAD["nothing"]) is ErrorCode.MALFORMED


async def test_a_directory_that_cannot_be_written_changes_nothing(
    autojump_clock: trio.testing.MockClock, logged: Open
) -> None:
    async def full(act: Callable[[sqlite3.Connection], T]) -> T:
        await trio.lowlevel.checkpoint()
        raise UnusableSetup("cannot write the directory of users: disk full")

    with trio.fail_after(60):
        async with logged(write=full) as site:
            alice = await site.world.raw("alice")
            assert await refusal(alice, "newk", GOOD) is ErrorCode.STORAGE
            assert (await alice.ask("list")).verb == b"list"
            assert len(site.leaves) == 1


async def test_a_log_that_cannot_be_read(autojump_clock: trio.testing.MockClock, logged: Open) -> None:
    """Sessions live on; no chat begins, nobody new comes in."""
    with trio.fail_after(60):
        async with logged() as site:
            alice, bob = await site.world.raw("alice"), await site.world.raw("bob")
            site.elsewhere(lambda database: database.execute("ALTER TABLE log_leaves RENAME TO gone"))
            await trio.sleep(1)
            assert await refusal(alice, "klog", LogRequest.head()) is ErrorCode.STORAGE
            assert await refusal(alice, "klog", LogRequest.user("bob")) is ErrorCode.STORAGE
            assert await refusal(alice, "klog", LogRequest.cosign(b"x\n")) is ErrorCode.STORAGE
            assert await refusal(alice, "newk", GOOD) is ErrorCode.STORAGE
            await alice.ask("chat", Call("bob", bytes(16)))
            await bob.receive()
            assert read(await bob.ask("acpt", Call("alice", bytes(16)))).proof == b""
            await no_login(site.world, "bob", identity("bob"))
            site.elsewhere(lambda database: database.execute("ALTER TABLE gone RENAME TO log_leaves"))
            await ask(alice, LogRequest.head())


async def test_a_change_is_written_in_a_thread(logged: Open, tmp_path: Path) -> None:
    """The real writer, on the real clock."""
    with trio.fail_after(60):
        async with logged(write=open_writer(tmp_path / "directory.db")) as site:
            alice, bob = await site.world.raw("alice"), await site.world.raw("bob")
            assert await refusal(alice, "newk", BAD["by a third key"]) is ErrorCode.MALFORMED
            assert (await alice.ask("newk", GOOD)).verb == b"okay"
            assert b"byee" in await until_goodbye(alice)
            assert (await bob.receive()).verb == b"klog"
            assert find_encoded(site.database, "alice") == NEW.bundle.encode()


# witnesses ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def witness() -> VerifierKey:
    return WITNESS.verifier("w.example", COSIGNER)


def cosignature(note: bytes, name: str = "w.example", key: LogKey = WITNESS, seconds: int = 5) -> LogRequest:
    return LogRequest.cosign(cosign(Note.parse_untrusted(note).text, name, key, seconds).encode().encode())


async def test_a_witness_adds_its_line_and_everybody_is_told(
    autojump_clock: trio.testing.MockClock, logged: Open, witness: VerifierKey
) -> None:
    with trio.fail_after(60):
        async with logged(witnesses=[witness]) as site:
            alice, bob = await site.world.raw("alice"), await site.world.raw("bob")
            await events(alice)
            note = (await ask(alice, LogRequest.head())).note
            request = cosignature(note)
            assert (await alice.ask("klog", request)).verb == b"okay"
            (event,) = await events(bob)
            assert read(event).note == note + request.data
            assert (await site.world.raw("carol-2")).info.welcome.checkpoint.count(b"\n") == note.count(b"\n"), (
                "the log has grown: the line was for the checkpoint before"
            )
            note = (await ask(alice, LogRequest.head())).note
            for seconds in (6, 7):
                assert (await alice.ask("klog", cosignature(note, seconds=seconds))).verb == b"okay"
            assert (await ask(alice, LogRequest.head())).note == note + cosignature(note, seconds=7).data
            assert site.database.execute("SELECT count(*) FROM cosignatures").fetchone() == (1,), "the newest alone"


async def test_only_a_witness_of_the_server_cosigns_and_only_the_newest_checkpoint(
    autojump_clock: trio.testing.MockClock, logged: Open, witness: VerifierKey
) -> None:
    with trio.fail_after(60):
        async with logged(witnesses=[witness]) as site:
            alice = await site.world.raw("alice")
            before = alice.info.welcome.checkpoint
            site.elsewhere(add_user, "bob", identity("bob").bundle, 1)
            note = (await ask(alice, LogRequest.head())).note
            other = Checkpoint.parse_untrusted(Note.parse_untrusted(note).text)
            forked = Checkpoint(other.origin, other.size, bytes(32)).encode() + "\n— x AAAAAAAA\n"
            await events(alice)
            for request in (
                cosignature(before),
                cosignature(forked.encode()),
                cosignature(note, key=STRANGER),
                cosignature(note, name="other.example"),
                LogRequest.cosign(note[note.index(b"\n\n") + 2 :]),  # the log's own line
            ):
                assert await refusal(alice, "klog", request) is ErrorCode.NOT_AVAILABLE
            assert await events(alice) == []
            assert (await ask(alice, LogRequest.head())).note == note


async def test_who_is_no_witness_any_more_is_not_shown(tmp_path: Path, witness: VerifierKey) -> None:
    file = tmp_path / "directory.db"
    with closing(open_database(file, "server")) as database:
        add_user(database, "alice", identity("alice").bundle, 1)
        log = ServerLog(database, open_writer(file), KEY, server_offer(), [witness])
        note = log.note()
        await log.cosign(cosignature(note).data)
        assert log.note() == note + cosignature(note).data
        assert ServerLog(database, open_writer(file), KEY, server_offer()).note() == note


# opening --------------------------------------------------------------------------------------------------------------


def test_the_key_is_made_once_and_is_its_owners_alone(tmp_path: Path) -> None:
    home = Home(tmp_path)
    with closing(open_database(home.directory, "server")) as database:
        add_user(database, "alice", identity("alice").bundle, 1)
        database.execute("DELETE FROM log_leaves")
        database.execute("DELETE FROM log_tiles")
        first = open_log(home, database, server_offer())
        assert LogStore(database).size == 1, "adopted"
        assert home.log_key.stat().st_mode & 0o777 == 0o600
        assert open_log(home, database, server_offer()).head().log_key == first.head().log_key
        assert LogStore(database).size == 1
        home.log_key.chmod(0o644)
        with pytest.raises(UnusableSetup, match="can be read by others"):
            open_log(home, database, server_offer())
        home.log_key.chmod(0o600)
        home.log_key.write_bytes(b"no key")
        with pytest.raises(UnusableSetup, match=r"log\.key"):
            open_log(home, database, server_offer())


def test_witnesses_are_distinct_witnesses_and_not_too_many(tmp_path: Path) -> None:
    home = Home(tmp_path)

    def keys(count: int, kind: int = COSIGNER) -> list[str]:
        return [WITNESS.verifier(f"w{number}", kind).encode() for number in range(count)]

    with closing(open_database(home.directory, "server")) as database:
        open_log(home, database, server_offer(), keys(MAX_WITNESSES))
        long = WITNESS.verifier("w" * (MAX_WITNESS_NAME + 1), COSIGNER).encode()
        wrong = (
            [long],
            keys(MAX_WITNESSES + 1),
            keys(1, kind=1),
            [*keys(1), *keys(1)],
            ["w0"],
            [""],
            [keys(1)[0] + " "],
        )
        for texts in wrong:
            with pytest.raises(UnusableSetup, match="witness"):
                open_log(home, database, server_offer(), texts)


async def test_a_checkpoint_with_the_longest_names_fits_m4(tmp_path: Path) -> None:
    """`MAX_WITNESS_NAME` bytes each, for a server whose name has 253."""
    file, name = tmp_path / "directory.db", "a" * 253
    offer = replace(server_offer(), names=(name,))
    witnesses = [WITNESS.verifier(f"{number:w>{MAX_WITNESS_NAME}}", COSIGNER) for number in range(MAX_WITNESSES)]
    with closing(open_database(file, "server")) as database:
        log = ServerLog(database, open_writer(file), KEY, offer, witnesses)
        add_user(database, "alice", identity("alice").bundle, 1)
        note = log.note()
        for witness in witnesses:
            await log.cosign(cosignature(note, name=witness.name, seconds=2**62).data)
    database = open_database(file, "server")
    with closing(database):
        whole = ServerLog(database, open_writer(file), KEY, offer, witnesses).note()
    assert whole.count(b"\n") == note.count(b"\n") + MAX_WITNESSES
    welcome = Welcome(name, 2**62, other_sessions=5, checkpoint=whole + bytes(20))  # and digits for the size
    frame = m4_frame(RecordSealer(TrafficSecret(bytes(32)), "a" * 16), welcome)
    assert len(frame) - 4 <= FRAME_LIMITS[FrameType.M4]
