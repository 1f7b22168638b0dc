"""Joining by an invitation (protocol §3.3): how the login of somebody who is not enrolled yet differs from any other.

The client takes as its authority the certificate whose hash stands in the join code. The server is shown the new user's
keys and a proof of the invitation's key. The secret of the code never travels, nor anything that opens it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from messageapp.errors import JoinRefused
from messageapp_keys import labels
from messageapp_keys.certificate import Certificate, CertificateRefused, Refusal, load_certificate_untrusted
from messageapp_keys.codec import Malformed, reading_untrusted, vec8, vec16
from messageapp_keys.identity import IdentityBundle
from messageapp_keys.joincode import JoinCode, derive_invite
from messageapp_keys.names import is_username
from messageapp_keys.primitives import hash_bytes, hmac_sha256, same
from messageapp_keys.types import InviteKey

from .commands import ErrorCode, Errors
from .messages import JoinProof, M3Proof

__all__ = [
    "JOIN_REFUSALS",
    "FindInvite",
    "Invitation",
    "Newcomer",
    "join_refused_untrusted",
    "newcomer_untrusted",
    "nobody_invited",
]

FindInvite = Callable[[bytes], InviteKey | None]
"""The key of the invitation with that id, whether it can still be used or not; None for an id that there never was."""


def nobody_invited(invite: bytes) -> InviteKey | None:
    """`FindInvite` of a server that has no invitations."""
    return None


JOIN_REFUSALS: Final = {
    ErrorCode.INVITE_EXPIRED: "this join code has expired; ask the server's owner for a new one",
    ErrorCode.INVITE_USED: "this join code has been used up; ask the server's owner for a new one",
    ErrorCode.INVITE_REVOKED: "this join code was revoked; ask the server's owner for a new one",
    ErrorCode.NAME_TAKEN: "somebody else has this name on the server; join under another one: --user NAME",
    ErrorCode.NAME_NOT_INVITED: "this join code is for another name",
}
_NOBODYS_KEY: Final = InviteKey(bytes(InviteKey.SIZE))  # checked with where there is no invitation, and never believed


def join_proof(key: InviteKey, transcript: bytes, username: str, bundle: IdentityBundle) -> bytes:
    """[32] That who knows `key` wants `bundle` enrolled as `username`, in the handshake of TH_E `transcript`."""
    body = labels.JOIN + b"\0" + transcript + vec8(username.encode()) + vec16(bundle.encode())
    return hmac_sha256(key.expose(), body)


# the new user ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Invitation:
    """What of a join code the handshake takes."""

    id: bytes  # [16] said in clear
    key: InviteKey
    authority: bytes  # [32] hash of the CA's certificate

    @classmethod
    def of(cls, code: JoinCode) -> Invitation:
        return cls(*derive_invite(code.secret), code.authority)

    def authority_untrusted(self, chain: Sequence[bytes]) -> Certificate:
        """The last certificate of M2, if it is the one that the code means. `CertificateRefused`."""
        if not same(hash_bytes(chain[-1]), self.authority):
            raise CertificateRefused(
                Refusal.CHAIN,
                "the server's authority is not the one in the join code: this is another server, or it has a new "
                "authority since; ask its owner for a new code",
            )
        return load_certificate_untrusted(chain[-1])

    def prove(self, proof: M3Proof, bundle: IdentityBundle, transcript: bytes) -> JoinProof:
        tag = join_proof(self.key, transcript, proof.username, bundle)
        return JoinProof(proof.username, proof.key_id, proof.signatures, bundle, tag)


def join_refused_untrusted(argument: bytes) -> JoinRefused:
    """What the argument of an `erro` in M4 says. `Malformed`."""
    with reading_untrusted(argument) as reader:
        code = Errors.read(reader).code
    for known, text in JOIN_REFUSALS.items():
        if code == known:
            return JoinRefused(code, text)
    raise Malformed("a join is refused for an unknown reason")


# the server -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Newcomer:
    """Has proved to have the invitation and the keys; whether they are let in is for the directory to say."""

    invite: bytes  # [16] id
    bundle: IdentityBundle


def newcomer_untrusted(proof: M3Proof, invite: bytes, find: FindInvite, transcript: bytes) -> IdentityBundle | None:
    """The keys that a stranger brings, unread; None without a proof of the invitation. As much work either way."""
    if not isinstance(proof, JoinProof):  # M3 did not open
        return None
    key = find(invite)
    wanted = join_proof(key or _NOBODYS_KEY, transcript, proof.username, proof.bundle)
    proved = same(proof.tag, wanted) and key is not None
    return proof.bundle if proved and is_username(proof.username) else None
