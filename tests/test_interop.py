"""The second implementation's client against the real server, both well-behaved (protocol §2 to §8).

What a misbehaving one meets with is in `test_adversary_server.py`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from interop.base import CLASSIC, HYBRID, MLDSA65, P256, PSS, SWIFT, Identity, Reader, tlv, u, unpad, vec, verify_list
from interop.calls import bind, erro, read_pubk, secure, states, talk, to
from interop.chat import RATCHET
from interop.log import L_CHANGE, Log, new_key
from interop.peer import RECORD, REPLY, REQUEST, Alert, Closed, Session, read_exactly, read_frame
from interop.programs import RealServer, run

KINDS = {
    "ann": ("rsa2048",),
    "bea": ("rsa3072",),
    "cid": ("ed25519",),
    "dan": ("rsa3072", "mldsa65"),
    "eve": ("ed25519", "mldsa65"),
}


@pytest.fixture(scope="module")
def people() -> dict[str, Identity]:
    return {name: Identity.make(name, *kinds) for name, kinds in KINDS.items()}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, people: dict[str, Identity]) -> Iterator[RealServer]:
    with RealServer(tmp_path_factory.mktemp("interop-server")) as made:
        made.enrol(*people.values())
        yield made


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as made:
        yield made


class Parties:
    """Logs people in for one test and closes them all after it."""

    def __init__(self, server: RealServer, people: dict[str, Identity], stack: ExitStack) -> None:
        self.server, self.people, self.stack = server, people, stack

    def __call__(self, name: str, **choices: object) -> Session:
        session = self.server.log_in(self.people[name], **choices)
        self.stack.callback(session.close)
        return session


@pytest.fixture
def parties(server: RealServer, people: dict[str, Identity], stack: ExitStack) -> Parties:
    return Parties(server, people, stack)


def gone(session: Session) -> None:
    """The connection ends with nothing more to read."""
    with pytest.raises(Closed, match="after 0"):
        read_exactly(session.sock, 1)


# ---- the key log


def test_the_log_holds_everybody_and_m4_shows_it(parties: Parties, people: dict[str, Identity]) -> None:
    session = parties("ann")
    log = Log(session)
    assert log.read(session.tlvs[3]) == (log.size, log.root)
    assert {leaf.user: leaf.key_id for leaf in log.leaves()} == {who.name: who.key_id for who in people.values()}


@pytest.mark.parametrize("kinds", [("ed25519",), ("ed25519", "mldsa65"), ("rsa2048",)], ids="-".join)
def test_a_key_is_changed_and_everybody_told(tmp_path: Path, kinds: tuple[str, ...]) -> None:
    ann, bea, after = Identity.make("ann", "ed25519"), Identity.make("bea", "ed25519"), Identity.make("ann", *kinds)
    with RealServer(tmp_path) as server:
        server.enrol(ann, bea)
        with ExitStack() as closing:
            ann_session, bea_session = server.log_in(ann), server.log_in(bea)
            closing.callback(ann_session.close)
            closing.callback(bea_session.close)
            name = Log(ann_session).server
            wrong = new_key(name, "ann", 3, ann, after)
            assert erro(ann_session.ask("newk", wrong))[0] == 1
            assert ann_session.ask("newk", new_key(name, "ann", 2, ann, after)) == ("okay", b"")
            while (record := ann_session.receive())[2] != "byee":
                assert record[2] == "klog"  # in time for it, or not
            assert record[3] == b"\5"
            gone(ann_session)
            assert bea_session.event("klog")[0] == 1
            first, _, third = Log(bea_session).leaves()
            assert (third.version, third.previous, third.flags, third.key_id) == (2, 0, 0, after.key_id)
            change = vec(name.encode(), 1) + vec(b"ann", 1) + u(2, 4) + ann.key_id + after.key_id
            verify_list(ann.bundle, L_CHANGE, change, Reader(third.signatures))
            back = server.log_in(after)
            closing.callback(back.close)
            assert states(back) == {"ann": 0, "bea": 0}
            assert Log(back).ask(5, first.key_id).vec(2) == ann.bundle


def test_a_revocation_by_another_process_ends_sessions_and_is_told(tmp_path: Path) -> None:
    ann, bea = Identity.make("ann", "ed25519"), Identity.make("bea", "ed25519")
    with RealServer(tmp_path) as server, ExitStack() as closing:
        server.enrol(ann, bea)
        sessions = [server.log_in(who) for who in (ann, bea)]
        for session in sessions:
            closing.callback(session.close)
        bind(*sessions)
        run("user", "revoke", "BEA", "--home", server.home)
        told = {sessions[0].receive()[2:] for _ in range(2)}
        assert ("exch", b"\1") in told
        assert {verb for verb, _ in told} == {"exch", "klog"}
        while (record := sessions[1].receive())[2] != "byee":
            assert record[2] == "klog"
        assert record[3] == b"\5"
        with pytest.raises(Alert):
            server.log_in(bea)
        leaf = Log(sessions[0]).leaves()[-1]
        assert (leaf.user, leaf.flags, leaf.key_id, leaf.previous) == ("bea", 2, bea.key_id, 1)
        after = Identity.make("bea", "ed25519")
        (tmp_path / "after.pem").write_bytes(after.pem())
        run("user", "reset", "bea", tmp_path / "after.pem", "--home", server.home)
        closing.callback(server.log_in(after).close)
        assert [leaf.flags for leaf in Log(sessions[0]).leaves()] == [0, 0, 2, 1]


# ---- login


@pytest.mark.parametrize("suite", [CLASSIC, HYBRID, SWIFT])
@pytest.mark.parametrize("name", KINDS)
def test_login_of_every_kind_of_user_in_every_suite(parties: Parties, name: str, suite: int) -> None:
    session = parties(name, suites=(suite,))
    assert set(session.tlvs) == {1, 2, 3, 5}
    assert len(session.tlvs[1]) == 8
    assert len(session.tlvs[2]) == 4
    assert states(session)[name] == 0
    assert session.ask("exit") == ("byee", b"\0")
    gone(session)


@pytest.mark.parametrize("tlvs", [b"", tlv(1, bytes(range(16))), tlv(0xEAEA, b"?"), tlv(0xFAFA, b"") + tlv(2, b"odd")])
@pytest.mark.parametrize("hide", [False, True])
def test_hidden_and_open_names_with_and_without_tlvs(parties: Parties, tlvs: bytes, hide: bool) -> None:
    assert parties("cid", tlvs=tlvs, hide=hide, suites=(SWIFT,)).ask("list", b"")[0] == "list"


def test_unused_flags_and_unknown_codes_are_ignored(parties: Parties) -> None:
    choices: dict[str, object] = {
        "flags": 0x80000002,
        "suites": (0x1A1A, SWIFT, 0x9999),
        "versions": (7, 2),
        "sigalgs": (0x1234, P256),
    }
    assert parties("ann", **choices).ask("list")[0] == "list"


def test_the_server_takes_its_own_best_suite(parties: Parties) -> None:
    # log_in would refuse any suite but the ones offered here; the RSA pool may be empty, then swift is right
    session = parties("ann", suites=(SWIFT, HYBRID, CLASSIC))
    assert session.ask("list")[0] == "list"


def test_the_same_device_replaces_and_another_is_counted(parties: Parties) -> None:
    device, other = tlv(1, b"d" * 16), tlv(1, b"e" * 16)
    first = parties("ann", tlvs=device)
    second = parties("ann", tlvs=other)
    assert second.tlvs[4] == u(1, 4)
    third = parties("ann", tlvs=device)
    assert third.tlvs[4] == u(1, 4)
    assert first.event("byee") == b"\2"
    gone(first)
    assert second.ask("list")[0] == third.ask("list")[0] == "list"


def test_every_name_of_the_server(parties: Parties) -> None:
    for name in ("127.0.0.1", "localhost", "::1"):
        assert parties("cid", server=name).tlvs[5] == parties("cid").tlvs[5]


# ---- records


@pytest.mark.parametrize("size", [15, 16, 17, 255, 257, 300, 512, 4095, 5001, 100_000])
def test_other_padding_lengths_are_accepted(parties: Parties, size: int) -> None:
    session = parties("cid", suites=(SWIFT,))
    assert session.ask("ping", b"12345678"[:8], max(size, 18)) == ("pong", b"12345678")
    assert session.ask("list", b"", max(size, 10))[0] == "list"


def test_key_update_of_the_client(parties: Parties) -> None:
    session = parties("cid", suites=(SWIFT,))
    for i in range(1, 5):
        session.update()
        assert session.ask("ping", u(i, 8)) == ("pong", u(i, 8))
    session.update()
    session.update()
    assert session.ask("exit") == ("byee", b"\0")


# ---- commands


def test_help_ping_and_requests_in_a_row(parties: Parties) -> None:
    ann = parties("ann")
    assert ann.ask("help")[0] == "help"
    for number in range(1000, 1010):
        ann.send(REQUEST, number, "ping", u(number, 8))
    assert [ann.receive() for _ in range(10)] == [(REPLY, n, "pong", u(n, 8)) for n in range(1000, 1010)]


def test_call_and_refuse(parties: Parties) -> None:
    ann, bea = parties("ann"), parties("bea")
    invite = os.urandom(16)
    assert ann.ask("chat", to("bea", invite)) == ("reqt", to("bea", invite))
    assert states(ann) == {"ann": 4, "bea": 1}
    assert bea.event("reqt") == to("ann", invite)
    for verb, argument in [("acpt", to("ann", bytes(16))), ("acpt", to("cid", invite)), ("refu", to("ann", bytes(16)))]:
        assert erro(bea.ask(verb, argument))[0] == 3
    assert bea.ask("refu", to("ann", invite)) == ("okay", b"")
    assert ann.event("refu") == to("bea", invite)
    assert states(bea) == {"ann": 0, "bea": 0}


def test_call_and_cancel(parties: Parties) -> None:
    ann, bea = parties("ann"), parties("bea")
    invite = os.urandom(16)
    ann.ask("chat", to("bea", invite))
    assert bea.event("reqt") == to("ann", invite)
    assert erro(ann.ask("cach", bytes(16)))[0] == 3
    assert erro(ann.ask("chat", to("bea", os.urandom(16))))[0] == 3
    assert ann.ask("cach", invite) == ("okay", b"")
    assert bea.event("cach") == invite
    assert erro(bea.ask("acpt", to("ann", invite)))[0] == 3


@pytest.mark.parametrize("leaves", ["caller", "called"])
@pytest.mark.parametrize("how", ["exit", "cut"])
def test_a_call_whose_other_side_vanishes(parties: Parties, leaves: str, how: str) -> None:
    ann, bea = parties("ann"), parties("bea")
    invite = os.urandom(16)
    ann.ask("chat", to("bea", invite))
    bea.event("reqt")
    goes, stays = (ann, bea) if leaves == "caller" else (bea, ann)
    assert how == "cut" or goes.ask("exit") == ("byee", b"\0")
    goes.close()
    if leaves == "caller":
        assert stays.event("cach") == invite
    else:
        assert stays.event("refu") == to("bea", invite)
    assert states(stays) == {stays.user.decode(): 0}


@pytest.mark.parametrize("who", ["ann", "cid", "dan", "eve"])
def test_pubk_carries_the_bundle_and_its_pem(parties: Parties, people: dict[str, Identity], who: str) -> None:
    caller, bea = parties(who), parties("bea")
    invite = os.urandom(16)
    caller.ask("chat", to("bea", invite))
    bea.event("reqt")
    verb, value = bea.ask("acpt", to(who, invite))
    assert verb == "pubk"
    *to_bea, proof = read_pubk(value)
    assert to_bea == [invite, 2, who, people[who].bundle, people[who].pem()]
    Log(bea).check(proof, who, people[who].key_id)
    *to_caller, proof = read_pubk(caller.event("pubk"))
    assert to_caller == [invite, 1, "bea", people["bea"].bundle, people["bea"].pem()]
    Log(caller).check(proof, "bea", people["bea"].key_id)
    assert states(bea) == {who: 2, "bea": 2}


@pytest.mark.parametrize("first", ["ann", "bea"])
def test_glare(parties: Parties, people: dict[str, Identity], first: str) -> None:
    second = "bea" if first == "ann" else "ann"
    one, two = parties(first), parties(second)
    invites = {first: os.urandom(16), second: os.urandom(16)}
    stands = min(first, second, key=lambda name: people[name].key_id)
    assert one.ask("chat", to(second, invites[first])) == ("reqt", to(second, invites[first]))
    verb, value = two.ask("chat", to(first, invites[second]))
    assert verb == "pubk"
    assert two.event("reqt") == to(first, invites[first])
    role = {True: 1, False: 2}
    assert read_pubk(value)[:3] == (invites[stands], role[stands == second], first)
    assert read_pubk(one.event("pubk"))[:3] == (invites[stands], role[stands == first], second)
    assert states(one) == {first: 2, second: 2}


def test_frwd_relays_exactly_and_only_in_a_chat(parties: Parties) -> None:
    ann, bea = parties("ann"), parties("bea")
    assert erro(ann.ask("frwd", b"\5early"))[0] == 3
    bind(ann, bea)
    for body in [b"\1", b"\5" + os.urandom(2349), b"\5" + os.urandom(129_013)]:
        for source, sink in ((ann, bea), (bea, ann)):
            source.send(REQUEST, 77, "frwd", body)
            assert sink.event("frwd") == body
    bea.update()
    bea.relay(5, b"after the update")
    assert ann.event("frwd") == b"\5after the update"


@pytest.mark.parametrize("argument", [b"x", b""])
def test_exch_leaves_the_chat(parties: Parties, argument: bytes) -> None:
    ann, bea = parties("ann"), parties("bea")
    bind(ann, bea)
    assert ann.ask("exch", argument) == ("okay", b"")
    assert bea.event("exch") == b"\0"
    assert states(ann) == {"ann": 0, "bea": 0}
    assert erro(bea.ask("exch"))[0] == 3
    bind(bea, ann)


def test_a_chat_peer_that_logs_off_or_is_cut(parties: Parties) -> None:
    bea = parties("bea")
    ann = parties("ann")
    bind(ann, bea)
    ann.ask("exit")
    assert bea.event("exch") in (b"\0", b"\1")  # the text names neither for a peer that logs off
    cut = parties("ann")
    bind(bea, cut)
    cut.close()
    assert bea.event("exch") == b"\1"


def test_two_peers_chat_through_the_server(parties: Parties, people: dict[str, Identity]) -> None:
    dan, eve = parties("dan"), parties("eve")
    talk(dan, eve, secure(dan, eve, people["dan"], people["eve"]))


# ---- clocks: servers of their own with short ones


def test_short_clocks(tmp_path: Path, people: dict[str, Identity]) -> None:
    with RealServer(tmp_path, ring_seconds=1, ping_seconds=1) as server, ExitStack() as stack:
        server.enrol(people["ann"], people["bea"])
        parties = Parties(server, people, stack)
        ann, bea = parties("ann"), parties("bea")
        invite = os.urandom(16)
        ann.ask("chat", to("bea", invite))
        assert bea.event("reqt") == to("ann", invite)
        assert bea.event("cach") == invite
        assert ann.event("refu") == to("bea", invite)
        kind, number, verb, echo = raw_ping(ann)
        assert (kind, verb, len(echo)) == (REQUEST, "ping", 8)
        assert number > 0
        ann.send(REPLY, number, "pong", echo)
        assert ann.ask("list")[0] == "list"
        server.stop()
        assert ann.event("byee") == b"\1"
        assert bea.event("byee") == b"\1"
        assert server.end() == 0


def raw_ping(session: Session) -> tuple[int, int, str, bytes]:
    """The server's next ping, raw: `receive` would answer it."""
    while True:
        reader = Reader(unpad(session.open(read_frame(session.sock, RECORD)[5:])))
        found = reader.u(1), reader.u(4), reader.take(4).decode(), reader.rest()
        if found[2] == "ping":
            return found


def test_age_and_silence(tmp_path: Path, people: dict[str, Identity]) -> None:
    with RealServer(tmp_path, session_seconds=4, ping_seconds=1, dead_seconds=2) as server, ExitStack() as stack:
        server.enrol(people["ann"], people["bea"])
        parties = Parties(server, people, stack)
        silent, lively = parties("bea"), parties("ann")
        assert raw_ping(silent)[2] == "ping"
        assert lively.event("byee") == b"\3"
        assert lively.pings > 0
        with pytest.raises(Closed):
            pings_until_the_end(silent)


def pings_until_the_end(session: Session) -> None:
    while raw_ping(session):
        continue


def test_key_update_of_the_server_after_2_30_bytes(parties: Parties) -> None:
    ann, cid = parties("ann"), parties("cid")
    bind(ann, cid)
    body, sent = os.urandom(129_012), 0
    while cid.generation["in"] == 0:
        assert sent * len(body) < 1.1 * 2**30, "no key update"
        for _ in range(4):
            ann.relay(RATCHET, body)
            sent += 1
        for _ in range(4):
            assert len(cid.event("frwd")) == 1 + len(body)
        if sent % 2000 == 0:
            ann.update()
    assert sent * len(body) > 0.9 * 2**30
    ann.relay(RATCHET, b"under the next key")
    assert cid.event("frwd") == b"\5under the next key"
    assert cid.ask("ping", bytes(8)) == ("pong", bytes(8))


def test_a_hidden_name_and_a_mixed_offer_for_the_servers_key(parties: Parties) -> None:
    session = parties("eve", hide=True, sigalgs=(MLDSA65, P256, PSS))
    assert session.ask("exit", b"") == ("byee", b"\0")
