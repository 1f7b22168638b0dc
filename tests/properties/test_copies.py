"""No quadratic buffer: however bytes come, each is copied a bounded number of times."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from messageapp.wire import frames
from messageapp.wire.frames import FRAME_LIMITS, FrameBuffer, FrameType, encode_frame

MOST_COPIES = 6
"""Into the partial frame, out of it as a body, and once more each where a read ends inside another frame."""


class Counting(bytearray):
    """A `bytearray` that counts what is copied into it, out of it, and moved when it grows or shrinks."""

    copied = 0

    def __iadd__(self, other: Any) -> Counting:  # type: ignore[misc]
        Counting.copied += len(other)
        return super().__iadd__(other)

    def __getitem__(self, key: Any) -> Any:
        found = super().__getitem__(key)
        if isinstance(key, slice):
            Counting.copied += len(found)
        return found

    def __delitem__(self, key: Any) -> None:
        before = len(self)
        super().__delitem__(key)
        Counting.copied += before


class CountingBytes(bytes):
    """What is fed: slices of it are copies too."""

    def __getitem__(self, key: Any) -> Any:
        found = super().__getitem__(key)
        if isinstance(key, slice):
            Counting.copied += len(found)
        return found


def copied(stream: bytes, size: int, monkeypatch: pytest.MonkeyPatch) -> tuple[int, int]:
    """(bytes copied, records that came) where `stream` is fed `size` bytes at a time."""
    monkeypatch.setattr(frames, "bytearray", Counting, raising=False)
    Counting.copied = came = 0
    buffer = FrameBuffer()
    for start in range(0, len(stream), size):
        buffer.feed(CountingBytes(stream[start : start + size]))
        came += len(list(buffer.records_untrusted()))
    return Counting.copied, came


@given(st.integers(1, 90_000), st.lists(st.sampled_from([1, 300, 2600, 9000, 66_000, 131_071]), min_size=1, max_size=6))
@settings(deadline=None, max_examples=60)
def test_each_byte_is_copied_a_bounded_number_of_times(size: int, bodies: list[int]) -> None:
    stream = b"".join(encode_frame(FrameType.RECORD, bytes(body)) for body in bodies)
    heads = 5 * (len(stream) // size + len(bodies) + 1)  # four bytes of length are read at each try
    with pytest.MonkeyPatch.context() as monkeypatch:
        count, came = copied(stream, size, monkeypatch)
    assert came == len(bodies)
    assert count <= MOST_COPIES * len(stream) + heads


@pytest.mark.parametrize("size", [1, 7, 1000, 65_536, 262_144])
def test_twice_as_many_bytes_cost_twice_as_many_copies(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    longest = encode_frame(FrameType.RECORD, bytes(FRAME_LIMITS[FrameType.RECORD] - 1))
    once, _ = copied(longest, size, monkeypatch)
    four, came = copied(longest * 4, size, monkeypatch)
    assert came == 4
    assert four <= 4 * once + 8 * len(longest)
