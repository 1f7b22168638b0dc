"""What must hold of all texts at the end of a run.

What a user is promised, and checked here. A text that `say` took

- is shown once, unaltered, at its receiver's, as from its sender; or
- is given back (`NotDelivered`); or
- was the last of its chat: behind it nothing of its sender was shown, and a line said that the chat ended otherwise
  than by its sender's leaving it: `ChatOver` by the other, `ChatFailed`, `Ended` with an error at the sender's, or any
  end of the receiver's own. Whoever leaves or exits by himself has sent what he said before; or
- was said after its sender had asked to leave, by a session that ended before the server could refuse it; or
- was held for a chat that was not secure yet, by a user who then broke his session off without a word; or
- was refused by the server, or lost, in a session that ended with an error: the sender was told that; or
- was in the hands of the malicious relay. Then, and for every text that is missing before one that was shown, `Missing`
  at the receiver's counted it: what was counted is exactly what did not come.

Texts are shown in the order in which they were sealed. One that comes late was in the hands of the relay; one that is
missing before one that was shown was there too, or the server did not pass it on.
"""

from __future__ import annotations

from messageapp.client import events as ev

from .history import History
from .ledger import End, Ledger, Text

__all__ = ["check_texts"]


def check_texts(ledger: Ledger, history: History) -> None:
    """Once everything has settled, and each chat that goes on has had a last text from either side."""
    for text in ledger.texts.values():
        if text.shown and text.returned and not text.tampered:
            history.breaks("none lost without a line", f"{text} was shown, and given back as not delivered")
        # What is on its sender's disk goes on by itself: `mail.check_mail`.
        if not (text.shown or text.returned or text.refused or text.tampered or text.number):
            _check_lost(ledger, history, text)
    for ends in ledger.chats.values():
        _check_ends(ledger, history, ends)
        for end in ends:
            _check_order(ledger, history, end)
            _check_count(ledger, history, end)


def _check_lost(ledger: Ledger, history: History, text: Text) -> None:
    end = text.end
    if (end is None and text.owner in ledger.gone) or (text.leaving and text.owner in ledger.gone | ledger.failed):
        return
    if end is None:
        history.breaks("none lost without a line", f"{text} was held, and neither sent nor given back")
        return
    other = ledger.other(end)
    if other is None:
        history.breaks("none lost without a line", f"{text} was sent to nobody")
    elif end.sealed.index(text.text) < _last_shown(end, other) and not (text.turned_down and _cut(end)):
        history.breaks("none lost without a line", f"{text} did not come; later ones did; nobody was told")
    elif not (_told(end) or _knows(other)):
        history.breaks(
            "none lost without a line",
            f"{text} did not come, the ends were {_name(end.over)} and {_name(other.over)}",
        )


def _check_order(ledger: Ledger, history: History, receiver: End) -> None:
    """Each text comes at its place, but for what the relay touched, and for what the server did not pass on."""
    sender = ledger.other(receiver)
    if sender is None:
        return
    places = {text: place for place, text in enumerate(sender.sealed) if text is not None}
    in_time = [text for text in receiver.shown if text in places and text not in receiver.late]
    if in_time != sorted(in_time, key=places.__getitem__):
        history.breaks("texts come in order", f"{receiver.owner} was shown them in another order")
    last = _last_shown(sender, receiver)
    absent = [text for text, place in places.items() if place < last and text not in receiver.shown]
    for text in (ledger.texts[text] for text in (*receiver.late, *absent)):
        late = text.text in receiver.late
        if not (text.tampered or (text.turned_down and not late)):
            how = "came late" if late else "did not come"
            history.breaks("texts come in order", f"{text} {how}, and nobody touched it")


def _check_count(ledger: Ledger, history: History, receiver: End) -> None:
    """What `Missing` said is what is missing: the texts, and at most what may not have come, or not in the chat."""
    sender = ledger.other(receiver)
    if sender is None or receiver.over == "gone":
        return
    before = sender.sealed[: _last_shown(sender, receiver)]
    lost = sum(1 for text in before if text is not None and not ledger.texts[text].shown)
    most = sum(1 for text in sender.sealed if text is None or text not in receiver.shown)
    most += ledger.in_session[sender.user, sender.chat] - len(sender.sealed)  # what the server is to store
    late = len(receiver.late)
    if not lost <= receiver.missing - late <= most:
        history.breaks(
            "missing texts are counted",
            f"{receiver.owner} was told of {receiver.missing}, {late} came late, and {lost} did not come",
        )


def _check_ends(ledger: Ledger, history: History, ends: list[End]) -> None:
    if len(ends) == 2 and all(
        isinstance(end.over, ev.ChatOver) and not end.over.by_us and not end.over.disconnected for end in ends
    ):
        who = " and ".join(end.owner for end in ends)
        history.breaks("both ends agree", f"{who} were each told that the other left")


def _last_shown(sender: End, receiver: End) -> int:
    """The place of the last text that was shown, among what was sealed."""
    return max((sender.sealed.index(text) for text in receiver.shown if text in sender.sealed), default=0)


def _told(sender: End) -> bool:
    """Has a line told the sender that this chat ended otherwise than by his own will?"""
    match sender.over:
        case ev.ChatOver(by_us=by_us):
            return not by_us
        case ev.Ended(error=error):
            return error is not None
        case None:
            return False
    return True


def _cut(sender: End) -> bool:
    """Has he lost his session in the chat, and with it what the server had to say of his texts?"""
    return sender.over == "gone" or (isinstance(sender.over, ev.Ended) and sender.over.error is not None)


def _knows(receiver: End) -> bool:
    """Has the receiver left by himself, or lost his session?"""
    match receiver.over:
        case ev.ChatOver(by_us=by_us):
            return by_us
        case None:
            return False
    return True


def _name(over: object) -> str:
    return over if isinstance(over, str) else type(over).__name__
