"""Forms on the wire, streams of frames, records and the arguments of commands."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from messageapp.errors import RemoteProtocolError
from messageapp.wire import commands
from messageapp.wire import keylog_forms as log
from messageapp.wire import mail_forms as mail
from messageapp.wire.commands import BadArgument, UnknownVerb
from messageapp.wire.connection import Connection
from messageapp.wire.frames import FRAME_LIMITS, FrameType, encode_frame
from messageapp.wire.login import Welcome
from messageapp.wire.messages import M1, M2, M3, Alert, M3Proof, server_name_untrusted
from messageapp.wire.records import Kind, Packed, Record, RecordOpener, checked_untrusted
from messageapp.wire.states import RECEIVES, Role, State
from messageapp_keys.codec import Malformed, u8, u32, vec8

from . import material
from .target import Harness, Target, require, same_after_refusal

__all__ = ["TARGETS"]


def form(parse: Callable[[bytes], Any], seeds: list[bytes], *, exact: bool) -> Harness:
    """What is read must be written again: to the same bytes where `exact`, else to what is read the same."""

    def attack(data: bytes) -> None:
        value = parse(data)
        written = value.encode()
        require(written == data or not exact, "one structure can be written in two ways")
        require(parse(written) == value, "what was read is written as something else")

    return Harness(attack, seeds)


def _m3_proof() -> Harness:
    proofs = [M3Proof("alice", bytes(32), material.identity(post_quantum=pq).sign(b"", b"")) for pq in (False, True)]
    return form(M3Proof.parse_untrusted, [proof.encode() for proof in proofs], exact=True)


def _m2() -> Harness:
    return form(M2.parse_untrusted, [material.recording()[f"m2 {suite}"] for suite in ("swift", "hybrid")], exact=False)


def _m3() -> Harness:
    return form(M3.parse_untrusted, [material.recording()[f"m3 {suite}"] for suite in ("swift", "hybrid")], exact=True)


def _server_name() -> Harness:
    def attack(data: bytes) -> None:
        require(server_name_untrusted(data).encode() == data, "a server name was changed")

    return Harness(attack, [b"chat.example.org", b"127.0.0.1", b"::1", b"a" * 253])


# Streams ----------------------------------------------------------------------------------------------------------


def _frames(role: Role) -> Harness:
    """A whole login and what follows as one stream, in two different cuts: the frames must be the same."""
    m1, m4 = material.client_login().start(), material.m4()
    recorded = material.recording()
    sealer, _ = material.record_pair()
    records = [encode_frame(FrameType.RECORD, sealer.seal(record)) for record in _some_records()]
    m2, m3 = (encode_frame(kind, recorded[f"{kind.name.lower()} swift"]) for kind in (FrameType.M2, FrameType.M3))
    alert = encode_frame(FrameType.ALERT, Alert(2, 5).encode())
    theirs = [[m1, m3], [m1, m3, *records]] if role is Role.SERVER else [[m2, m4.wire, *records], [alert], [m2, alert]]
    ours = {State.M1_DONE: State.M2_DONE, State.M3_DONE: State.SESSION} if role is Role.SERVER else {}
    ours |= {State.START: State.M1_DONE, State.M2_DONE: State.M3_DONE} if role is Role.CLIENT else {}

    def read(parts: list[bytes]) -> tuple[list[tuple[FrameType, bytes]], str]:
        connection, found = Connection(role), []
        for part in parts:
            connection.receive_data(part)
            try:
                while True:
                    connection.state = ours.get(connection.state, connection.state)
                    if connection.state is State.CLOSED or (frame := connection.next_frame()) is None:
                        break
                    require(len(frame.body) < FRAME_LIMITS[frame.type], "a frame is over its limit")
                    found.append((frame.type, frame.body))
            except RemoteProtocolError as error:
                require(connection.state is State.ERROR, "a broken connection goes on")
                require(not RECEIVES[role].get(State.ERROR), "something is in turn after an error")
                return found, str(error)
        return found, ""

    def attack(data: bytes) -> None:
        step = 1 + len(data) // 5
        whole, error = read([data])
        cut = read([data[start : start + step] for start in range(0, len(data), step)])
        require(cut == (whole, error) or connection_may_end_early(whole), "frames depend on how the bytes came")
        if error:
            raise RemoteProtocolError(error)

    def connection_may_end_early(frames: list[tuple[FrameType, bytes]]) -> bool:
        return bool(frames) and frames[-1][0] is FrameType.ALERT  # then nothing more is read

    return Harness(attack, [b"".join(frames) for frames in theirs])


def _some_records() -> list[Record]:
    return [
        Record(Kind.REQUEST, 1, b"list", b"x"),
        Record(Kind.REQUEST, 2, b"chat", vec8(b"bob") + bytes(16)),
        Record(Kind.EVENT, 0, b"rkey", u32(1)),
        Record(Kind.REQUEST, 3, b"frwd", b"\x05" + bytes(300)),
    ]


def state_of(opener: RecordOpener) -> object:
    return opener._counter, opener.generation, opener.records_under_key, opener._secret.expose()


def _record() -> Harness:
    """The body of the next record. Only the genuine one opens, and what does not open counts nothing."""
    sealer, opener = material.record_pair()
    for _ in range(3):
        opener.open_untrusted(sealer.seal(_some_records()[0]))
    genuine, later = sealer.seal(_some_records()[1]), sealer.seal(_some_records()[3])
    before, _ = material.record_pair()

    def attack(data: bytes) -> None:
        with same_after_refusal(partial(state_of, opener)):
            opener.open_untrusted(data)
        opener._counter -= 1

    harness = Harness(attack, [genuine])
    for refused in (later, before.seal(_some_records()[0]), genuine[:32]):
        try:
            attack(refused)
        except RemoteProtocolError:
            continue
        require(False, "a record out of order opens")
    return harness


def _record_stream() -> Harness:
    """Five frames with a key update among them: whatever is done to the stream, what opens is a beginning of it."""
    sealer, _ = material.record_pair()
    genuine = _some_records()
    parts = []
    for record in genuine:
        parts.append(encode_frame(FrameType.RECORD, sealer.seal(record)))
        if record.verb == b"rkey":
            sealer.update()
    shown = [record for record in genuine if record.verb != b"rkey"]

    def attack(data: bytes) -> None:
        connection = Connection(Role.SERVER)
        connection.state = State.SESSION
        connection.start_session(*material.record_pair(), 0.0)
        connection.receive_data(data)
        found = []
        try:
            for packed in connection.packed_records():
                found.append(Record.unpack(packed))
        finally:
            require(found == shown[: len(found)], "a record was shown that nobody sent, or not in its place")
        if len(found) < len(shown):
            raise RemoteProtocolError("the stream was cut")

    return Harness(attack, [b"".join(parts), b"".join(parts) + parts[0][:9]])


def _record_form() -> Harness:
    """The plaintext of a record, from somebody who has the key."""

    def attack(data: bytes) -> None:
        packed = checked_untrusted(bytearray(data))
        record = Record.unpack(packed)
        require(packed == record.pack(), "a record is relayed in a form that is not ours")
        require(len(packed) < FRAME_LIMITS[FrameType.RECORD], "what is relayed does not fit a frame")

    return Harness(attack, [bytes(record.pack()) for record in _some_records()])


# Commands ---------------------------------------------------------------------------------------------------------

_ARGUMENTS: dict[str, tuple[str, Role, Kind, Any]] = {
    "call": ("chat", Role.CLIENT, Kind.REQUEST, commands.Call("bob", bytes(16))),
    "invite": ("cach", Role.CLIENT, Kind.REQUEST, commands.Invite(bytes(16))),
    "nothing": ("list", Role.CLIENT, Kind.REQUEST, commands.Nothing()),
    "raw": ("frwd", Role.CLIENT, Kind.REQUEST, commands.Raw(b"\x01content")),
    "echo": ("ping", Role.CLIENT, Kind.REQUEST, commands.Echo(bytes(8))),
    "update": ("rkey", Role.CLIENT, Kind.EVENT, commands.Update(1)),
    "left": ("exch", Role.SERVER, Kind.EVENT, commands.Left(disconnected=True)),
    "bye": ("byee", Role.SERVER, Kind.EVENT, commands.Bye(1)),
    "errors": ("erro", Role.SERVER, Kind.REPLY, commands.Errors(10, "no such user, é")),
    "listing": (
        "list",
        Role.SERVER,
        Kind.REPLY,
        commands.Listing((commands.ListEntry("alice", 0), commands.ListEntry("bob-2", 4))),
    ),
    "log-range": ("klog", Role.CLIENT, Kind.REQUEST, log.LogRequest.range(3, 9)),
    "log-key": ("klog", Role.CLIENT, Kind.REQUEST, log.LogRequest.keys(bytes(32))),
    "log-cosignature": ("klog", Role.CLIENT, Kind.REQUEST, log.LogRequest.cosign(b"a line\n")),
    "log-user": ("klog", Role.CLIENT, Kind.REQUEST, log.LogRequest.user("bob")),
    "log-event": ("klog", Role.SERVER, Kind.EVENT, log.LogHead(b"note", bytes(32), 0x0807, bytes(64))),
    "new-key": ("newk", Role.CLIENT, Kind.REQUEST, log.NewKey(b"bundle", b"old", b"new")),
    "block": ("blck", Role.CLIENT, Kind.REQUEST, commands.Block(commands.BlockOp.BLOCK, "mallory")),
    "prekeys-left": ("prek", Role.SERVER, Kind.EVENT, mail.PrekeyState(7, 2**40, True, 86_400)),
    "prekey-request": ("bndl", Role.CLIENT, Kind.REQUEST, mail.PrekeyRequest("bob")),
    "prekey": ("bndl", Role.SERVER, Kind.REPLY, mail.PeerPrekey("bob", b"bundle", b"proof", bytes(16), b"prekey")),
    "send": ("send", Role.CLIENT, Kind.REQUEST, mail.MailRequest("bob", bytes(16), b"sealed")),
    "stored": ("ackd", Role.SERVER, Kind.REPLY, mail.Stored(bytes(16), 7)),
    "mail": ("mail", Role.SERVER, Kind.EVENT, mail.Delivery("alice", 7, bytes(16), b"sealed")),
    "acknowledgement": ("ackm", Role.CLIENT, Kind.REQUEST, mail.Acknowledgement((7, 8))),
    "blocked": ("blck", Role.SERVER, Kind.REPLY, commands.BlockList(("mallory", "Eve"))),
}
_LOG_REPLIES: dict[str, log.LogReply] = {
    "head": log.LogHead(b"note", bytes(32), 0x0807, bytes(64)),
    "leaves": log.LogLeaves(3, (b"leaf", b"another")),
    "inclusion": log.LogInclusion(b"leaf", (bytes(32), bytes(32))),
    "consistency": log.LogConsistency((bytes(32),)),
    "bundle": log.LogBundle(b"bundle"),
    "user": log.LogUser(((9, b"leaf"), (3, b"another"))),
}


def _log_reply() -> Harness:
    """Any operation: the first byte says which."""

    def attack(data: bytes) -> None:
        found = commands.parse_untrusted(Role.SERVER, Record(Kind.REPLY, 7, b"klog", data))
        require(isinstance(found, log.LogReply), "an answer about the key log of no known form")
        require(found.encode() == data, "one answer can be written in two ways")

    return Harness(attack, [value.encode() for value in _LOG_REPLIES.values()])


def _argument(name: str) -> Harness:
    if name == "peer-key":
        bundle = material.identity().bundle.encode()
        row = ("pubk", Role.SERVER, Kind.EVENT, commands.PeerKey(bytes(16), True, "bob", bundle, b"pem", b"proof"))
    else:
        row = _ARGUMENTS[name]
    verb, sender, kind, value = row
    loose = name in ("nothing", "errors")  # `x` may be missing; UTF-8 that is none is shown as U+FFFD

    def attack(data: bytes) -> None:
        found = commands.parse_untrusted(sender, Record(kind, 7, verb.encode(), data))
        require(type(found) is type(value), "a command has another argument than its row says")
        require(loose or found.encode() == data, "one argument can be written in two ways")

    return Harness(attack, [value.encode()])


def _command() -> Harness:
    """`u8 role | plaintext of a record`, every verb of both roles in every kind."""

    def attack(data: bytes) -> None:
        sender = (Role.CLIENT, Role.SERVER)[data[0] & 1] if data else Role.CLIENT
        record = Record.unpack(checked_untrusted(bytearray(data[1:])))
        commands.parse_untrusted(sender, record)
        require((sender, record.kind) in commands.VERBS[record.verb].forms, "a command was taken out of its row")

    values = {type(value): value for _, _, _, value in _ARGUMENTS.values()}
    values[mail.PrekeyUpload] = mail.PrekeyUpload(b"prekeys")
    values[log.ReplyForm] = _LOG_REPLIES["leaves"]
    values[commands.PeerKey] = commands.PeerKey(bytes(16), False, "bob", b"bundle")
    return Harness(
        attack,
        [
            u8((Role.CLIENT, Role.SERVER).index(sender))
            + bytes(Packed(Record(kind, 7, verb, values[form].encode()).pack()))
            for verb, row in commands.VERBS.items()
            for (sender, kind), form in row.forms.items()
        ],
    )


_MALFORMED = (Malformed,)
_BROKEN = (RemoteProtocolError,)

TARGETS = (
    Target("m1-form", lambda: form(M1.parse_untrusted, material.seeds_of_m1(), exact=False), _MALFORMED),
    Target("m2-form", _m2, _MALFORMED),
    Target("m3-form", _m3, _MALFORMED),
    Target("m3-proof-form", _m3_proof, _MALFORMED),
    Target(
        "m4-welcome-form",
        lambda: form(Welcome.parse_untrusted, [material.welcome().encode(), Welcome("::1", 0).encode()], exact=False),
        _MALFORMED,
    ),
    Target(
        "alert-form",
        lambda: form(Alert.parse_untrusted, [Alert(1).encode(), Alert(2, 5).encode()], exact=True),
        _MALFORMED,
    ),
    Target("server-name", _server_name, _MALFORMED, mutations=20_000),
    Target("frames-of-a-client", lambda: _frames(Role.SERVER), _BROKEN),
    Target("frames-of-a-server", lambda: _frames(Role.CLIENT), _BROKEN),
    Target("record", _record, _BROKEN, sealed=True),
    Target("record-stream", _record_stream, _BROKEN),
    Target("record-form", _record_form, _BROKEN),
    Target("command", _command, (*_BROKEN, UnknownVerb, BadArgument)),
    Target("log-reply", _log_reply, (BadArgument,)),
    Target(
        "peer-proof-form",
        lambda: form(
            log.PeerProof.parse_untrusted, [log.PeerProof(b"note", 3, b"leaf", (bytes(32),)).encode()], exact=True
        ),
        _MALFORMED,
    ),
    *(Target(f"argument-{name}", partial(_argument, name), (BadArgument,)) for name in (*_ARGUMENTS, "peer-key")),
)
