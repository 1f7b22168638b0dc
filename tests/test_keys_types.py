"""A key is a type of its own that shows nothing, hashes nothing and leaves the process nowhere."""

import copy
import pickle
import traceback

import pytest

from messageapp_keys import types
from messageapp_keys.types import Secret, SessionKey, TrafficSecret

KINDS = [getattr(types, name) for name in types.__all__]
VALUE = bytes(range(0x61, 0x61 + 32))


@pytest.mark.parametrize("kind", KINDS)
def test_no_way_of_printing_shows_the_bytes(kind: type[Secret]) -> None:
    secret = kind(VALUE[: kind.SIZE])
    for text in (repr(secret), str(secret), f"{secret}", f"{secret!r}", f"{[secret]}", f"{secret!s}"):
        assert text.strip("[]") == f"<{kind.__name__}>"
    assert secret.expose() == VALUE[: kind.SIZE]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [0, 15, 17, 31, 33, 64])
def test_a_key_has_its_size(kind: type[Secret], size: int) -> None:
    kind(bytes(kind.SIZE))
    with pytest.raises(ValueError, match=kind.__name__) as caught:
        kind(bytes(range(size)))
    assert "1f" not in str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_a_key_is_not_pickled_copied_or_hashed(kind: type[Secret]) -> None:
    secret = kind(VALUE[: kind.SIZE])
    for attempt in (pickle.dumps, copy.copy, copy.deepcopy, hash):
        with pytest.raises(TypeError):
            attempt(secret)


def test_equality_needs_the_same_role_and_the_same_bytes() -> None:
    assert SessionKey(VALUE) == SessionKey(bytes(VALUE))
    assert SessionKey(VALUE) != SessionKey(VALUE[::-1])
    assert SessionKey(VALUE) != TrafficSecret(VALUE)
    assert SessionKey(VALUE) != VALUE


def test_a_traceback_with_locals_does_not_show_a_key() -> None:
    def failing(key: SessionKey) -> None:
        raise RuntimeError("something else")

    try:
        failing(SessionKey(VALUE))
    except RuntimeError as error:
        shown = "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())
    assert "<SessionKey>" in shown
    assert "abcdef" not in shown.replace("VALUE", "")
