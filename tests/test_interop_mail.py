"""The second implementation's clients write to each other while the other is away, over the real server (§9)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from interop.base import Identity, now_ms, tlv, u, vec
from interop.calls import erro
from interop.chat import Ratchet
from interop.log import Log
from interop.offline import (
    LAST_RESORT,
    ONE_TIME,
    Held,
    Offline,
    Prekey,
    Read,
    acknowledge,
    fetch,
    held,
    send,
    take,
    upload,
)
from interop.peer import Session
from interop.programs import RealServer

DAY = 86_400_000
KINDS = {"ann": ("ed25519",), "bea": ("ed25519", "mldsa65"), "cid": ("rsa2048",), "dan": ("ed25519",)}


@pytest.fixture(scope="module")
def people() -> dict[str, Identity]:
    return {name: Identity.make(name, *kinds) for name, kinds in KINDS.items()}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, people: dict[str, Identity]) -> Iterator[RealServer]:
    with RealServer(tmp_path_factory.mktemp("interop-mail")) as made:
        made.enrol(*people.values())
        yield made


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as made:
        yield made


@dataclass
class Post:
    """Logs people in, always with one device each, and closes them all after the test."""

    server: RealServer
    people: dict[str, Identity]
    stack: ExitStack

    def __call__(self, name: str, device: int = 1) -> Session:
        session = self.server.log_in(self.people[name], tlvs=tlv(1, self.device(name, device)))
        self.stack.callback(session.close)
        return session

    def device(self, name: str, number: int = 1) -> bytes:
        return name.encode().ljust(15, b".") + u(number, 1)

    def prekeys(self, name: str, *numbers: int, kind: int = ONE_TIME) -> list[Prekey]:
        return [Prekey(self.people[name], number, now_ms() + 30 * DAY, kind) for number in numbers]

    def canonical(self, session: Session) -> str:
        return Log(session).server

    def write(self, session: Session, to: str, text: str, invite: bytes) -> tuple[Ratchet, bytes]:
        """A start by a fetched prekey, stored: (ratchet, blob)."""
        sender = session.user.decode()
        bundle, _, prekey = fetch(session, to, now_ms())
        assert bundle == self.people[to].bundle
        start = Offline(self.people[sender], to, bundle, self.canonical(session), invite, True,
                        device=self.device(sender))  # fmt: skip
        start.start(prekey)
        ratchet = start.ratchet()
        blob = start.blob(ratchet.text(text))
        send(session, to, os.urandom(16), blob)
        return ratchet, blob

    def read(self, session: Session, sender: str, blob: bytes, prekeys: list[Prekey]) -> tuple[Ratchet, str]:
        """The session that a start makes, and its text."""
        read, me = Read.blob(blob), self.people[session.user.decode()]
        answer = Offline(me, sender, self.people[sender].bundle, self.canonical(session), read.invite, False)
        answer.accept(read, next(prekey for prekey in prekeys if prekey.number == read.prekey))
        ratchet = answer.ratchet()
        return ratchet, ratchet.open(read.message)[3].decode()


@pytest.fixture
def post(server: RealServer, people: dict[str, Identity], stack: ExitStack) -> Post:
    return Post(server, people, stack)


def test_messages_to_somebody_who_is_away_and_an_answer(post: Post) -> None:
    bea = post("bea")
    mine = post.prekeys("bea", 1, 2)
    assert held(bea) == Held(0, 0, False, 30 * 86_400)
    upload(bea, *mine)
    assert held(bea) == Held(2, 0, True, 30 * 86_400)
    bea.close()

    ann = post("ann")
    upload(ann, *post.prekeys("ann", 1))
    ratchet, _ = post.write(ann, "bea", "are you there?", bytes(16))
    more = b"\1" + ratchet.text("never mind")
    assert send(ann, "bea", bytes([7] * 16), more) == 2
    assert send(ann, "BEA", bytes([7] * 16), more) == 2  # the same again, in another spelling

    bea = post("bea")
    first, second = take(bea), take(bea)
    assert [(mail.sender, mail.seq) for mail in (first, second)] == [("ann", 1), ("ann", 2)]
    answer, text = post.read(bea, "ann", first.blob, mine)
    assert (text, Read.blob(first.blob).device) == ("are you there?", post.device("ann"))
    assert second.blob == more
    assert answer.open(second.blob[1:])[3] == b"never mind"
    acknowledge(bea, first, second)
    assert held(bea).one_time == 1

    send(bea, "ann", os.urandom(16), b"\1" + answer.text("now I am"))
    back = take(ann)
    assert (back.sender, ratchet.open(back.blob[1:])[3]) == ("bea", b"now I am")
    acknowledge(ann, back)


def test_what_was_not_acknowledged_comes_again(post: Post) -> None:
    cid = post("cid")
    mine = post.prekeys("cid", 1, 2, 3)
    upload(cid, *mine)
    ann = post("ann")
    for number in range(3):
        post.write(ann, "cid", f"text {number}", bytes([number] * 16))
    mails = [take(cid) for _ in range(3)]
    acknowledge(cid, mails[1])
    acknowledge(cid, mails[1])  # what is not there is no error
    cid = post("cid")  # the same device: the session before is replaced
    again = [take(cid) for _ in range(2)]
    assert again == [mails[0], mails[2]]
    assert [post.read(cid, "ann", mail.blob, mine)[1] for mail in again] == ["text 0", "text 2"]
    acknowledge(cid, *again)


def test_one_time_prekeys_are_given_once_and_then_the_last_resort(post: Post) -> None:
    dan = post("dan")
    one_time, last = post.prekeys("dan", 5, 6), post.prekeys("dan", 9, kind=LAST_RESORT)
    upload(dan, *one_time, *last)
    upload(dan, *one_time)  # the same bytes again change nothing
    assert held(dan) == Held(2, held(dan).expires, True, 30 * 86_400)
    ann = post("ann")
    given = [fetch(ann, "dan", now_ms())[2] for _ in range(4)]
    assert sorted((prekey.number, prekey.kind) for prekey in given[:2]) == [(5, ONE_TIME), (6, ONE_TIME)]
    assert [(prekey.number, prekey.kind) for prekey in given[2:]] == [(9, LAST_RESORT)] * 2
    assert Held.read(dan.event("prek")).one_time <= 1  # few are left


def test_wrong_prekeys_are_refused_and_nothing_of_the_upload_counts(post: Post) -> None:
    ann = post("ann")
    before = held(ann)
    me, good, late = post.people["ann"], post.prekeys("ann", 50)[0], now_ms() + 30 * DAY
    wrong = [
        Prekey(me, 51, late, kind=3),
        Prekey(me, 51, late, suite=2),
        Prekey(me, 51, late, user="bea"),
        Prekey(me, 51, late, key_id=bytes(32)),
        Prekey(me, 51, late, label=b"MessageApp v2, chat key offer (C2)"),
        Prekey(me, 51, late, on_core=lambda core: bytes([core[0] ^ 1]) + core[1:]),
        Prekey(me, 51, now_ms() - 1),
        Prekey(me, 51, now_ms() + 91 * DAY),
        Prekey(me, 51, late, temp_pub=b"short"),
        Prekey(post.people["dan"], 51, late, user="ann", key_id=me.key_id),
    ]
    for prekey in wrong:
        assert erro(ann.ask("prek", good.bytes + prekey.bytes))[0] == 1
    for argument in (good.bytes[:-1], good.bytes + b"\0"):
        assert erro(ann.ask("prek", argument))[0] == 1
    assert held(ann) == before


def test_nobody_to_write_to(post: Post) -> None:
    ann = post("ann")
    for name in ("nobody", "ann", "ANN"):
        assert erro(ann.ask("bndl", vec(name.encode(), 1)))[0] == 10
        assert erro(ann.ask("send", vec(name.encode(), 1) + bytes(16) + vec(b"\1blob", 3)))[0] == 10


def test_another_device_takes_the_mailbox_over(post: Post) -> None:
    dan = post("dan")
    upload(dan, *post.prekeys("dan", 20))
    ann = post("ann")
    send(ann, "dan", bytes([1] * 16), b"\1first")
    first = take(dan)
    other = post("dan", device=2)
    assert not held(other).mine
    upload(other, *post.prekeys("dan", 30, 31))
    state = held(other)
    assert (state.one_time, state.mine) == (2, True)
    moved = take(other)
    assert (moved.sender, moved.blob) == (first.sender, first.blob)
    acknowledge(other, moved)
    assert fetch(ann, "dan", now_ms())[1] == post.device("dan", 2)


def test_a_mailbox_outlives_its_server(post: Post, server: RealServer, people: dict[str, Identity]) -> None:
    """Killed, not stopped: what was acknowledged to the sender is there."""
    upload(post("bea"), *post.prekeys("bea", 90))
    ann = post("ann")
    send(ann, "bea", bytes([3] * 16), b"\1before the end")
    server.child.kill()
    server.child.wait(20)
    with RealServer(server.home) as after, ExitStack() as closing:
        bea = Post(after, people, closing)("bea")
        mail = take(bea)
        assert (mail.sender, mail.blob) == ("ann", b"\1before the end")
        acknowledge(bea, mail)
