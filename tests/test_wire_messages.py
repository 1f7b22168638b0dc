"""M1, M2, M3 and ALERT as bytes: one encoding, read to the last byte, `Malformed` for everything else."""

from dataclasses import replace

import pytest

from messageapp.wire.messages import HIDE_USER, M1, M2, M3, MAGIC, TLV_DEVICE, Alert, M2Core, M3Proof
from messageapp_keys.codec import Malformed, tlvs, u8, u16, u32, vec8, vec16, vec24

RANDOM = bytes(range(32))
GOOD = M1(RANDOM, (2,), (2, 3), (0x0804,), "chat.example.org", "alice")


def raw_m1(
    magic: bytes = MAGIC,
    random: bytes = RANDOM,
    versions: bytes = u8(1) + u16(2),
    suites: bytes = u8(1) + u16(3),
    sigalgs: bytes = u8(1) + u16(0x0403),
    flags: bytes = u32(0),
    server: bytes = vec8(b"localhost"),
    username: bytes = vec8(b"alice"),
    extra: bytes = vec16(b""),
    behind: bytes = b"",
) -> bytes:
    return magic + random + versions + suites + sigalgs + flags + server + username + extra + behind


def test_m1_is_encoded_as_the_protocol_says() -> None:
    parsed = M1.parse_untrusted(raw_m1())
    assert parsed == M1(RANDOM, (2,), (3,), (0x0403,), "localhost", "alice")
    assert parsed.encode() == raw_m1()


@pytest.mark.parametrize(
    "m1",
    [
        GOOD,
        replace(GOOD, username="", flags=HIDE_USER),
        replace(GOOD, flags=0xFFFFFFFE),
        replace(GOOD, server="::1"),
        replace(GOOD, server="127.0.0.1"),
        replace(GOOD, versions=tuple(range(8)), suites=tuple(range(16)), sigalgs=tuple(range(8))),
        replace(GOOD, tlvs={TLV_DEVICE: bytes(16), 0x8123: b"unknown"}),
        replace(GOOD, username="A-1"),
        replace(GOOD, username="a" * 16),
    ],
)
def test_m1_round_trips(m1: M1) -> None:
    assert M1.parse_untrusted(m1.encode()) == m1


BAD_M1 = {
    "bad magic": raw_m1(magic=b"MSGAPP\0\x01"),
    "HTTP": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "nothing": b"",
    "short R1": raw_m1(random=RANDOM[:-1]),
    "no versions": raw_m1(versions=u8(0)),
    "nine versions": raw_m1(versions=u8(9) + u16(2) * 9),
    "zero suites": raw_m1(suites=u8(0)),
    "17 suites": raw_m1(suites=u8(17) + u16(2) * 17),
    "no sigalgs": raw_m1(sigalgs=u8(0)),
    "nine sigalgs": raw_m1(sigalgs=u8(9) + u16(2) * 9),
    "username of 0 bytes": raw_m1(username=vec8(b"")),
    "username of 17 bytes": raw_m1(username=vec8(b"a" * 17)),
    "username of 255 bytes": raw_m1(username=vec8(b"a" * 255)),
    "username with NUL": raw_m1(username=vec8(b"ali\0ce")),
    "username in UTF-8": raw_m1(username=vec8("aliceé".encode())),
    "username with leading -": raw_m1(username=vec8(b"-alice")),
    "username with trailing -": raw_m1(username=vec8(b"alice-")),
    "username with a newline": raw_m1(username=vec8(b"alice\n")),
    "HIDE_USER with a name": raw_m1(flags=u32(HIDE_USER)),
    "server empty": raw_m1(server=vec8(b"")),
    "server of 254 bytes": raw_m1(server=vec8(b"a" * 254)),
    "server with a space": raw_m1(server=vec8(b"a b")),
    "server with a slash": raw_m1(server=vec8(b"a/b")),
    "server in UTF-8": raw_m1(server=vec8("é".encode())),
    "duplicate TLV": raw_m1(extra=vec16(tlvs({9: b"a"}) * 2)),
    "TLV cut": raw_m1(extra=vec16(tlvs({9: b"abc"})[:-1])),
    "device id of 15 bytes": raw_m1(extra=vec16(tlvs({TLV_DEVICE: bytes(15)}))),
    "trailing byte": raw_m1(behind=b"\0"),
}


@pytest.mark.parametrize("case", list(BAD_M1))
def test_m1_that_is_refused(case: str) -> None:
    with pytest.raises(Malformed):
        M1.parse_untrusted(BAD_M1[case])


def test_m1_cut_anywhere_is_refused() -> None:
    whole = GOOD.encode()
    for cut in range(len(whole)):
        with pytest.raises(Malformed):
            M1.parse_untrusted(whole[:cut])


# M2 ---------------------------------------------------------------------------------------------------------------

CORE = M2Core(RANDOM, 2, 3, b"temp pub", (b"leaf", b"issuer"), 0x0804)


def test_m2_round_trips_and_keeps_the_bytes_that_were_signed() -> None:
    data = CORE.encode() + vec16(b"signature")
    m2 = M2.parse_untrusted(data)
    assert (m2.core, m2.core_bytes, m2.signature) == (CORE, CORE.encode(), b"signature")
    assert m2.encode() == data


def test_what_later_versions_add_to_m2_is_kept() -> None:
    core = replace(CORE, tlvs={9: b"later"})
    assert M2.parse_untrusted(core.encode() + vec16(b"signature")).core == core


def raw_m2(flags: int = 0, chain: bytes = u8(1) + vec24(b"leaf"), extra: bytes = b"", behind: bytes = b"") -> bytes:
    return RANDOM + u16(2) + u16(3) + u32(flags) + vec16(b"tp") + chain + vec16(extra) + u16(1) + vec16(b"s") + behind


BAD_M2 = {
    "nothing": b"",
    "a flag": raw_m2(flags=1),
    "the highest flag": raw_m2(flags=1 << 31),
    "no certificate": raw_m2(chain=u8(0)),
    "four certificates": raw_m2(chain=u8(4) + vec24(b"c") * 4),
    "duplicate TLV": raw_m2(extra=tlvs({1: b""}) * 2),
    "trailing byte": raw_m2(behind=b"\0"),
}


@pytest.mark.parametrize("case", list(BAD_M2))
def test_m2_that_is_refused(case: str) -> None:
    with pytest.raises(Malformed):
        M2.parse_untrusted(BAD_M2[case])


def test_m2_cut_anywhere_is_refused() -> None:
    whole = raw_m2()
    assert M2.parse_untrusted(whole).signature == b"s"
    for cut in range(len(whole)):
        with pytest.raises(Malformed):
            M2.parse_untrusted(whole[:cut])


# M3 and ALERT -----------------------------------------------------------------------------------------------------


def test_m3_round_trips_and_is_exact() -> None:
    m3 = M3(b"enc k", b"sealed")
    data = m3.encode()
    assert M3.parse_untrusted(data) == m3
    for wrong in [data + b"\0", *(data[:cut] for cut in range(len(data)))]:
        with pytest.raises(Malformed):
            M3.parse_untrusted(wrong)


def test_the_sealed_part_of_m3_round_trips_and_is_exact() -> None:
    proof = M3Proof("alice", RANDOM, ((0x0804, b"one"), (0x0905, b"two")))
    data = proof.encode()
    assert M3Proof.parse_untrusted(data) == proof
    for wrong in [data + b"\0", *(data[:cut] for cut in range(len(data)))]:
        with pytest.raises(Malformed):
            M3Proof.parse_untrusted(wrong)


@pytest.mark.parametrize("alert", [Alert(1), Alert(255), Alert(2, 0), Alert(2, 65535)])
def test_an_alert_round_trips(alert: Alert) -> None:
    assert Alert.parse_untrusted(alert.encode()) == alert


@pytest.mark.parametrize("raw", [b"", b"\x02\x00", b"\x02\x00\x01\x00"])
def test_alerts_that_are_refused(raw: bytes) -> None:
    with pytest.raises(Malformed):
        Alert.parse_untrusted(raw)
