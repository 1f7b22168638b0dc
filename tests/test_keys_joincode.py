"""Join codes: what is written is read again however it is typed, and what is mistyped is said to be."""

from __future__ import annotations

import base64
import hashlib

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from messageapp_keys.codec import u8, u16, vec8
from messageapp_keys.joincode import _LETTERS, _MAX_TYPED, JoinCode, MistypedCode, derive_invite
from messageapp_keys.types import InviteSecret

AUTHORITY, SECRET = bytes(range(32)), bytes(range(100, 116))
CODE = JoinCode("chat.example", 8081, "bob", AUTHORITY, InviteSecret(SECRET))
TEXT = CODE.encode()
LETTERS = TEXT.replace("-", "").removeprefix("MSGAPP")

hosts = st.from_regex(r"[a-z0-9_.:-]{1,60}", fullmatch=True)
names = st.from_regex(r"([A-Za-z0-9]([A-Za-z0-9-]{0,14}[A-Za-z0-9])?)?", fullmatch=True)
codes = st.builds(
    JoinCode,
    hosts,
    st.integers(1, 65535),
    names,
    st.binary(min_size=32, max_size=32),
    st.binary(min_size=16, max_size=16).map(InviteSecret),
)


def refusal(text: str) -> str:
    with pytest.raises(MistypedCode) as caught:
        JoinCode.parse_untrusted(text)
    return str(caught.value)


def written(body: bytes) -> str:
    """A code of these bytes with the checksum that is right."""
    data = body + hashlib.sha256(body).digest()[:4]
    alphabet = str.maketrans("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", "0123456789ABCDEFGHJKMNPQRSTVWXYZ")
    return "MSGAPP" + base64.b32encode(data).decode().rstrip("=").translate(alphabet)


def body_of(
    version: int = 1, host: bytes = b"chat.example", port: int = 8081, name: bytes = b"bob", rest: bytes = b""
) -> bytes:
    return u8(version) + vec8(host) + u16(port) + vec8(name) + AUTHORITY + SECRET + rest


@given(codes)
def test_what_is_written_is_read_again(code: JoinCode) -> None:
    assert JoinCode.parse_untrusted(code.encode()) == code


def test_the_form_is_the_protocols() -> None:
    assert written(body_of()) == TEXT.replace("-", "")
    assert JoinCode.parse_untrusted(written(body_of())) == CODE
    groups = TEXT.split("-")
    assert groups[0] == "MSGAPP"
    assert {len(group) for group in groups[1:-1]} == {5}


@given(codes, st.randoms(use_true_random=False))
def test_capitals_dashes_spaces_and_letters_like_digits_are_forgiven(code: JoinCode, random: object) -> None:
    choice = random.choice  # type: ignore[attr-defined]
    forms = {"0": "0oO", "1": "1iIlL", "-": ("-", "", " ", "\n", "--")}
    typed = "".join(choice(forms.get(letter, (letter, letter.lower()))) for letter in code.encode()[6:])
    assert JoinCode.parse_untrusted(f"  {choice(('MSGAPP', 'msgapp', 'MsgApp'))}{typed}\n") == code


@given(st.integers(0, len(LETTERS) - 1), st.sampled_from(_LETTERS))
def test_one_wrong_character_is_noticed(place: int, letter: str) -> None:
    assume(LETTERS[place] != letter)
    assert "mistyped" in refusal(f"MSGAPP{LETTERS[:place]}{letter}{LETTERS[place + 1 :]}")


@given(st.integers(0, len(LETTERS) - 2))
def test_two_neighbours_that_changed_places_are_noticed(place: int) -> None:
    one, other = LETTERS[place], LETTERS[place + 1]
    assume(one != other)
    assert "mistyped" in refusal(f"MSGAPP{LETTERS[:place]}{other}{one}{LETTERS[place + 2 :]}")


@given(st.integers(0, len(LETTERS) - 1))
def test_a_code_that_is_cut_is_said_to_be_too_short(left: int) -> None:
    text = refusal(f"MSGAPP{LETTERS[:left]}")
    assert "too short" in text
    assert f"{left} of {len(LETTERS)} characters" in text or left < 40  # before the lengths are there


@pytest.mark.parametrize("more", ["0", "00", "000", "0000", "00000", "00000000", "ABCDE"])
def test_a_code_with_more_behind_it_is_said_to_be_too_long(more: str) -> None:
    assert f"too long: {len(LETTERS) + len(more)} instead of {len(LETTERS)} characters" in refusal(TEXT + more)


def test_the_bits_that_say_nothing_are_0() -> None:
    """Else one code would have several spellings, and a wrong last character would pass."""
    assert len(LETTERS) * 5 > (len(LETTERS) * 5 // 8) * 8
    last = _LETTERS.index(LETTERS[-1])
    assert "mistyped" in refusal(TEXT[:-1] + _LETTERS[last + 1])


@pytest.mark.parametrize(
    ("place", "wrong", "said"),
    [
        (0, "U", "the character U (group 1, place 1 behind MSGAPP)"),
        (7, "u", "the character U (group 2, place 3 behind MSGAPP)"),
        (20, "!", "the character ! (group 5, place 1 behind MSGAPP)"),
        (20, "é", "such a character (group 5, place 1 behind MSGAPP)"),
        (20, "\x1b", "such a character (group 5, place 1 behind MSGAPP)"),
    ],
)
def test_a_character_that_cannot_be_is_named_with_its_place(place: int, wrong: str, said: str) -> None:
    assert said in refusal(f"MSGAPP{LETTERS[:place]}{wrong}{LETTERS[place + 1 :]}")


def test_a_letter_that_has_two_capitals_is_refused() -> None:
    assert "letters A to Z and digits only" in refusal(f"MSGAPP{LETTERS[:9]}ß{LETTERS[10:]}")


@pytest.mark.parametrize("text", ["", "hello", "MSGAP", "https://example.org", "MSGBPP" + LETTERS, LETTERS])
def test_what_is_no_join_code_at_all(text: str) -> None:
    assert refusal(text) == "this is no join code: one begins with MSGAPP"


def test_2000_characters_are_read_and_no_more() -> None:
    assert _MAX_TYPED == 2000
    longest = JoinCode("a" * 253, 65535, "b" * 16, AUTHORITY, InviteSecret(SECRET)).encode()
    assert JoinCode.parse_untrusted(longest.ljust(2000)).host == "a" * 253
    assert "far too long" in refusal(TEXT.ljust(2001))


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (body_of(version=2), "newer MessageApp"),
        (body_of(version=2, rest=b"and more"), "newer MessageApp"),
        (body_of(host=b""), "says what none can say"),
        (body_of(host=b"Chat.example"), "says what none can say"),
        (body_of(host=b"chat example"), "says what none can say"),
        (body_of(host=b"a" * 254), "says what none can say"),
        (body_of(host=b"\xff"), "says what none can say"),
        (body_of(port=0), "says what none can say"),
        (body_of(name=b"-bob"), "says what none can say"),
        (body_of(name=b"b\xc3\xb6b"), "says what none can say"),
        (body_of(name=b"b" * 17), "says what none can say"),
        (body_of(rest=b"\0"), "says what none can say"),
        (body_of()[:-1], "says what none can say"),
        (b"\1", "says what none can say"),
    ],
)
def test_a_right_checksum_does_not_make_a_code(body: bytes, said: str) -> None:
    assert said in refusal(written(body))


def test_the_secret_is_in_no_repr_and_gives_another_id_and_key_each() -> None:
    assert SECRET.hex() not in repr(CODE)
    assert str(SECRET) not in repr(CODE)
    identifier, key = derive_invite(CODE.secret)
    assert len(identifier) == 16
    other, other_key = derive_invite(InviteSecret(bytes(16)))
    assert identifier != other
    assert key != other_key
    assert identifier not in key.expose()
