"""Joining, real server and clients in memory: who gets in, what the others are told, what an onlooker has."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest
import trio
import trio.testing
from cryptography.hazmat.primitives.asymmetric import ec

from messageapp.client.client import Client, open_client
from messageapp.client.login import Account
from messageapp.errors import (
    CannotConnect,
    JoinRefused,
    LoginRefused,
    ServerBusy,
    ServerNotAuthenticated,
    UnusableSetup,
)
from messageapp.server.directory import SqliteDirectory
from messageapp.server.invites import Invites
from messageapp.server.keylog import ServerLog
from messageapp.store.database import open_database
from messageapp.store.invites import create_invite, list_invites, revoke_invite
from messageapp.store.users import add_user, find_encoded, list_users
from messageapp.wire.frames import FrameType, encode_frame
from messageapp.wire.joining import JOIN_REFUSALS, Invitation
from messageapp.wire.messages import Alert
from messageapp_keys.authority import make_ca, make_server_certificate
from messageapp_keys.certificate_reading import certificate_der, certificate_pem, leaf_names, spki_hash
from messageapp_keys.joincode import JoinCode
from messageapp_keys.notes import LogKey
from support.world import (
    SERVER_NAME,
    Stream,
    World,
    authority,
    expect,
    identity,
    open_world,
    read_to_end,
    server_offer,
    start_chat,
)

T = TypeVar("T")
DAY = 86_400_000
CA = certificate_der(authority()[1])
HASH = hashlib.sha256(CA).digest()


class Place:
    """A running server with a file, and the file as another process has it."""

    def __init__(self, world: World, database: sqlite3.Connection) -> None:
        self.world, self.database = world, database
        self.now_ms = 1_767_268_800_000
        self.redeeming: Callable[[], None] = lambda: None

    def invite(self, name: str = "", **changes: Any) -> JoinCode:
        secret = create_invite(self.database, name, self.now_ms, changes.pop("lifetime", DAY), **changes)
        return JoinCode(SERVER_NAME, 0, name, HASH, secret)

    def account(self, code: JoinCode, name: str, **changes: Any) -> Account:
        return replace(self.world.account(name, enrol=False), authority=Invitation.of(code), **changes)

    @asynccontextmanager
    async def join(
        self, code: JoinCode, name: str = "bob", stream: Stream | None = None, **changes: Any
    ) -> AsyncIterator[Client]:
        account = self.account(code, name, **changes)
        async with open_client(stream or self.world.connect(), account, self.world.keys) as client:
            yield client

    async def refused(self, code: JoinCode, name: str = "bob", **changes: Any) -> str:
        before = self.state()
        with pytest.raises(LoginRefused) as caught:
            async with self.join(code, name, **changes):
                raise AssertionError("let in")
        assert self.state() == before
        return str(caught.value)

    def state(self) -> object:
        queries = ("SELECT * FROM users", "SELECT * FROM invites", "SELECT * FROM log_leaves")
        return [self.database.execute(query).fetchall() for query in queries]

    @property
    def names(self) -> list[str]:
        return [user.name for user in list_users(self.database)]


class _Directory(SqliteDirectory):
    """As `MemoryDirectory`, over a file."""

    def __init__(self, database: sqlite3.Connection) -> None:
        super().__init__(database)
        self._writing = database

    @property
    def users(self) -> set[str]:
        return {user.name for user in list_users(self._writing)}

    def enrol(self, name: str, bundle: Any) -> None:
        add_user(self._writing, name, bundle, 1)


Open = Callable[..., Any]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock) -> Open:
    """`async with place()`: writing takes a moment of the clock that jumps, and no thread."""
    file = tmp_path / "directory.db"

    @asynccontextmanager
    async def opened(*, logged: bool = False, **changes: Any) -> AsyncIterator[Place]:
        found: Place

        async def write(act: Callable[[sqlite3.Connection], T]) -> T:
            await trio.sleep(0.01)
            found.redeeming()
            with closing(open_database(file, "server")) as database:
                return act(database)

        offer = replace(server_offer(), authority=CA)
        with trio.fail_after(60), closing(open_database(file, "server")) as database:
            log = ServerLog(database, write, LogKey.generate(), offer) if logged else None
            monkeypatch.setattr("support.world.MemoryDirectory", lambda: _Directory(database))
            changes.setdefault("invites", Invites(database, write, lambda: found.now_ms))
            with closing(open_database(file, "server")) as other:
                async with open_world(offer=offer, log=log, **changes) as world:
                    found = Place(world, other)
                    yield found

    return opened


# who gets in ----------------------------------------------------------------------------------------------------------


async def test_a_newcomer_is_enrolled_logged_in_and_chats(place: Open) -> None:
    async with place(logged=True) as here:
        code = here.invite("bob")
        async with here.world.client("alice") as alice, here.join(code) as bob:
            assert here.names == ["alice", "bob"]
            assert find_encoded(here.database, "bob") == identity("bob").bundle.encode()
            await start_chat(alice, bob)
            await bob.say("hello")
            assert (await expect(alice, "TextReceived")).text == "hello"
        (invite,) = list_invites(here.database)
        assert (invite.uses, invite.used) == (0, 1)


async def test_the_server_is_remembered_with_the_authority_of_the_code(place: Open) -> None:
    async with place() as here:
        async with here.join(here.invite()) as bob:
            pin = bob.account.trust.known_server(SERVER_NAME, 0)
            assert pin.ca_pem == certificate_pem(authority()[1]).encode()
        async with here.world.client("bob", enrol=False) as again:
            assert again.info.welcome.server_name == SERVER_NAME


async def test_the_user_hears_that_the_server_is_right_before_it_hears_of_the_user(place: Open) -> None:
    async with place() as here:
        heard: list[list[str]] = []
        async with here.join(here.invite(), on_proved=lambda: heard.append(here.names)):
            assert (heard, here.names) == ([[]], ["bob"])


async def test_one_code_for_three_lets_in_three(place: Open) -> None:
    async with place() as here:
        code = here.invite(uses=3)
        for name in ("ann", "bob", "cid"):
            async with here.join(code, name):
                pass
        assert (
            await here.refused(code, "dan") == "this join code has been used up; ask the server's owner for a new one"
        )
        assert here.names == ["ann", "bob", "cid"]


async def test_of_two_at_once_exactly_one_gets_in(place: Open) -> None:
    """With one use left; and of two who want one name, with uses enough."""
    async with place() as here:
        for code, names in ((here.invite(), ("ann", "bob")), (here.invite(uses=5), ("Cid", "cid"))):
            outcomes: list[str] = []

            async def attempt(name: str, code: JoinCode = code, outcomes: list[str] = outcomes) -> None:
                try:
                    async with here.join(code, name):
                        outcomes.append("in")
                except JoinRefused as error:
                    outcomes.append(str(error))

            async with trio.open_nursery() as nursery:
                for name in names:
                    nursery.start_soon(attempt, name)
            why = JOIN_REFUSALS[31 if names[0] == "ann" else 33]  # type: ignore[index]
            assert sorted(outcomes) == sorted(["in", why])
        assert len(here.names) == 2


async def test_a_lost_answer_is_asked_for_again(place: Open) -> None:
    """The server has enrolled, and the client cannot know: the same code gets in, nothing is counted."""
    async with place() as here:
        code = here.invite("bob")
        near, far = here.world.connect_both()

        here.redeeming = lambda: far.send_stream.close()
        with pytest.raises(CannotConnect):
            async with here.join(code, stream=near):
                pass
        assert here.names == ["bob"]
        here.redeeming = lambda: None
        async with here.join(code):
            assert list_invites(here.database)[0].used == 1


async def test_another_key_for_an_enrolled_user_ends_the_sessions_of_the_old_one(place: Open) -> None:
    async with place() as here:
        async with here.world.client("bob", identity=identity("old")) as old:
            code = here.invite("bob", reset=True)
            async with here.join(code):
                assert (await expect(old, "Ended")).error.reason == 5
        with pytest.raises(LoginRefused):
            async with here.world.client("bob", enrol=False, identity=identity("old")):
                pass


# who does not ---------------------------------------------------------------------------------------------------------


async def test_an_expired_code(place: Open) -> None:
    async with place() as here:
        code = here.invite()
        here.now_ms += DAY
        assert await here.refused(code) == "this join code has expired; ask the server's owner for a new one"


async def test_a_code_that_another_process_has_revoked(place: Open) -> None:
    async with place() as here:
        code = here.invite()
        revoke_invite(here.database, Invitation.of(code).id.hex(), here.now_ms)
        assert await here.refused(code) == "this join code was revoked; ask the server's owner for a new one"


async def test_a_name_that_is_taken(place: Open) -> None:
    async with place() as here:
        here.world.directory.enrol("Bob", identity("eve").bundle)
        said = "somebody else has this name on the server; join under another one: --user NAME"
        assert await here.refused(here.invite()) == said


async def test_a_code_for_another_name(place: Open) -> None:
    async with place() as here:
        assert await here.refused(here.invite("bob"), "carol") == "this join code is for another name"


async def test_a_code_that_the_server_does_not_know(place: Open) -> None:
    said = "the server does not know this join code; ask its owner for a new one"
    async with place() as here:
        code = here.invite()
        here.database.execute("DELETE FROM invites")
        assert await here.refused(code) == said
    async with place(invites=None) as here:
        assert await here.refused(here.invite()) == said


async def test_a_login_that_is_refused_says_nothing_of_codes(place: Open) -> None:
    async with place() as here:
        with pytest.raises(LoginRefused, match="unknown user, or another key"):
            async with here.world.client("bob", enrol=False):
                pass


async def test_who_is_refused_is_no_guest_that_is_known(place: Open) -> None:
    """Neither a session nor precedence for the address, and its place is free again."""
    async with place() as here:
        code = here.invite(lifetime=1)
        here.now_ms += 1
        await here.refused(code)
        await trio.testing.wait_all_tasks_blocked()
        assert list(here.world.server.router.sessions()) == []
        assert here.world.server.quota.under_way == 0


@pytest.mark.parametrize("when", ["looking", "writing"])
async def test_a_directory_that_cannot_be_used_is_busy(place: Open, monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    def broken(*arguments: object) -> None:
        raise sqlite3.OperationalError("disk I/O error") if when == "looking" else UnusableSetup("full")

    async with place() as here:
        code = here.invite()
        name = "find_invite_key" if when == "looking" else "redeem_invite"
        monkeypatch.setattr(f"messageapp.server.invites.{name}", broken)
        before = here.state()
        with pytest.raises(ServerBusy, match="try again in 5 seconds"):
            async with here.join(code):
                pass
        assert here.state() == before


# who is between -------------------------------------------------------------------------------------------------------


def recorded(stream: Stream) -> dict[str, bytes]:
    """What goes over it from now on."""
    found = {"sent": b"", "received": b""}
    send, receive = stream.send_all, stream.receive_some

    async def send_all(data: Any) -> None:
        found["sent"] += bytes(data)
        await send(data)

    async def receive_some(most: int | None = None) -> Any:
        data = await receive(most)
        found["received"] += bytes(data)
        return data

    vars(stream).update(send_all=send_all, receive_some=receive_some)
    return found


async def test_a_recording_of_the_whole_join_helps_nobody(place: Open) -> None:
    async with place() as here:
        code = here.invite(uses=5)
        stream = here.world.connect()
        heard = recorded(stream)
        async with here.join(code, stream=stream):
            pass
        whole = heard["sent"] + heard["received"]
        mine = Invitation.of(code)
        assert mine.id in whole, "the recording is one of the join"
        own = identity("bob")
        for secret in (code.secret.expose(), mine.key.expose(), own.key_id, own.bundle.encode(), b"bob"):
            assert secret not in whole
        assert code.encode().encode() not in whole
        before = here.state()
        first = int.from_bytes(heard["sent"][:4], "big") + 4
        second = int.from_bytes(heard["sent"][first : first + 4], "big") + 4
        again = here.world.connect()
        await again.send_all(heard["sent"][:first])
        await again.receive_some()
        await again.send_all(heard["sent"][first : first + second])
        assert (await read_to_end(again)).endswith(encode_frame(FrameType.ALERT, Alert(1).encode()))
        assert here.state() == before
        # Who has seen the id but not the code cannot prove anything by it.
        stranger = replace(here.account(code, "eve"), authority=replace(mine, key=type(mine.key)(bytes(32))))
        with pytest.raises(LoginRefused, match="does not know this join code"):
            async with open_client(here.world.connect(), stranger, here.world.keys):
                pass
        assert here.names == ["bob"]


async def test_who_is_between_with_an_authority_of_his_own_gets_nothing(place: Open) -> None:
    """He has a certificate for the right name, and can even show the right authority's: no M3 comes."""
    now = authority()[1].not_valid_before_utc.replace(microsecond=0)
    ca_key, ca = make_ca(now, key=ec.generate_private_key(ec.SECP256R1()))
    key, leaf = make_server_certificate(ca_key, ca, [SERVER_NAME], now, ec.generate_private_key(ec.SECP256R1()))
    names, leaf_hash = tuple(leaf_names(leaf)), spki_hash(leaf)
    base = replace(server_offer(), chain=(certificate_der(leaf),), key=key, names=names, leaf_spki_hash=leaf_hash)
    for shown in (certificate_der(ca), CA):
        async with place() as here:
            code = here.invite()
            here.world.server.offer = replace(base, authority=shown)
            stream, proved = here.world.connect(), list[bool]()
            heard = recorded(stream)
            with pytest.raises(ServerNotAuthenticated) as caught:
                async with here.join(code, stream=stream, on_proved=lambda proved=proved: proved.append(True)):
                    pass
            assert ("not the one in the join code" in str(caught.value)) is (shown != CA)
            assert proved == []
            assert len(heard["sent"]) == int.from_bytes(heard["sent"][:4], "big") + 4, "more than M1 was sent"
            assert here.names == []


async def test_the_server_asks_the_directory_in_one_transaction(place: Open) -> None:
    """What was found is looked at again when it is written: a code revoked in between lets nobody in."""
    async with place() as here:
        code = here.invite()

        def revoke() -> None:
            revoke_invite(here.database, Invitation.of(code).id.hex(), here.now_ms)

        here.redeeming = revoke
        with pytest.raises(JoinRefused, match="revoked"):
            async with here.join(code):
                pass
        assert here.names == []
