"""The log as tiles: paths and sizes as C2SP's text has them, hashes against the naive tree."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from messageapp.client.tiles import WIDTH, Tiles, tile_files, tile_path
from messageapp_keys.merkle import EMPTY_ROOT
from support.naive_tree import mth


def leaves(size: int) -> list[bytes]:
    return [b"leaf %d" % number for number in range(size)]


@pytest.mark.parametrize(
    ("number", "path"),
    [
        (0, "tile/0/000"),
        (999, "tile/0/999"),
        (1000, "tile/0/x001/000"),
        (1234067, "tile/0/x001/x234/067"),
        (1_000_000_000, "tile/0/x001/x000/x000/000"),
    ],
)
def test_a_number_is_written_in_groups_of_three(number: int, path: str) -> None:
    assert tile_path(0, number) == path
    assert tile_path(0, number, 17) == f"{path}.p/17"


def test_the_example_of_the_specification() -> None:
    """A tree of size 70,000: 273 full level 0 tiles, one partial of width 112; one full level 1 tile, one partial of
    width 17; one partial level 2 tile of width 1."""
    files = [path for path, _ in tile_files(leaves(70_000))]
    assert len(files) == len(set(files))
    assert [path for path in files if ".p/" in path] == [
        "tile/entries/273.p/112",
        "tile/0/273.p/112",
        "tile/1/001.p/17",
        "tile/2/000.p/1",
    ]
    assert sum(path.startswith("tile/0/") for path in files) == sum(path.startswith("tile/entries/") for path in files)
    assert sum(path.startswith("tile/0/") for path in files) == 274
    assert [path for path in files if path.startswith(("tile/1/", "tile/2/"))] == [
        "tile/1/000",
        "tile/1/001.p/17",
        "tile/2/000.p/1",
    ]


def test_a_full_tile_alone_has_a_partial_one_above() -> None:
    files = dict(tile_files(leaves(WIDTH)))
    assert list(files) == ["tile/entries/000", "tile/0/000", "tile/1/000.p/1"]
    assert files["tile/1/000.p/1"] == mth(leaves(WIDTH))
    assert len(files["tile/0/000"]) == 8192


@given(st.one_of(st.integers(0, 40), st.integers(250, 270), st.integers(510, 515), st.integers(0, 3000)))
def test_the_root_is_that_of_the_tree(size: int) -> None:
    tiles = Tiles()
    for leaf in leaves(size):
        list(tiles.add(leaf))
    assert tiles.root() == (mth(leaves(size)) if size else EMPTY_ROOT)


@given(st.lists(st.binary(max_size=300), max_size=600))
def test_entries_are_written_as_they_are(entries: list[bytes]) -> None:
    files = dict(tile_files(entries))
    bundles = [content for path, content in files.items() if path.startswith("tile/entries/")]
    assert b"".join(bundles) == b"".join(len(entry).to_bytes(2, "big") + entry for entry in entries)
    hashes = b"".join(content for path, content in files.items() if path.startswith("tile/0/"))
    assert hashes == b"".join(hashlib.sha256(b"\x00" + entry).digest() for entry in entries)
