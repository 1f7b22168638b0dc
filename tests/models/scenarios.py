"""Which honest threads run in each search, and what must and must not be found (docs/models/README.md)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

ATTACKS: Final = (
    "impersonated",
    "misbound",
    "replayed",
    "unproved",
    "leaked",
    "forged-command",
    "named",
    "downgraded",
)
_SUITES: Final = {
    "strong": ("hybrid", "swift"),
    "all": ("hybrid", "swift"),
    "old": ("classic",),
}  # of a server's choice


@dataclass(frozen=True, slots=True)
class Client:
    """A login. `hidden`: HIDE_USER. The user `u` is one whose name the intruder does not know."""

    user: str
    server: str = "s"
    offers: str = "strong"
    hidden: bool = False

    def term(self, thread: str) -> str:
        return f"cl({thread}, {self.user}, {self.server}, {self.offers}, {'hidden' if self.hidden else self.user})"


@dataclass(frozen=True, slots=True)
class Server:
    """One session of the honest server."""

    def term(self, thread: str) -> str:
        return f"sv({thread}, s)"


@dataclass(frozen=True, slots=True)
class _Chatter:
    user: str
    peer: str
    pin: str | None = None  # whose key is pinned for the peer; None: no pin yet
    at: str = "s"  # the server that it is logged in to

    def fields(self, thread: str) -> str:
        pin = "first" if self.pin is None else f"pin(kid({self.pin}))"
        return f"({thread}, {self.user}, {self.peer}, {pin}, {self.at})"


class Caller(_Chatter):
    __slots__ = ()

    def term(self, thread: str) -> str:
        return "ca" + self.fields(thread)


class Receiver(_Chatter):
    __slots__ = ()

    def term(self, thread: str) -> str:
        return "re" + self.fields(thread)


@dataclass(frozen=True, slots=True)
class Theft:
    """Every long-term key is stolen, at any time; `kept`: of these suites the temporary private keys, too."""

    kept: tuple[str, ...] = ()

    def term(self, _thread: str) -> str:
        return f"theft({' . '.join(f'broken({suite})' for suite in self.kept) or 'none'})"


Thread = Client | Server | Caller | Receiver | Theft


@dataclass(frozen=True, slots=True)
class Scenario:
    """`without`: safeguards taken away from MESSAGEAPP. `broken`: suites whose temporary keys the intruder opens."""

    model: str
    threads: tuple[Thread, ...]
    without: frozenset[str] = frozenset()
    broken: tuple[str, ...] = ()
    invites: int = 1

    def initial(self) -> str:
        """The state before the first step, as a Maude term."""
        ids = [f"t{number}" for number, _ in enumerate(self.threads, 1)]
        threads = " ".join(thread.term(name) for name, thread in zip(ids, self.threads, strict=True))
        knows = " ".join(["sk(m)", "sk(e)", *(f"broken({suite})" for suite in self.broken)])
        return f"{{ [ {knows} ] | {threads} | {' '.join(sorted(set(self._pool())))} | silent }}"

    def _pool(self) -> Iterator[str]:
        """What a value in a message may be: whatever is anybody's of the type, and one of the intruder's."""
        ours = self.model != "REPORT"
        offers = {thread.offers if isinstance(thread, Client) else "strong" for thread in self.threads}
        if "all" in offers:
            offers.add("old")  # what somebody between would make of it
        suites = {suite for offer in offers for suite in _SUITES[offer]} if ours else {"rsa"}
        if ours:
            yield from offers
            yield from suites
        yield from ("r(tx)", "k(tx)", "w(tx)", "rat(tx)", *(f"tp(tx, {suite})" for suite in suites))
        for number, thread in enumerate(self.threads, 1):
            name = f"t{number}"
            yield f"r({name})"
            match thread:
                case Client(user, server, _, hidden):
                    yield from (f"k({name})", "s", server, f"user({user})", "hidden" if hidden else user)
                case Server():
                    yield from ("s", "m", "user(m)")
                case Caller():
                    yield from (f"k({name})", f"w({name})")
                case Receiver():
                    yield f"rat({name})"
            if isinstance(thread, Server | Receiver):
                yield from (f"tp({name}, {suite})" for suite in suites)
            if isinstance(thread, Caller | Receiver):
                yield from (f"kid({user})" for user in (thread.user, thread.peer, "m"))
                yield from (thread.user, f"user({thread.user})")
                yield from (f"inv(t{number})" for number in range(1, self.invites + 1))


@dataclass(frozen=True, slots=True)
class Query:
    name: str
    words: str
    scenario: Scenario
    alarm: str
    expected: bool


# --- the report's handshakes: every known attack is found -------------------------------------------------------------
# p01 … p07 are the rows of docs/security.md, "What was wrong with the original".

_REPORT_LOGIN: Final = Scenario("REPORT", (Client("a"), Server()))
_REPORT_MISDIRECTED: Final = Scenario("REPORT", (Client("a", "e"), Server()))
_REPORT_CROSSED: Final = Scenario("REPORT", (Server(), Caller("a", "m", "m")))
_REPORT_CHAT: Final = Scenario("REPORT", (Caller("a", "b", "b"), Receiver("b", "a", "a")))
_REPORT_ATTRIBUTION: Final = Scenario("REPORT", (Caller("a", "b", "b"), Receiver("b", "m", "m")))
_REPORT_UNPINNED: Final = Scenario("REPORT", (Caller("a", "b"), Receiver("b", "a")))

_REPORT: Final = (
    Query("report-runs", "an honest login comes to its end", _REPORT_LOGIN, "login-done", True),
    Query("report-runs", "an honest chat comes to its end", _REPORT_CHAT, "chat-done", True),
    Query("p01", "M4's known text opens the client's first record", _REPORT_LOGIN, "leaked", True),
    Query("p01", "and lets the network forge a command", _REPORT_LOGIN, "forged-command", True),
    Query("p01", "the same between two users in a chat", _REPORT_CHAT, "leaked", True),
    Query("p02", "Alice's chat signature logs Mallory in as Alice", _REPORT_CROSSED, "impersonated", True),
    Query("p03", "E passes S's M2 on: S accepts Alice, who is at E", _REPORT_MISDIRECTED, "impersonated", True),
    Query("p04", "right keys: Bob takes Alice's chat for Mallory's", _REPORT_ATTRIBUTION, "misbound", True),
    Query("p05", "the server gives its own keys and is in the middle", _REPORT_UNPINNED, "impersonated", True),
    Query("p06", "S accepts Mallory under a key that she does not have", _REPORT_LOGIN, "unproved", True),
    Query("p07", "the name in M1 is exchanged on the way", _REPORT_LOGIN, "misbound", True),
)

# --- ours: none -------------------------------------------------------------------------------------------------------

_OURS: Final = "MESSAGEAPP"
_LOGIN_ALARMS: Final = ("impersonated", "misbound", "replayed", "unproved", "leaked", "forged-command")
_CHAT_ALARMS: Final = ("impersonated", "misbound", "replayed", "unproved", "leaked")

LOGIN: Final = Scenario(_OURS, (Client("a"), Client("a", "e"), Server()))
LOGIN_HIDDEN: Final = Scenario(_OURS, (Client("u", hidden=True), Client("a", "e"), Server()))
LOGIN_TWICE: Final = Scenario(_OURS, (Client("a"), Server(), Server()))
LOGIN_OFFERS: Final = Scenario(_OURS, (Client("a", offers="all"), Server()), broken=("classic",))
CHAT: Final = Scenario(_OURS, (Caller("a", "b", "b"), Receiver("b", "a", "a"), Receiver("b", "m", "m")))
CHAT_CALLS: Final = Scenario(_OURS, (Caller("a", "b", "b"), Caller("a", "m", "m"), Receiver("b", "a", "a")))
CHAT_CROSSED: Final = Scenario(
    _OURS, (Caller("a", "b", "b"), Caller("b", "a", "a"), Receiver("b", "a", "a"), Receiver("a", "b", "b"))
)
CHAT_TWICE: Final = Scenario(
    _OURS, (Caller("a", "b", "b"), Receiver("b", "a", "a"), Receiver("b", "a", "a")), invites=2
)
CHAT_STOLEN_KEY: Final = Scenario(_OURS, (Caller("a", "b", "b"), Receiver("b", "m", "a")))
CHAT_TWO_SERVERS: Final = Scenario(_OURS, (Caller("a", "b", "b"), Receiver("b", "a", "a", at="e")))
CHAT_UNPINNED: Final = Scenario(_OURS, (Caller("a", "b"), Receiver("b", "a")))
BOTH_CALLER: Final = Scenario(_OURS, (Client("a"), Server(), Caller("a", "m", "m")))
BOTH_MISDIRECTED: Final = Scenario(_OURS, (Client("a", "e"), Server(), Caller("a", "m", "m")))
BOTH_RECEIVER: Final = Scenario(_OURS, (Client("u", hidden=True), Server(), Receiver("a", "m", "m")))
BOTH_CHAT: Final = Scenario(_OURS, (Client("a"), Server(), Caller("a", "b", "b"), Receiver("b", "a", "a")))
THEFT_LOGIN: Final = Scenario(_OURS, (Client("u", hidden=True), Server(), Theft()))
THEFT_CHAT: Final = Scenario(_OURS, (Caller("a", "b", "b"), Receiver("b", "a", "a"), Theft()))
_CROSSED: Final = (Server(), Caller("a", "m", "m"))
_ALONE: Final = (Client("a"), Server())
_INVITED: Final = (Caller("a", "b", "b"), Receiver("b", "a", "a"))


def _none(name: str, words: str, scenario: Scenario, alarms: Iterable[str]) -> list[Query]:
    return [Query(name, words, scenario, alarm, False) for alarm in alarms]


_SAFE: Final = (
    Query("runs", "an honest login comes to its end", LOGIN, "login-done", True),
    Query("runs", "an honest login with HIDE_USER comes to its end", LOGIN_HIDDEN, "login-done", True),
    Query("runs", "an honest chat comes to its end", CHAT, "chat-done", True),
    Query("runs", "a login beside a chat comes to its end", BOTH_CHAT, "login-done", True),
    Query("runs", "a chat beside a login comes to its end", BOTH_CHAT, "chat-done", True),
    *_none("login", "Alice at S and at the dishonest E", LOGIN, _LOGIN_ALARMS),
    *_none("login-hidden", "the same with HIDE_USER", LOGIN_HIDDEN, (*_LOGIN_ALARMS, "named")),
    *_none("login-twice", "one login of Alice, two sessions of S", LOGIN_TWICE, _LOGIN_ALARMS),
    *_none("login-offers", "classic is offered too, and broken", LOGIN_OFFERS, (*_LOGIN_ALARMS, "downgraded")),
    *_none("chat", "Bob is called by Alice and by Mallory; keys pinned", CHAT, _CHAT_ALARMS),
    *_none("chat-calls", "Alice calls Bob and Mallory", CHAT_CALLS, _CHAT_ALARMS),
    *_none("chat-crossed", "Alice and Bob call each other", CHAT_CROSSED, _CHAT_ALARMS),
    *_none("chat-twice", "one call of Alice, two sessions of Bob, two invites", CHAT_TWICE, _CHAT_ALARMS),
    *_none("chat-stolen-key", "Mallory is registered with Alice's public key", CHAT_STOLEN_KEY, _CHAT_ALARMS),
    *_none("chat-two-servers", "Bob is at another server than Alice", CHAT_TWO_SERVERS, (*_CHAT_ALARMS, "chat-done")),
    *_none("both-caller", "Alice logs in and calls Mallory", BOTH_CALLER, _LOGIN_ALARMS),
    *_none("both-misdirected", "Alice logs in at E and calls Mallory", BOTH_MISDIRECTED, _LOGIN_ALARMS),
    *_none("both-receiver", "a hidden login, Alice is called by Mallory", BOTH_RECEIVER, (*_LOGIN_ALARMS, "named")),
    *_none("both-chat", "Alice logs in and calls Bob", BOTH_CHAT, _LOGIN_ALARMS),
    *_none("theft", "a hidden login, then all long-term keys", THEFT_LOGIN, ("leaked", "named")),
    *_none("theft", "a chat, then all long-term keys", THEFT_CHAT, ("leaked",)),
    # Said in docs/security.md: the first contact is not protected.
    Query("first-contact", "no pins: the server is in the middle", CHAT_UNPINNED, "impersonated", True),
    Query("first-contact", "no pins: and reads", CHAT_UNPINNED, "leaked", True),
)


def _without(words: str, threads: tuple[Thread, ...], gone: str, alarm: str, expected: bool, **more: Any) -> Query:
    scenario = Scenario(_OURS, threads, frozenset(gone.split()), **more)
    return Query("without", f"{words} (without {gone})" if gone else words, scenario, alarm, expected)


# --- ours with safeguards taken away: the search sees what they are for -----------------------------------------------
# A pair that differs in one safeguard alone shows what that one does where the others are gone.

_BARE: Final = "transcript seal user-name server-name key-ids"
_WEAKENED: Final = (
    _without("p01 again", LOGIN.threads, "directions", "leaked", True),
    _without("p01 again", LOGIN.threads, "directions", "forged-command", True),
    _without("p02: the label is enough", _CROSSED, _BARE, "impersonated", False),
    _without("p02 again", _CROSSED, f"label {_BARE}", "impersonated", True),
    _without("p03: the server's name under it is enough", LOGIN.threads, "transcript seal", "impersonated", False),
    _without("p03 again", LOGIN.threads, "transcript seal server-name", "impersonated", True),
    _without("p04: an unknown share of a key", CHAT_STOLEN_KEY.threads, "peer-names", "misbound", True),
    _without("p04: the same, C2 does not sign C1", CHAT_STOLEN_KEY.threads, "c1-signed", "misbound", True),
    _without("p06 again", LOGIN.threads, "seal", "unproved", True),
    _without("p06: at the client", LOGIN.threads, "confirmation", "impersonated", True),
    _without("p07 again", _ALONE, "transcript seal user-name bound-keys", "misbound", True),
    _without("HIDE_USER without the seal", LOGIN_HIDDEN.threads, "seal", "named", True),
    _without("p10: offers not signed", LOGIN_OFFERS.threads, "offers", "downgraded", True, broken=("classic",)),
    _without("p10: and then read", LOGIN_OFFERS.threads, "offers", "leaked", True, broken=("classic",)),
    _without("keys not bound to the transcript", LOGIN.threads, "bound-keys", "misbound", True),
    _without("another invite", _INVITED, "invite", "impersonated", True, invites=2),
    _without("temporary keys kept", (*_ALONE, Theft(("hybrid", "swift"))), "", "leaked", True),
    _without(
        "the name, temporary keys kept", (*THEFT_LOGIN.threads[:2], Theft(("hybrid", "swift"))), "", "named", True
    ),
    _without("a chat, all keys kept", (*_INVITED, Theft(("hybrid", "swift", "ratchet"))), "", "leaked", True),
    # One net of two: what each of these says is said by another part, too.
    _without("one net of two: the ratchet's turn", (*_INVITED, Theft(("hybrid", "swift"))), "", "leaked", False),
    _without("one net of two", LOGIN.threads, "label", "impersonated", False),
    _without("one net of two", LOGIN.threads, "transcript", "impersonated", False),
    _without("one net of two", LOGIN.threads, "server-name", "impersonated", False),
    _without("one net of two: the names say it", CHAT_STOLEN_KEY.threads, "key-ids", "misbound", False),
)

SAFE: Final = frozenset(query.name for query in _SAFE if not query.expected)
QUERIES: Final = (*_REPORT, *_SAFE, *_WEAKENED)
