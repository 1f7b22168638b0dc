"""Fields are read exactly: to the last byte, never behind it."""

from collections.abc import Callable

import pytest

from messageapp_keys import codec
from messageapp_keys.codec import Malformed, Reader, reading_untrusted, tlvs


@pytest.mark.parametrize("size", [1, 2, 3, 4, 8])
def test_unsigned_integers_are_big_endian_and_round_trip(size: int) -> None:
    write: Callable[[int], bytes] = getattr(codec, f"u{8 * size}")
    for value in (0, 1, 0xA5, 256**size - 1):
        data = write(value)
        assert data == value.to_bytes(size, "big")
        assert getattr(Reader(data), f"u{8 * size}")() == value
        with pytest.raises(Malformed):
            getattr(Reader(data[:-1]), f"u{8 * size}")()
    with pytest.raises(OverflowError):
        write(256**size)


@pytest.mark.parametrize(("name", "prefix"), [("vec8", 1), ("vec16", 2), ("vec24", 3)])
def test_vectors_carry_their_length(name: str, prefix: int) -> None:
    write: Callable[[bytes], bytes] = getattr(codec, name)
    for content in (b"", b"x", bytes(255)):
        data = write(content)
        assert data == len(content).to_bytes(prefix, "big") + content
        assert getattr(Reader(data + b"more"), name)() == content
        for cut in range(len(data)):
            with pytest.raises(Malformed):
                getattr(Reader(data[:cut]), name)()


def test_the_longest_vec8_is_255() -> None:
    with pytest.raises(OverflowError):
        codec.vec8(bytes(256))


def test_a_structure_is_read_to_its_last_byte() -> None:
    with pytest.raises(Malformed), reading_untrusted(b"ab") as reader:
        reader.take(1)
    with reading_untrusted(b"ab") as reader:
        assert reader.take(1) == b"a"
        assert (reader.position, reader.at_end, reader.consumed()) == (1, False, b"a")
        assert reader.rest() == b"b"
    assert reader.at_end


def test_an_error_inside_the_block_is_the_one_that_comes_out() -> None:
    with pytest.raises(ZeroDivisionError), reading_untrusted(b"left over"):
        raise ZeroDivisionError


def test_tlvs_are_written_in_order_and_unknown_ones_are_kept() -> None:
    entries = {0xFFFF: b"last", 1: b"", 7: b"seven"}
    data = tlvs(entries)
    assert data == bytes.fromhex("0001 0000  0007 0005 736576656e  ffff 0004 6c617374")
    assert Reader(data).tlvs() == entries


def test_a_tlv_type_that_stands_twice_is_refused() -> None:
    with pytest.raises(Malformed):
        Reader(tlvs({1: b"a"}) + tlvs({1: b"a"})).tlvs()


def test_a_tlv_that_is_cut_is_refused() -> None:
    data = tlvs({1: b"abc"})
    for cut in range(1, len(data)):
        with pytest.raises(Malformed):
            Reader(data[:cut]).tlvs()


@pytest.mark.parametrize("raw", [b"a b", b"a\0", b"\x7f", "é".encode(), b"\x1b[2J", b"\n"])
def test_names_are_printable_ascii(raw: bytes) -> None:
    with pytest.raises(Malformed):
        codec.ascii_text(raw)
    with pytest.raises(Malformed):
        Reader(codec.vec8(raw)).ascii8()
    assert codec.ascii_text(b"!az~") == "!az~"
