"""The second implementation's client against the real server (protocol §2 to §8)."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from interop.base import CLASSIC, HYBRID, L_C3, L_M2, MLDSA65, P256, PSS, SWIFT, Identity, Reader, tlv, u, unpad, vec
from interop.chat import C1, C2, C3, C4, RATCHET, Chat
from interop.peer import EVENT, M4, RECORD, REPLY, REQUEST, Alert, Closed, Session, frame, read_exactly, read_frame
from interop.programs import RealServer

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


def to(user: str, invite: bytes) -> bytes:
    return vec(user.encode(), 1) + invite


def erro(answer: tuple[str, bytes]) -> tuple[int, bytes]:
    verb, value = answer
    assert verb == "erro"
    reader = Reader(value)
    code, text = reader.u(2), reader.vec(1)
    reader.end()
    return code, text


def states(session: Session) -> dict[str, int]:
    verb, value = session.ask("list")
    assert verb == "list"
    reader, found = Reader(value), {}
    while reader.at < len(value):
        name = reader.vec(1).decode()
        found[name] = reader.u(1)
    return found


def read_pubk(value: bytes) -> tuple[bytes, int, str, bytes, bytes, bytes]:
    """(invite, role, user, bundle, PEM text, log proof)"""
    reader = Reader(value)
    found = reader.take(16), reader.u(1), reader.vec(1).decode(), reader.vec(2), reader.vec(2), reader.vec(3)
    reader.end()
    return found


def bind(a: Session, b: Session) -> bytes:
    """A chat of a with b, up to both `pubk`; returns the invite."""
    invite = os.urandom(16)
    assert a.ask("chat", to(b.user.decode(), invite)) == ("reqt", to(b.user.decode(), invite))
    assert b.event("reqt") == to(a.user.decode(), invite)
    verb, mine = b.ask("acpt", to(a.user.decode(), invite))
    theirs = a.event("pubk")
    assert verb == "pubk"
    assert (read_pubk(mine)[:3], read_pubk(theirs)[:3]) == ((invite, 2, a.user.decode()), (invite, 1, b.user.decode()))
    return invite


def gone(session: Session) -> None:
    """The connection ends with nothing more to read."""
    with pytest.raises(Closed, match="after 0"):
        read_exactly(session.sock, 1)


# ---- login


@pytest.mark.parametrize("suite", [CLASSIC, HYBRID, SWIFT])
@pytest.mark.parametrize("name", KINDS)
def test_login_of_every_kind_of_user_in_every_suite(parties: Parties, name: str, suite: int) -> None:
    session = parties(name, suites=(suite,))
    assert set(session.tlvs) == {1, 2, 5}
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


# ---- refusals before login

GOOD_LISTS = b"\1\0\2" + b"\1\0\3" + b"\1\x04\3"
TAIL = u(0, 4) + vec(b"127.0.0.1", 1)


def m1(
    magic: bytes = b"MSGAPP\0\2",
    lists: bytes = GOOD_LISTS,
    tail: bytes = TAIL,
    user: bytes = b"ann",
    tlvs: bytes = b"",
    more: bytes = b"",
) -> bytes:
    return magic + bytes(32) + lists + tail + vec(user, 1) + vec(tlvs, 2) + more


BAD_FRAMES = {
    "magic": (frame(1, m1(b"MSGAPP\0\1")), 1),
    "no versions": (frame(1, m1(lists=b"\0" + b"\1\0\3" + b"\1\x04\3")), 1),
    "no suites": (frame(1, m1(lists=b"\1\0\2" + b"\0" + b"\1\x04\3")), 1),
    "nine versions": (frame(1, m1(lists=b"\x09" + b"\0\2" * 9 + b"\1\0\3" + b"\1\x04\3")), 1),
    "seventeen suites": (frame(1, m1(lists=b"\1\0\2" + b"\x11" + b"\0\3" * 17 + b"\1\x04\3")), 1),
    "unknown version": (frame(1, m1(lists=b"\1\0\3" + b"\1\0\3" + b"\1\x04\3")), 3),
    "unknown suite": (frame(1, m1(lists=b"\1\0\2" + b"\1\0\x09" + b"\1\x04\3")), 3),
    "unusable sigalg": (frame(1, m1(lists=b"\1\0\2" + b"\1\0\3" + b"\1\x08\7")), 3),
    "no name": (frame(1, m1(user=b"")), 1),
    "hidden with a name": (frame(1, m1(tail=u(1, 4) + vec(b"127.0.0.1", 1))), 1),
    "name of 17": (frame(1, m1(user=b"a" * 17)), 1),
    "name of 255": (frame(1, m1(user=b"a" * 255)), 1),
    "NUL in the name": (frame(1, m1(user=b"an\0")), 1),
    "UTF-8 in the name": (frame(1, m1(user="änn".encode())), 1),
    "leading dash": (frame(1, m1(user=b"-ann")), 1),
    "trailing dash": (frame(1, m1(user=b"ann-")), 1),
    "duplicate TLV": (frame(1, m1(tlvs=tlv(0x1A1A, b"") * 2)), 1),
    "short TLV": (frame(1, m1(tlvs=b"\0\1\0\x10abc")), 1),
    "device id of 15": (frame(1, m1(tlvs=tlv(1, bytes(15)))), 1),
    "trailing byte": (frame(1, m1(more=b"\0")), 1),
    "empty M1": (frame(1, b""), 1),
    "length 0": (u(0, 4) + b"\1", 4),
    "length 4097": (u(4097, 4) + b"\1", 4),
    "length 2^32-1": (u(2**32 - 1, 4) + b"\1", 4),
    "M3 first": (frame(3, m1()), 1),
    "a record first": (frame(0x10, bytes(64)), 1),
    "type 0": (frame(0, m1()), 1),
}


@pytest.mark.parametrize("case", BAD_FRAMES)
def test_a_bad_first_frame_gets_one_alert(server: RealServer, case: str) -> None:
    data, code = BAD_FRAMES[case]
    with socket.create_connection(("127.0.0.1", server.port), 20) as sock:
        sock.sendall(data)
        with pytest.raises(Alert) as caught:
            read_frame(sock, 2)
        assert caught.value.code == code
        with pytest.raises(Closed, match="after 0"):
            read_exactly(sock, 1)


def test_the_good_first_frame_that_the_bad_ones_vary(server: RealServer) -> None:
    with socket.create_connection(("127.0.0.1", server.port), 20) as sock:
        sock.sendall(frame(1, m1()))
        assert read_frame(sock, 2)[4] == 2


def m3_cut(body: bytes) -> bytes:
    return body[:-1]


def m3_flip(at: int) -> Callable[[bytes], bytes]:
    def flip(body: bytes) -> bytes:
        changed = bytearray(body)
        changed[at] ^= 1
        return bytes(changed)

    return flip


BAD_LOGINS: dict[str, dict[str, object]] = {
    "other label": {"label": L_C3},
    "label of M2": {"label": L_M2},
    "signed for another server": {"signed_server": "example.org"},
    "another name sealed": {"sealed_name": "cid"},
    "M3 cut": {"on_m3": m3_cut},
    "M3 longer": {"on_m3": lambda body: body + b"\0"},
    "tag": {"on_m3": m3_flip(-1)},
    "ciphertext": {"on_m3": m3_flip(-40)},
    "Enc(K), RSA": {"on_m3": m3_flip(5), "suites": (CLASSIC,)},
    "Enc(K), RSA, hybrid": {"on_m3": m3_flip(100), "suites": (HYBRID,)},
    "Enc(K), RSA all ones": {"on_m3": lambda b: b[:2] + b"\xff" * 384 + b[386:], "suites": (CLASSIC,)},
    "Enc(K), RSA all zero": {"on_m3": lambda b: b[:2] + bytes(384) + b[386:], "suites": (CLASSIC,)},
    "Enc(K), X25519": {"on_m3": m3_flip(5), "suites": (SWIFT,)},
    "Enc(K), X25519 all zero": {"on_m3": lambda b: b[:2] + bytes(32) + b[34:], "suites": (SWIFT,)},
    "Enc(K), ML-KEM": {"on_m3": m3_flip(60), "suites": (SWIFT,)},
    "Enc(K) short": {"on_m3": lambda b: vec(b[2:1121], 2) + b[1122:], "suites": (SWIFT,)},
    "Enc(K) long": {"on_m3": lambda b: vec(b[2:1122] + b"\0", 2) + b[1122:], "suites": (SWIFT,)},
}


@pytest.mark.parametrize("case", BAD_LOGINS)
def test_every_wrong_m3_is_the_same_alert(parties: Parties, case: str) -> None:
    with pytest.raises(Alert) as caught:
        parties("ann", **BAD_LOGINS[case])
    assert (caught.value.code, caught.value.retry) == (1, None)


def test_wrong_identities_are_the_same_alert(server: RealServer, people: dict[str, Identity]) -> None:
    ann, dan = people["ann"], people["dan"]
    stranger = Identity("ann", people["bea"].keys)
    tries: list[tuple[Identity, dict[str, object]]] = [
        (Identity("nobody", ann.keys), {}),
        (Identity("nobody", people["cid"].keys), {"hide": True}),
        (Identity("Ann", ann.keys), {}),
        (Identity("ANN", ann.keys), {"hide": True}),
        (stranger, {}),
        (ann, {"signer": stranger}),
        (dan, {"signer": Identity("dan", dan.keys[:1])}),
        (dan, {"signer": Identity("dan", dan.keys[::-1])}),
        (Identity("dan", dan.keys[:1]), {}),
        (dan, {"signer": Identity("dan", dan.keys[:1] * 2)}),
    ]
    for who, choices in tries:
        with pytest.raises(Alert) as caught:
            server.log_in(who, **choices)
        assert (caught.value.code, caught.value.retry) == (1, None)


def test_every_name_of_the_server_and_no_other(parties: Parties) -> None:
    for name in ("127.0.0.1", "localhost", "::1"):
        assert parties("cid", server=name).tlvs[5] == parties("cid").tlvs[5]
    with pytest.raises(Alert) as caught:
        parties("cid", server="example.org", certified="localhost")
    assert caught.value.code == 1


def test_m3_over_its_limit_is_alert_4(parties: Parties) -> None:
    with pytest.raises(Alert) as caught:
        parties("ann", on_m3=lambda body: bytes(8192))
    assert caught.value.code == 4


def test_m1_twice_is_alert_1(server: RealServer) -> None:
    with socket.create_connection(("127.0.0.1", server.port), 20) as sock:
        sock.sendall(frame(1, m1()) * 2)
        read_frame(sock, 2)
        with pytest.raises(Alert) as caught:
            read_frame(sock, 4)
        assert caught.value.code == 1


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


BAD_RECORDS: dict[str, Callable[[Session], bytes]] = {
    "counter": lambda s: frame(RECORD, flipped(s.record(REQUEST, 1, "list"), 0)),
    "counter, byte 15": lambda s: frame(RECORD, flipped(s.record(REQUEST, 1, "list"), 15)),
    "tag": lambda s: frame(RECORD, flipped(s.record(REQUEST, 1, "list"), 16)),
    "ciphertext": lambda s: frame(RECORD, flipped(s.record(REQUEST, 1, "list"), 32)),
    "dropped": lambda s: [s.record(REQUEST, 1, "list"), frame(RECORD, s.record(REQUEST, 2, "list"))][1],
    "type M4": lambda s: frame(M4, s.record(REQUEST, 1, "list")),
    "type M1": lambda s: frame(1, s.record(REQUEST, 1, "list")),
    "an alert": lambda s: frame(0x1F, b"\1"),
    "no padding byte": lambda s: frame(RECORD, s.seal(b"\0\0\0\0\1listx" + bytes(246))),
    "only zeros": lambda s: frame(RECORD, s.seal(bytes(256))),
    "verb of three": lambda s: frame(RECORD, s.seal(b"\0\0\0\0\1lis\x80" + bytes(247))),
    "short body": lambda s: frame(RECORD, bytes(31)),
    "over the limit": lambda s: u(131073, 4) + b"\x10",
    "kind 3": lambda s: frame(RECORD, s.record(3, 0, "list")),
    "an event of a client": lambda s: frame(RECORD, s.record(EVENT, 0, "list")),
    "a reply to nothing": lambda s: frame(RECORD, s.record(REPLY, 99, "okay", b"")),
    "rkey out of order": lambda s: frame(RECORD, s.record(EVENT, 0, "rkey", u(2, 4))),
    "rkey 0": lambda s: frame(RECORD, s.record(EVENT, 0, "rkey", u(0, 4))),
    "rkey short": lambda s: frame(RECORD, s.record(EVENT, 0, "rkey", b"\0\0\1")),
    "rkey and the old key": lambda s: (
        frame(RECORD, s.record(EVENT, 0, "rkey", u(1, 4))) + frame(RECORD, s.record(REQUEST, 1, "list"))
    ),
}


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


@pytest.mark.parametrize("case", BAD_RECORDS)
def test_a_bad_record_ends_the_session_without_a_word(parties: Parties, case: str) -> None:
    session = parties("cid", suites=(SWIFT,))
    session.sock.sendall(BAD_RECORDS[case](session))
    gone(session)


def test_a_replayed_and_a_reflected_record_end_the_session(parties: Parties) -> None:
    session = parties("cid", suites=(SWIFT,))
    record = frame(RECORD, session.record(REQUEST, 1, "ping", bytes(8)))
    session.sock.sendall(record)
    assert session.receive() == (REPLY, 1, "pong", bytes(8))
    session.sock.sendall(record)
    gone(session)
    again = parties("cid", suites=(SWIFT,))
    again.send(REQUEST, 1, "ping", bytes(8))
    again.sock.sendall(read_frame(again.sock, RECORD))
    gone(again)


# ---- commands


def test_unknown_verbs_and_wrong_arguments_do_not_end_the_session(parties: Parties) -> None:
    ann = parties("ann")
    assert erro(ann.ask("what"))[0] == 2
    assert erro(ann.ask("WHAT", os.urandom(99)))[0] == 2
    for verb, argument in [
        ("chat", b""), ("chat", b"x"), ("chat", to("bea", bytes(15))), ("chat", to("bea", bytes(17))), ("acpt", b"x"),
        ("refu", to("", bytes(16))[:-1]), ("cach", bytes(15)), ("ping", bytes(7)), ("list", b"xx"), ("exch", b"y"),
        ("exit", b"now"),
    ]:  # fmt: skip
        assert erro(ann.ask(verb, argument))[0] == 1, verb
    assert ann.ask("list", b"")[0] == "list"


def test_help_ping_and_requests_in_a_row(parties: Parties) -> None:
    ann = parties("ann")
    assert ann.ask("help")[0] == "help"
    for number in range(1000, 1010):
        ann.send(REQUEST, number, "ping", u(number, 8))
    assert [ann.receive() for _ in range(10)] == [(REPLY, n, "pong", u(n, 8)) for n in range(1000, 1010)]


def test_not_available_is_one_text(parties: Parties) -> None:
    ann, bea, cid = parties("ann"), parties("bea"), parties("cid")
    bind(bea, cid)
    answers = {
        erro(ann.ask("chat", to(name, os.urandom(16)))) for name in ("nobody", "dan", "bea", "ann", "Cid", "cid")
    }
    assert len(answers) == 1
    assert answers.pop()[0] == 10


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
    assert read_pubk(value) == (invite, 2, who, people[who].bundle, people[who].pem(), b"")
    assert read_pubk(caller.event("pubk")) == (invite, 1, "bea", people["bea"].bundle, people["bea"].pem(), b"")
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
    sessions = {"dan": parties("dan"), "eve": parties("eve")}
    dan, eve = sessions["dan"], sessions["eve"]
    invite = bind(dan, eve)
    name = Reader(dan.tlvs[5]).vec(1).decode()
    calling = Chat(people["dan"], "eve", people["eve"].bundle, name, invite, True)
    called = Chat(people["eve"], "dan", people["dan"].bundle, name, invite, False)

    def over(source: Session, sink: Session, kind: int, body: bytes) -> bytes:
        source.relay(kind, body)
        value = sink.event("frwd")
        assert value[0] == kind
        return value[1:]

    c2 = over(eve, dan, C2, called.c2_from(over(dan, eve, C1, calling.make_c1())))
    calling.check_c4(over(eve, dan, C4, called.c4_from(over(dan, eve, C3, calling.c3_from(c2)))))
    mine, yours = calling.ratchet(), called.ratchet()
    assert 3 not in yours.open(over(dan, eve, RATCHET, mine.text(None)))
    assert mine.open(over(eve, dan, RATCHET, yours.text("hello")))[3] == b"hello"


# ---- clocks: servers of their own with short ones


def test_short_clocks(tmp_path: Path, people: dict[str, Identity]) -> None:
    with RealServer(tmp_path, ring_seconds=1, m1_seconds=1, ping_seconds=1) as server, ExitStack() as stack:
        server.enrol(people["ann"], people["bea"])
        with socket.create_connection(("127.0.0.1", server.port), 20) as sock:
            sock.sendall(frame(1, m1())[:40])
            with pytest.raises(Alert) as caught:
                read_frame(sock, 2)
            assert caught.value.code == 4
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


def test_a_full_queue_is_erro_12(tmp_path: Path, people: dict[str, Identity]) -> None:
    with RealServer(tmp_path, queue_frames=4) as server, ExitStack() as stack:
        server.enrol(people["ann"], people["bea"])
        parties = Parties(server, people, stack)
        ann, bea = parties("ann"), parties("bea")
        bind(ann, bea)
        body, sent, dropped = b"\5" + os.urandom(100_000), 0, 0
        while not dropped:  # bea reads nothing
            assert sent < 500
            ann.send(REQUEST, 7000 + sent, "frwd", body)
            ann.send(REQUEST, 1, "ping", bytes(8))
            kind, number, verb, value = ann.receive()
            if verb != "pong":
                assert (kind, number, erro((verb, value))[0]) == (REPLY, 7000 + sent, 12)
                dropped = 1
            sent += 1
        for _ in range(sent - dropped):
            assert bea.event("frwd") == body
        assert ann.receive()[2] == "pong"
        ann.relay(RATCHET, b"room again")
        assert bea.event("frwd") == b"\5room again"


def test_rates(tmp_path: Path, people: dict[str, Identity]) -> None:
    with (
        RealServer(tmp_path, chats_per_minute=2, commands_burst=10, commands_per_second=1) as server,
        ExitStack() as stack,
    ):
        server.enrol(people["ann"])
        ann = Parties(server, people, stack)("ann")
        codes = [erro(ann.ask("chat", to("bea", os.urandom(16))))[0] for _ in range(3)]
        assert codes == [10, 10, 4]
        assert 4 in [erro(answer)[0] for answer in (ann.ask("list") for _ in range(12)) if answer[0] == "erro"]
        assert ann.ask("ping", bytes(8)) == ("pong", bytes(8))


def test_a_hidden_name_and_a_mixed_offer_for_the_servers_key(parties: Parties) -> None:
    session = parties("eve", hide=True, sigalgs=(MLDSA65, P256, PSS))
    assert session.ask("exit", b"") == ("byee", b"\0")
