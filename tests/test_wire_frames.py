"""Frames: the limit is looked at before anything is kept, and a type out of turn is never skipped."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from messageapp.errors import RemoteProtocolError
from messageapp.wire.frames import FRAME_LIMITS, Frame, FrameBuffer, FrameType, encode_frame

ANY = tuple(FrameType)
each_type = pytest.mark.parametrize("kind", list(FrameType), ids=[kind.name for kind in FrameType])


def header(length: int, kind: int | None = None) -> bytes:
    return length.to_bytes(4, "big") + (b"" if kind is None else bytes((kind,)))


def read_all(buffer: FrameBuffer) -> list[Frame]:
    frames = []
    while (frame := buffer.next_untrusted(ANY)) is not None:
        frames.append(frame)
    return frames


def test_the_bytes_of_a_frame() -> None:
    assert encode_frame(FrameType.ALERT, b"\x01") == bytes.fromhex("00000002 1f 01")
    assert Frame(FrameType.M1, b"abc").wire == bytes.fromhex("00000004 01 616263")


def test_the_limits_are_the_protocols() -> None:
    assert FRAME_LIMITS == {1: 4096, 2: 32_768, 3: 8192, 4: 4096, 0x10: 131_072, 0x1F: 4}


@each_type
def test_the_longest_frame_of_a_type_is_taken_and_one_byte_more_is_not(kind: FrameType) -> None:
    limit = FRAME_LIMITS[kind]
    buffer = FrameBuffer()
    buffer.feed(encode_frame(kind, bytes(limit - 1)))
    assert buffer.next_untrusted([kind]) == Frame(kind, bytes(limit - 1))
    buffer.feed(header(limit + 1, kind))
    with pytest.raises(RemoteProtocolError) as failed:
        buffer.next_untrusted([kind])
    assert failed.value.alert == 4


@each_type
@pytest.mark.parametrize("length", [0, 131_073, 2**31, 2**32 - 1])
def test_four_bytes_are_enough_to_refuse_a_length(kind: FrameType, length: int) -> None:
    buffer = FrameBuffer()
    buffer.feed(header(length))
    with pytest.raises(RemoteProtocolError) as failed:
        buffer.next_untrusted([kind])
    assert failed.value.alert == 4


def test_before_login_a_records_length_is_too_long() -> None:
    buffer = FrameBuffer()
    buffer.feed(header(4097))
    with pytest.raises(RemoteProtocolError):
        buffer.next_untrusted([FrameType.M1])


def test_the_limit_of_the_type_itself_holds_where_several_are_in_turn() -> None:
    buffer = FrameBuffer()
    buffer.feed(header(5, FrameType.ALERT))
    with pytest.raises(RemoteProtocolError):
        buffer.next_untrusted([FrameType.M2, FrameType.ALERT])


@pytest.mark.parametrize("kind", [0, 5, 0x0F, 0x11, 0xFF, FrameType.M2, FrameType.RECORD])
def test_a_type_out_of_turn_is_refused_before_its_body(kind: int) -> None:
    buffer = FrameBuffer()
    buffer.feed(header(100, kind))
    with pytest.raises(RemoteProtocolError) as failed:
        buffer.next_untrusted([FrameType.M1])
    assert failed.value.alert == 1


def test_pending_counts_the_bytes_of_an_unfinished_frame() -> None:
    buffer = FrameBuffer()
    data = encode_frame(FrameType.M1, b"body")
    buffer.feed(data + data[:3])
    assert buffer.next_untrusted(ANY) == Frame(FrameType.M1, b"body")
    assert buffer.next_untrusted(ANY) is None
    assert buffer.pending == 3
    buffer.feed(data[3:])
    assert buffer.next_untrusted(ANY) == Frame(FrameType.M1, b"body")
    assert buffer.pending == 0


frames = st.lists(
    st.builds(Frame, st.sampled_from([FrameType.M1, FrameType.M2, FrameType.RECORD]), st.binary(max_size=60)),
    max_size=8,
)


@given(frames, st.data())
def test_any_split_of_the_bytes_gives_the_same_frames(sent: list[Frame], data: st.DataObject) -> None:
    stream = b"".join(frame.wire for frame in sent)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=20)))
    buffer, got = FrameBuffer(), []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        buffer.feed(stream[start:end])
        got += read_all(buffer)
    assert got == sent
    assert buffer.pending == 0


@given(frames)
def test_byte_by_byte_and_all_at_once_are_the_same(sent: list[Frame]) -> None:
    stream = b"".join(frame.wire for frame in sent)
    single, whole, got = FrameBuffer(), FrameBuffer(), []
    for byte in stream:
        single.feed(bytes((byte,)))
        got += read_all(single)
    whole.feed(stream)
    assert got == read_all(whole) == sent


@given(st.lists(st.binary(max_size=40), max_size=6))
def test_garbage_raises_only_the_remote_error(pieces: list[bytes]) -> None:
    buffer, alerts = FrameBuffer(), set()
    for piece in pieces:
        buffer.feed(piece)
        try:
            read_all(buffer)
        except RemoteProtocolError as error:
            alerts.add(error.alert)
    assert alerts <= {1, 4}


@given(st.integers(0, 2**32 - 1), st.integers(0, 255), st.binary(max_size=80))
def test_garbage_shaped_like_frames(length: int, kind: int, body: bytes) -> None:
    for size in (length, len(body) + 1):
        buffer = FrameBuffer()
        buffer.feed(header(size, kind) + body)
        try:
            frame = buffer.next_untrusted(ANY)
        except RemoteProtocolError:
            continue
        assert frame is None or (frame.type == kind and len(frame.body) == size - 1)


@given(st.lists(st.binary(max_size=60), max_size=8), st.data())
def test_records_taken_one_by_one_or_all_at_once_are_the_same(bodies: list[bytes], data: st.DataObject) -> None:
    """Also where the reader stops in the middle and more is fed before it goes on."""
    stream = b"".join(encode_frame(FrameType.RECORD, body) for body in bodies)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=20)))
    buffer, got = FrameBuffer(), []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        buffer.feed(stream[start:end])
        for body in itertools.islice(buffer.records_untrusted(), data.draw(st.integers(0, 3))):
            got.append(bytes(body))
    got += map(bytes, buffer.records_untrusted())
    assert got == bodies
    assert buffer.pending == 0


@pytest.mark.parametrize(
    ("data", "alert"),
    [
        (header(131_073, FrameType.RECORD), 4),
        (header(0), 4),
        (header(5, FrameType.M1), 1),
        (header(5, FrameType.M1) + bytes(9), 1),
    ],
)
def test_what_is_no_record_is_refused_among_records_and_those_before_it_are_given(data: bytes, alert: int) -> None:
    buffer, good = FrameBuffer(), encode_frame(FrameType.RECORD, b"body")
    buffer.feed(good + good + data)
    bodies = buffer.records_untrusted()
    assert [next(bodies), next(bodies)] == [b"body", b"body"]
    with pytest.raises(RemoteProtocolError) as failed:
        next(bodies)
    assert failed.value.alert == alert


def test_an_unfinished_frame_keeps_only_itself() -> None:
    """Not all that was read together with its first bytes."""
    buffer, record = FrameBuffer(), encode_frame(FrameType.RECORD, bytes(1000))
    buffer.feed(record * 60 + record[:7])
    assert len(list(buffer.records_untrusted())) == 60
    assert buffer.pending == 7
    assert sum(len(getattr(buffer, name)) for name in ("_data", "_partial")) == 7
    buffer.feed(record[7:] + record)
    assert [len(body) for body in buffer.records_untrusted()] == [1000, 1000]
