"""Ratchets and chats at rest: the bytes, what is refused, and what comes back. `properties/` has random schedules."""

import os
import struct

import pytest

from messageapp.e2ee.envelope import Envelope
from messageapp.e2ee.ratchet import MAX_SKIPPED_SESSION, SKIPPED_SECONDS, Ratchet, Undecryptable, sid_of_untrusted
from messageapp.e2ee.session import ChatSession
from messageapp_keys.codec import Malformed, u16, u32, vec8
from messageapp_keys.ratchetkeys import RatchetKeys
from support.pair import ChatPair, ratchets


def stored(of: Ratchet) -> Ratchet:
    return Ratchet.decode(of.encode(), of.binding)


def say(sender: Ratchet, text: bytes = b"text") -> bytes:
    return sender.encrypt(text, os.urandom)


def with_gap() -> tuple[Ratchet, Ratchet, list[bytes]]:
    """(alice, bob, two messages that bob misses): both have sent and received."""
    alice, bob = ratchets()
    bob.decrypt_untrusted(say(alice), 0.0)
    alice.decrypt_untrusted(say(bob), 0.0)
    missing = [say(alice, b"first"), say(alice, b"second")]
    bob.decrypt_untrusted(say(alice), 12.5)
    return alice, bob, missing


# Ratchets ---------------------------------------------------------------------------------------------------------


def test_the_bytes() -> None:
    _, bob, _ = with_gap()
    state = bob._state
    assert state.sending is not None
    assert state.receiving is not None
    head = b"\1" + state.root.expose() + u32(state.previous) + b"\6"
    sending = state.sending.keys.private_bytes() + state.sending.ciphertext + state.sending.chain.expose() + u32(0)
    receiving = state.receiving.dh + state.receiving.chain.expose() + u32(3)
    kept = [
        dh + u32(number) + key.expose() + struct.pack(">d", 12.5) for (dh, number), (key, _) in bob._skipped.items()
    ]
    assert bob.encode() == head + sending + receiving + u16(2) + b"".join(kept)


def test_every_role_and_moment_comes_back() -> None:
    alice, bob = ratchets()
    alice, bob = stored(alice), stored(bob)
    assert (alice.can_send, bob.can_send) == (True, False)
    for number in range(4):
        bob.decrypt_untrusted(say(alice, b"a%d" % number), 0.0)
        alice, bob = stored(alice), stored(bob)
        assert alice.decrypt_untrusted(say(bob), 0.0).plaintext == b"text"
        alice, bob = stored(alice), stored(bob)
    assert alice.begins_turn
    assert stored(alice).begins_turn


def test_missing_messages_are_still_expected_until_they_are_too_old() -> None:
    _, bob, (first, second) = with_gap()
    again = stored(bob)
    assert again.skipped_count == 2
    opened = again.decrypt_untrusted(first, 12.5 + SKIPPED_SECONDS)
    assert (opened.plaintext, opened.late) == (b"first", True)
    with pytest.raises(Undecryptable):
        again.decrypt_untrusted(second, 12.5 + SKIPPED_SECONDS + 0.1)
    for replayed in (first, first):
        with pytest.raises(Undecryptable):
            stored(again).decrypt_untrusted(replayed, 13.0)


def test_a_ratchet_is_bound_to_its_session_and_names() -> None:
    alice, bob, _ = with_gap()
    message = say(alice)
    wrong = Ratchet.decode(bob.encode(), alice.binding)  # as if bob were alice
    with pytest.raises(Undecryptable):
        wrong.decrypt_untrusted(message, 13.0)


def test_the_size() -> None:
    """What is written with every step."""
    alice, bob, _ = with_gap()
    assert len(alice.encode()) < 1500
    assert len(bob.encode()) == len(alice.encode()) + 2 * 76


def test_the_most_that_is_kept_comes_back() -> None:
    alice, bob = ratchets()
    bob.decrypt_untrusted(say(alice), 0.0)
    for _ in range(2):
        for _ in range(1000):
            say(alice)
        bob.decrypt_untrusted(say(alice), 0.0)
    assert bob.skipped_count == MAX_SKIPPED_SESSION
    full = bob.encode()
    assert stored(bob).encode() == full
    one_more = full.replace(u16(MAX_SKIPPED_SESSION), u16(MAX_SKIPPED_SESSION + 1), 1) + full[-76:]
    with pytest.raises(Malformed, match="more keys"):
        Ratchet.decode(one_more, bob.binding)


def test_anything_else_is_malformed() -> None:
    _, bob, _ = with_gap()
    data = bob.encode()
    flags, kept = 1 + 32 + 4, data[-76:]
    wrong = [
        b"",
        b"\2" + data[1:],
        data + b"\0",
        data[:-152] + kept + kept,
        data[:-8] + struct.pack(">d", float("nan")),
        data[:-8] + struct.pack(">d", float("inf")),
        *(data[:size] for size in range(1, len(data), 37)),
        *(data[:flags] + bytes([value]) + data[flags + 1 :] for value in range(256) if value != data[flags]),
    ]
    for each in wrong:
        with pytest.raises(Malformed):
            Ratchet.decode(each, bob.binding)


def test_flags_that_nobody_writes_with_all_their_bytes() -> None:
    """Both halves of the receiver at once; neither; an answer to nobody."""
    _, bob, _ = with_gap()
    data, own = bob.encode(), RatchetKeys().private_bytes()
    flags, head, sending = 37, data[:37], data[38 : 38 + 96 + 1088 + 32 + 4]
    receiving = data[38 + len(sending) : 38 + len(sending) + 68]
    assert data[flags] == 6
    for number, parts in ((0, b""), (3, own + sending), (4, receiving), (5, own + receiving), (7, own + data[38:-154])):
        with pytest.raises(Malformed, match="do not fit together"):
            Ratchet.decode(head + bytes([number]) + parts + u16(0), bob.binding)


def test_snapshots_are_as_often_as_wanted() -> None:
    alice, bob, (first, _) = with_gap()
    before = bob.snapshot()
    for _ in range(3):
        assert bob.decrypt_untrusted(first, 13.0).plaintext == b"first"
        assert bob.skipped_count == 1
        bob.restore(before)
        assert bob.skipped_count == 2
    message = say(bob)
    bob.restore(before)
    assert alice.decrypt_untrusted(message, 0.0).plaintext == b"text"


def test_neither_snapshot_nor_state_shows_a_key() -> None:
    _, bob, _ = with_gap()
    assert repr(bob.snapshot()) == "Snapshot()"


def test_the_session_of_a_message() -> None:
    alice, _ = ratchets()
    message = say(alice)
    assert sid_of_untrusted(message) == alice.binding.chat_id
    sid_of_untrusted(message[: 2349 + 16])
    for short in (b"", message[:8], message[: 2349 + 15]):
        with pytest.raises(Malformed):
            sid_of_untrusted(short)


# Chats ------------------------------------------------------------------------------------------------------------


def reopened(of: ChatSession, checkpoint: bytes = b"") -> ChatSession:
    return ChatSession.decode(of.encode(), random=os.urandom, checkpoint=lambda: checkpoint)


def test_a_chat_outlives_its_programs() -> None:
    alice, bob = ChatPair().sessions()
    for number in range(3):
        alice, bob = reopened(alice), reopened(bob)
        assert bob.open_untrusted(alice.seal(f"a{number}", 0), 0.0).envelope.text == f"a{number}"
        assert alice.open_untrusted(bob.seal(f"b{number}", 0), 0.0).envelope.text == f"b{number}"
    assert (alice.user, alice.peer, alice.chat_id) == ("alice", "bob", bob.chat_id)
    assert alice.suite == bob.suite


def test_the_bytes_of_a_chat() -> None:
    pair = ChatPair()
    alice, _ = pair.sessions()
    ad, sid = pair.parties.associated_data(), pair.alices_secrets.chat_id
    binding = b"\1" + u16(alice.suite.code) + sid + ad + vec8(b"alice") + vec8(b"bob")
    assert alice.encode() == binding + alice._ratchet.encode()


def test_another_form_of_a_chat_is_malformed() -> None:
    data = ChatPair().sessions()[0].encode()
    for wrong in (b"", b"\2" + data[1:], data[:1] + u16(9) + data[3:], data[:60], data + b"\0", data[:43] + b"\xff"):
        with pytest.raises(Malformed):
            ChatSession.decode(wrong, random=os.urandom)


def test_a_step_that_could_not_be_stored_is_taken_back() -> None:
    alice, bob = ChatPair().sessions()
    before = alice.snapshot()
    alice.seal("not stored", 0)
    alice.restore(before)
    message = alice.seal("stored", 0)
    before = bob.snapshot()
    bob.open_untrusted(message, 0.0)
    bob.restore(before)
    received = bob.open_untrusted(message, 0.0)
    assert (received.envelope.text, received.missing) == ("stored", 0)


def test_an_envelope_is_sealed_as_it_is_with_the_checkpoint_where_a_turn_begins() -> None:
    pair = ChatPair()
    alice, bob = (reopened(each, b"note") for each in pair.sessions())
    note = Envelope(bytes(range(16)), 5, "hi", reply_to=bytes(16), receipts=())
    first, second = (alice.open_untrusted(bob.seal_envelope(note), 0.0).envelope for _ in range(2))
    assert (first.checkpoint, second.checkpoint) == (b"note", b"")
    assert second == note
    assert (first.id, first.receipts, first.reply_to) == (note.id, (), bytes(16))
