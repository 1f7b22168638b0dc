"""What the peer of a chat, or the server between, may send: C1 to C4, ratchet messages, and what stands inside."""

from __future__ import annotations

import copy
import sqlite3
from functools import partial
from types import SimpleNamespace

from messageapp.client.context import ClientContext
from messageapp.client.conversations import Conversation, NeedKey, Step
from messageapp.client.live import LiveChat
from messageapp.client.login import Account
from messageapp.client.mailing import Mailing
from messageapp.client.messages import Messages
from messageapp.client.trust import Trust
from messageapp.e2ee.agreement import C1
from messageapp.e2ee.envelope import MAX_TEXT_BYTES, Envelope
from messageapp.e2ee.exchange import _C2, Caller, ExchangeFailed, Receiver
from messageapp.e2ee.ratchet import MAX_SKIPPED_SESSION, Ratchet, Undecryptable, _parse_untrusted, _seal
from messageapp.e2ee.sas import MAX_RUNS, CheckFailed, LiveCheck, SasMessage
from messageapp.e2ee.session import ChatSession
from messageapp.store.database import apply_schemas, schemas
from messageapp_keys import labels
from messageapp_keys.codec import Malformed, Reader, vec8, vec16, vec24
from messageapp_keys.identity import write_signatures
from messageapp_keys.kem import HYBRID, SWIFT
from messageapp_keys.primitives import expand_label, hash_labelled, open_once, seal_once
from messageapp_keys.ratchetkeys import kdf_chain, kdf_root
from messageapp_keys.sas import commitment
from messageapp_keys.types import ExporterSecret, HandshakeKey, RootKey

from . import material
from .material import seeded
from .target import Harness, Target, require, same_after_refusal
from .wire_targets import form

__all__ = ["TARGETS"]


def _c1() -> Harness:
    genuine = material.caller().start()
    fields = [getattr(C1.parse_untrusted(genuine), name) for name in ("invite", "caller", "receiver", "server")]

    def attack(data: bytes) -> None:
        bob = Receiver(material.parties(), material.identity("bob"), [SWIFT], seeded("C2"))
        with same_after_refusal(lambda: list(vars(bob))):
            bob.receive_c1_untrusted(data)
        read = C1.parse_untrusted(data)
        require([read.invite, read.caller, read.receiver, read.server] == fields, "C1 of another call was taken")

    wide = Caller(material.parties(), material.identity("alice"), [HYBRID, SWIFT], seeded("C1"))
    return Harness(attack, [genuine, wide.start()])


def _c2_form() -> Harness:
    return Harness(_C2.parse_untrusted, [material.receiver()[1]])


def _receive_c2(data: bytes) -> Caller:
    alice = material.caller()
    alice.receive_c2_untrusted(data)
    return alice


def _c2_insider() -> Harness:
    """The core of C2, signed by the receiver."""
    genuine = _C2.parse_untrusted(material.receiver()[1]).core
    c1, bob = material.caller().start(), material.identity("bob")

    def attack(data: bytes) -> None:
        signed = bob.sign(labels.SIG_C2, hash_labelled(labels.TH_C2, vec24(c1), vec24(data)))
        alice = _receive_c2(data + write_signatures(signed))
        require(len(alice.peer_ratchet) == len(material.ratchet_keys().public), "the peer's ratchet is incomplete")

    return Harness(attack, [genuine])


def _receive_c3(bob: Receiver, data: bytes) -> None:
    waiting = copy.copy(bob)
    waiting._temporary = material.temporary(name="chat")
    waiting.receive_c3_untrusted(data)


def _c3() -> Harness:
    bob, _ = material.receiver()
    return Harness(partial(_receive_c3, bob), [material.recording()["c3"]])


def _c3_insider() -> Harness:
    """The signatures in C3, sealed under the key that a caller has."""
    (bob, c2), c3 = material.receiver(), Reader(material.recording()["c3"])
    encapsulated, sealed = c3.vec16(), c3.vec16()
    transcript = material.c3_transcript(c2, encapsulated)
    key = expand_label(material.chat_prk(encapsulated), labels.C3_AUTH, transcript, HandshakeKey)

    def attack(data: bytes) -> None:
        _receive_c3(bob, vec16(encapsulated) + vec16(seal_once(key, data, transcript)))

    return Harness(attack, [open_once(key, sealed, transcript)])


def _c4() -> Harness:
    alice, genuine = material.caller_before_c4()
    return Harness(lambda data: copy.copy(alice).receive_c4_untrusted(data), [genuine])


# Ratchets ---------------------------------------------------------------------------------------------------------


def copied(ratchet: Ratchet) -> Ratchet:
    other = copy.copy(ratchet)
    other._skipped = dict(ratchet._skipped)
    return other


def _state_of(ratchet: Ratchet) -> object:
    return ratchet._state, dict(ratchet._skipped)


def _decrypt(ratchet: Ratchet, data: bytes) -> None:
    tried = copied(ratchet)
    with same_after_refusal(partial(_state_of, tried)):
        tried.decrypt_untrusted(data, 0.0)
    with same_after_refusal(partial(_state_of, tried)):
        try:
            tried.decrypt_untrusted(data, 0.0)
        except Undecryptable:
            return
    require(False, "one message was opened twice")


def _first() -> Harness:
    """Before the first message: each opens a new turn."""
    return Harness(partial(_decrypt, material.bobs_ratchet()), material.recording()["ratchet"])


def _later() -> Harness:
    """Two messages came, one between them is missing: the chain, the kept key and a new turn are all within reach."""
    messages = material.recording()["ratchet"]
    ratchet = material.bobs_ratchet()
    ratchet.decrypt_untrusted(messages[0], 0.0)
    ratchet.decrypt_untrusted(messages[2], 0.0)
    harness = Harness(partial(_decrypt, ratchet), [messages[1], messages[3]])
    for repeated in (messages[0], messages[2]):
        try:
            harness.attack(repeated)
        except Undecryptable:
            continue
        require(False, "a message was opened again")
    return harness


def _ratchet_insider() -> Harness:
    """`header | plaintext` of the first message, sealed with the key that its header leads to: a peer who lies."""
    seeds = []
    for message, text in zip(material.recording()["ratchet"][:2], (None, "hello"), strict=True):
        size = len(message) - len(_parse_untrusted(message)[1])
        seeds.append(message[:size] + Envelope(bytes(16), 0, text).encode())

    def attack(data: bytes) -> None:
        ratchet = material.bobs_ratchet()
        try:
            header, plaintext = _parse_untrusted(data)
            own = material.ratchet_keys()
            shared = own.decapsulate_untrusted(header.dh, header.ciphertext)
        except Malformed:
            raise Undecryptable from None
        _, chain = kdf_root(RootKey(material.drawn("root")), shared, header.keys)
        for _ in range(min(header.counter, 1001)):
            _, chain = kdf_chain(chain)
        sealed = _seal(kdf_chain(chain)[0], header, plaintext, vec8(b"alice"), material.drawn("associated"))
        with same_after_refusal(partial(_state_of, ratchet)):
            opened = ratchet.decrypt_untrusted(sealed, 0.0)
        require(opened.plaintext == plaintext and ratchet.skipped_count <= MAX_SKIPPED_SESSION, "it opened wrongly")
        answer = ratchet.encrypt(b"", seeded("answer"))
        require(len(answer) == len(data) - len(plaintext) + 16, "no answer can be given")

    return Harness(attack, seeds)


def _session() -> ChatSession:
    session = ChatSession.__new__(ChatSession)
    session.suite, session._random = SWIFT, seeded("session")
    return session


def _session_insider() -> Harness:
    """The padded envelope, sealed by the peer."""
    sender = material.alices_ratchet()
    first, seeds = sender.encrypt(Envelope(bytes(16), 0).encode(), seeded("first")), _envelopes()
    bob = material.bobs_ratchet()
    bob.decrypt_untrusted(first, 0.0)

    def attack(data: bytes) -> None:
        alice, session = copied(sender), _session()
        session._ratchet = copied(bob)
        received = session.open_untrusted(alice.encrypt(data, seeded("salt")), 0.0)
        require(received.missing == 0 and not received.late, "messages are missing that nobody sent")

    return Harness(attack, seeds)


def _envelopes() -> list[bytes]:
    texts = (None, "", "hello", "é" * 200, "x" * 143)
    plain = [Envelope(material.drawn(f"{n}", 16), n, text) for n, text in enumerate(texts)]
    one, two = material.drawn("one", 16), material.drawn("two", 16)
    notes = [
        Envelope(one, 1, receipts=()),
        Envelope(one, 2, receipts=(one, two), read=(two,), resend=(one,)),
        Envelope(one, 3, "hello", reply_to=two, expire_s=3600, edits=one),
        Envelope(one, 4, react=(two, "\u2764\ufe0f"), group=one + b"later"),
    ]
    return [envelope.encode() for envelope in (*plain, *notes)]


def _envelope() -> Harness:
    def attack(data: bytes) -> None:
        envelope = Envelope.parse_untrusted(data)
        require(Envelope.parse_untrusted(envelope.encode()) == envelope, "what was read is written as something else")
        require(envelope.text is None or len(envelope.text.encode()) <= MAX_TEXT_BYTES, "a text is too long")

    return Harness(attack, _envelopes())


# Live checks ------------------------------------------------------------------------------------------------------


def _sas_steps(r_a: bytes) -> list[bytes]:
    return [b"\x01" + commitment(r_a), b"\x03" + r_a, b"\x04\x01", b"\x02" + r_a, b"\x04\x00"]


def _sas_run() -> Harness:
    """`u8 who begins`, then the peer's messages, each with `u8` length: what was not committed to is never shown."""
    commit, opening, yes, reply, no = _sas_steps(material.drawn("r_a"))

    def attack(data: bytes) -> None:
        own, peer = (bytes(32), bytes([1] * 32)) if data[:1] > b"\x7f" else (bytes([1] * 32), bytes(32))
        check = LiveCheck(ExporterSecret(material.drawn("X")), own, peer, seeded("sas"))
        if data[:1] and data[0] & 1:
            check.start()
        rest, committed = data[1:], b""
        while rest:
            message = SasMessage.parse_untrusted(rest[1 : 1 + rest[0]])
            rest = rest[1 + rest[0] :]
            reaction = check.receive_untrusted(message)
            committed = message.data if message.step == 1 else committed
            opened = message.step == 2 or commitment(message.data) == committed
            require(not reaction.numbers or opened, "something was shown without a commitment")
            require(check.runs <= MAX_RUNS, "more runs than a chat has")

    rows = ((0, commit, opening, yes), (0, commit, opening, no), (1, reply, yes), (129, commit, reply, no))
    return Harness(attack, [bytes([who]) + b"".join(map(vec8, steps)) for who, *steps in rows])


# Conversations ----------------------------------------------------------------------------------------------------


def _conversation(user: str) -> Conversation:
    peer = "bob" if user == "alice" else "alice"
    return Conversation(
        user=user,
        peer=peer,
        bundle=material.identity(peer).bundle,
        parties=material.parties(),
        identity=material.identity(user),
        suites=[SWIFT],
        random=seeded("C1" if user == "alice" else "C2"),
    )


def _as_receiver() -> Harness:
    """Every `frwd` of a call in a row, each behind `u24` length: nothing but the caller's own messages make a chat."""
    c1, c3 = b"\x01" + material.caller().start(), b"\x03" + material.recording()["c3"]
    first, hello = [b"\x05" + message for message in material.recording()["chat messages"]]

    def attack(data: bytes) -> None:
        bob = _conversation("bob")
        for content in _split(data):
            step = bob.receive_untrusted(content, 0, 0.0)
            if isinstance(step, NeedKey):  # as `offer`, but with the keys that the recording is for
                bob._ratchet_keys, bob._expected = material.ratchet_keys(), 3
                assert bob._receiver is not None
                bob._receiver.offer(material.temporary(name="chat"), material.ratchet_keys())
            elif step.received is not None:
                require(content in (first, hello), "a message was taken that nobody sent")
            require(bob.secure == (content in (first, hello)), "a chat is secure by itself, or is not")

    rows = ([c1], [c1, c3], [c1, c3, first], [c1, c3, first, hello])
    return Harness(attack, [b"".join(map(vec24, row)) for row in rows])


def _as_caller() -> Harness:
    (_, c2), (_, c4) = material.receiver(), material.caller_before_c4()
    c2, c4 = b"\x02" + c2, b"\x04" + c4

    def attack(data: bytes) -> None:
        alice = _conversation("alice")
        alice.start()
        for content in _split(data):
            alice.receive_untrusted(content, 0, 0.0)
        require(not alice.secure, "a chat is secure with an old C4")  # this alice has drawn another key for her C3

    return Harness(attack, [vec24(c2)])


def _live_chat(content: bytes) -> LiveChat:
    """Bob's, over an account in memory; `content` was the first message."""
    database = sqlite3.connect(":memory:", isolation_level=None)
    apply_schemas(database, schemas("account"))
    trust = Trust(database, "bob", material.identity("bob").bundle, lambda: 0)
    account = Account("bob", material.identity("bob"), material.root(), trust, "chat.example")
    log = SimpleNamespace(note=lambda: b"", kept=False, alarm="")
    host = SimpleNamespace(ended=None)
    bob = _conversation("bob")
    bob.receive_untrusted(b"\x01" + material.caller().start(), 0, 0.0)
    bob._ratchet_keys, bob._expected = material.ratchet_keys(), 3
    assert bob._receiver is not None
    bob._receiver.offer(material.temporary(name="chat"), material.ratchet_keys())
    bob.receive_untrusted(b"\x03" + material.recording()["c3"], 0, 0.0)
    step = bob.receive_untrusted(content, 0, 0.0)
    assert isinstance(step, Step)
    assert step.received is not None
    context = ClientContext(account, "chat.example", seeded("mail"), lambda: 0)
    mail = Mailing(host, context, log)  # type: ignore[arg-type]
    live = LiveChat(mail, Messages(database, "chat.example", "bob", lambda: 0, seeded("ids")), bob)
    live.hear_first(step.received)
    return live


def _live() -> Harness:
    """What comes by `frwd` in a secure chat: what does not open leaves no trace on the disk or in the ratchet."""
    first, hello = [b"\x05" + message for message in material.recording()["chat messages"]]
    chats = [_live_chat(first)]

    def attack(data: bytes) -> None:
        live = chats[0]
        with same_after_refusal(lambda: [live._stored.session.encode(), live._mail.database.total_changes]):  # type: ignore[attr-defined]
            live.hear_untrusted(data)
        require(data == hello, "a message was taken that nobody sent")
        chats[0] = _live_chat(first)

    return Harness(attack, [hello])


def _split(data: bytes) -> list[bytes]:
    """Lengths and contents; a length that is too long takes what there is."""
    found = []
    while data:
        size = int.from_bytes(data[:3], "big")
        found.append(data[3 : 3 + size])
        data = data[3 + size :]
    return found


_FAILED = (ExchangeFailed,)
_CLOSED = (Undecryptable,)
_MALFORMED = (Malformed,)

TARGETS = (
    Target("c1-form", lambda: form(C1.parse_untrusted, [material.caller().start()], exact=False), _MALFORMED),
    Target("c2-form", _c2_form, _MALFORMED),
    Target("chat-c1", _c1, _FAILED),
    Target("chat-c2", lambda: Harness(_receive_c2, [material.receiver()[1]]), _FAILED, sealed=True, mutations=20_000),
    Target("chat-c2-insider", _c2_insider, _FAILED, mutations=5000),
    Target("chat-c3", _c3, _FAILED, sealed=True),
    Target("chat-c3-insider", _c3_insider, _FAILED, sealed=True, mutations=5000),
    Target("chat-c4", _c4, _FAILED, sealed=True),
    Target("ratchet-first", _first, _CLOSED, sealed=True, mutations=15_000),
    Target("ratchet-later", _later, _CLOSED, sealed=True),
    Target("ratchet-insider", _ratchet_insider, _CLOSED, mutations=3000),
    Target("sas-form", lambda: form(SasMessage.parse_untrusted, _sas_steps(bytes(32)), exact=True), _MALFORMED),
    Target("sas-run", _sas_run, (CheckFailed, Malformed), mutations=20_000),
    Target("envelope-form", _envelope, _MALFORMED),
    Target("envelope-insider", _session_insider, _CLOSED, mutations=20_000),
    Target("live-chat", _live, _CLOSED, sealed=True, mutations=3000),
    Target("conversation-of-the-caller", _as_caller, _FAILED, mutations=5000),
    Target("conversation-of-the-receiver", _as_receiver, (*_FAILED, *_CLOSED), mutations=5000),
)
