"""What stands inside a ratchet message."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from messageapp.e2ee.envelope import MAX_TEXT_BYTES, Envelope, check_text
from messageapp.errors import MessageTooLong
from messageapp_keys.codec import Malformed, tlvs, u64

ID = bytes(range(16))
envelopes = st.builds(
    Envelope,
    st.binary(min_size=16, max_size=16),
    st.integers(0, 2**64 - 1),
    st.none() | st.text(st.characters(exclude_categories=["Cs"])),
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
    ],
    ids=["empty", "zeros", "no pad", "id", "time", "not UTF-8", "surrogate", "twice", "cut", "one byte"],
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
