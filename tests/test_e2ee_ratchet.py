"""The ratchet: what it binds, what it forgets, and where it stops.

A hostile network with random schedules is in `properties/test_ratchet_network.py`.
"""

import copy
import hmac
import os
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric import mlkem, x25519
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st

from messageapp.e2ee import ratchet
from messageapp.e2ee.ratchet import (
    MAX_SKIPPED_CHAIN,
    MAX_SKIPPED_SESSION,
    SKIPPED_SECONDS,
    Binding,
    Ratchet,
    Undecryptable,
)
from messageapp_keys.codec import Malformed
from messageapp_keys.ratchetkeys import RatchetKeys, kdf_chain
from messageapp_keys.types import ChainKey, MessageKey, RootKey
from support.keys import seeded
from support.pair import expand, ratchets

HEADER = 8 + 1 + 32 + 1184 + 1088 + 16 + 4 + 16
PLACES = {
    "chat id": 0,
    "version": 8,
    "dh": 9,
    "ek": 41,
    "ct": 41 + 1184,
    "counter": 2313,
    "counter, bytes 4 to 11": 2313 + 4,
    "counter, bytes 12 to 15": 2313 + 12,
    "pn": 2313 + 16,
    "salt": 2313 + 20,
    "tag": HEADER,
    "text": HEADER + 16,
}


def say(sender: Ratchet, text: bytes = b"text") -> bytes:
    return sender.encrypt(text, os.urandom)


def hear(receiver: Ratchet, message: bytes, now: float = 0.0) -> bytes:
    return receiver.decrypt_untrusted(message, now).plaintext


def refused(receiver: Ratchet, message: bytes, now: float = 0.0) -> None:
    with pytest.raises(Undecryptable) as failed:
        receiver.decrypt_untrusted(message, now)
    assert str(failed.value) == "a message could not be decrypted"


def snapshot(of: Ratchet) -> Ratchet:
    """A copy as a thief of the memory has it: states are immutable, only the skipped keys are a dict."""
    taken = copy.copy(of)
    taken._skipped = dict(of._skipped)
    return taken


def state_of(of: Ratchet) -> tuple[object, ...]:
    return (of._state, dict(of._skipped))


def talking() -> tuple[Ratchet, Ratchet]:
    """Both have sent and received."""
    alice, bob = ratchets()
    hear(bob, say(alice))
    hear(alice, say(bob))
    return alice, bob


# What works -------------------------------------------------------------------------------------------------------


def test_a_conversation() -> None:
    alice, bob = ratchets()
    for number in range(6):
        sender, receiver = (alice, bob) if number % 2 == 0 else (bob, alice)
        for text in (b"%d a" % number, b"%d b" % number):
            opened = receiver.decrypt_untrusted(say(sender, text), 0.0)
            assert (opened.plaintext, opened.missing, opened.late) == (text, 0, False)
    assert alice.skipped_count == bob.skipped_count == 0


def test_the_receiver_of_the_call_speaks_second() -> None:
    alice, bob = ratchets()
    assert (alice.can_send, bob.can_send) == (True, False)
    with pytest.raises(RuntimeError):
        say(bob)
    hear(bob, say(alice))
    assert bob.can_send


def test_both_at_once() -> None:
    alice, bob = talking()
    from_alice, from_bob = say(alice, b"a"), say(bob, b"b")
    assert hear(bob, from_alice) == b"a"
    assert hear(alice, from_bob) == b"b"
    assert hear(bob, say(alice, b"c")) == b"c"
    assert hear(alice, say(bob, b"d")) == b"d"


def test_every_turn_has_new_keys_of_both_kinds() -> None:
    alice, bob = ratchets()
    seen = set()
    for _ in range(3):
        for sender, receiver in ((alice, bob), (bob, alice)):
            message = say(sender)
            hear(receiver, message)
            seen |= {message[9:41], message[41 : 41 + 1184], message[41 + 1184 : 2313]}
    assert len(seen) == 18


def test_the_first_message_by_hand() -> None:
    """The caller's side written again (protocol §10): her turn towards keys whose private halves are here."""
    x, m = x25519.X25519PrivateKey.generate(), mlkem.MLKEM768PrivateKey.generate()
    public = x.public_key().public_bytes_raw() + m.public_key().public_bytes_raw()
    root = os.urandom(32)
    alice = Ratchet.for_caller(RootKey(root), public, Binding(b"chat id.", b"AD" * 16, "alice", "bob"))
    say(alice)
    message = alice.encrypt(b"second", seeded(1))
    header, sealed = message[:HEADER], message[HEADER:]
    assert header[:9] == b"chat id.\x02"
    dh, ek, ct = header[9:41], header[41:1225], header[1225:2313]
    counter, previous, salt = header[2313:2329], header[2329:2333], header[2333:]
    assert (counter, previous, salt) == (b"\x01" + bytes(15), bytes(4), seeded(1)(16))

    from hashlib import sha256

    secrets = x.exchange(x25519.X25519PublicKey.from_public_bytes(dh)) + m.decapsulate(ct)
    info = b"MessageApp v2 ratchet" + sha256(dh + ek + ct).digest()
    prk = hmac.digest(root, secrets, "sha256")
    first = hmac.digest(prk, info + b"\x01", "sha256")
    chain = hmac.digest(prk, first + info + b"\x02", "sha256")
    chain = hmac.digest(chain, b"\x02", "sha256")
    key = expand(hmac.digest(chain, b"\x01", "sha256"), b"msg", salt)
    associated = b"\x05alice" + counter + header + b"AD" * 16
    assert AESGCM(key).decrypt(counter[:12], sealed[16:] + sealed[:16], associated) == b"second"


# Order ------------------------------------------------------------------------------------------------------------


def test_a_message_opens_once() -> None:
    alice, bob = ratchets()
    message = say(alice)
    hear(bob, message)
    refused(bob, message)
    hear(alice, say(bob))
    refused(bob, message)


def test_missing_messages_are_counted_and_open_later_once() -> None:
    alice, bob = ratchets()
    messages = [say(alice, b"%d" % number) for number in range(5)]
    opened = bob.decrypt_untrusted(messages[3], 0.0)
    assert (opened.plaintext, opened.missing, opened.late) == (b"3", 3, False)
    for number in (2, 0, 1):
        late = bob.decrypt_untrusted(messages[number], 0.0)
        assert (late.plaintext, late.missing, late.late) == (b"%d" % number, 0, True)
        refused(bob, messages[number])
    assert bob.decrypt_untrusted(messages[4], 0.0).missing == 0
    assert bob.skipped_count == 0


def test_messages_of_an_earlier_turn_open_later() -> None:
    alice, bob = ratchets()
    old = [say(alice, b"%d" % number) for number in range(3)]
    hear(bob, old[0])
    hear(alice, say(bob))
    opened = bob.decrypt_untrusted(say(alice, b"new"), 0.0)
    assert (opened.plaintext, opened.missing) == (b"new", 2)
    assert hear(bob, old[2]) == b"2"
    assert hear(bob, old[1]) == b"1"


def test_every_message_of_a_turn_says_how_long_the_turn_before_was() -> None:
    """Also after others of the turn were sent and received: what comes first tells of all that is missing."""
    alice, bob = ratchets()
    hear(bob, say(alice))
    lost = [say(alice, b"one"), say(alice, b"two")]
    first, second = say(bob), say(bob)
    hear(alice, first)
    say(alice)
    hear(alice, second)
    opened = bob.decrypt_untrusted(say(alice), 0.0)
    assert opened.missing == 3
    assert [hear(bob, message) for message in lost] == [b"one", b"two"]


def test_a_message_may_be_empty() -> None:
    alice, bob = ratchets()
    assert hear(bob, say(alice, b"")) == b""


def test_a_message_goes_to_the_other_side_only() -> None:
    alice, bob = talking()
    message = say(alice)
    refused(alice, message)
    assert hear(bob, message) == b"text"


# A stranger's message changes nothing -----------------------------------------------------------------------------


@pytest.mark.parametrize("place", list(PLACES))
@pytest.mark.parametrize("turn", ["first", "same", "new"])
def test_any_changed_field_is_refused_and_changes_nothing(place: str, turn: str) -> None:
    alice, bob = ratchets()
    if turn != "first":
        alice, bob = talking()
    if turn == "same":
        hear(bob, say(alice))
    message = say(alice, b"the text")
    before = state_of(bob)
    for bit in (0x01, 0x80):
        changed = bytearray(message)
        changed[PLACES[place]] ^= bit
        refused(bob, bytes(changed))
    assert state_of(bob) == before
    assert hear(bob, message) == b"the text"


@pytest.mark.parametrize("cut", [0, 8, 9, HEADER - 1, HEADER, HEADER + 15, -1])
def test_a_cut_message_is_refused(cut: int) -> None:
    alice, bob = ratchets()
    message = say(alice)
    refused(bob, message[:cut])
    refused(bob, message + b"\0")
    assert hear(bob, message) == b"text"


def test_the_header_of_one_message_on_the_body_of_another() -> None:
    alice, bob = talking()
    first, second = say(alice, b"first"), say(alice, b"second")
    refused(bob, first[:HEADER] + second[HEADER:])
    refused(bob, second[:HEADER] + first[HEADER:])
    assert hear(bob, first) == b"first"
    refused(bob, first[:HEADER] + second[HEADER:])
    assert hear(bob, second) == b"second"


def test_a_forgery_for_a_missing_message_leaves_its_key() -> None:
    alice, bob = talking()
    lost = say(alice, b"lost")
    hear(bob, say(alice))
    refused(bob, lost[:-1] + bytes((lost[-1] ^ 1,)))
    assert bob.skipped_count == 1
    assert hear(bob, lost) == b"lost"


@settings(max_examples=40)
@given(st.binary(max_size=100), st.binary(max_size=40))
def test_garbage_is_refused(garbage: bytes, sealed: bytes) -> None:
    _, bob = ratchets()
    refused(bob, garbage)
    refused(bob, b"chat id.\x02" + garbage)
    refused(bob, b"chat id.\x02" + os.urandom(HEADER - 9) + sealed)
    refused(bob, b"chat id.\x02" + os.urandom(32 + 1184 + 1088) + bytes(36) + sealed)


def test_a_low_order_point_is_refused() -> None:
    alice, bob = ratchets()
    message = say(alice)
    refused(bob, message[:9] + bytes(32) + message[41:])


def test_a_session_does_not_start_with_bad_keys() -> None:
    binding = Binding(b"chat id.", b"", "alice", "bob")
    good = RatchetKeys().public
    for public in (bytes(32) + good[32:], good[:32] + b"\xff" * 1184, good[:-1], b""):
        with pytest.raises(Malformed):
            Ratchet.for_caller(RootKey(bytes(32)), public, binding)


@pytest.mark.parametrize("field", ["chat_id", "associated_data", "user", "peer"])
def test_every_message_is_bound_to_the_chat_and_both_names(field: str) -> None:
    keys, root = RatchetKeys(), RootKey(os.urandom(32))
    binding = Binding(b"chat id.", b"AD", "alice", "bob")
    wrong = {"chat_id": b"chat it.", "associated_data": b"ad", "user": "mallory", "peer": "mallory"}
    alice = Ratchet.for_caller(root, keys.public, replace(binding, **{field: wrong[field]}))  # type: ignore[arg-type]
    bob = Ratchet.for_receiver(root, keys, Binding(b"chat id.", b"AD", "bob", "alice"))
    message = say(alice)
    if field != "peer":
        refused(bob, message)
    else:  # alice's idea of her peer's name counts for what she receives
        hear(bob, message)
        refused(alice, say(bob))


# Limits -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (MAX_SKIPPED_CHAIN, MAX_SKIPPED_SESSION, SKIPPED_SECONDS) == (1000, 2000, 14 * 24 * 3600)
    monkeypatch.setattr(ratchet, "MAX_SKIPPED_CHAIN", 10)
    monkeypatch.setattr(ratchet, "MAX_SKIPPED_SESSION", 20)


def test_1000_missing_messages_are_bridged_and_1001_are_not() -> None:
    alice, bob = ratchets()
    messages = [say(alice, b"%d" % number) for number in range(1002)]
    before = state_of(bob)
    refused(bob, messages[1001])
    assert state_of(bob) == before
    assert bob.decrypt_untrusted(messages[1000], 0.0).missing == 1000
    assert bob.decrypt_untrusted(messages[1001], 0.0).missing == 0
    assert hear(bob, messages[0]) == b"0"


@pytest.mark.usefixtures("quick")
def test_the_limit_of_a_chain_holds_for_the_end_of_the_turn_before() -> None:
    alice, bob = ratchets()
    hear(bob, say(alice))
    for _ in range(11):
        say(alice)
    hear(alice, say(bob))
    refused(bob, say(alice))


@pytest.mark.usefixtures("quick")
def test_the_limit_of_a_session_is_over_all_turns() -> None:
    alice, bob = ratchets()
    for turn in range(2):
        for _ in range(10):
            say(alice)
        hear(bob, say(alice))
        hear(alice, say(bob))
        assert bob.skipped_count == 10 * (turn + 1)
    lost = say(alice, b"one too many")
    refused(bob, say(alice))
    assert bob.skipped_count == 20
    assert hear(bob, lost) == b"one too many"


def test_the_limit_of_a_session_at_its_real_size() -> None:
    alice, bob = ratchets()
    for _ in range(2):
        for _ in range(MAX_SKIPPED_CHAIN):
            say(alice)
        hear(bob, say(alice))
        hear(alice, say(bob))
    assert bob.skipped_count == MAX_SKIPPED_SESSION
    say(alice)
    refused(bob, say(alice))


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("missing", [0, 1])
def test_the_limit_of_a_session_counts_both_turns_of_one_message(missing: int) -> None:
    """Ten are kept and ten more of the turn before would be: then none of the new turn may be missing."""
    alice, bob = ratchets()
    for _ in range(10):
        say(alice)
    hear(bob, say(alice))
    for _ in range(10):
        say(alice)
    hear(alice, say(bob))
    for _ in range(missing):
        say(alice)
    if missing:
        refused(bob, say(alice))
    else:
        assert bob.decrypt_untrusted(say(alice), 0.0).missing == 10
    assert bob.skipped_count == (10 if missing else 20)


def test_a_counter_has_32_bits() -> None:
    message = say(ratchets()[0])
    for counter, good in ((ratchet._MAX_U32, True), (ratchet._MAX_U32 + 1, False)):
        at = PLACES["counter"]
        changed = message[:at] + counter.to_bytes(16, "little") + message[at + 16 :]
        if good:
            assert ratchet._parse_untrusted(changed)[0].counter == 2**32 - 1
            continue
        with pytest.raises(Malformed):
            ratchet._parse_untrusted(changed)


@pytest.mark.usefixtures("quick")
def test_a_forged_counter_costs_no_more_than_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    alice, bob = talking()
    message = bytearray(say(alice))
    steps: list[ChainKey] = []

    def counted(chain: ChainKey) -> tuple[MessageKey, ChainKey]:
        steps.append(chain)
        return kdf_chain(chain)

    monkeypatch.setattr(ratchet, "kdf_chain", counted)
    message[2313:2317] = b"\xff\xff\xff\xff"
    refused(bob, bytes(message))
    assert steps == []
    message[2313:2317] = b"\x09\x00\x00\x00"
    refused(bob, bytes(message))
    assert len(steps) <= 11


def test_a_missing_message_is_kept_for_14_days() -> None:
    for age, opens in ((SKIPPED_SECONDS, True), (SKIPPED_SECONDS + 1, False)):
        alice, bob = ratchets()
        lost = say(alice, b"lost")
        bob.decrypt_untrusted(say(alice), 1000.0)
        if opens:
            assert hear(bob, lost, 1000.0 + age) == b"lost"
        else:
            refused(bob, lost, 1000.0 + age)
        assert bob.skipped_count == 0


def test_old_keys_are_dropped_when_any_message_opens() -> None:
    """A key of a message that never comes does not stay for as long as the chat does."""
    alice, bob = ratchets()
    say(alice)
    bob.decrypt_untrusted(say(alice), 0.0)
    assert bob.skipped_count == 1
    bob.decrypt_untrusted(say(alice), SKIPPED_SECONDS + 1)
    assert bob.skipped_count == 0


def test_a_key_is_kept_for_exactly_14_days_whatever_the_clock_says() -> None:
    for since in (0.0, 2e9):
        alice, bob = ratchets()
        lost = say(alice, b"lost")
        bob.decrypt_untrusted(say(alice), since)
        bob.decrypt_untrusted(say(alice), since + SKIPPED_SECONDS)
        assert bob.skipped_count == 1
        assert hear(bob, lost, since + SKIPPED_SECONDS) == b"lost"


# Stolen, restored and cloned states -------------------------------------------------------------------------------


def test_the_keys_of_the_exchange_are_dropped_with_the_first_message() -> None:
    alice, bob = ratchets()
    assert bob._state.own is not None
    hear(bob, say(alice))
    assert bob._state.own is None


def test_one_round_trip_heals_a_stolen_state() -> None:
    alice, bob = talking()
    thief = snapshot(bob)
    message = say(alice)
    assert hear(thief, message) == b"text"  # what a theft means
    hear(bob, message)
    hear(alice, say(bob))  # bob's new keys, which the thief has not
    healed = say(alice, b"after the round trip")
    refused(thief, healed)
    assert hear(bob, healed) == b"after the round trip"
    for _ in range(3):
        hear(alice, say(bob))
        healed = say(alice)
        refused(thief, healed)
        hear(bob, healed)


def test_a_thief_of_either_side_is_locked_out_after_one_round_trip() -> None:
    alice, bob = talking()
    thief = snapshot(alice)
    hear(bob, say(alice))
    hear(alice, say(bob))
    hear(bob, say(alice))
    message = say(bob, b"healed")
    refused(thief, message)
    refused(snapshot(thief), message)
    assert hear(alice, message) == b"healed"


def test_earlier_messages_do_not_open_with_a_state_stolen_later() -> None:
    alice, bob = talking()
    earlier = [say(alice), say(alice)]
    for message in earlier:
        hear(bob, message)
    for message in earlier:
        refused(snapshot(bob), message)


def test_a_state_rolled_back_and_used_again_uses_another_key() -> None:
    """The same message key with other plaintext: the salt keeps (key, IV) from being used twice."""
    alice, bob = talking()
    backup = snapshot(alice)
    one, two = alice.encrypt(b"A" * 100, os.urandom), backup.encrypt(b"B" * 100, os.urandom)
    assert one[: HEADER - 16] == two[: HEADER - 16]  # the same place in the same chain
    assert one[HEADER - 16 : HEADER] != two[HEADER - 16 : HEADER]
    body_one, body_two = one[HEADER + 16 :], two[HEADER + 16 :]
    assert bytes(a ^ b for a, b in zip(body_one, body_two, strict=True)) != bytes((ord("A") ^ ord("B"),)) * 100
    assert hear(bob, one) == b"A" * 100
    refused(bob, two)


def test_without_fresh_salt_the_test_above_would_see_it() -> None:
    alice, _ = talking()
    backup = snapshot(alice)
    one, two = alice.encrypt(b"A" * 100, seeded(1)), backup.encrypt(b"B" * 100, seeded(1))
    both = bytes(a ^ b for a, b in zip(one[HEADER + 16 :], two[HEADER + 16 :], strict=True))
    assert both == bytes((ord("A") ^ ord("B"),)) * 100


def test_a_ratchet_shows_its_chat_id_only() -> None:
    alice, bob = talking()
    say(alice)
    hear(bob, say(alice))
    assert repr(bob) == f"<Ratchet {b'chat id.'.hex()}>"
    shown = repr(vars(alice)) + repr(vars(bob))
    states = [alice._state, bob._state]
    secrets = [state.root.expose() for state in states]
    secrets += [state.sending.chain.expose() for state in states if state.sending]
    secrets += [state.receiving.chain.expose() for state in states if state.receiving]
    secrets += [key.expose() for key, _ in bob._skipped.values()]
    assert len(secrets) == 7
    for secret in secrets:
        assert secret.hex() not in shown
        assert repr(secret)[2:-1] not in shown
