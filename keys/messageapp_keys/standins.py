"""Public keys that stand in for an unknown user's (protocol §4.4): what a failed login costs must not tell who exists.

A login is checked with the user's keys only where these are of the form that its own signatures claim, and otherwise
with stand-ins of that form. So the work depends on what the stranger sent alone. Nobody has the private halves.
"""

from __future__ import annotations

import os
from functools import lru_cache
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ed25519, mldsa, rsa

from .identity import RSA_BITS, IdentityBundle, Signatures
from .signing import MAX_RSA_BITS, MIN_RSA_BITS, RSA_EXPONENT, SignatureAlgorithm, public_der

__all__ = ["NO_SIGNATURES", "USUAL", "Form", "form_of", "prepare_stand_ins", "stand_in"]

Form = tuple[tuple[int, int], ...]
"""Of each signature the algorithm, and the length in bytes where that is the key's size (RSA), else 0."""

_RSA: Final = SignatureAlgorithm.RSA_PSS
_RSA_SIZES: Final = range(MIN_RSA_BITS // 8, MAX_RSA_BITS // 8 + 1)
USUAL: Final[Form] = ((int(_RSA), RSA_BITS // 8),)
"""That of a new identity."""
# In the place of signatures that could not be read. A number of its own: with 0 an RSA key has nothing to do.
NO_SIGNATURES: Final[Signatures] = ((int(_RSA), b"\x01" * USUAL[0][1]),)


def form_of(signatures: Signatures) -> Form | None:
    """The form that these signatures claim; None where no identity can have it."""
    form = tuple([(algorithm, len(value) if algorithm == _RSA else 0) for algorithm, value in signatures])
    known = IdentityBundle.allows([algorithm for algorithm, _ in form])
    return form if known and all(algorithm != _RSA or size in _RSA_SIZES for algorithm, size in form) else None


def stand_in(form: Form) -> IdentityBundle:
    """Keys of that form, always the same in one process; a new object each time, as a user's is when it is read."""
    return IdentityBundle(tuple([(algorithm, _public_key(algorithm, size)) for algorithm, size in form]))


def prepare_stand_ins() -> None:
    """Make those whose making takes longer than checking with them: the first login of a kind must not show. 1 ms."""
    for algorithm in (SignatureAlgorithm.ED25519, SignatureAlgorithm.ML_DSA_65):
        _public_key(algorithm, 0)


@lru_cache(2 * len(_RSA_SIZES))
def _public_key(algorithm: int, size: int) -> bytes:
    if algorithm == _RSA:  # any odd number of that size takes as long, and is made at once
        modulus = int.from_bytes(os.urandom(size), "big") | 1 << (8 * size - 1) | 1
        return public_der(rsa.RSAPublicNumbers(RSA_EXPONENT, modulus).public_key())
    kind = ed25519.Ed25519PrivateKey if algorithm == SignatureAlgorithm.ED25519 else mldsa.MLDSA65PrivateKey
    return public_der(kind.generate().public_key())
