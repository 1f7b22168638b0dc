"""Records: only the next one opens; padding hides lengths; keys move on and never back."""

from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from messageapp.errors import LocalProtocolError, RemoteProtocolError
from messageapp.wire import records
from messageapp.wire.frames import FRAME_LIMITS, FrameType, encode_frame
from messageapp.wire.records import MAX_ARGUMENT, Kind, Record, RecordOpener, RecordSealer, padded_length
from support.pair import expand, record_pair

HELLO = Record(Kind.REQUEST, 7, b"list", b"x")


def numbered(number: int) -> Record:
    return Record(Kind.EVENT, 0, b"frwd", b"%d" % number)


def refused(opener: RecordOpener, body: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        opener.open_untrusted(body)


@given(st.sampled_from(Kind), st.integers(0, 2**32 - 1), st.binary(min_size=4, max_size=4), st.binary(max_size=5000))
def test_what_is_sealed_opens(kind: Kind, identifier: int, verb: bytes, argument: bytes) -> None:
    sealer, opener = record_pair()
    record = Record(kind, identifier, verb, argument)
    assert opener.open_untrusted(sealer.seal(record)) == record


def test_a_record_by_hand() -> None:
    """The layout, the key, the IV and the associated data, written again."""
    sealer, _ = record_pair(5)
    key = expand(bytes((5,)) * 32, b"key", b"")
    for number in range(3):
        body = sealer.seal(HELLO)
        counter = number.to_bytes(16, "little")
        assert body[:16] == counter
        plaintext = AESGCM(key).decrypt(counter[:12], body[32:] + body[16:32], b"alice" + counter)
        assert plaintext == (b"\0" + bytes((0, 0, 0, 7)) + b"listx" + b"\x80").ljust(256, b"\0")


# Only the next record opens ---------------------------------------------------------------------------------------


def test_every_byte_of_a_record_counts_and_a_failure_changes_nothing() -> None:
    sealer, opener = record_pair()
    body = sealer.seal(HELLO)
    for position in range(len(body)):
        changed = bytearray(body)
        changed[position] ^= 0x80
        refused(opener, bytes(changed))
    for cut in (0, 15, 16, 31, 32, len(body) - 1):
        refused(opener, body[:cut])
    refused(opener, body + b"\0")
    assert opener.open_untrusted(body) == HELLO


def test_a_replayed_record_is_refused() -> None:
    sealer, opener = record_pair()
    body = sealer.seal(HELLO)
    opener.open_untrusted(body)
    refused(opener, body)


def test_a_dropped_record_is_noticed_at_the_next() -> None:
    sealer, opener = record_pair()
    first, second = sealer.seal(numbered(0)), sealer.seal(numbered(1))
    refused(opener, second)
    assert opener.open_untrusted(first) == numbered(0)


def test_swapped_records_are_refused() -> None:
    sealer, opener = record_pair()
    bodies = [sealer.seal(numbered(number)) for number in range(3)]
    assert opener.open_untrusted(bodies[0]) == numbered(0)
    refused(opener, bodies[2])
    assert opener.open_untrusted(bodies[1]) == numbered(1)


def test_a_counter_that_is_equal_mod_256_is_another_counter() -> None:
    """The original compared counters as C strings: record 0 was taken again when record 256 was expected."""
    sealer, opener = record_pair()
    bodies = [sealer.seal(numbered(number)) for number in range(257)]
    for body in bodies[:256]:
        opener.open_untrusted(body)
    refused(opener, bodies[0])
    assert opener.open_untrusted(bodies[256]) == numbered(256)


@pytest.mark.parametrize("position", range(16))
def test_a_counter_with_any_other_byte_set_is_refused(position: int) -> None:
    """Bytes 12 to 15 are not in the IV; they count all the same."""
    sealer, opener = record_pair()
    body = bytearray(sealer.seal(HELLO))
    body[position] ^= 1
    refused(opener, bytes(body))


def test_bytes_12_to_15_of_a_counter_that_was_sealed_with_them_are_refused() -> None:
    key = expand(bytes(32), b"key", b"")
    counter = bytes(12) + b"\0\0\0\x01"
    plaintext = (HELLO.encode() + b"\x80").ljust(256, b"\0")
    sealed = AESGCM(key).encrypt(counter[:12], plaintext, b"alice" + counter)
    _, opener = record_pair()
    refused(opener, counter + sealed[-16:] + sealed[:-16])


def test_a_record_for_another_user_does_not_open() -> None:
    sealer, _ = record_pair(username="alice")
    _, opener = record_pair(username="alicf")
    refused(opener, sealer.seal(HELLO))


@given(st.binary(max_size=400))
def test_garbage_is_refused(body: bytes) -> None:
    _, opener = record_pair()
    refused(opener, body)
    refused(opener, bytes(16) + body)


# Padding ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "padded"),
    [
        (1, 256),
        (256, 256),
        (257, 512),
        (4096, 4096),
        (4097, 4352),
        (8191, 8192),
        (8192, 8192),
        (8193, 8704),
        (16_385, 17_408),
        (32_769, 34_816),
        (65_536, 65_536),
        (65_537, 67_584),
        (129_024, 129_024),
        (129_025, 131_072),
    ],
)
def test_padded_lengths(size: int, padded: int) -> None:
    assert padded_length(size) == padded


@given(st.integers(1, 140_000))
def test_padding_is_monotone_never_shorter_and_costs_an_eighth_at_most_above_4096(size: int) -> None:
    padded = padded_length(size)
    assert padded >= size
    assert padded <= padded_length(size + 1)
    assert padded % 256 == 0
    assert padded_length(padded) == padded
    if size > 4096:
        assert padded - size < max(256, size / 8)


def test_there_are_few_lengths() -> None:
    assert len({padded_length(size) for size in range(1, 129_025)}) < 150


def test_the_longest_argument_fits_a_frame_and_one_byte_more_is_refused() -> None:
    sealer, opener = record_pair()
    record = Record(Kind.REQUEST, 1, b"frwd", bytes(MAX_ARGUMENT))
    frame = encode_frame(FrameType.RECORD, sealer.seal(record))
    assert len(frame) - 4 <= FRAME_LIMITS[FrameType.RECORD]
    assert opener.open_untrusted(frame[5:]) == record
    with pytest.raises(LocalProtocolError):
        sealer.seal(Record(Kind.REQUEST, 1, b"frwd", bytes(MAX_ARGUMENT + 1)))
    longer = padded_length(9 + MAX_ARGUMENT + 1 + 1)
    assert 1 + 32 + longer > FRAME_LIMITS[FrameType.RECORD]


def sealed_plaintext(plaintext: bytes) -> tuple[RecordOpener, bytes]:
    key, counter = expand(bytes(32), b"key", b""), bytes(16)
    sealed = AESGCM(key).encrypt(counter[:12], plaintext, b"alice" + counter)
    return record_pair()[1], counter + sealed[-16:] + sealed[:-16]


@pytest.mark.parametrize(
    "plaintext",
    [b"", bytes(256), HELLO.encode(), HELLO.encode() + bytes(100), HELLO.encode() + b"\x81" + bytes(9), b"\x80"],
    ids=["nothing", "zeros", "no pad", "no pad byte", "another pad byte", "pad alone"],
)
def test_a_missing_pad_byte_is_refused(plaintext: bytes) -> None:
    refused(*sealed_plaintext(plaintext))


@pytest.mark.parametrize("content", [b"", bytes(8), b"\x03" + bytes(8), b"\xff" + bytes(20)])
def test_short_records_and_unknown_kinds_are_refused(content: bytes) -> None:
    refused(*sealed_plaintext(content + b"\x80"))


@pytest.mark.parametrize("zeros", [0, 1, 246, 255, 4000])
def test_the_receiver_does_not_ask_for_the_canonical_length(zeros: int) -> None:
    opener, body = sealed_plaintext(HELLO.encode() + b"\x80" + bytes(zeros))
    assert opener.open_untrusted(body) == HELLO


@pytest.mark.parametrize("argument", [1, 246, 247, 4086, 4087, 8182, 8183, 20_000])
@pytest.mark.parametrize("more", [0, 1, 255, 256, 512, 4096])
def test_what_was_opened_has_the_canonical_length(argument: int, more: int) -> None:
    """Whatever its sender put behind it: a relay passes on what it opened."""
    record = Record(Kind.REQUEST, 1, b"frwd", bytes(argument))
    for content in (record.encode() + b"\x80" + bytes(more), bytes(record.pack()) + bytes(more)):
        opener, body = sealed_plaintext(content)
        assert opener.open_packed_untrusted(body) == record.pack()


def test_an_argument_too_long_to_be_sealed_again_is_refused() -> None:
    """With less padding than ours it fits a frame; whoever relays it could not send it."""
    longest = Record(Kind.REQUEST, 1, b"frwd", bytes(MAX_ARGUMENT))
    opener, body = sealed_plaintext(longest.encode() + b"\x80")
    assert opener.open_untrusted(body) == longest
    opener, body = sealed_plaintext(longest.encode() + b"\0\x80")
    assert 1 + len(body) <= FRAME_LIMITS[FrameType.RECORD]
    refused(opener, body)


@given(st.integers(0, 2**32 - 1), st.binary(max_size=5000))
def test_a_relayed_record_is_the_event_with_the_same_argument(identifier: int, argument: bytes) -> None:
    packed = Record(Kind.REQUEST, identifier, b"frwd", argument).pack()
    assert records.is_relayed(packed)
    records.relay([packed])
    assert Record.unpack(packed) == Record(Kind.EVENT, 0, b"frwd", argument)
    assert packed == Record(Kind.EVENT, 0, b"frwd", argument).pack()
    assert not records.is_relayed(packed)


def test_only_the_request_frwd_is_relayed() -> None:
    for kind in Kind:
        for verb in (b"frwd", b"list", b"FRWD", b"frw\0"):
            packed = Record(kind, 1, verb, b"x").pack()
            assert records.is_relayed(packed) == (kind is Kind.REQUEST and verb == b"frwd")


# Keys -------------------------------------------------------------------------------------------------------------


def test_after_an_update_both_go_on_and_the_counter_is_not_reset() -> None:
    sealer, opener = record_pair()
    opener.open_untrusted(sealer.seal(numbered(0)))
    sealer.update()
    opener.update()
    body = sealer.seal(numbered(1))
    assert body[:16] == (1).to_bytes(16, "little")
    assert opener.open_untrusted(body) == numbered(1)
    assert (sealer.generation, opener.generation) == (1, 1)


def test_the_updated_key_by_hand() -> None:
    sealer, _ = record_pair()
    sealer.update()
    key = expand(expand(bytes(32), b"traffic upd", b""), b"key", b"")
    body = sealer.seal(HELLO)
    AESGCM(key).decrypt(bytes(12), body[32:] + body[16:32], b"alice" + bytes(16))


def test_the_old_key_does_not_open_after_an_update_nor_the_new_one_before() -> None:
    sealer, opener = record_pair()
    old = sealer.seal(HELLO)
    opener.update()
    refused(opener, old)
    sealer, opener = record_pair()
    sealer.update()
    refused(opener, sealer.seal(HELLO))


@pytest.mark.parametrize("limit", ["UPDATE_AFTER_RECORDS", "UPDATE_AFTER_BYTES"])
def test_an_update_falls_due_by_records_and_by_bytes(limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (records.UPDATE_AFTER_RECORDS, records.UPDATE_AFTER_BYTES) == (2**20, 2**30)
    monkeypatch.setattr(records, limit, {"UPDATE_AFTER_RECORDS": 3, "UPDATE_AFTER_BYTES": 3 * 256}[limit])
    sealer, _ = record_pair()
    due = []
    for _ in range(3):
        sealer.seal(HELLO)
        due.append(sealer.update_due)
    assert due == [False, False, True]
    sealer.update()
    assert not sealer.update_due


@pytest.mark.parametrize(
    ("limit", "value"), [("UPDATE_AFTER_RECORDS", 3), ("UPDATE_AFTER_BYTES", 3 * 256), ("UPDATE_AFTER_BYTES", 513)]
)
def test_a_run_stops_where_an_update_is_due(limit: str, value: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, limit, value)
    sealer, opener = record_pair()
    packed = [numbered(number).pack() for number in range(10)]
    for _ in range(3):
        first: list[bytes | bytearray | memoryview] = []
        rest: list[bytes | bytearray | memoryview] = []
        assert sealer.seal_run(packed[:2], first) == 2
        assert not sealer.update_due
        assert sealer.seal_run(packed, rest) == 1
        assert sealer.update_due
        for parts in (first[:4], first[4:], rest):
            assert opener.open_untrusted(b"".join(parts[1:])).verb == b"frwd"
        sealer.update()
        opener.update()


def test_the_hard_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    assert records.HARD_STOP_RECORDS == 2**24
    sealer, opener = record_pair()
    bodies = [sealer.seal(numbered(number)) for number in range(3)]
    monkeypatch.setattr(records, "HARD_STOP_RECORDS", 2)
    with pytest.raises(LocalProtocolError):
        sealer.seal(HELLO)
    opener.open_untrusted(bodies[0])
    opener.open_untrusted(bodies[1])
    refused(opener, bodies[2])


@pytest.mark.parametrize("make", [RecordSealer, RecordOpener])
def test_a_direction_shows_no_key(make: Callable[..., object]) -> None:
    from messageapp_keys.types import TrafficSecret

    direction = make(TrafficSecret(b"K" * 32), "alice")
    assert "KKK" not in repr(direction)
    assert repr(direction._secret) == "<TrafficSecret>"  # type: ignore[attr-defined]
