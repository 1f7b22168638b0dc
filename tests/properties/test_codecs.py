"""Every structure on the wire: what is written is read, and nothing else is; garbage raises only what is declared."""

from __future__ import annotations

import string
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from messageapp.e2ee.agreement import C1
from messageapp.e2ee.envelope import Envelope
from messageapp.e2ee.exchange import _C2, ExchangeFailed
from messageapp.e2ee.ratchet import _Header, _parse_untrusted
from messageapp.errors import RemoteProtocolError
from messageapp.wire.commands import Call, Errors, ListEntry, Listing, PeerKey, make, parse_untrusted
from messageapp.wire.login import Welcome
from messageapp.wire.messages import HIDE_USER, M1, M2, M3, TLV_DEVICE, TLV_INVITE, Alert, M2Core, M3Proof
from messageapp.wire.records import Kind, Record, checked_untrusted, pad
from messageapp.wire.states import Role
from messageapp_keys.codec import Malformed, Reader, tlvs
from messageapp_keys.identity import IdentityBundle
from support.keys import USER_KINDS, identity

ALNUM = string.ascii_letters + string.digits


def exactly(size: int) -> st.SearchStrategy[bytes]:
    return st.binary(min_size=size, max_size=size)


u8s, u16s, u32s, u64s = (st.integers(0, 256**size - 1) for size in (1, 2, 4, 8))
short = st.binary(max_size=40)
usernames = st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9-]{0,14}[A-Za-z0-9])?", fullmatch=True)
servers = st.text(ALNUM + ".-:_", min_size=1, max_size=60)
tlv_sets = st.dictionaries(u16s.filter(lambda kind: kind not in (TLV_DEVICE, TLV_INVITE)), short, max_size=4)
signatures = st.lists(st.tuples(u16s, short), min_size=1, max_size=2).map(tuple)


def codes(most: int) -> st.SearchStrategy[tuple[int, ...]]:
    return st.lists(u16s, min_size=1, max_size=most).map(tuple)


shown_flags = u32s.map(lambda flags: flags & ~HIDE_USER)
m1s = st.builds(M1, exactly(32), codes(8), codes(16), codes(8), servers, usernames, shown_flags, tlv_sets) | st.builds(
    M1, exactly(32), codes(8), codes(16), codes(8), servers, st.just(""), u32s.map(lambda f: f | HIDE_USER), tlv_sets
)
cores = st.builds(
    M2Core, exactly(32), u16s, u16s, short, st.lists(short, min_size=1, max_size=3).map(tuple), u16s, tlv_sets
)
m2s = st.builds(lambda core, signature: M2(core, core.encode(), signature), cores, short)
welcomes = st.builds(Welcome, servers, u64s, u32s, u32s, st.binary(max_size=60))
headers = st.builds(
    _Header, exactly(8), exactly(32), exactly(1184), exactly(1088), st.integers(0, 2**32 - 1), u32s, exactly(16)
)
c1s = st.builds(
    C1,
    exactly(32),
    st.lists(u16s, max_size=20).map(tuple),
    exactly(16),
    usernames,
    usernames,
    exactly(32),
    exactly(32),
    servers,
)

CODECS: dict[str, tuple[st.SearchStrategy[Any], Callable[[Any], bytes], Callable[[bytes], Any]]] = {
    "M1": (m1s, M1.encode, M1.parse_untrusted),
    "M2": (m2s, M2.encode, M2.parse_untrusted),
    "M3": (st.builds(M3, short, short), M3.encode, M3.parse_untrusted),
    "M3 proof": (
        st.builds(M3Proof, usernames, exactly(32), signatures),
        M3Proof.encode,
        M3Proof.parse_untrusted,
    ),
    "ALERT": (st.builds(Alert, u8s, st.none() | u16s), Alert.encode, Alert.parse_untrusted),
    "M4": (welcomes, Welcome.encode, Welcome.parse_untrusted),
    "C1": (c1s, C1.encode, C1.parse_untrusted),
    "identity": (
        st.sampled_from(USER_KINDS).map(lambda kind: identity(kind).bundle),
        IdentityBundle.encode,
        IdentityBundle.parse_untrusted,
    ),
    "TLVs": (st.dictionaries(u16s, short, max_size=6), tlvs, lambda data: Reader(data).tlvs()),
}
each_codec = pytest.mark.parametrize("name", list(CODECS))
# The others may end early and be whole.
SELF_DELIMITING = [name for name in CODECS if name not in ("TLVs", "M4", "ALERT")]


@each_codec
@settings(max_examples=200)
@given(data=st.data())
def test_what_is_written_is_read_and_written_the_same(name: str, data: st.DataObject) -> None:
    values, encode, parse = CODECS[name]
    value = data.draw(values)
    encoded = encode(value)
    assert parse(encoded) == value
    assert encode(parse(encoded)) == encoded


@pytest.mark.parametrize("name", SELF_DELIMITING)
@settings(max_examples=60)
@given(data=st.data())
def test_no_prefix_and_no_extension_is_read(name: str, data: st.DataObject) -> None:
    values, encode, parse = CODECS[name]
    encoded = encode(data.draw(values))
    cut = data.draw(st.integers(0, len(encoded) - 1))
    for wrong in (encoded[:cut], encoded + data.draw(st.binary(min_size=1, max_size=5))):
        with pytest.raises(Malformed):
            parse(wrong)


@each_codec
@settings(max_examples=200)
@given(data=st.data())
def test_garbage_raises_only_malformed(name: str, data: st.DataObject) -> None:
    values, encode, parse = CODECS[name]
    garbage = bytearray(data.draw(st.binary(max_size=200)))
    if data.draw(st.booleans()):  # garbage shaped like the real thing
        garbage = bytearray(encode(data.draw(values)))
        for _ in range(data.draw(st.integers(1, 4))):
            if garbage:
                garbage[data.draw(st.integers(0, len(garbage) - 1))] = data.draw(u8s)
    try:
        parse(bytes(garbage))
    except Malformed:
        return


@settings(max_examples=100)
@given(short)
def test_garbage_as_c2(garbage: bytes) -> None:
    with pytest.raises(Malformed):
        _C2.parse_untrusted(garbage)
    assert not issubclass(ExchangeFailed, Malformed)


@settings(max_examples=60)
@given(headers, st.binary(min_size=16, max_size=60))
def test_ratchet_headers(header: _Header, sealed: bytes) -> None:
    encoded = header.encode()
    assert len(encoded) == 2349
    assert _parse_untrusted(encoded + sealed) == (header, sealed)
    with pytest.raises(Malformed):
        _parse_untrusted(encoded + sealed[:15])


@settings(max_examples=60)
@given(headers, st.integers(2**32, 2**128 - 1))
def test_a_ratchet_counter_that_nobody_reaches(header: _Header, counter: int) -> None:
    encoded = bytearray(header.encode() + bytes(16))
    encoded[2313:2329] = counter.to_bytes(16, "little")
    with pytest.raises(Malformed):
        _parse_untrusted(bytes(encoded))


@given(st.binary(max_size=3000))
def test_record_padding(content: bytes) -> None:
    record = Record(Kind.EVENT, 7, b"frwd", content)
    packed = record.pack()
    assert len(packed) % 256 == 0
    assert checked_untrusted(bytearray(packed)) == packed
    assert Record.unpack(packed) == record


@given(st.binary(max_size=600), st.integers(0, 3000))
def test_another_padding_becomes_ours(content: bytes, zeros: int) -> None:
    record = Record(Kind.EVENT, 7, b"frwd", content)
    assert checked_untrusted(bytearray(record.encode() + b"\x80" + bytes(zeros))) == record.pack()


@given(st.binary(max_size=60))
def test_garbage_as_a_record(garbage: bytes) -> None:
    try:
        record = Record.unpack(checked_untrusted(bytearray(garbage)))
    except RemoteProtocolError:
        return
    assert pad(record.encode()).startswith(garbage.rstrip(b"\0"))


arguments = st.one_of(
    st.tuples(st.just("reqt"), st.builds(Call, usernames, exactly(16))),
    st.tuples(st.just("pubk"), st.builds(PeerKey, exactly(16), st.booleans(), usernames, short, short, short)),
    st.tuples(
        st.just("list"), st.builds(Listing, st.lists(st.builds(ListEntry, usernames, u8s), max_size=5).map(tuple))
    ),
    st.tuples(st.just("erro"), st.builds(Errors, u16s, st.text(ALNUM + " é", max_size=100))),
)


@given(arguments, u32s)
def test_arguments_of_replies(verb_and_argument: tuple[str, Any], identifier: int) -> None:
    verb, argument = verb_and_argument
    record = make(Kind.REPLY, identifier, verb, argument)
    assert Record.unpack(record.pack()) == record
    assert parse_untrusted(Role.SERVER, record) == argument


@given(st.binary(max_size=300))
def test_envelopes_are_read_one_way_only(garbage: bytes) -> None:
    """What parses and has no unknown field is what would be written, but for the order of the fields."""
    try:
        envelope = Envelope.parse_untrusted(garbage)
    except Malformed:
        return
    assert Envelope.parse_untrusted(envelope.encode()) == envelope
