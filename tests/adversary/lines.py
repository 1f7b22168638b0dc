"""Every rule that a stranger can break, one row each, and which half of the tests has cases for it.

`server` is a misbehaving client against the real server, `client` a misbehaving server, relay or chat peer against the
real client. A row with `unbuilt` says why nothing is tested here; a test fails when a row has neither a case in each
of its halves nor such a reason.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["LINES", "Line", "wanted"]


@dataclass(frozen=True, slots=True)
class Line:
    slug: str
    group: str
    text: str
    halves: tuple[str, ...]
    unbuilt: str = ""


_S, _C, _SC = ("server",), ("client",), ("server", "client")
_LOG = "tried by tests/lies: a lying server and real clients, in memory"


def _group(name: str, halves: tuple[str, ...], *rows: tuple[str, str], unbuilt: str = "") -> tuple[Line, ...]:
    return tuple(Line(slug, name, text, halves, unbuilt) for slug, text in rows)


LINES: tuple[Line, ...] = (
    *_group(
        "M1",
        _S,
        ("m1-magic", "bad magic"),
        ("m1-lists", "zero or too many versions, suites, signature algorithms"),
        ("m1-no-common", "unknown version, suite or signature algorithm only"),
        ("m1-username", "username of 0, 17, 255 bytes, NUL, UTF-8, leading or trailing `-`"),
        ("m1-server", "server name empty, too long, of other characters"),
        ("m1-tlvs", "duplicate or short TLV, device id of another length"),
        ("m1-trailing-byte", "trailing byte, or a field that is cut short"),
        ("m1-length", "length 0, 4,097, 2^32−1"),
        ("m1-turn", "another frame in its place, or M1 twice"),
        ("m1-slow", "one byte at a time, too slowly"),
        ("m1-half", "half, then silence"),
        ("m1-hidden-with-name", "HIDE_USER with a name"),
    ),
    *_group(
        "M2",
        _C,
        ("m2-suite", "suite not offered"),
        ("m2-version", "version not offered"),
        ("m2-transcript", "signature over another M1, each field changed in turn"),
        ("m2-sigalg", "wrong signature algorithm"),
        ("m2-pss-salt", "PSS salt of 0 or 20 bytes"),
        ("m2-pkcs1", "PKCS#1 v1.5 signature"),
        ("m2-other-key", "right signature by a key that is not in the leaf"),
        ("m2-chain-time", "chain expired or not yet valid"),
        ("m2-chain-ca", "chain of another CA, self-signed, issuer with CA:FALSE, four long"),
        ("m2-chain-name", "other name, other IP, no SAN, no EKU"),
        ("m2-rsa", "temporary RSA key of 2048 bits, even, e = 3, e = 1, non-minimal DER"),
        ("m2-x25519", "X25519 all-zero and the other low-order points"),
        ("m2-mlkem", "ML-KEM key with a coefficient ≥ q"),
        ("m2-replayed", "M2 of an earlier session"),
        ("m2-twice", "M2 twice"),
        ("m2-form", "flags, a TLV twice, a byte more or less"),
        ("m2-length", "length 0, 32,769, 2^32−1"),
        ("m2-turn", "another frame in its place, half of it, nothing"),
        ("m2-key-usage", "leaf that may not sign, or may issue"),
        ("m2-leaf-key", "leaf with a key of another kind or size"),
    ),
    *_group(
        "M4",
        _C,
        ("m4-seal", "does not open: changed, other key, other counter, other user"),
        ("m4-form", "other kind, id, verb, text or TLVs"),
        ("m4-name", "name that is not in the leaf, or other than before"),
        ("alert", "every code in place of M2 and of M4, another form, after the login"),
    ),
    *_group(
        "M3",
        _S,
        ("m3-enc-length", "Enc(K) truncated, extended"),
        ("m3-enc-value", "Enc(K) all zero, ≥ modulus, a bit changed, low-order point"),
        ("m3-oaep", "OAEP with another label, with a K of 31 or 33 bytes"),
        ("m3-seal", "sealed part: each kind of bit changed, cut, longer"),
        ("m3-plaintext", "plaintext of another form"),
        ("m3-username", "username other than that of M1"),
        ("m3-key-id", "key_id of another user"),
        ("m3-server", "signature for another server"),
        ("m3-leaf", "signature for another leaf"),
        ("m3-signer", "signature by another user, or of another algorithm"),
        ("m3-label", "signature under the label of C3 or of M2"),
        ("m3-one-of-two", "only one of two signatures, or in another order"),
        ("m3-replayed", "M3 replayed on a new connection"),
        ("m3-unknown-user", "unknown user: the same answer as to a wrong signature (its time is a benchmark's)"),
        ("m3-turn", "another frame in its place, too long, too late"),
    ),
    *_group(
        "Join",
        _S,
        ("join-m1", "invitation id of another length, twice, with a name"),
        ("join-id", "invitation that there is not"),
        ("join-proof", "proof by another key, of another handshake, name or bundle, of another form, none"),
        ("join-replayed", "M1 and M3 of a join replayed on a new connection"),
    ),
    *_group(
        "Records",
        _SC,
        ("record-flipped", "counter, tag or ciphertext changed"),
        ("record-replayed", "replayed"),
        ("record-dropped", "one dropped"),
        ("record-swapped", "two swapped"),
        ("record-reflected", "reflected to its sender"),
        ("record-counter-high", "counter with bytes 12–15 set"),
        ("record-counter-modulo", "counter ≡ the expected one mod 256"),
        ("record-frame-type", "M4 as RECORD and RECORD as M4"),
        ("record-old-key", "old key after `rkey`, or `rkey` out of order"),
        ("record-pad", "missing pad byte"),
        ("record-length", "131,073 bytes, or too short for a record"),
    ),
    *_group(
        "Commands",
        _S,
        ("command-verb", "unknown verb"),
        ("command-kind", "wrong kind, or a verb that only the server sends"),
        ("command-argument", "malformed argument, for every verb"),
        ("command-name", "name that is too long or of other characters"),
        ("command-state", "in the wrong state: frwd, exch, cach, acpt, refu without what they need"),
        ("command-other-call", "acpt, refu, cach with another name or invite"),
        ("command-third", "a third user, or another session, in somebody's call or chat"),
        (
            "command-in-chat",
            "odd bytes, or the end of the protocol, within a chat: the peer gets just that, or is told",
        ),
        ("command-unavailable", "calling nobody, oneself, somebody busy: one text"),
        ("command-rate", "more commands or calls than the rates allow"),
        ("command-slow-reader", "not reading: the sender is told, others go on"),
        ("command-after-goodbye", "going on after `exit`"),
    ),
    *_group(
        "Mail",
        _S,
        (
            "mail-prekey",
            "prekey of another user, key, suite, kind or time, signed for something else, of another length",
        ),
        ("mail-room", "more prekeys than there may be"),
        ("mail-others", "acknowledging what is not one's own or has not come; one id for two messages"),
        ("mail-nobody", "writing to nobody or oneself, asking for their prekeys"),
        ("mail-rate", "more requests than the rates allow"),
    ),
    *_group(
        "Commands",
        _C,
        ("record-form", "record of another kind than request, reply, event"),
        ("pubk-call", "pubk for no call, another call, in the other role, twice"),
        ("pubk-bundle", "pubk with keys that nobody may have, with the PEM of another"),
        ("pubk-pinned", "pubk with another key than the pinned one"),
        ("reply-misfit", "reply of another verb than was asked for"),
        ("reply-unreadable", "reply with an argument that has not its form"),
        ("request-of-server", "request that only a client sends, or nobody"),
        ("event-kind", "verb in a kind that a server may not send"),
        ("event-unreadable", "event or reply that is unknown, unreadable or out of place: passed over"),
        ("byee", "goodbye with every reason"),
    ),
    *_group(
        "Chat",
        _C,
        ("chat-fields", "every field of C1–C4 changed by the relay"),
        ("chat-roles", "caller and receiver swapped"),
        ("chat-cross", "C3 of a login, M3 of a chat"),
        ("chat-invite", "other invite"),
        ("chat-third-user", "key_id of a third user"),
        ("chat-skipped", "1,001 skipped"),
        ("chat-header", "header of one message on the body of another"),
        ("chat-rolled-back", "state of the peer rolled back, then sent"),
        ("chat-signer", "one of two signatures, in another order, by another user"),
        ("chat-suite", "suite that was not offered, or classic alone"),
        ("chat-temporary", "low-order points and ML-KEM coefficients ≥ q, signed by the peer"),
        ("chat-replayed", "C2 and C3 of an earlier call"),
        ("chat-turn", "every message in the place of every other, or twice"),
        ("ratchet-flipped", "every part of a ratchet message changed"),
        ("ratchet-replayed", "ratchet message replayed, reflected"),
        ("ratchet-order", "ratchet messages dropped, reordered: said"),
        ("ratchet-sealed", "another chat, sender, chain or counter, well sealed"),
        ("ratchet-keys", "turn with a low-order point or an ML-KEM coefficient ≥ q, well sealed"),
        ("ratchet-plaintext", "plaintext of another form, well sealed"),
        ("chat-prekey", "prekey expired, of another user, used twice"),
        ("chat-last-resort", "C3 replayed on the last-resort key"),
        ("check-turn", "live check: out of turn, another opening, our own commitment, a fourth run"),
    ),
    *_group(
        "Log",
        _SC,
        ("log-shrunk", "shrunk"),
        ("log-forked", "forked"),
        ("log-proof", "proof of a wrong length"),
        ("log-own-name", "own name changed"),
        ("log-missing", "key not logged"),
        ("log-gossip", "gossip from a fork"),
        unbuilt=_LOG,
    ),
)


def wanted(half: str) -> set[str]:
    """The slugs that need a case in this half."""
    return {line.slug for line in LINES if half in line.halves and not line.unbuilt}
