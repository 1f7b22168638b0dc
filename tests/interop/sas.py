"""The live check of the second implementation (§11.2): from the exporter and two random values to seven numbers."""

from __future__ import annotations

from interop.base import XL, H

__all__ = ["commitment", "seven"]


def commitment(r_a: bytes) -> bytes:
    return H(b"MessageApp v2 sas\0", r_a)


def seven(exporter: bytes, r_a: bytes, r_b: bytes) -> list[int]:
    """The first 42 of 48 bits, six at a time."""
    bits = "".join(f"{byte:08b}" for byte in XL(exporter, "sas", r_a + r_b, 6))
    return [int(bits[at : at + 6], 2) for at in range(0, 42, 6)]
