"""The client is called: C1, C3 and first message of a malicious relay or caller; none becomes a chat (protocol §8).

"Changed" is done by the relay, after an honest peer has signed; "signed" is what the peer itself does wrong.
"""

from __future__ import annotations

from adversary.case import Case, Outcome
from adversary.client_exchange import LABELS, PAIRED, Do, at_field, by_mallory, c1_fields, case, changes, person
from adversary.client_live import Live
from adversary.client_rogue import Flip, flip
from adversary.client_temporary import LOW_ORDER
from interop.base import CLASSIC, L_C2, tlv, vec
from interop.chat import C1, C2, C3, C4, RATCHET

__all__ = ["CASES", "is_called"]


def is_called(
    c1: Flip = bytes,
    c3: Flip | None = None,
    first: Flip | None = None,
    peer: str = "carl",
    **rogue: object,
) -> Do:
    """`c1` is what the client gets; with `c3` it has answered C1, with `first` C3 as well."""

    def do(live: Live) -> Outcome:
        live.desk.me = person(live, peer)
        chat = live.chat(live.rang(), calling=True, **rogue)
        live.desk.forward(C1, c1(chat.make_c1()))
        if c3 is not None:
            live.desk.forward(C3, c3(chat.c3_from(live.desk.forwarded(C2))))
        if first is not None:
            chat.check_c4(live.desk.forwarded(C4))
            live.desk.forward(RATCHET, first(chat.ratchet().text(None)))
        return live.left()

    return do


def _swapped(live: Live) -> Outcome:
    """C1 in which the client calls Carl, as the relay gives it to the client that Carl calls."""
    chat = live.chat(live.rang(), calling=True)
    chat.calling = False
    live.desk.forward(C1, chat.make_c1())
    return live.left()


def _own_c1(live: Live) -> Outcome:
    """The client's own C1 to Carl, when Carl calls with the same invite."""
    invite = live.called()
    c1 = live.desk.forwarded(C1)
    live.desk.event("exch", b"\0")
    live.client.until("carl left the chat")
    live.rang(invite)
    live.desk.forward(C1, c1)
    return live.left()


def _called_by_oneself(live: Live) -> Outcome:
    """The server says that Ann calls Ann, and sends back to her what she says."""
    live.desk.me = live.stage.people.ann
    live.rang()
    live.desk.forward(C1, live.desk.forwarded(C1))
    return live.left()


def _third_user(which: int) -> Do:
    """C1 with the key_id of a third user as the caller's or the receiver's."""

    def do(live: Live) -> Outcome:
        chat = live.chat(live.rang(), calling=True)
        ids = chat.me.key_id, live.stage.people.ann.key_id
        live.desk.forward(C1, chat.make_c1().replace(ids[which], live.stage.people.mallory.key_id))
        return live.left()

    return do


def _only_classic(live: Live) -> Outcome:
    chat = live.chat(live.rang(), calling=True, offers=(CLASSIC, 0x3A5A))
    live.desk.forward(C1, chat.make_c1())
    return live.left()


def _earlier_c3(live: Live) -> Outcome:
    """C3 of a call that came to nothing, replayed with its C1 and its invite."""
    invite = live.rang()
    chat = live.chat(invite, calling=True)
    c1 = chat.make_c1()
    live.desk.forward(C1, c1)
    c3 = chat.c3_from(live.desk.forwarded(C2))
    live.desk.event("exch", b"\0")
    live.client.until("carl left the chat")
    live.rang(invite)
    live.desk.forward(C1, c1)
    live.desk.forwarded(C2)
    live.desk.forward(C3, c3)
    return live.left()


def _instead_of_c1(kind: int) -> Do:
    def do(live: Live) -> Outcome:
        live.rang()
        live.desk.forward(kind, bytes(2500))
        return live.left()

    return do


def _instead_of_c3(kind: int) -> Do:
    """C1 again, or the client's own C2."""

    def do(live: Live) -> Outcome:
        chat = live.chat(live.rang(), calling=True)
        live.desk.forward(C1, chat.make_c1())
        c2 = live.desk.forwarded(C2)
        live.desk.forward(kind, chat.c1 if kind == C1 else c2)
        return live.left()

    return do


def _c3_twice(live: Live) -> Outcome:
    chat = live.chat(live.rang(), calling=True)
    live.desk.forward(C1, chat.make_c1())
    c3 = chat.c3_from(live.desk.forwarded(C2))
    live.desk.forward(C3, c3)
    live.desk.forwarded(C4)
    live.desk.forward(C3, c3)
    return live.left()


def _swap_key_ids(body: bytes) -> bytes:
    return body[:32] + body[64:] + body[32:64]


_C1_AT_ONCE = ("magic", "version", "suites-count", "invite", "caller", "receiver", "caller-key-id", "receiver-key-id",
               "server", "tlvs-length")  # fmt: skip
_C1_LATER = ("R1", "suite", "tlv")  # a receiver cannot know; the transcript tells
_C3_AT = {"enc-length": 1, "enc-x25519": 2, "enc-mlkem": 50, "sealed-length": 1123, "sealed": 1124, "tag": -1}

CASES: tuple[Case[Live], ...] = (
    *(case(f"c1-changed-{f}", "chat-fields", is_called(at_field(f))) for f in _C1_AT_ONCE),
    *(case(f"c1-changed-{f}", "chat-fields", is_called(at_field(f), c3=bytes)) for f in _C1_LATER),
    *(case(f"c1-{name}", "chat-fields", is_called(change)) for name, change in changes({})),
    case("c1-tlv-twice", "chat-fields", is_called(lambda c1: c1[:-12] + vec(tlv(9, b"") * 2, 2))),
    case("c1-caller-and-receiver-swapped", "chat-roles", _swapped),
    case("c1-own-of-an-earlier-call", "chat-roles", _own_c1),
    case("called-by-oneself", "chat-roles", _called_by_oneself, "ann"),
    case("c1-key-id-of-a-third-caller", "chat-third-user", _third_user(0)),
    case("c1-key-id-of-a-third-receiver", "chat-third-user", _third_user(1)),
    case("c1-other-invite", "chat-invite", is_called(lambda c1: flip(c1_fields(c1)["invite"] + 15)(c1))),
    case("c1-classic-alone", "chat-suite", _only_classic),
    *(case(f"c3-changed-{name}", "chat-fields", is_called(c3=change)) for name, change in changes(_C3_AT)),
    *(case(f"c3-signed-label-{n}", "chat-cross", is_called(c3=bytes, label=label)) for n, label in LABELS.items()),
    case("c3-signed-label-c2", "chat-cross", is_called(c3=bytes, label=L_C2)),
    case("c3-signed-for-swapped-key-ids", "chat-roles", is_called(c3=bytes, c3_body=_swap_key_ids)),
    *(
        case(f"c3-signed-{n}", "chat-signer", is_called(c3=bytes, signatures=s, peer="dora"), "dora")
        for n, s in PAIRED.items()
    ),
    *(
        case(f"c3-sealed-point-{name}", "chat-temporary", is_called(c3=bytes, point=point))
        for name, point in LOW_ORDER.items()
    ),
    case("c3-of-an-earlier-call", "chat-replayed", _earlier_c3),
    case("c3-twice", "chat-turn", _c3_twice),
    *(
        case(f"first-message-{name}", "chat-fields", is_called(c3=bytes, first=change))
        for name, change in changes({"header": 9, "counter": 2313, "tag": 2349, "text": -1})
    ),
    *(case(f"turn-{kind}-for-c1", "chat-turn", _instead_of_c1(kind)) for kind in (0, C2, C3, C4, RATCHET, 6, 255)),
    *(case(f"turn-{kind}-for-c3", "chat-turn", _instead_of_c3(kind)) for kind in (C1, C2, C3, C4, RATCHET)),
    case("c3-signed-by-a-third-user", "chat-third-user", by_mallory(is_called, c3=bytes)),
)
