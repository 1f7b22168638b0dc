"""One end of a connection: what is legal when, errors that last, and key updates nobody above sees."""

import itertools
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from messageapp.errors import LocalProtocolError, RemoteProtocolError
from messageapp.wire import records
from messageapp.wire.connection import Connection
from messageapp.wire.frames import FRAME_LIMITS, FrameType, encode_frame
from messageapp.wire.messages import Alert
from messageapp.wire.records import MAX_ARGUMENT, UPDATE_AFTER_SECONDS, Kind, Record
from messageapp.wire.states import RECEIVES, SENDS, Role, State
from messageapp_keys.codec import u32
from support.pair import LoginPair, logged_in_ends, record_pair

LOGIN = [
    (Role.CLIENT, FrameType.M1),
    (Role.SERVER, FrameType.M2),
    (Role.CLIENT, FrameType.M3),
    (Role.SERVER, FrameType.M4),
]


def say(number: int = 0, size: int = 0) -> Record:
    return Record(Kind.REQUEST, number, b"frwd", b"\x05" + bytes(size))


def ends_after(steps: int) -> dict[Role, Connection]:
    """Both ends after so many frames of a login (of this layer only: the bodies are empty)."""
    ends = {role: Connection(role) for role in Role}
    for sender, kind in LOGIN[:steps]:
        (receiver,) = set(Role) - {sender}
        data = ends[sender].send_frame(kind, encode_frame(kind, b""))
        ends[receiver].receive_data(data)
        assert ends[receiver].next_frame() is not None
    return ends


@pytest.mark.parametrize("steps", range(5))
def test_both_ends_are_in_the_same_state_after_every_frame(steps: int) -> None:
    states = [State.START, State.M1_DONE, State.M2_DONE, State.M3_DONE, State.SESSION]
    assert {end.state for end in ends_after(steps).values()} == {states[steps]}


CASES = list(itertools.product(range(5), Role, FrameType))
each_case = pytest.mark.parametrize(
    ("steps", "role", "kind"), CASES, ids=[f"{steps}-{role.value}-{kind.name}" for steps, role, kind in CASES]
)


@each_case
def test_only_the_frame_in_turn_is_taken(steps: int, role: Role, kind: FrameType) -> None:
    """Written without the table: nothing but the next frame of the login, an ALERT of the server, then records."""
    end = ends_after(steps)[role]
    in_turn = (steps < 4 and LOGIN[steps] == (({*Role} - {role}).pop(), kind)) or (
        steps == 4 and kind == FrameType.RECORD
    )
    alert = role is Role.CLIENT and steps < 4 and kind == FrameType.ALERT
    end.receive_data(encode_frame(kind, b""))
    if in_turn or alert:
        frame = end.next_frame()
        assert frame is not None
        assert frame.type == kind
        assert end.state is not State.ERROR
    else:
        with pytest.raises(RemoteProtocolError):
            end.next_frame()
        assert end.state is State.ERROR


@each_case
def test_only_the_frame_in_turn_is_sent(steps: int, role: Role, kind: FrameType) -> None:
    end = ends_after(steps)[role]
    in_turn = (steps < 4 and LOGIN[steps] == (role, kind)) or (steps == 4 and kind == FrameType.RECORD)
    alert = role is Role.SERVER and steps < 4 and kind == FrameType.ALERT
    if in_turn or alert:
        assert end.send_frame(kind, b"bytes") == b"bytes"
    else:
        with pytest.raises(LocalProtocolError):
            end.send_frame(kind, b"bytes")
        assert end.state is State.ERROR


def test_what_one_role_may_send_the_other_may_receive() -> None:
    assert SENDS[Role.CLIENT] == RECEIVES[Role.SERVER]
    assert SENDS[Role.SERVER] == RECEIVES[Role.CLIENT]


def test_nothing_is_taken_before_the_own_turn_but_an_idle_end_is_no_error() -> None:
    server = ends_after(1)[Role.SERVER]
    assert server.next_frame() is None
    server.receive_data(b"\0")
    assert server.mid_frame
    with pytest.raises(RemoteProtocolError):
        server.next_frame()


def test_a_second_m1_is_an_error() -> None:
    server = ends_after(1)[Role.SERVER]
    server.receive_data(encode_frame(FrameType.M1, b""))
    with pytest.raises(RemoteProtocolError):
        server.next_frame()


def test_m4_as_a_record_and_a_record_as_m4() -> None:
    pair = LoginPair()
    m4 = pair.m4(pair.m3(pair.m2(pair.m1())))
    pair.client_end.receive_data(m4[:4] + bytes((FrameType.RECORD,)) + m4[5:])
    with pytest.raises(RemoteProtocolError):
        pair.client_end.next_frame()

    client, server = logged_in_ends()
    data = server.send_record(Record(Kind.EVENT, 0, b"okay", b""), 0.0)
    client.receive_data(data[:4] + bytes((FrameType.M4,)) + data[5:])
    with pytest.raises(RemoteProtocolError):
        client.next_record()


def test_an_alert_in_a_session_is_an_error_for_the_client() -> None:
    client, _ = logged_in_ends()
    client.receive_data(encode_frame(FrameType.ALERT, b"\x01"))
    with pytest.raises(RemoteProtocolError):
        client.next_record()
    assert client.state is State.ERROR


# Errors last ------------------------------------------------------------------------------------------------------


def test_after_an_error_every_call_raises() -> None:
    client, server = logged_in_ends()
    good = client.send_record(say(), 0.0)
    server.receive_data(good[:-1] + bytes((good[-1] ^ 1,)))
    with pytest.raises(RemoteProtocolError):
        server.next_record()
    server.receive_data(good)
    with pytest.raises(RemoteProtocolError):
        server.next_record()
    with pytest.raises(LocalProtocolError):
        server.send_record(say(), 0.0)
    with pytest.raises(LocalProtocolError):
        server.send_frame(FrameType.RECORD, b"")


def test_a_local_error_lasts_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    client, _ = logged_in_ends()
    monkeypatch.setattr(records, "HARD_STOP_RECORDS", 0)
    with pytest.raises(LocalProtocolError):
        client.send_record(say(), 0.0)
    assert client.state is State.ERROR
    monkeypatch.undo()
    with pytest.raises(LocalProtocolError):
        client.send_record(say(), 0.0)


def test_a_record_that_is_too_long_is_refused_before_anything_is_sealed() -> None:
    client, server = logged_in_ends()
    with pytest.raises(LocalProtocolError):
        client.send_record(Record(Kind.REQUEST, 1, b"frwd", bytes(MAX_ARGUMENT + 1)), 0.0)
    server.receive_data(client.send_record(say(), 0.0))
    assert server.next_record() == say()


def test_no_records_before_the_session() -> None:
    end = Connection(Role.CLIENT)
    with pytest.raises(LocalProtocolError):
        end.next_record()
    with pytest.raises(LocalProtocolError):
        end.send_record(say(), 0.0)


# Alerts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", range(4))
def test_the_server_sends_one_alert_before_keys(steps: int) -> None:
    ends = ends_after(steps)
    data = ends[Role.SERVER].alert(Alert(2, 5))
    assert data == encode_frame(FrameType.ALERT, b"\x02\x00\x05")
    assert ends[Role.SERVER].alert(Alert(2)) == b""
    ends[Role.CLIENT].receive_data(data)
    frame = ends[Role.CLIENT].next_frame()
    assert frame is not None
    assert Alert.parse_untrusted(frame.body) == Alert(2, 5)
    assert ends[Role.CLIENT].state is State.CLOSED
    with pytest.raises(RemoteProtocolError):
        ends[Role.CLIENT].next_frame()


def test_a_client_sends_none() -> None:
    for steps in range(5):
        assert ends_after(steps)[Role.CLIENT].alert(Alert(1)) == b""


def test_a_bad_frame_before_keys_can_be_answered() -> None:
    server = Connection(Role.SERVER)
    server.receive_data(b"GET / HTTP/1.1\r\n")
    with pytest.raises(RemoteProtocolError) as failed:
        server.next_frame()
    assert server.alert(Alert(failed.value.alert or 0)) == encode_frame(FrameType.ALERT, b"\x04")


def test_a_bad_record_is_not_answered() -> None:
    """The first record that does not open ends the connection without a word: after M4 there are no alerts."""
    client, server = logged_in_ends()
    good = client.send_record(say(), 0.0)
    server.receive_data(good[:-1] + bytes((good[-1] ^ 1,)))
    with pytest.raises(RemoteProtocolError):
        server.next_record()
    assert server.alert(Alert(1)) == b""


# Records ----------------------------------------------------------------------------------------------------------


def test_records_both_ways() -> None:
    client, server = logged_in_ends()
    for number in range(3):
        server.receive_data(client.send_record(say(number), 0.0))
        assert server.next_record() == say(number)
        client.receive_data(server.send_record(say(number + 10), 0.0))
        assert client.next_record() == say(number + 10)
    assert server.next_record() is None
    assert not server.mid_frame


@pytest.mark.parametrize("length", [131_073, 2**32 - 1])
def test_a_record_that_is_too_long_is_refused_by_its_length(length: int) -> None:
    client, _ = logged_in_ends()
    client.receive_data(struct.pack(">I", length))
    with pytest.raises(RemoteProtocolError):
        client.next_record()


def test_the_longest_record_passes() -> None:
    client, server = logged_in_ends()
    record = Record(Kind.REQUEST, 1, b"frwd", bytes(MAX_ARGUMENT))
    data = client.send_record(record, 0.0)
    assert len(data) - 4 <= FRAME_LIMITS[FrameType.RECORD]
    server.receive_data(data)
    assert server.next_record() == record


@settings(max_examples=30)
@given(st.lists(st.integers(0, 700), min_size=1, max_size=8), st.data())
def test_any_split_of_the_bytes_gives_the_same_records(sizes: list[int], data: st.DataObject) -> None:
    client, server = logged_in_ends()
    sent = [say(number, size) for number, size in enumerate(sizes)]
    stream = b"".join(client.send_record(record, 0.0) for record in sent)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=10)))
    got = []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        server.receive_data(stream[start:end])
        while (record := server.next_record()) is not None:
            got.append(record)
    assert got == sent


# Key updates ------------------------------------------------------------------------------------------------------


def generations(end: Connection) -> tuple[int, int]:
    assert end._sealer is not None
    assert end._opener is not None
    return end._sealer.generation, end._opener.generation


def test_an_old_key_is_replaced_in_one_direction_and_nobody_above_sees_it() -> None:
    client, server = logged_in_ends()
    data = client.send_record(say(1), UPDATE_AFTER_SECONDS)
    assert len(data) == 2 * (4 + 1 + 32 + 256)
    server.receive_data(data)
    assert server.next_record() == say(1)
    assert server.next_record() is None
    assert (generations(client), generations(server)) == ((1, 0), (0, 1))
    server.receive_data(client.send_record(say(2), 2 * UPDATE_AFTER_SECONDS - 1))
    assert server.next_record() == say(2)
    assert (generations(client), generations(server)) == ((1, 0), (0, 1))
    server.receive_data(client.send_record(say(3), 2 * UPDATE_AFTER_SECONDS))
    assert [server.next_record(), server.next_record()] == [say(3), None]
    assert (generations(client), generations(server)) == ((2, 0), (0, 2))


def test_updates_both_ways_by_amount(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "UPDATE_AFTER_RECORDS", 3)
    client, server = logged_in_ends()
    for number in range(10):
        server.receive_data(client.send_record(say(number), 0.0))
        assert server.next_record() == say(number)
        client.receive_data(server.send_record(say(number), 0.0))
        assert client.next_record() == say(number)
    # M4 was the server's first record under its first key.
    assert (generations(client), generations(server)) == ((3, 3), (3, 3))


def sent_after_rkey(argument: bytes, kind: Kind = Kind.EVENT) -> Connection:
    client, server = logged_in_ends()
    server.receive_data(client.send_record(Record(kind, 0, b"rkey", argument), 0.0))
    return server


@pytest.mark.parametrize("argument", [u32(0), u32(2), u32(2**32 - 1), b"", b"x", u32(1) + b"\0"])
def test_an_update_names_the_next_key_and_no_other(argument: bytes) -> None:
    server = sent_after_rkey(argument)
    with pytest.raises(RemoteProtocolError):
        server.next_record()
    assert server.state is State.ERROR


@pytest.mark.parametrize("kind", [Kind.REQUEST, Kind.REPLY])
def test_an_update_is_an_event(kind: Kind) -> None:
    with pytest.raises(RemoteProtocolError):
        sent_after_rkey(u32(1), kind).next_record()


def test_the_old_key_after_an_update_ends_the_session() -> None:
    client, server = logged_in_ends()
    server.receive_data(client.send_record(Record(Kind.EVENT, 0, b"rkey", u32(1)), 0.0))
    assert server.next_record() is None
    server.receive_data(client.send_record(say(), 0.0))  # client has not changed its key
    with pytest.raises(RemoteProtocolError):
        server.next_record()


def test_the_sealed_rkey_is_the_last_under_the_old_key() -> None:
    client, server = Connection(Role.CLIENT), Connection(Role.SERVER)
    sealer, peer_opener = record_pair(1)
    peer_sealer, opener = record_pair(2)
    client.state = server.state = State.SESSION
    client.start_session(sealer, opener, 0.0)
    server.start_session(peer_sealer, peer_opener, 0.0)
    data = client.send_record(say(), UPDATE_AFTER_SECONDS)
    first, second = data[5 : 5 + 288], data[5 + 288 + 5 :]
    _, under_old = record_pair(1)
    assert under_old.open_untrusted(first) == say()
    assert under_old.open_untrusted(second) == Record(Kind.EVENT, 0, b"rkey", u32(1))
