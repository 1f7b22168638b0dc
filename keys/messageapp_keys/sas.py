"""The short authentication string of a chat: seven emoji with names that two people compare (protocol §11.2).

The table is the one of the Matrix specification (m.sas.v1, emoji), in its order and with its English names, so that
people meet the same pictures in both.
"""

from __future__ import annotations

from typing import Final

from . import labels
from .primitives import expand_bytes, hash_labelled
from .types import ExporterSecret

__all__ = ["EMOJI", "SEVEN", "commitment", "seven_numbers"]

SEVEN: Final = 7  # emoji of six bits each: one guess in 2^42
_BYTES: Final = 6

EMOJI: Final[tuple[tuple[str, str], ...]] = (
    ("🐶", "Dog"),
    ("🐱", "Cat"),
    ("🦁", "Lion"),
    ("🐎", "Horse"),
    ("🦄", "Unicorn"),
    ("🐷", "Pig"),
    ("🐘", "Elephant"),
    ("🐰", "Rabbit"),
    ("🐼", "Panda"),
    ("🐓", "Rooster"),
    ("🐧", "Penguin"),
    ("🐢", "Turtle"),
    ("🐟", "Fish"),
    ("🐙", "Octopus"),
    ("🦋", "Butterfly"),
    ("🌷", "Flower"),
    ("🌳", "Tree"),
    ("🌵", "Cactus"),
    ("🍄", "Mushroom"),
    ("🌏", "Globe"),
    ("🌙", "Moon"),
    ("☁️", "Cloud"),
    ("🔥", "Fire"),
    ("🍌", "Banana"),
    ("🍎", "Apple"),
    ("🍓", "Strawberry"),
    ("🌽", "Corn"),
    ("🍕", "Pizza"),
    ("🎂", "Cake"),
    ("❤️", "Heart"),
    ("😀", "Smiley"),
    ("🤖", "Robot"),
    ("🎩", "Hat"),
    ("👓", "Glasses"),
    ("🔧", "Spanner"),
    ("🎅", "Santa"),
    ("👍", "Thumbs Up"),
    ("☂️", "Umbrella"),
    ("⌛", "Hourglass"),
    ("⏰", "Clock"),
    ("🎁", "Gift"),
    ("💡", "Light Bulb"),
    ("📕", "Book"),
    ("✏️", "Pencil"),
    ("📎", "Paperclip"),
    ("✂️", "Scissors"),
    ("🔒", "Lock"),
    ("🔑", "Key"),
    ("🔨", "Hammer"),
    ("☎️", "Telephone"),
    ("🏁", "Flag"),
    ("🚂", "Train"),
    ("🚲", "Bicycle"),
    ("✈️", "Aeroplane"),
    ("🚀", "Rocket"),
    ("🏆", "Trophy"),
    ("⚽", "Ball"),
    ("🎸", "Guitar"),
    ("🎺", "Trumpet"),
    ("🔔", "Bell"),
    ("⚓", "Anchor"),
    ("🎧", "Headphones"),
    ("📁", "Folder"),
    ("📌", "Pin"),
)


def commitment(r_a: bytes) -> bytes:
    """[32], what A sends before it has seen `r_b`."""
    return hash_labelled(labels.SAS_COMMIT, r_a)


def seven_numbers(exporter: ExporterSecret, r_a: bytes, r_b: bytes) -> tuple[int, ...]:
    """Seven places in `EMOJI`: the first 42 bits of the SAS, six bits each, big-endian. `r_a`, `r_b`: [32]."""
    value = int.from_bytes(expand_bytes(exporter, labels.SAS, r_a + r_b, _BYTES), "big") >> (8 * _BYTES - 6 * SEVEN)
    return tuple(value >> 6 * (SEVEN - 1 - place) & 63 for place in range(SEVEN))
