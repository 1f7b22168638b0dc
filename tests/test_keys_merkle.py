"""The tree of the key log, against published values and against RFC 6962 §2.1 read word by word."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence

import pytest

from messageapp_keys.merkle import (
    EMPTY_ROOT,
    Node,
    ProofRefused,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    node_hash,
    root,
    verify_consistency_untrusted,
    verify_inclusion_untrusted,
)
from support import naive_tree

# Published: transparency-dev/merkle v0.0.2, testonly/constants.go, rfc6962/rfc6962_test.go, proof/verify_test.go and
# testonly/reference_test.go; the same as in google/certificate-transparency.
LEAVES = [
    bytes.fromhex(text)
    for text in ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]
]
ROOTS = [
    bytes.fromhex(text)
    for text in (
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
        "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
        "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
        "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    )
]
INCLUSION = {
    (0, 1): [],
    (0, 2): ["96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7"],
    (1, 2): ["6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"],
    (2, 3): ["fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"],
    (1, 5): [
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    ],
    (0, 8): [
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ],
    (5, 8): [
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ],
}
CONSISTENCY = {
    (1, 1): [],
    (1, 8): [
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ],
    (6, 8): [
        "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ],
    (2, 5): [
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    ],
}
# The same package, compact/range_test.go, TestGetRootHashGolden: leaf i is u16, little-endian.
LARGER = {
    10: "VjWMPSYNtCuCNlF/RLnQy6HcwSk6CIipfxm+hettA+4=",
    15: "j4SulYmocFuxdeyp12xXCIgK6PekBcxzAIj4zbQzNEI=",
    16: "c+4Uc6BCMOZf/v3NZK1kqTUJe+bBoFtOhP+P3SayKRE=",
    100: "dUh9hYH88p0CMoHkdr1wC2szbhcLAXOejWpINIooKUY=",
    255: "SmdsuKUqiod3RX2jyF2M6JnbdE4QuTwwipfAowI4/i0=",
    256: "qFI0t/tZ1MdOYgyPpPzHFiZVw86koScXy9q3FU5casA=",
    1000: "RXrgb8xHd55Y48FbfotJwCbV82Kx22LZfEbmBGAvwlQ=",
    4095: "cWRFdQhPcjn9WyBXE/r1f04ejxIm5lvg40DEpRBVS0w=",
    4096: "6uU/phfHg1n/GksYT6TO9aN8EauMCCJRl3dIK0HDs2M=",
    10000: "VZcav65F9haHVRk3wre2axFoBXRNeUh/1d9d5FQfxIg=",
    65535: "iPuVYJhP6SEE4gUFp8qbafd2rYv9YTCDYqAxCj8HdLM=",
}
OTHER = bytes.fromhex("abacaba000000000000000000000000000000000000000000060061e00123456")


def nodes(leaves: Sequence[bytes]) -> Node:
    """All complete subtrees; an incomplete one is an error, as it is for a real store."""
    levels = [[leaf_hash(leaf) for leaf in leaves]]
    while len(levels[-1]) > 1:
        row = levels[-1]
        levels.append([node_hash(*row[at : at + 2]) for at in range(0, len(row) - 1, 2)])
    return lambda level, index: levels[level][index]


def hashes(texts: Sequence[str]) -> list[bytes]:
    return [bytes.fromhex(text) for text in texts]


# Published values -------------------------------------------------------------------------------------------------


def test_the_hashes_are_those_of_rfc_6962() -> None:
    assert ROOTS[0] == EMPTY_ROOT
    assert leaf_hash(b"") == ROOTS[1]
    assert leaf_hash(b"L123456").hex() == "395aa064aa4c29f7010acfe3f25db9485bbd4b91897b6ad7ad547639252b4d56"
    assert node_hash(b"N123", b"N456").hex() == "aa217fe888e47007fa15edab33c2b492a722cb106c64667fc2b044444de66bbb"


@pytest.mark.parametrize("size", range(9))
def test_published_roots(size: int) -> None:
    assert root(size, nodes(LEAVES)) == ROOTS[size]


def test_published_roots_of_larger_trees() -> None:
    node = nodes([number.to_bytes(2, "little") for number in range(65535)])
    assert {size: base64.b64encode(root(size, node)).decode() for size in LARGER} == LARGER


@pytest.mark.parametrize(("index", "size"), INCLUSION)
def test_published_inclusion_proofs(index: int, size: int) -> None:
    published = hashes(INCLUSION[index, size])
    assert inclusion_proof(index, size, nodes(LEAVES)) == published
    verify_inclusion_untrusted(leaf_hash(LEAVES[index]), index, size, published, ROOTS[size])


@pytest.mark.parametrize(("old", "new"), CONSISTENCY)
def test_published_consistency_proofs(old: int, new: int) -> None:
    published = hashes(CONSISTENCY[old, new])
    assert consistency_proof(old, new, nodes(LEAVES)) == published
    verify_consistency_untrusted(old, ROOTS[old], new, ROOTS[new], published)


# Every tree up to 40 leaves ---------------------------------------------------------------------------------------

MANY = [str(number).encode() for number in range(40)]


def test_the_oracle_knows_the_published_values_too() -> None:
    assert [naive_tree.mth(LEAVES[:size]) for size in range(9)] == ROOTS
    assert {place: naive_tree.path(place[0], LEAVES[: place[1]]) for place in INCLUSION} == {
        place: hashes(texts) for place, texts in INCLUSION.items()
    }
    assert {place: naive_tree.proof(place[0], LEAVES[: place[1]]) for place in CONSISTENCY} == {
        place: hashes(texts) for place, texts in CONSISTENCY.items()
    }


@pytest.mark.parametrize("size", range(1, len(MANY) + 1))
def test_every_proof_is_the_one_of_the_rfc_and_verifies(size: int) -> None:
    node, whole = nodes(MANY), naive_tree.mth(MANY[:size])
    assert root(size, node) == whole
    for index in range(size):
        proof = inclusion_proof(index, size, node)
        assert proof == naive_tree.path(index, MANY[:size])
        verify_inclusion_untrusted(leaf_hash(MANY[index]), index, size, proof, whole)
    for old in range(1, size + 1):
        proof = consistency_proof(old, size, node)
        assert proof == naive_tree.proof(old, MANY[:size])
        verify_consistency_untrusted(old, naive_tree.mth(MANY[:old]), size, whole, proof)


def damaged(proof: list[bytes]) -> dict[str, list[bytes]]:
    """As proof/verify_test.go damages them, and at every place."""
    found = {
        "an empty hash behind": [*proof, b""],
        "a hash behind": [*proof, OTHER],
        "an empty hash before": [b"", *proof],
        "a hash before": [OTHER, *proof],
    }
    for place, value in enumerate(proof):
        before, after = proof[:place], proof[place + 1 :]
        found |= {
            f"without {place}": before + after,
            f"{place} cut": [*before, value[:-1], *after],
            f"{place} with a byte more": [*before, value + b"\0", *after],
            f"{place} with another bit": [*before, bytes([value[0] ^ 8]) + value[1:], *after],
            f"{place} twice": [*before, value, value, *after],
        }
    return found


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 8, 13, 32, 33])
def test_no_damaged_inclusion_proof_is_taken(size: int) -> None:
    node, whole = nodes(MANY), naive_tree.mth(MANY[:size])
    for index in range(size):
        leaf, proof = leaf_hash(MANY[index]), inclusion_proof(index, size, node)
        tries = {name: (leaf, index, size, bad, whole) for name, bad in damaged(proof).items()}
        tries |= {f"at {at}": (leaf, at, size, proof, whole) for at in range(-1, size + 2) if at != index}
        tries |= {
            "a negative size": (leaf, index, -size, proof, whole),
            "a size of 0": (leaf, index, 0, proof, whole),
            "a much larger tree": (leaf, index, size << 40, proof, whole),
            "another leaf": (OTHER, index, size, proof, whole),
            "a leaf cut": (leaf[:-1], index, size, proof, whole),
            "another root": (leaf, index, size, proof, OTHER),
            "the empty root": (leaf, index, size, proof, EMPTY_ROOT),
            "a root cut": (leaf, index, size, proof, whole[:-1]),
            "no root": (leaf, index, size, proof, b""),
        }
        assert taken(verify_inclusion_untrusted, tries) == []


@pytest.mark.parametrize("new", [1, 2, 3, 5, 7, 8, 13, 32, 33])
def test_no_damaged_consistency_proof_is_taken(new: int) -> None:
    node, whole = nodes(MANY), naive_tree.mth(MANY[:new])
    for old in range(1, new + 1):
        before, proof = naive_tree.mth(MANY[:old]), consistency_proof(old, new, node)
        tries = {name: (old, before, new, whole, bad) for name, bad in damaged(proof).items()}
        tries |= {
            "an old size of 0": (0, EMPTY_ROOT, new, whole, []),
            "both of size 0": (0, EMPTY_ROOT, 0, EMPTY_ROOT, []),
            "a negative size": (-old, before, new, whole, proof),
            "a smaller tree": (new + 1, before, new, whole, proof),
            "a much larger tree": (old, before, new << 40, whole, proof),
            "another old root": (old, OTHER, new, whole, proof),
            "another new root": (old, before, new, OTHER, proof),
            "two other roots": (old, OTHER, new, OTHER, [OTHER] if old != new else [*proof, OTHER]),
            "an old root cut": (old, before[:-1], new, whole, proof),
            "a new root cut": (old, before, new, whole + b"\0", proof),
        }
        if old < new:
            tries["roots swapped"] = (old, whole, new, before, proof)
            tries["no proof"] = (old, before, new, whole, [])
        assert taken(verify_consistency_untrusted, tries) == []


def test_no_byte_moves_from_one_hash_into_the_next() -> None:
    """The concatenation is the same, so that only the lengths show it."""
    leaf, (neighbour,) = leaf_hash(LEAVES[0]), hashes(INCLUSION[0, 2])
    verify_inclusion_untrusted(leaf, 0, 2, [neighbour], ROOTS[2])
    with pytest.raises(ProofRefused, match="wrong length"):
        verify_inclusion_untrusted(leaf[:31], 0, 2, [leaf[31:] + neighbour], ROOTS[2])
    verify_consistency_untrusted(1, leaf, 2, ROOTS[2], [neighbour])
    with pytest.raises(ProofRefused, match="wrong length"):
        verify_consistency_untrusted(1, leaf[:31], 2, ROOTS[2], [leaf[31:] + neighbour])


def test_a_tree_is_not_higher_than_its_size_says() -> None:
    """Whoever signs a root that does not go with its size could otherwise prove two things by it."""
    leaf = leaf_hash(LEAVES[0])
    with pytest.raises(ProofRefused, match="too long"):
        verify_inclusion_untrusted(leaf, 0, 1, [OTHER], node_hash(OTHER, leaf))
    proof = consistency_proof(3, 5, nodes(LEAVES))
    with pytest.raises(ProofRefused, match="too long"):
        verify_consistency_untrusted(3, node_hash(OTHER, ROOTS[3]), 5, node_hash(OTHER, ROOTS[5]), [*proof, OTHER])


def taken(verify: Callable[..., None], tries: Mapping[str, tuple[object, ...]]) -> list[str]:
    found = []
    for name, arguments in tries.items():
        try:
            verify(*arguments)
        except ProofRefused:
            continue
        found.append(name)
    return found


@pytest.mark.parametrize(("index", "size"), [(0, 0), (1, 1), (-1, 3), (3, 3)])
def test_there_is_no_proof_outside_of_the_tree(index: int, size: int) -> None:
    with pytest.raises(ValueError, match="no such leaf"):
        inclusion_proof(index, size, nodes(LEAVES))


@pytest.mark.parametrize(("old", "new"), [(0, 0), (0, 3), (-1, 3), (4, 3)])
def test_there_is_no_proof_backwards_or_from_nothing(old: int, new: int) -> None:
    with pytest.raises(ValueError, match="no proof"):
        consistency_proof(old, new, nodes(LEAVES))
