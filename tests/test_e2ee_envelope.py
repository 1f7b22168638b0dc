"""What stands inside a ratchet message."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from messageapp.e2ee.envelope import MAX_EMOJI_BYTES, MAX_IDS, MAX_TEXT_BYTES, Envelope, check_text
from messageapp.errors import MessageTooLong
from messageapp_keys.codec import Malformed, tlvs, u64

ID = bytes(range(16))
ids = st.binary(min_size=16, max_size=16)
lists = st.lists(ids, max_size=5).map(tuple)
texts = st.text(st.characters(exclude_categories=["Cs"]))
envelopes = st.builds(
    Envelope,
    ids,
    st.integers(0, 2**64 - 1),
    st.none() | texts,
    receipts=st.none() | lists,
    group=st.just(b"") | st.binary(min_size=16, max_size=40),
    reply_to=st.just(b"") | ids,
    expire_s=st.none() | st.integers(0, 2**32 - 1),
    read=lists,
    resend=lists,
    edits=st.just(b"") | ids,
    react=st.none() | st.tuples(ids, st.text("\U0001f44d\u2764\ufe0f", max_size=8)),
)


@given(envelopes)
def test_round_trip(envelope: Envelope) -> None:
    assert Envelope.parse_untrusted(envelope.encode()) == envelope


@given(envelopes)
def test_every_length_is_a_multiple_of_160(envelope: Envelope) -> None:
    assert len(envelope.encode()) % 160 == 0


def test_the_bytes() -> None:
    content = tlvs({1: ID, 2: u64(5), 3: b"hi"}) + b"\x80"
    assert Envelope(ID, 5, "hi").encode() == content.ljust(160, b"\0")


def test_short_texts_have_one_length() -> None:
    lengths = {len(Envelope(ID, 0, "x" * size).encode()) for size in range(120)}
    assert lengths == {160}
    assert len(Envelope(ID, 0, None).encode()) == 160


def test_a_text_that_ends_like_padding_keeps_its_end() -> None:
    for text in ("\0", "a\0\0", "\x80", "\x80\0"):
        assert Envelope.parse_untrusted(Envelope(ID, 0, text).encode()).text == text


OTHER = bytes(range(16, 32))
NOTES = {  # TLVs of protocol §10.3, and what is read from them
    (4, b""): {"receipts": ()},
    (4, ID + OTHER): {"receipts": (ID, OTHER)},
    (6, ID): {"group": ID},
    (6, ID + b"later"): {"group": ID + b"later"},
    (9, OTHER): {"reply_to": OTHER},
    (10, bytes(4)): {"expire_s": 0},
    (10, b"\0\1\x51\x80"): {"expire_s": 86_400},
    (11, ID): {"read": (ID,)},
    (12, ID + OTHER): {"resend": (ID, OTHER)},
    (13, OTHER): {"edits": OTHER},
    (14, ID + "\U0001f44d".encode()): {"react": (ID, "\U0001f44d")},
    (14, ID): {"react": (ID, "")},
}
WRONG_LENGTHS = [
    *((kind, ID[:-1]) for kind in (4, 6, 9, 11, 12, 13, 14)),
    *((kind, ID + b"\0") for kind in (4, 9, 11, 12, 13)),
    *((kind, b"") for kind in (6, 9, 10, 13, 14)),
    (10, bytes(3)),
    (10, bytes(5)),
]


@pytest.mark.parametrize(("entry", "fields"), NOTES.items())
def test_the_bytes_of_notes(entry: tuple[int, bytes], fields: dict[str, Any]) -> None:
    kind, value = entry
    envelope = Envelope(ID, 5, **fields)
    content = tlvs({1: ID, 2: u64(5), kind: value}) + b"\x80"
    assert envelope.encode() == content.ljust(160, b"\0")
    assert Envelope.parse_untrusted(content) == envelope


def test_an_envelope_without_notes_says_nothing_of_them() -> None:
    plain = Envelope.parse_untrusted(Envelope(ID, 5, "hi").encode())
    assert (plain.receipts, plain.expire_s, plain.react) == (None, None, None)
    assert (plain.read, plain.resend, plain.group, plain.reply_to, plain.edits) == ((), (), b"", b"", b"")


@pytest.mark.parametrize("kind", [4, 11, 12])
def test_1000_ids_and_no_more(kind: int) -> None:
    assert MAX_IDS == 1000
    Envelope.parse_untrusted(tlvs({kind: ID * MAX_IDS}) + b"\x80")
    with pytest.raises(Malformed):
        Envelope.parse_untrusted(tlvs({kind: ID * (MAX_IDS + 1)}) + b"\x80")


def test_an_emoji_of_64_bytes_and_no_more() -> None:
    assert MAX_EMOJI_BYTES == 64
    found = Envelope.parse_untrusted(tlvs({14: ID + b"x" * MAX_EMOJI_BYTES}) + b"\x80")
    assert found.react == (ID, "x" * 64)
    with pytest.raises(Malformed):
        Envelope.parse_untrusted(tlvs({14: ID + b"x" * (MAX_EMOJI_BYTES + 1)}) + b"\x80")


@pytest.mark.parametrize(
    "padded",
    [
        b"",
        bytes(160),
        tlvs({1: ID}),
        tlvs({1: ID[:-1]}) + b"\x80",
        tlvs({2: bytes(7)}) + b"\x80",
        tlvs({3: b"\xff"}) + b"\x80",
        tlvs({3: b"\xed\xa0\x80"}) + b"\x80",
        tlvs({3: b"a"}) * 2 + b"\x80",
        tlvs({3: b"abc"})[:-1] + b"\x80",
        b"\0\x80",
        *(tlvs({kind: value}) + b"\x80" for kind, value in WRONG_LENGTHS),
        tlvs({14: ID + b"\xff"}) + b"\x80",
    ],
)
def test_refused(padded: bytes) -> None:
    with pytest.raises(Malformed):
        Envelope.parse_untrusted(padded)


def test_fields_of_later_versions_are_passed_over() -> None:
    assert Envelope.parse_untrusted(tlvs({1: ID, 2: u64(1), 3: b"a", 99: b"new"}) + b"\x80") == Envelope(ID, 1, "a")


@given(st.binary(max_size=100))
def test_garbage_raises_only_malformed(garbage: bytes) -> None:
    for data in (garbage, garbage + b"\x80"):
        try:
            Envelope.parse_untrusted(data)
        except Malformed:
            continue


def test_a_text_is_sent_in_nfc() -> None:
    assert check_text("e\u0301") == "\u00e9"


@pytest.mark.parametrize(("unit", "size"), [("a", 1), ("é", 2), ("€", 3), ("😀", 4)])
def test_the_limit_is_in_bytes_and_named(unit: str, size: int) -> None:
    count = MAX_TEXT_BYTES // size
    text = unit * count
    assert check_text(text) == text
    assert Envelope.parse_untrusted(Envelope(ID, 0, text).encode()).text == text
    with pytest.raises(MessageTooLong, match="limit is 65,535 bytes; nothing was sent"):
        check_text(unit * (count + 1))


def test_a_text_with_half_a_surrogate_pair_can_be_sent() -> None:
    """A terminal in another encoding gives such texts; they are no reason to fail."""
    checked = check_text("a\udc80b")
    assert Envelope.parse_untrusted(Envelope(ID, 0, checked).encode()).text == checked == "a?b"
