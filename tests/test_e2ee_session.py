"""One chat: texts in, sealed messages out, and back."""

import os
from dataclasses import replace

import pytest

from messageapp.e2ee.envelope import MAX_TEXT_BYTES
from messageapp.e2ee.exchange import ExchangeFailed
from messageapp.e2ee.ratchet import Undecryptable
from messageapp.e2ee.session import ChatSession
from messageapp.errors import MessageTooLong
from messageapp.wire.records import MAX_ARGUMENT
from messageapp_keys.ratchetkeys import RatchetKeys
from support.pair import ChatPair


def test_from_the_exchange_to_a_conversation() -> None:
    alice, bob = ChatPair().sessions()
    for number in range(4):
        sender, receiver = (alice, bob) if number % 2 else (bob, alice)
        received = receiver.open_untrusted(sender.seal(f"text {number}", 1000 + number), 0.0)
        assert (received.envelope.text, received.envelope.time_ms) == (f"text {number}", 1000 + number)
        assert (received.missing, received.late) == (0, False)
    assert alice.suite == bob.suite


def test_the_receiver_waits_for_the_callers_first_message_which_is_not_shown() -> None:
    pair = ChatPair()
    pair.run()
    alice = ChatSession(
        pair.alices_secrets, user="alice", peer="bob", random=os.urandom, peer_ratchet=pair.caller.peer_ratchet
    )
    bob = ChatSession(pair.bobs_secrets, user="bob", peer="alice", random=os.urandom, own_ratchet=pair.ratchet)
    assert (alice.can_send, bob.can_send) == (True, False)
    received = bob.open_untrusted(alice.seal(None, 0), 0.0)
    assert received.envelope.text is None
    assert bob.can_send


def test_a_gap_is_reported_and_a_late_message_marked() -> None:
    alice, bob = ChatPair().sessions()
    lost, next_one = alice.seal("lost", 0), alice.seal("next", 0)
    assert bob.open_untrusted(next_one, 0.0).missing == 1
    late = bob.open_untrusted(lost, 0.0)
    assert (late.envelope.text, late.late) == ("lost", True)
    with pytest.raises(Undecryptable):
        bob.open_untrusted(lost, 0.0)


def test_ids_are_fresh() -> None:
    alice, bob = ChatPair().sessions()
    ids = {bob.open_untrusted(alice.seal("same", 0), 0.0).envelope.id for _ in range(5)}
    assert len(ids) == 5


def test_the_longest_text_fits_a_record_and_a_longer_one_changes_nothing() -> None:
    alice, bob = ChatPair().sessions()
    message = alice.seal("x" * MAX_TEXT_BYTES, 0)
    assert len(message) + 1 <= MAX_ARGUMENT
    with pytest.raises(MessageTooLong):
        alice.seal("x" * (MAX_TEXT_BYTES + 1), 0)
    assert bob.open_untrusted(message, 0.0).envelope.text == "x" * MAX_TEXT_BYTES
    assert bob.open_untrusted(alice.seal("after", 0), 0.0).missing == 0


def test_lengths_of_short_texts_are_equal() -> None:
    alice, _ = ChatPair().sessions()
    assert len({len(alice.seal("x" * size, 0)) for size in range(100)}) == 1


def test_a_chat_with_the_peers_bad_ratchet_keys_does_not_start() -> None:
    pair = ChatPair()
    pair.run()
    for public in (bytes(32) + pair.ratchet.ek, pair.ratchet.dh + b"\xff" * 1184, b""):
        with pytest.raises(ExchangeFailed):
            ChatSession(pair.alices_secrets, user="alice", peer="bob", random=os.urandom, peer_ratchet=public)


def test_two_chats_of_the_same_two_do_not_mix() -> None:
    first, second = ChatPair().sessions(), ChatPair().sessions()
    message = first[0].seal("text", 0)
    with pytest.raises(Undecryptable):
        second[1].open_untrusted(message, 0.0)
    assert first[1].open_untrusted(message, 0.0).envelope.text == "text"


def test_other_secrets_other_names_or_other_data_do_not_open() -> None:
    pair = ChatPair()
    pair.run()
    secrets = pair.bobs_secrets
    alice = ChatSession(
        pair.alices_secrets, user="alice", peer="bob", random=os.urandom, peer_ratchet=pair.caller.peer_ratchet
    )
    message = alice.seal("text", 0)
    wrong = [
        ChatSession(secrets, user="bob", peer="mallory", random=os.urandom, own_ratchet=pair.ratchet),
        ChatSession(secrets, user="bob", peer="alice", random=os.urandom, own_ratchet=RatchetKeys()),
        ChatSession(
            replace(secrets, associated_data=bytes(32)),
            user="bob",
            peer="alice",
            random=os.urandom,
            own_ratchet=pair.ratchet,
        ),
    ]
    for bob in wrong:
        with pytest.raises(Undecryptable):
            bob.open_untrusted(message, 0.0)


def test_a_message_that_opens_to_no_envelope_is_undecryptable() -> None:
    alice, bob = ChatPair().sessions()
    with pytest.raises(Undecryptable):
        bob.open_untrusted(alice._ratchet.encrypt(b"no envelope", os.urandom), 0.0)
    assert bob.open_untrusted(alice.seal("after", 0), 0.0).envelope.text == "after"
