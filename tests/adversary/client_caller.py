"""The client calls: C2, C4 and C1 on its way, of a malicious relay or receiver; none becomes a chat (protocol §8).

"Changed" is done by the relay, after an honest peer has signed; "signed" is what the peer itself does wrong.
"""

from __future__ import annotations

from collections.abc import Callable

from adversary.case import Case, Outcome
from adversary.client_exchange import LABELS, PAIRED, Do, at_field, by_mallory, case, changes, person
from adversary.client_live import Live
from adversary.client_rogue import Flip, RogueChat, cut
from adversary.client_temporary import LOW_ORDER, MLKEM_OVER_Q
from interop.base import CLASSIC, L_C3, Reader, tlv, u, vec
from interop.chat import C1, C2, C3, C4, RATCHET

__all__ = ["CASES", "calls", "good_c4"]


def calls(
    c1: Flip = bytes,
    c2: Flip = bytes,
    c4: Callable[[Live, RogueChat], bytes] | None = None,
    peer: str = "carl",
    **rogue: object,
) -> Do:
    """The client calls; `c1` is what the peer gets, `c2` what comes back; with `c4` the client is content with C2."""

    def do(live: Live) -> Outcome:
        chat = live.chat(live.called(person(live, peer)), calling=False, **rogue)
        live.desk.forward(C2, c2(chat.c2_from(c1(live.desk.forwarded(C1)))))
        if c4 is not None:
            chat.c4_from(live.desk.forwarded(C3))
            live.desk.forward(C4, c4(live, chat))
        return live.left()

    return do


def _c4(change: Flip) -> Do:
    return calls(c4=lambda live, chat: change(chat.make_c4()))


def good_c4(live: Live, chat: RogueChat) -> bytes:
    return chat.make_c4()


def _instead_of_c2(kind: int, body: Flip = bytes) -> Do:
    """`body` of the client's C1."""

    def do(live: Live) -> Outcome:
        live.called()
        live.desk.forward(kind, body(live.desk.forwarded(C1)))
        return live.left()

    return do


def _earlier_c2(live: Live) -> Outcome:
    """C2 of a call that came to nothing, for the next one."""
    chat = live.chat(live.called(), calling=False)
    c2 = chat.c2_from(live.desk.forwarded(C1))
    live.desk.event("exch", b"\0")
    live.client.until("carl left the chat")
    live.called()
    live.desk.forwarded(C1)
    live.desk.forward(C2, c2)
    return live.left()


def _c2_twice(live: Live) -> Outcome:
    chat = live.chat(live.called(), calling=False)
    c2 = chat.c2_from(live.desk.forwarded(C1))
    live.desk.forward(C2, c2)
    live.desk.forwarded(C3)
    live.desk.forward(C2, c2)
    return live.left()


def _instead_of_c4(kind: int) -> Do:
    """Another message before C4."""

    def do(live: Live) -> Outcome:
        chat = live.chat(live.called(), calling=False)
        live.desk.forward(C2, chat.c2_from(live.desk.forwarded(C1)))
        c3 = live.desk.forwarded(C3)
        chat.c4_from(c3)
        live.desk.forward(kind, c3)
        return live.left()

    return do


def _core(change: Callable[[bytes, bytes, bytes, bytes], bytes]) -> Flip:
    """`change` gets R2, suite, both keys with their lengths, and the TLVs with theirs."""

    def changed(core: bytes) -> bytes:
        reader = Reader(core)
        r2, suite = reader.take(32), reader.take(2)
        keys = vec(reader.vec(2), 2) + vec(reader.vec(2), 2)
        return change(r2, suite, keys, reader.rest())

    return changed


def _suite(code: int) -> Flip:
    return _core(lambda r2, _, keys, tlvs: r2 + u(code, 2) + keys + tlvs)


_C1_OWN = ("magic", "version", "R1", "suites-count", "suite", "invite", "caller", "receiver", "caller-key-id",
           "receiver-key-id", "server", "tlvs-length")  # fmt: skip
_C2_AT = {"R2": 0, "suite": 33, "temp-length": 35, "temp-x25519": 36, "temp-mlkem": 100, "ratchet-length": 1253,
          "ratchet-x25519": 1254, "ratchet-mlkem": 1400, "tlvs-length": 2471, "tlv": 2473, "signatures": 2476,
          "sigalg": 2478, "signature-length": 2480, "signature": -1}  # fmt: skip

CASES: tuple[Case[Live], ...] = (
    *(case(f"own-c1-changed-{f}", "chat-fields", calls(at_field(f))) for f in _C1_OWN),
    case("c1-reflected", "chat-roles", _instead_of_c2(C1)),
    *(case(f"c2-changed-{name}", "chat-fields", calls(c2=change)) for name, change in changes(_C2_AT)),
    *(case(f"c2-signed-label-{n}", "chat-cross", calls(label=label)) for n, label in LABELS.items()),
    case("c2-signed-label-c3", "chat-cross", calls(label=L_C3)),
    *(case(f"c2-signed-{n}", "chat-signer", calls(signatures=s, peer="dora"), "dora") for n, s in PAIRED.items()),
    case("c2-signed-suite-classic", "chat-suite", calls(core=_suite(CLASSIC))),
    case("c2-signed-suite-unknown", "chat-suite", calls(core=_suite(0x0A0A))),
    case("c2-signed-tlv-twice", "chat-fields", calls(core=_core(lambda *p: b"".join(p[:3]) + vec(tlv(9, b"") * 2, 2)))),
    *(
        case(f"c2-signed-temp-{name}", "chat-temporary", calls(temp=lambda temp, point=point: point + temp[32:]))
        for name, point in LOW_ORDER.items()
    ),
    *(
        case(
            f"c2-signed-temp-mlkem-{name}",
            "chat-temporary",
            calls(temp=lambda t, change=change: t[:32] + change(t[32:])),
        )
        for name, change in MLKEM_OVER_Q.items()
    ),
    *(
        case(
            f"c2-signed-ratchet-{name}",
            "chat-temporary",
            calls(start=lambda s, point=point: point + s[32:], c4=good_c4),
        )
        for name, point in LOW_ORDER.items()
    ),
    *(
        case(
            f"c2-signed-ratchet-mlkem-{name}",
            "chat-temporary",
            calls(start=lambda s, change=change: s[:32] + change(s[32:]), c4=good_c4),
        )
        for name, change in MLKEM_OVER_Q.items()
    ),
    case("c2-signed-ratchet-short", "chat-temporary", calls(start=cut)),
    case("c2-of-an-earlier-call", "chat-replayed", _earlier_c2),
    case("c2-twice", "chat-turn", _c2_twice),
    *(case(f"c4-{name}", "chat-fields", _c4(change)) for name, change in changes({"text": 0, "tag": -1})),
    case("c4-other-text", "chat-fields", calls(c4=lambda live, chat: chat.make_c4(b"CHAT IS SECURE?"))),
    *(case(f"turn-{kind}-for-c2", "chat-turn", _instead_of_c2(kind)) for kind in (0, C3, C4, RATCHET)),
    *(case(f"turn-{kind}-for-c4", "chat-turn", _instead_of_c4(kind)) for kind in (C1, C3, RATCHET)),
    case("c2-signed-by-a-third-user", "chat-third-user", by_mallory(calls)),
)
