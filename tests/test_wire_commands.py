"""The verbs: who may send which in which kind, and what an argument may be."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from messageapp.errors import RemoteProtocolError
from messageapp.wire.commands import (
    RESERVED,
    VERBS,
    BadArgument,
    Block,
    BlockList,
    BlockOp,
    Bye,
    Call,
    Echo,
    Errors,
    Invite,
    Left,
    ListEntry,
    Listing,
    Nothing,
    PeerKey,
    Raw,
    UnknownVerb,
    Update,
    make,
    parse_untrusted,
)
from messageapp.wire.keylog_forms import (
    MAX_USER_LEAVES,
    LogBundle,
    LogConsistency,
    LogHead,
    LogInclusion,
    LogLeaves,
    LogRequest,
    LogUser,
    NewKey,
    PeerProof,
)
from messageapp.wire.mail_forms import (
    MAX_ACKNOWLEDGED,
    MAX_BLOB,
    Acknowledgement,
    Delivery,
    MailRequest,
    PeerPrekey,
    PrekeyRequest,
    PrekeyState,
    PrekeyUpload,
    Stored,
)
from messageapp.wire.records import Kind, Record
from messageapp.wire.states import Role
from messageapp_keys.codec import Malformed, u8, u16, u32, u64, vec8, vec16, vec24

INVITE = bytes(range(16))
HASH, OTHER = bytes(range(32)), bytes(range(32, 64))
HEAD = u8(1) + vec16(b"note") + HASH + u16(0x0807) + vec16(b"signature")
PREKEY = vec8(b"Bob") + vec16(b"b") + vec24(b"p") + INVITE + vec16(b"k")
C, S = Role.CLIENT, Role.SERVER
REQUEST, REPLY, EVENT = Kind.REQUEST, Kind.REPLY, Kind.EVENT

ROWS: list[tuple[Role, Kind, str, Any, bytes]] = [
    (C, REQUEST, "chat", Call("bob", INVITE), vec8(b"bob") + INVITE),
    (S, EVENT, "reqt", Call("alice", INVITE), vec8(b"alice") + INVITE),
    (S, REPLY, "reqt", Call("bob", INVITE), vec8(b"bob") + INVITE),
    (C, REQUEST, "acpt", Call("alice", INVITE), vec8(b"alice") + INVITE),
    (C, REQUEST, "refu", Call("alice", INVITE), vec8(b"alice") + INVITE),
    (S, EVENT, "refu", Call("bob", INVITE), vec8(b"bob") + INVITE),
    (
        S,
        EVENT,
        "pubk",
        PeerKey(INVITE, True, "bob", b"bundle", b"pem", b"proof"),
        INVITE + u8(1) + vec8(b"bob") + vec16(b"bundle") + vec16(b"pem") + vec24(b"proof"),
    ),
    (
        S,
        REPLY,
        "pubk",
        PeerKey(INVITE, False, "alice", b"bundle"),
        INVITE + u8(2) + vec8(b"alice") + vec16(b"bundle") + vec16(b"") + vec24(b""),
    ),
    (C, REQUEST, "frwd", Raw(b"\x05any"), b"\x05any"),
    (S, EVENT, "frwd", Raw(b""), b""),
    (C, REQUEST, "list", Nothing(), b"x"),
    (
        S,
        REPLY,
        "list",
        Listing((ListEntry("alice", 0), ListEntry("bob", 4))),
        vec8(b"alice") + u8(0) + vec8(b"bob") + u8(4),
    ),
    (S, REPLY, "list", Listing(()), b""),
    (C, REQUEST, "cach", Invite(INVITE), INVITE),
    (S, EVENT, "cach", Invite(INVITE), INVITE),
    (C, REQUEST, "exch", Nothing(), b"x"),
    (S, EVENT, "exch", Left(False), b"\0"),
    (S, EVENT, "exch", Left(True), b"\1"),
    (C, REQUEST, "exit", Nothing(), b"x"),
    (S, EVENT, "byee", Bye(4), b"\4"),
    (S, REPLY, "byee", Bye(0), b"\0"),
    (C, REQUEST, "help", Nothing(), b"x"),
    (S, REPLY, "help", Raw(b"text"), b"text"),
    (S, REPLY, "erro", Errors(10, "not available"), u16(10) + vec8(b"not available")),
    (S, EVENT, "erro", Errors(12, ""), u16(12) + vec8(b"")),
    (S, REPLY, "okay", Raw(b""), b""),
    (C, REQUEST, "ping", Echo(b"12345678"), b"12345678"),
    (S, REQUEST, "ping", Echo(b"12345678"), b"12345678"),
    (C, REPLY, "pong", Echo(b"12345678"), b"12345678"),
    (S, REPLY, "pong", Echo(b"12345678"), b"12345678"),
    (C, EVENT, "rkey", Update(1), u32(1)),
    (S, EVENT, "rkey", Update(2**32 - 1), u32(2**32 - 1)),
    (C, REQUEST, "klog", LogRequest.head(), u8(1)),
    (C, REQUEST, "klog", LogRequest.range(3, 2**63), u8(2) + u64(3) + u64(2**63)),
    (C, REQUEST, "klog", LogRequest.inclusion(3, 5), u8(3) + u64(3) + u64(5)),
    (C, REQUEST, "klog", LogRequest.consistency(3, 5), u8(4) + u64(3) + u64(5)),
    (C, REQUEST, "klog", LogRequest.keys(HASH), u8(5) + HASH),
    (C, REQUEST, "klog", LogRequest.cosign("— w abc\n".encode()), u8(6) + vec16("— w abc\n".encode())),
    (C, REQUEST, "klog", LogRequest.user("bob-2"), u8(7) + vec8(b"bob-2")),
    (S, EVENT, "klog", LogHead(b"note", HASH, 0x0807, b"signature"), HEAD),
    (S, REPLY, "klog", LogHead(b"note", HASH, 0x0807, b"signature"), HEAD),
    (S, REPLY, "klog", LogLeaves(7, (b"leaf",)), u8(2) + u64(7) + vec16(b"leaf")),
    (S, REPLY, "klog", LogLeaves(7, (b"a", b"")), u8(2) + u64(7) + vec16(b"a") + vec16(b"")),
    (S, REPLY, "klog", LogInclusion(b"leaf", ()), u8(3) + vec16(b"leaf")),
    (S, REPLY, "klog", LogInclusion(b"leaf", (HASH, OTHER)), u8(3) + vec16(b"leaf") + HASH + OTHER),
    (S, REPLY, "klog", LogConsistency((HASH,)), u8(4) + HASH),
    (S, REPLY, "klog", LogBundle(b"bundle"), u8(5) + vec16(b"bundle")),
    (S, REPLY, "klog", LogUser(((9, b"new"), (2, b"old"))), u8(7) + u64(9) + vec16(b"new") + u64(2) + vec16(b"old")),
    (C, REQUEST, "newk", NewKey(b"bundle", b"old", b"new"), vec16(b"bundle") + vec16(b"old") + vec16(b"new")),
    (C, REQUEST, "blck", Block(BlockOp.BLOCK, "mallory"), u8(1) + vec8(b"mallory")),
    (C, REQUEST, "blck", Block(BlockOp.UNBLOCK, "mallory"), u8(2) + vec8(b"mallory")),
    (C, REQUEST, "blck", Block(BlockOp.LIST), u8(3) + vec8(b"")),
    (S, REPLY, "blck", BlockList(("mallory", "Eve")), vec8(b"mallory") + vec8(b"Eve")),
    (C, REQUEST, "prek", PrekeyUpload(b"prekeys"), b"prekeys"),
    (S, REPLY, "prek", PrekeyState(7, 2**40, True, 86_400), u16(7) + u64(2**40) + u8(1) + u32(86_400)),
    (S, EVENT, "prek", PrekeyState(0, 0, False, 1), u16(0) + u64(0) + u8(0) + u32(1)),
    (C, REQUEST, "bndl", PrekeyRequest("bob"), vec8(b"bob")),
    (S, REPLY, "bndl", PeerPrekey("Bob", b"b", b"p", INVITE, b"k"), PREKEY),
    (C, REQUEST, "send", MailRequest("bob", INVITE, b"sealed"), vec8(b"bob") + INVITE + vec24(b"sealed")),
    (S, REPLY, "ackd", Stored(INVITE, 2**63), INVITE + u64(2**63)),
    (S, EVENT, "mail", Delivery("Al", 9, INVITE, b"sealed"), vec8(b"Al") + u64(9) + INVITE + vec24(b"sealed")),
    (C, REQUEST, "ackm", Acknowledgement((3, 2**64 - 1)), u64(3) + u64(2**64 - 1)),
]
each_row = pytest.mark.parametrize(
    ("role", "kind", "verb", "argument", "raw"), ROWS, ids=[f"{row[2]}-{row[0].value}-{row[1].name}" for row in ROWS]
)


@each_row
def test_an_argument_and_its_bytes(role: Role, kind: Kind, verb: str, argument: Any, raw: bytes) -> None:
    record = make(kind, 9, verb, argument)
    assert record == Record(kind, 9, verb.encode(), raw)
    assert parse_untrusted(role, record) == argument


def test_the_rows_above_are_all_there_are() -> None:
    """A new verb or form is a new row here."""
    tested = {(role, kind, verb) for role, kind, verb, _, _ in ROWS}
    defined = {(role, kind, row.name) for row in VERBS.values() for role, kind in row.forms}
    assert defined - tested == {(S, EVENT, "okay")}  # M4
    assert tested <= defined


def test_every_verb_has_four_letters_and_a_meaning() -> None:
    assert all(len(name) == 4 and name.isalpha() and row.meaning for name, row in VERBS.items())
    assert not {verb.encode() for verb in RESERVED} & set(VERBS)


@pytest.mark.parametrize(
    ("role", "kind", "verb", "argument", "raw"),
    [row for row in ROWS if not isinstance(row[3], Raw | PrekeyUpload)],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_argument_with_a_byte_too_many_or_too_few_is_refused(
    role: Role, kind: Kind, verb: str, argument: Any, raw: bytes
) -> None:
    wrong = [raw + b"\0"]
    if not isinstance(argument, Nothing | Listing):
        wrong.append(raw[:-1])
    for data in wrong:
        with pytest.raises(BadArgument):
            parse_untrusted(role, Record(kind, 1, verb.encode(), data))


def test_nothing_is_the_byte_x_or_no_byte() -> None:
    assert parse_untrusted(C, Record(REQUEST, 1, b"list", b"")) == Nothing()
    for wrong in (b"X", b"xx", b"\0"):
        with pytest.raises(BadArgument):
            parse_untrusted(C, Record(REQUEST, 1, b"list", wrong))


@pytest.mark.parametrize("name", [b"", b"-a", b"a" * 17, b"a b", b"\x1b[31m", "é".encode(), b"a\0"])
def test_a_username_has_its_form_wherever_one_stands(name: bytes) -> None:
    cases = [
        (C, REQUEST, b"chat", vec8(name) + INVITE),
        (S, EVENT, b"reqt", vec8(name) + INVITE),
        (S, REPLY, b"list", vec8(name) + u8(0)),
        (S, EVENT, b"pubk", INVITE + u8(1) + vec8(name) + vec16(b"") + vec16(b"") + vec24(b"")),
        (C, REQUEST, b"klog", u8(7) + vec8(name)),
        (C, REQUEST, b"blck", u8(1) + vec8(name)),
        (C, REQUEST, b"blck", u8(2) + vec8(name)),
        (S, REPLY, b"blck", vec8(name)),
    ]
    for role, kind, verb, raw in cases:
        with pytest.raises(BadArgument):
            parse_untrusted(role, Record(kind, 1, verb, raw))


@pytest.mark.parametrize("role", [0, 3, 255])
def test_a_role_is_caller_or_receiver(role: int) -> None:
    raw = INVITE + u8(role) + vec8(b"bob") + vec16(b"") + vec16(b"") + vec24(b"")
    with pytest.raises(BadArgument):
        parse_untrusted(S, Record(EVENT, 0, b"pubk", raw))


def test_exch_knows_two_reasons() -> None:
    with pytest.raises(BadArgument):
        parse_untrusted(S, Record(EVENT, 0, b"exch", b"\2"))


@pytest.mark.parametrize(
    ("role", "kind", "verb", "raw"),
    [
        *((C, REQUEST, "klog", u8(op) + rest) for op in (0, 8, 255) for rest in (b"", u64(0) + u64(1))),
        *((S, REPLY, "klog", u8(op)) for op in (0, 6, 8, 255)),
        (S, REPLY, "klog", u8(2) + u64(7)),  # no leaf
        (S, REPLY, "klog", u8(3) + vec16(b"leaf") + HASH[:31]),
        (S, REPLY, "klog", u8(4) + HASH + b"\0"),
        (S, REPLY, "klog", u8(1) + vec16(b"note") + HASH[:31] + u16(0x0807) + vec16(b"signature")),
        *((S, EVENT, "klog", u8(op) + HEAD[1:]) for op in (0, 2, 7)),
        (S, EVENT, "klog", u8(4) + HASH),
        *((C, REQUEST, "blck", u8(op) + vec8(b"bob")) for op in (0, 3, 4, 255)),
    ],
)
def test_an_operation_has_its_form(role: Role, kind: Kind, verb: str, raw: bytes) -> None:
    with pytest.raises(BadArgument):
        parse_untrusted(role, Record(kind, 1, verb.encode(), raw))


def test_leaves_of_one_user_are_64_at_most() -> None:
    most = LogUser(tuple((number, b"leaf") for number in range(MAX_USER_LEAVES)))
    assert parse_untrusted(S, make(REPLY, 1, "klog", most)) == most
    with pytest.raises(BadArgument):
        parse_untrusted(S, make(REPLY, 1, "klog", LogUser((*most.entries, (64, b"leaf")))))


def test_the_proof_in_pubk() -> None:
    proof = PeerProof(b"note", 7, b"leaf", (HASH, OTHER))
    raw = vec16(b"note") + u64(7) + vec16(b"leaf") + HASH + OTHER
    assert proof.encode() == raw
    assert PeerProof.parse_untrusted(raw) == proof
    for wrong in (raw[:-1], raw + b"\0", b"", raw[:13]):
        with pytest.raises(Malformed):
            PeerProof.parse_untrusted(wrong)


def test_a_stored_message_has_a_byte_and_128_000_at_most() -> None:
    head = vec8(b"bob") + INVITE
    for size in (1, MAX_BLOB):
        assert len(parse_untrusted(C, Record(REQUEST, 1, b"send", head + vec24(bytes(size)))).blob) == size
    for size in (0, MAX_BLOB + 1):
        with pytest.raises(BadArgument):
            parse_untrusted(C, Record(REQUEST, 1, b"send", head + vec24(bytes(size))))
        with pytest.raises(BadArgument):
            parse_untrusted(S, Record(EVENT, 1, b"mail", vec8(b"bob") + u64(1) + INVITE + vec24(bytes(size))))
    longest = make(REQUEST, 1, "send", MailRequest("u" * 32, INVITE, bytes(MAX_BLOB))).pack()
    assert len(longest) < 131_072


def test_1_024_messages_are_acknowledged_at_once_at_most() -> None:
    most = Acknowledgement(tuple(range(MAX_ACKNOWLEDGED)))
    assert parse_untrusted(C, make(REQUEST, 1, "ackm", most)) == most
    for wrong in (Acknowledgement(()), Acknowledgement((*most.seqs, 7))):
        with pytest.raises(BadArgument):
            parse_untrusted(C, make(REQUEST, 1, "ackm", wrong))


def test_whether_a_device_receives_is_yes_or_no() -> None:
    with pytest.raises(BadArgument):
        parse_untrusted(S, Record(REPLY, 1, b"prek", u16(7) + u64(1) + u8(2) + u32(1)))


@pytest.mark.parametrize("role", list(Role))
@pytest.mark.parametrize("kind", list(Kind))
@pytest.mark.parametrize("verb", sorted(VERBS))
def test_a_kind_that_a_side_may_not_send_ends_the_session(role: Role, kind: Kind, verb: bytes) -> None:
    if (role, kind) in VERBS[verb].forms:
        return
    with pytest.raises(RemoteProtocolError):
        parse_untrusted(role, Record(kind, 1, verb, b"x"))


@pytest.mark.parametrize("verb", [b"abcd", b"\0\0\0\0", b"LIST", b"chat"[::-1], *(name.encode() for name in RESERVED)])
def test_an_unknown_verb_does_not_end_the_session_if_it_is_a_request(verb: bytes) -> None:
    with pytest.raises(UnknownVerb):
        parse_untrusted(C, Record(REQUEST, 1, verb, b"anything"))
    with pytest.raises(UnknownVerb):
        parse_untrusted(S, Record(EVENT, 0, verb, b"anything"))
    for kind in (REPLY, EVENT):
        with pytest.raises(RemoteProtocolError):
            parse_untrusted(C, Record(kind, 1, verb, b"anything"))


def test_a_long_error_text_is_cut_and_a_bad_one_replaced() -> None:
    long = Errors(1, "é" * 200)
    parsed = parse_untrusted(S, make(REPLY, 1, "erro", long))
    assert parsed.text.startswith("é" * 127)
    assert parse_untrusted(S, Record(REPLY, 1, b"erro", u16(1) + vec8(b"\xff"))) == Errors(1, "\ufffd")


@given(st.sampled_from(Role), st.sampled_from(Kind), st.sampled_from([*VERBS, b"none"]), st.binary(max_size=60))
def test_garbage_raises_only_the_declared_exceptions(role: Role, kind: Kind, verb: bytes, raw: bytes) -> None:
    try:
        argument = parse_untrusted(role, Record(kind, 1, verb, raw))
    except (UnknownVerb, BadArgument, RemoteProtocolError):
        return
    again = parse_untrusted(role, make(kind, 1, verb.decode(), argument))
    assert again == argument
