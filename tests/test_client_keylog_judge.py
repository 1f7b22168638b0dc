"""The judgement of a key log alone: what is accepted, each refusal by its name, and that a refusal changes nothing."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lies.history import SERVER, History, Reader, log_key, person, server_key
from messageapp.client import keylog
from messageapp.client.keylog import NoteRefused, Own, Verdict
from messageapp.client.lies import KeyRefused, Lie, LogLied, Refusal
from messageapp.client.pins import trace_changes
from messageapp.e2ee.envelope import Envelope
from messageapp.e2ee.session import ChatSession
from messageapp.store.logs import WitnessPolicy, accept_alarm, add_own_key, find_log, save_log, save_policy
from messageapp.wire.keylog_forms import PeerProof
from messageapp_keys.identity import IdentityBundle
from messageapp_keys.keylog import Leaf
from messageapp_keys.merkle import ProofRefused
from messageapp_keys.notes import COSIGNER, Checkpoint, Note, cosign, sign_note
from support.pair import ChatPair


def started(size: int = 5) -> History:
    """alice, bob, and others behind them."""
    history = History()
    for name in ("alice", "bob", "carol", "dave", "erin", "frank", "grace")[:size]:
        history.enrol(name)
    return history


# What is accepted -----------------------------------------------------------------------------------------------------


def test_the_first_checkpoint_pins_the_key_and_a_replay_is_stored_whole() -> None:
    with started() as history, Reader() as reader:
        reader.follow(history)
        assert (reader.log.size, reader.log.root()) == (5, history.store.root())
        assert reader.log.note == history.note()
        assert [leaf.user for leaf in reader.log.store.leaves(0, 5)] == ["alice", "bob", "carol", "dave", "erin"]
        known = find_log(reader.database, SERVER)
        assert known is not None
        assert known.log_key == log_key().public


def test_a_key_is_confirmed_by_its_newest_leaf() -> None:
    with started() as history, Reader() as reader:
        reader.follow(history)
        judged = reader.log.judge_untrusted("bob", person("bob").key_id, history.proof("bob").encode())
        assert judged[0] is Verdict.FINE
        assert judged[2] == 1


def test_a_proof_in_a_newer_checkpoint_is_to_be_fetched_and_in_an_older_one_is_compared() -> None:
    with started() as history, Reader() as reader:
        reader.follow(history)
        older = history.proof("bob").encode()
        history.enrol("heidi")
        newer = history.proof("bob").encode()
        assert reader.log.judge_untrusted("bob", person("bob").key_id, newer)[0] is Verdict.NEWER
        reader.follow(history)
        assert reader.log.judge_untrusted("bob", person("bob").key_id, older)[0] is Verdict.FINE


# Each refusal by name -------------------------------------------------------------------------------------------------

REFUSED: list[tuple[Refusal, Callable[[History, PeerProof], bytes]]] = [
    (Refusal.NO_PROOF, lambda history, proof: b""),
    (Refusal.MALFORMED, lambda history, proof: proof.encode()[:-1]),
    (Refusal.MALFORMED, lambda history, proof: replace(proof, leaf=proof.leaf + b"\0").encode()),
    (Refusal.UNSIGNED, lambda history, proof: replace(proof, note=history.note(key=log_key("other"))).encode()),
    (Refusal.UNSIGNED, lambda history, proof: replace(proof, note=history.note(origin="other/msgapp-keys")).encode()),
    (Refusal.UNSIGNED, lambda history, proof: replace(proof, note=b"hello").encode()),
    (Refusal.WRONG_USER, lambda history, proof: history.proof("carol").encode()),
    (Refusal.NOT_INCLUDED, lambda history, proof: replace(proof, index=proof.index + 1).encode()),
    (Refusal.NOT_INCLUDED, lambda history, proof: replace(proof, index=99).encode()),
    (Refusal.NOT_INCLUDED, lambda history, proof: replace(proof, proof=proof.proof[:-1]).encode()),
    (Refusal.NOT_INCLUDED, lambda history, proof: replace(proof, proof=(*proof.proof, bytes(32))).encode()),
    (Refusal.NOT_INCLUDED, lambda history, proof: replace(proof, proof=proof.proof[::-1]).encode()),
]


@pytest.mark.parametrize(("refusal", "change"), REFUSED)
def test_a_proof_that_shows_nothing_is_refused_by_name(
    refusal: Refusal, change: Callable[[History, PeerProof], bytes]
) -> None:
    with started() as history, Reader() as reader:
        reader.follow(history)
        before = reader.dump()
        with pytest.raises(KeyRefused) as refused:
            reader.log.judge_untrusted("bob", person("bob").key_id, change(history, history.proof("bob")))
        assert refused.value.refusal is refusal
        assert "bob" in str(refused.value)
        assert reader.dump() == before


def test_a_checkpoint_of_another_log_under_the_same_key_is_none() -> None:
    """A key may sign for two logs; the origin says which."""
    with started() as history, Reader() as reader:
        reader.follow(history)
        text = Checkpoint("other.example/msgapp-keys", 5, history.store.root()).encode()
        with pytest.raises(NoteRefused):
            reader.log.read_untrusted(sign_note(text, reader.log.origin, log_key()).encode())


def test_a_key_that_is_not_the_leafs_is_refused() -> None:
    with started() as history, Reader() as reader:
        reader.follow(history)
        with pytest.raises(KeyRefused) as refused:
            reader.log.judge_untrusted("bob", person("mallory").key_id, history.proof("bob").encode())
        assert refused.value.refusal is Refusal.WRONG_KEY


def test_capitals_are_another_user_in_a_proof() -> None:
    """Names are given in the registered spelling, in `pubk` and in the leaf."""
    with started() as history, Reader() as reader:
        reader.follow(history)
        with pytest.raises(KeyRefused) as refused:
            reader.log.judge_untrusted("Bob", person("bob").key_id, history.proof("bob").encode())
        assert refused.value.refusal is Refusal.WRONG_USER


@pytest.mark.parametrize("how", ["shown", "hidden"])
def test_a_revoked_key_is_refused(how: str) -> None:
    with started() as history, Reader() as reader:
        old = history.proof("bob").encode()
        history.revoke("bob")
        reader.follow(history)
        proof = history.proof("bob").encode() if how == "shown" else old
        with pytest.raises(KeyRefused) as refused:
            reader.log.judge_untrusted("bob", person("bob").key_id, proof)
        assert refused.value.refusal is Refusal.REVOKED


def test_an_older_leaf_than_the_newest_is_refused() -> None:
    with started() as history, Reader() as reader:
        old = history.proof("bob").encode()
        history.change("bob", "bob, anew")
        reader.follow(history)
        with pytest.raises(KeyRefused) as refused:
            reader.log.judge_untrusted("bob", person("bob").key_id, old)
        assert refused.value.refusal is Refusal.OLDER


# Each lie by name -----------------------------------------------------------------------------------------------------


def lie_of(perform: Callable[[], object]) -> Lie:
    with pytest.raises(LogLied) as lied:
        perform()
    assert lied.value.shown
    return lied.value.lie


def test_the_key_of_the_log_is_bound_by_the_certificate_and_pinned() -> None:
    with started() as history, Reader() as reader:
        log = reader.log
        for wrong in (
            history.head(server="other.example"),
            history.head(sigalg=0x0804),
            replace(history.head(), log_key=log_key("other").public),
        ):
            assert lie_of(partial(log.pin_untrusted, wrong, server_key())) is Lie.UNBOUND
            assert find_log(reader.database, SERVER) is None
        wrong = history.head(note=history.note(key=log_key("other")))
        assert lie_of(lambda: log.pin_untrusted(wrong, server_key())) is Lie.UNSIGNED
        assert find_log(reader.database, SERVER) is None
        assert log.known is None
        log.pin_untrusted(history.head(), server_key())
        other = history.head(log_key("other"))
        assert lie_of(lambda: log.pin_untrusted(other, server_key())) is Lie.LOG_KEY
        with pytest.raises(NoteRefused):
            log.read_untrusted(other.note)


def test_leaves_that_do_not_make_the_root_are_not_stored() -> None:
    with started() as history, Reader() as reader:
        reader.follow(history, 3)
        before = reader.dump()
        shown = reader.log.read_untrusted(history.note())
        three, four = history.encoded(3)
        forged = replace(Leaf.parse_untrusted(four), key_id=bytes(32)).encode()
        for leaves in ([three], [three, forged], [four, three], [three, four, four], []):
            assert lie_of(partial(reader.log.replay, shown, leaves)) in (Lie.FORK, Lie.RULES)
            assert reader.dump() == before
        assert reader.log.replay(shown, [three, four])


RULES: list[Callable[[Leaf], Leaf]] = [
    lambda leaf: replace(leaf, version=leaf.version + 1),
    lambda leaf: replace(leaf, previous=0),
    lambda leaf: replace(leaf, flags=2, key_id=bytes(32)),  # a revocation of a key that is not bob's
]


@pytest.mark.parametrize("change", RULES)
def test_a_signed_log_that_breaks_its_rules_is_a_lie(change: Callable[[Leaf], Leaf]) -> None:
    with started(2) as history, Reader() as reader:
        reader.follow(history)
        before = reader.dump()
        leaf = change(Leaf.after(history.store.latest("bob"), 0, "bob", person("new").key_id))
        history.store.append([leaf.encode()])
        shown = reader.log.read_untrusted(history.note())
        assert lie_of(lambda: reader.log.replay(shown, history.encoded(2))) is Lie.RULES
        assert reader.dump() == before


def test_bytes_that_are_no_leaf_are_a_lie() -> None:
    with started(2) as history, Reader() as reader:
        reader.follow(history)
        history.enrol("carol")
        shown = reader.log.read_untrusted(history.note())
        assert lie_of(lambda: reader.log.replay(shown, [b"\2 no leaf"])) is Lie.RULES


@pytest.mark.parametrize("size", [2, 4, 5])
def test_another_log_of_the_same_or_a_smaller_size_is_a_fork(size: int) -> None:
    with started() as history, started(1) as other, Reader() as reader:
        reader.follow(history)
        for name in ("carol", "bob", "dave", "erin"):
            other.enrol(name)
        assert reader.log.agrees(reader.log.read_untrusted(history.note(size)))
        shown = reader.log.read_untrusted(other.note(size))
        assert lie_of(lambda: reader.log.agrees(shown)) is Lie.FORK


def test_proofs_alone_find_a_fork_too() -> None:
    with started() as history, started(1) as other, Reader() as reader:
        reader.follow_thin(history)
        for name in ("carol", "bob", "dave", "erin", "frank", "grace"):
            other.enrol(name)
        before = reader.dump()
        larger = reader.log.read_untrusted(other.note())
        proof = other.store.consistency(5, 7)
        assert lie_of(lambda: reader.log.step(larger, proof)) is Lie.FORK
        smaller = reader.log.read_untrusted(other.note(3))
        assert not reader.log.agrees(smaller)
        assert lie_of(lambda: reader.log.agrees(smaller, other.store.consistency(3, 5))) is Lie.FORK
        same = reader.log.read_untrusted(other.note(5))
        assert lie_of(lambda: reader.log.agrees(same)) is Lie.FORK
        good = reader.log.read_untrusted(history.note(3))
        assert reader.log.agrees(good, history.store.consistency(3, 5))
        assert reader.log.agrees(good)  # it is remembered
        leaf = other.store.encoded(1)
        assert lie_of(lambda: reader.log.remember(1, leaf, other.store.inclusion(1, 5))) is Lie.FORK
        assert reader.dump() == before
        assert reader.log.remember(1, history.store.encoded(1), history.store.inclusion(1, 5)).user == "bob"


def test_from_proofs_to_leaves_the_past_must_be_the_same() -> None:
    """The leaves that come now must make the root that was held, and the new one."""
    with started(1) as other, started(3) as history, Reader() as reader:
        reader.follow_thin(history)
        for name in ("carol", "bob", "dave", "erin"):
            other.enrol(name)
        before = reader.dump()
        shown = reader.log.read_untrusted(other.note())
        assert lie_of(lambda: reader.log.replay(shown, other.encoded())) is Lie.FORK
        assert reader.dump() == before
        history.enrol("dave")
        reader.follow(history)
        assert not reader.log.thin
        assert reader.log.store.root() == history.store.root()


def test_two_processes_do_not_undo_each_other() -> None:
    with started(2) as history, Reader() as reader:
        reader.follow(history)
        late = Reader.__new__(Reader)
        late.database, late.log = reader.database, type(reader.log)(reader.database, SERVER, "alice")
        history.enrol("carol")
        reader.follow(history)
        before = reader.dump()
        shown = late.log.read_untrusted(history.note())
        assert late.log.replay(shown, history.encoded(2)) is False
        assert late.log.step(shown, history.store.consistency(2, 3)) is False
        assert reader.dump() == before
        late.log.refresh()
        assert late.log.size == 3


# The own name ---------------------------------------------------------------------------------------------------------

OWN: list[tuple[str, Own, int]] = [
    ("", Own.MISSING, 0),
    ("enrol:mine", Own.FINE, 0),
    ("enrol:theirs", Own.MISSING, 1),
    ("enrol:theirs reset:mine", Own.FINE, 1),
    ("enrol:theirs change:mine", Own.FINE, 1),
    ("enrol:mine change:mine2", Own.FINE, 0),
    ("enrol:mine change:theirs", Own.FOREIGN, 0),
    ("enrol:mine reset:theirs", Own.FOREIGN, 0),
    ("enrol:mine reset:theirs reset:mine", Own.FOREIGN, 0),
    ("enrol:mine revoke:", Own.REVOKED, 0),
    ("enrol:mine revoke: reset:mine2", Own.FINE, 0),
    ("enrol:mine revoke: reset:theirs", Own.FOREIGN, 0),
    ("enrol:mine revoke: reset:mine", Own.FINE, 0),
    ("enrol:mine change:mine2 reset:mine", Own.FOREIGN, 0),  # a key that was given up may have been stolen
]


def perform(history: History, name: str, steps: str) -> None:
    for step in steps.split():
        verb, key = step.split(":")
        getattr(history, verb)(*((name, key) if key else (name,)))


@pytest.mark.parametrize(("steps", "own", "before"), OWN, ids=[row[0] or "nothing" for row in OWN])
def test_what_the_log_says_of_the_own_name(steps: str, own: Own, before: int) -> None:
    with History() as history, Reader() as reader:
        history.enrol("bob")
        perform(history, "alice", steps)
        add_own_key(reader.database, person("mine").key_id)
        add_own_key(reader.database, person("mine2").key_id)
        reader.follow(history)
        found = reader.log.own_entries()
        assert (found.own, found.before) == (own, before)


def test_a_foreign_entry_that_was_accepted_is_no_alarm_any_more_but_the_next_is() -> None:
    with History() as history, Reader() as reader:
        perform(history, "alice", "enrol:mine reset:theirs")
        add_own_key(reader.database, person("mine").key_id)
        reader.follow(history)
        assert reader.log.own_entries().own is Own.FOREIGN
        reader.log.raise_alarm("own-key: for this test")
        accept_alarm(reader.database, SERVER, keep=True)
        reader.log.refresh()
        assert reader.log.known is not None
        assert reader.log.known.alarm == ""
        assert reader.log.own_entries().own is Own.FINE
        history.reset("alice", "theirs")
        reader.follow(history)
        assert reader.log.own_entries().own is Own.FOREIGN


def test_what_is_accepted_otherwise_is_forgotten() -> None:
    with started() as history, Reader() as reader:
        reader.follow(history)
        accept_alarm(reader.database, SERVER, keep=False)
        reader.log.refresh()
        assert reader.log.known is None
        assert reader.log.store.size == 0
        reader.follow(history)


# Pins -----------------------------------------------------------------------------------------------------------------

TRACED: list[tuple[str, str, str, str]] = [
    # steps after the pinned key | the pin then | how | offered
    ("change:b", "b", "", ""),
    ("change:b change:c", "c", "", ""),
    ("reset:b", "a", "reset", "b"),
    ("reset:b change:c", "a", "reset", "c"),
    ("change:b reset:c", "b", "reset", "c"),
    ("revoke:", "a", "revoked", ""),
    ("change:b revoke:", "b", "revoked", ""),
    ("revoke: reset:b", "a", "reset", "b"),
    ("revoke: reset:b change:c", "a", "reset", "c"),
    ("forge:b", "a", "unexplained", "b"),
    ("forge:b change:c", "a", "unexplained", "c"),
    ("change:b forge:c", "b", "unexplained", "c"),
    ("reset:b reset:a", "a", "", ""),  # the pinned key counts again: nothing has changed
]


@pytest.mark.parametrize(("steps", "pinned", "how", "offered"), TRACED, ids=[row[0] for row in TRACED])
async def test_how_far_the_word_of_the_pinned_key_goes(steps: str, pinned: str, how: str, offered: str) -> None:
    bundles = {person(key).key_id: person(key).bundle for key in "abc"}

    async def fetch(key_id: bytes) -> IdentityBundle:
        return bundles[key_id]

    with History() as history, Reader() as reader:
        history.enrol("alice")
        history.enrol("bob", "a")
        for step in steps.split():
            if step.startswith("forge:"):
                history.change("bob", step[-1], signer=person("mallory"))
            else:
                perform(history, "bob", step)
        reader.follow(history)
        later = reader.log.later_leaves("bob", person("a").key_id)
        outcome = await trace_changes(person("a").bundle, later, SERVER, fetch)
        assert (outcome.pinned, outcome.how) == (person(pinned).bundle, how)
        assert outcome.offered == (person(offered).bundle if offered else None)


async def test_a_pin_that_was_never_in_the_log_is_not_explained() -> None:
    async def fetch(key_id: bytes) -> IdentityBundle:
        return person("bob").bundle

    with started() as history, Reader() as reader:
        reader.follow(history)
        later = reader.log.later_leaves("bob", person("before the log").key_id)
        outcome = await trace_changes(person("before the log").bundle, later, SERVER, fetch)
        assert (outcome.how, outcome.offered) == ("unexplained", person("bob").bundle)


# Witnesses ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("needed", "signed", "witnessed"),
    [(0, "", 0), (1, "", 0), (1, "a", 5), (2, "a", 0), (2, "aa", 0), (2, "ab", 5), (1, "x", 0), (3, "abx", 0)],
)
def test_so_many_different_witnesses_must_have_signed(needed: int, signed: str, witnessed: int) -> None:
    with started() as history, Reader() as reader:
        keys = {name: log_key(f"witness {name}") for name in "abcx"}
        vkeys = [keys[name].verifier(f"{name}.example", COSIGNER).encode() for name in "abc"]
        save_policy(reader.database, SERVER, needed, vkeys)
        reader.log.refresh()
        reader.follow(history)
        note = Note.parse_untrusted(history.note())
        lines = [cosign(note.text, f"{name}.example", keys[name], 5 + at) for at, name in enumerate(signed)]
        assert reader.log.agrees(reader.log.read_untrusted(note.adding(lines).encode()))
        known = find_log(reader.database, SERVER)
        assert known is not None
        assert known.witnessed_size == witnessed
        if needed:
            verdict = reader.log.judge_untrusted("bob", person("bob").key_id, history.proof("bob").encode())[0]
            assert verdict is (Verdict.FINE if witnessed else Verdict.UNWITNESSED)


def test_other_witnesses_begin_anew() -> None:
    with started() as history, Reader() as reader:
        vkeys = [log_key(f"witness {name}").verifier(f"{name}.example", COSIGNER).encode() for name in "ab"]
        reader.follow(history)
        assert reader.log.known is not None
        save_log(reader.database, replace(reader.log.known, witnessed_size=5))
        save_policy(reader.database, SERVER, 1, vkeys)
        reader.log.refresh()
        assert reader.log.known.witnessed_size == 0
        assert reader.log.policy == WitnessPolicy(1, tuple(sorted(vkeys)))


def test_witnesses_may_sign_a_checkpoint_that_is_not_the_newest_any_more() -> None:
    with started() as history, Reader() as reader:
        witness = log_key("witness a")
        save_policy(reader.database, SERVER, 1, [witness.verifier("a.example", COSIGNER).encode()])
        reader.log.refresh()
        reader.follow(history)
        note = Note.parse_untrusted(history.note(4))
        signed = note.adding([cosign(note.text, "a.example", witness, 5)]).encode()
        assert reader.log.agrees(reader.log.read_untrusted(signed))
        assert reader.log.known is not None
        assert (reader.log.known.witnessed_size, reader.log.size) == (4, 5)
        verdicts = [
            reader.log.judge_untrusted(name, person(name).key_id, history.proof(name).encode())[0]
            for name in ("bob", "erin")
        ]
        assert verdicts == [Verdict.FINE, Verdict.UNWITNESSED]


def test_a_peers_note_brings_no_signatures() -> None:
    with started() as history, Reader() as reader:
        reader.follow(history)
        note = Note.parse_untrusted(history.note())
        longer = note.adding([cosign(note.text, "a.example", log_key("anybody"), 5)] * 20).encode()
        shown = reader.log.read_untrusted(longer)
        assert reader.log.agrees(shown, by_server=False)
        assert reader.log.note == history.note()


def test_a_checkpoint_is_a_tlv_of_its_own_and_shows_at_the_first_message_of_a_turn() -> None:
    envelope = Envelope(bytes(16), 5, "hi", b"a note")
    assert Envelope.parse_untrusted(envelope.encode()) == envelope
    assert Envelope.parse_untrusted(Envelope(bytes(16), 5, "hi").encode()).checkpoint == b""
    pair = ChatPair()
    pair.run()
    shown = [b"one", b"two", b"three"]
    alice = ChatSession(
        pair.alices_secrets,
        user="alice",
        peer="bob",
        random=os.urandom,
        peer_ratchet=pair.caller.peer_ratchet,
        checkpoint=lambda: shown[0],
    )
    bob = ChatSession(pair.bobs_secrets, user="bob", peer="alice", random=os.urandom, own_ratchet=pair.ratchet)

    def heard(text: str) -> bytes:
        return bob.open_untrusted(alice.seal(text, 0), 0).envelope.checkpoint

    assert [heard("a"), heard("b")] == [b"one", b""]
    alice.open_untrusted(bob.seal("c", 0), 0)
    del shown[0]
    assert [heard("d"), heard("e")] == [b"two", b""]


# Properties -----------------------------------------------------------------------------------------------------------

NAMES = ("alice", "bob", "Carol")
HISTORIES = st.lists(
    st.tuples(st.sampled_from(NAMES), st.sampled_from(("change", "reset", "revoke")), st.sampled_from("abc")),
    min_size=1,
    max_size=24,
)


def honest(steps: list[tuple[str, str, str]]) -> History:
    """What an honest server would write for these wishes."""
    history, revoked = History(), set[str]()
    for name, verb, key in steps:
        if name not in history.keys:
            history.enrol(name, key)
        elif verb == "revoke":
            if name not in revoked:
                history.revoke(name)
                revoked.add(name)
        elif name in revoked or verb == "reset":
            history.reset(name, key)
            revoked.discard(name)
        else:
            history.change(name, key)
    return history


@settings(max_examples=60)
@given(HISTORIES, st.data())
def test_any_honest_history_replays_to_the_same_in_any_parts(
    steps: list[tuple[str, str, str]], data: st.DataObject
) -> None:
    with honest(steps) as history, Reader() as reader, Reader() as thin:
        stops = sorted(data.draw(st.sets(st.integers(1, history.size), max_size=6)) | {history.size})
        for stop in stops:
            reader.follow(history, stop)
            thin.follow_thin(history, stop)
            assert reader.log.root() == thin.log.root() == history.store.root(stop)
        for name in NAMES:
            assert reader.log.store.of_user(name) == history.store.of_user(name)
        for size in range(1, history.size + 1):
            shown = reader.log.read_untrusted(history.note(size))
            assert reader.log.agrees(shown)
            assert thin.log.agrees(shown, history.store.consistency(size, history.size))


def flipped(data: bytes, bit: int) -> bytes:
    at = bit % (8 * len(data))
    return data[: at // 8] + bytes((data[at // 8] ^ 1 << at % 8,)) + data[at // 8 + 1 :]


@settings(max_examples=300)
@given(st.integers(0, 2**20), st.sampled_from(("note", "leaf", "path")))
def test_no_flipped_bit_of_a_proof_is_taken(bit: int, part: str) -> None:
    with started(7) as history, Reader() as reader:
        reader.follow(history)
        proof = history.proof("bob")
        match part:
            case "note":
                proof = replace(proof, note=flipped(proof.note, bit))
            case "leaf":
                proof = replace(proof, leaf=flipped(proof.leaf, bit))
            case _:
                joined = flipped(b"".join(proof.proof), bit)
                proof = replace(proof, proof=tuple(joined[at : at + 32] for at in range(0, len(joined), 32)))
        before = reader.dump()
        with pytest.raises((KeyRefused, LogLied)):
            reader.log.judge_untrusted("bob", person("bob").key_id, proof.encode())
        assert reader.dump() == before


@settings(max_examples=100)
@given(st.integers(0, 2**20), st.integers(3, 6))
def test_no_flipped_bit_of_a_leaf_is_stored(bit: int, number: int) -> None:
    with started(7) as history, Reader() as reader:
        reader.follow(history, 3)
        leaves = history.encoded(3)
        leaves[number - 3] = flipped(leaves[number - 3], bit)
        before = reader.dump()
        with pytest.raises(LogLied):
            reader.log.replay(reader.log.read_untrusted(history.note()), leaves)
        assert reader.dump() == before


@settings(max_examples=100)
@given(st.integers(0, 2**20))
def test_no_flipped_bit_of_a_consistency_proof_is_taken(bit: int) -> None:
    with started(7) as history, Reader() as reader:
        reader.follow_thin(history, 3)
        joined = flipped(b"".join(history.store.consistency(3, 7)), bit)
        with pytest.raises((LogLied, ProofRefused)):
            reader.log.step(
                reader.log.read_untrusted(history.note()),
                [joined[at : at + 32] for at in range(0, len(joined), 32)],
            )
        assert reader.log.size == 3


def test_so_many_compared_checkpoints_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    assert keylog._COMPARED == 64
    monkeypatch.setattr(keylog, "_COMPARED", 2)
    with started(7) as history, Reader() as reader:
        reader.follow_thin(history)
        shown = [reader.log.read_untrusted(history.note(size)) for size in range(1, 7)]
        for each in shown:
            assert reader.log.agrees(each, history.store.consistency(each.size, 7))
        assert [reader.log.agrees(each) for each in shown] == [False, False, False, True, True, True]
