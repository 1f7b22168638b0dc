"""The machine of the live check: both sides of it, and sides that do wrong."""

from __future__ import annotations

import copy
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from messageapp.e2ee.envelope import Envelope
from messageapp.e2ee.sas import MAX_RUNS, CheckFailed, CheckRefused, LiveCheck, Reaction, SasMessage
from messageapp_keys.codec import Malformed, tlvs
from messageapp_keys.sas import commitment
from messageapp_keys.types import ExporterSecret

LOW, HIGH = bytes(32), bytes([1] * 32)
COMMIT, REPLY, OPENING, ANSWER = 1, 2, 3, 4
YES, NO = SasMessage(ANSWER, b"\x01"), SasMessage(ANSWER, b"\x00")


def pair(exporter: bytes = LOW, other: bytes | None = None) -> tuple[LiveCheck, LiveCheck]:
    """(smaller key_id, larger key_id)."""
    theirs = exporter if other is None else other
    return (
        LiveCheck(ExporterSecret(exporter), LOW, HIGH, os.urandom),
        LiveCheck(ExporterSecret(theirs), HIGH, LOW, os.urandom),
    )


def sent(reaction: Reaction) -> SasMessage:
    assert reaction.send is not None
    return reaction.send


def shown(a: LiveCheck, b: LiveCheck) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """A run up to the numbers: what a sees, what b sees."""
    at_a = a.receive_untrusted(sent(b.receive_untrusted(a.start())))
    at_b = b.receive_untrusted(sent(at_a))
    assert at_b.send is None
    return at_a.numbers, at_b.numbers


def test_both_see_the_same_seven_and_answer() -> None:
    a, b = pair()
    at_a, at_b = shown(a, b)
    assert at_a == at_b
    assert len(at_a) == 7
    assert all(0 <= number < 64 for number in at_a)
    assert a.waits_for_answer
    assert b.waits_for_answer
    assert b.receive_untrusted(a.answer(True)).answer is True
    assert not a.waits_for_answer
    assert b.waits_for_answer
    assert a.receive_untrusted(b.answer(True)).answer is True
    assert shown(b, a)[0] != at_a  # another run may begin, and is another


def test_with_other_secrets_they_see_others() -> None:
    at_a, at_b = shown(*pair(LOW, HIGH))
    assert at_a != at_b


def test_nothing_is_shown_before_the_commitment_is_checked() -> None:
    a, b = pair()
    reply = b.receive_untrusted(a.start())
    assert reply.numbers == ()
    opening = sent(a.receive_untrusted(sent(reply)))
    wrong = SasMessage(OPENING, bytes([opening.data[0] ^ 1]) + opening.data[1:])
    with pytest.raises(CheckFailed, match="another value than it had committed to"):
        b.receive_untrusted(wrong)
    with pytest.raises(CheckFailed, match="out of turn"):
        b.receive_untrusted(opening)
    assert not b.waits_for_answer


def test_who_has_the_smaller_key_is_a_where_both_ask() -> None:
    a, b = pair()
    from_a, from_b = a.start(), b.start()
    assert a.receive_untrusted(from_b) == Reaction()
    reply = sent(b.receive_untrusted(from_a))
    at_a = a.receive_untrusted(reply)
    assert commitment(sent(at_a).data) == from_a.data
    assert b.receive_untrusted(sent(at_a)).numbers == at_a.numbers
    assert (a.runs, b.runs) == (1, 1)


def test_a_second_crossing_question_is_out_of_turn() -> None:
    a, b = pair()
    a.start()
    question = b.start()
    a.receive_untrusted(question)
    with pytest.raises(CheckFailed):
        a.receive_untrusted(question)


@pytest.mark.parametrize("which", [0, 1])
def test_our_own_commitment_is_not_taken_back(which: int) -> None:
    check = pair()[which]
    with pytest.raises(CheckFailed, match="our own commitment"):
        check.receive_untrusted(check.start())


def test_nor_one_of_an_earlier_run() -> None:
    a, b = pair()
    first = a.start()
    a.receive_untrusted(sent(b.receive_untrusted(first)))
    a.receive_untrusted(YES)
    a.answer(True)
    with pytest.raises(CheckFailed, match="our own commitment"):
        a.receive_untrusted(first)


def test_three_runs_a_chat_whoever_asks() -> None:
    assert MAX_RUNS == 3
    a, b = pair()
    for run in range(3):
        asks, other = (a, b) if run % 2 else (b, a)
        shown(asks, other)
        other.receive_untrusted(asks.answer(True))
        asks.receive_untrusted(other.answer(True))
    for check in (a, b):
        with pytest.raises(CheckRefused, match="3 live checks at most"):
            check.start()
        with pytest.raises(CheckFailed, match="asked for more"):
            check.receive_untrusted(SasMessage(COMMIT, HIGH))


def test_a_run_that_was_given_up_counts() -> None:
    a, _ = pair()
    for _ in range(MAX_RUNS):
        a.start()
        assert a.waits_for_peer
        a.give_up()
    with pytest.raises(CheckRefused):
        a.start()


def test_a_no_ends_it_for_both() -> None:
    a, b = pair()
    shown(a, b)
    assert b.receive_untrusted(a.answer(False)).answer is False
    assert not b.waits_for_answer
    with pytest.raises(CheckRefused, match="no live check"):
        b.answer(True)
    shown(b, a)


def test_answers_that_cross_a_no_are_passed_over_once() -> None:
    a, b = pair()
    shown(a, b)
    from_a, from_b = a.answer(False), b.answer(True)
    assert a.receive_untrusted(from_b) == Reaction()
    assert b.receive_untrusted(from_a).answer is False
    with pytest.raises(CheckFailed):
        a.receive_untrusted(from_b)


def test_a_second_answer_is_out_of_turn() -> None:
    a, b = pair()
    shown(a, b)
    a.receive_untrusted(YES)
    with pytest.raises(CheckFailed):
        a.receive_untrusted(NO)
    assert not a.waits_for_answer


def test_no_other_run_while_one_is_under_way() -> None:
    a, b = pair()
    shown(a, b)
    with pytest.raises(CheckRefused, match="/verify yes or /verify no"):
        a.start()
    a.answer(True)
    with pytest.raises(CheckRefused, match="has not answered yet"):
        a.start()


@pytest.mark.parametrize("value", [b"", b"\0", b"\5", b"\1" + bytes(31), b"\2" + bytes(33), b"\4", b"\4\2", b"\4\0\0"])
def test_malformed(value: bytes) -> None:
    with pytest.raises(Malformed):
        SasMessage.parse_untrusted(value)


def test_the_bytes() -> None:
    for message in (SasMessage(COMMIT, LOW), SasMessage(REPLY, LOW), SasMessage(OPENING, LOW), YES, NO):
        assert SasMessage.parse_untrusted(message.encode()) == message
    assert YES.encode() == b"\x04\x01"
    assert "data" not in repr(YES)


def test_in_an_envelope_beside_a_text_or_alone() -> None:
    for message in (SasMessage(COMMIT, HIGH), YES):
        for text in (None, "hello"):
            envelope = Envelope(bytes(16), 5, text, sas=message)
            assert Envelope.parse_untrusted(envelope.encode()) == envelope
    body = tlvs({1: bytes(16), 2: bytes(8), 7: b"\x04\x02"}) + b"\x80"
    with pytest.raises(Malformed):
        Envelope.parse_untrusted(body)


PHASES = ("idle", "asked", "replied", "shown", "answered")
ALLOWED = {
    ("idle", COMMIT), ("asked", COMMIT), ("asked", REPLY), ("replied", OPENING), ("shown", ANSWER), ("answered", ANSWER)
}  # fmt: skip


def _in(phase: str) -> tuple[LiveCheck, bytes]:
    """A check in that phase, and the value that opens the peer's commitment."""
    a, b = pair()
    r_a = os.urandom(32)
    if phase == "asked":
        a.start()
    if phase == "replied":
        a.receive_untrusted(SasMessage(COMMIT, commitment(r_a)))
    if phase in ("shown", "answered"):
        shown(a, b)
    if phase == "answered":
        a.answer(True)
    return a, r_a


@pytest.mark.parametrize("step", [COMMIT, REPLY, OPENING, ANSWER])
@pytest.mark.parametrize("phase", PHASES)
def test_every_message_in_every_phase(phase: str, step: int) -> None:
    check, r_a = _in(phase)
    message = SasMessage(step, b"\x01" if step == ANSWER else r_a)
    if (phase, step) in ALLOWED:
        check.receive_untrusted(message)
        return
    with pytest.raises(CheckFailed, match="out of turn"):
        check.receive_untrusted(message)
    assert not check.waits_for_answer
    assert not check.waits_for_peer


@given(st.lists(st.sampled_from(["start", "yes", "no", "give up", COMMIT, REPLY, OPENING, 40, 41]), max_size=20))
def test_whatever_comes_nothing_is_shown_that_was_not_committed_to(steps: list[str | int]) -> None:
    """A peer who opens what it likes sees its numbers shown only where we are A; and only refusals are raised."""
    check, _ = pair()
    for step in steps:
        waiting = copy.copy(check)
        try:
            match step:
                case "start":
                    check.start()
                case "yes" | "no":
                    check.answer(step == "yes")
                case "give up":
                    check.give_up()
                case 40 | 41:
                    check.receive_untrusted(SasMessage(ANSWER, bytes([step - 40])))
                case int():
                    reaction = check.receive_untrusted(SasMessage(step, os.urandom(32)))
                    assert not reaction.numbers or step == REPLY
        except CheckFailed:
            assert not check.waits_for_answer
        except CheckRefused:
            assert check.waits_for_answer == waiting.waits_for_answer
        assert check.runs <= MAX_RUNS
