"""The 64 emoji and their names, and the seven that a chat comes to."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from interop import sas as second
from messageapp_keys.sas import EMOJI, commitment, seven_numbers
from messageapp_keys.types import ExporterSecret

PAGE = Path(__file__).parents[1] / "docs" / "emoji.md"
# The Matrix specification, m.sas.v1, emoji: code points and English names, numbers 0 to 63.
MATRIX = """
1F436 Dog, 1F431 Cat, 1F981 Lion, 1F40E Horse, 1F984 Unicorn, 1F437 Pig, 1F418 Elephant, 1F430 Rabbit,
1F43C Panda, 1F413 Rooster, 1F427 Penguin, 1F422 Turtle, 1F41F Fish, 1F419 Octopus, 1F98B Butterfly, 1F337 Flower,
1F333 Tree, 1F335 Cactus, 1F344 Mushroom, 1F30F Globe, 1F319 Moon, 2601+FE0F Cloud, 1F525 Fire, 1F34C Banana,
1F34E Apple, 1F353 Strawberry, 1F33D Corn, 1F355 Pizza, 1F382 Cake, 2764+FE0F Heart, 1F600 Smiley, 1F916 Robot,
1F3A9 Hat, 1F453 Glasses, 1F527 Spanner, 1F385 Santa, 1F44D Thumbs Up, 2602+FE0F Umbrella, 231B Hourglass,
23F0 Clock, 1F381 Gift, 1F4A1 Light Bulb, 1F4D5 Book, 270F+FE0F Pencil, 1F4CE Paperclip, 2702+FE0F Scissors,
1F512 Lock, 1F511 Key, 1F528 Hammer, 260E+FE0F Telephone, 1F3C1 Flag, 1F682 Train, 1F6B2 Bicycle,
2708+FE0F Aeroplane, 1F680 Rocket, 1F3C6 Trophy, 26BD Ball, 1F3B8 Guitar, 1F3BA Trumpet, 1F514 Bell, 2693 Anchor,
1F3A7 Headphones, 1F4C1 Folder, 1F4CC Pin
"""


def test_the_table_is_that_of_matrix() -> None:
    wanted = [entry.strip().partition(" ") for entry in MATRIX.split(",")]
    assert [("+".join(f"{ord(char):04X}" for char in picture), name) for picture, name in EMOJI] == [
        (points, name) for points, _, name in wanted
    ]
    assert len(EMOJI) == len({name for _, name in EMOJI}) == len({picture for picture, _ in EMOJI}) == 64


def test_the_page_has_the_table() -> None:
    rows = [line for line in PAGE.read_text("utf-8").splitlines() if line[:3].strip("| ").isdigit()]
    assert rows == [f"| {number} | {picture} | {name} |" for number, (picture, name) in enumerate(EMOJI)]


@given(st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32))
def test_as_the_second_implementation_has_it(exporter: bytes, r_a: bytes, r_b: bytes) -> None:
    assert list(seven_numbers(ExporterSecret(exporter), r_a, r_b)) == second.seven(exporter, r_a, r_b)
    assert commitment(r_a) == second.commitment(r_a)


def test_the_order_of_the_two_and_the_chat_count() -> None:
    one, two, exporter = bytes(32), bytes([1] * 32), ExporterSecret(bytes(32))
    found = {
        seven_numbers(exporter, one, two),
        seven_numbers(exporter, two, one),
        seven_numbers(ExporterSecret(two), one, two),
    }
    assert len(found) == 3
