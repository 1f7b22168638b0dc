"""Who is online and who calls whom: the report's table of pending states, as data (protocol §6).

`RULES` is the whole machine: (state, event, when) → (next, peer's next, effect). What matches no rule is refused with
`erro 3` and changes nothing; so `acpt` with another name or invite changes nothing, and `frwd` outside a chat goes
nowhere. A diagram of it is generated into the documentation from these rows.

The state is the user's; the sessions bound to a call are those that called, accepted and talk. A call rings on every
session of the called user, and the first that answers takes it.

Pure: no I/O and no clock. Each event returns the `Message`s that follow from it.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass, field, replace
from typing import Final, Generic, Protocol, TypeVar

from messageapp.wire.commands import (
    Argument,
    Call,
    ErrorCode,
    Errors,
    Invite,
    Left,
    ListEntry,
    Listing,
    PeerKey,
    Raw,
    UserState,
)
from messageapp_keys.identity import IdentityBundle
from messageapp_keys.names import fold
from messageapp_keys.pem import export_public_pem

__all__ = ["RULES", "Message", "Presence", "Rule", "UserEntry", "no_proof"]

NOT_AVAILABLE: Final = "not available"
NOT_NOW: Final = "not now"


def _public_pem(bundle: bytes) -> bytes:
    """The keys of an encoded bundle as PUBLIC KEY blocks."""
    return export_public_pem(IdentityBundle.parse_untrusted(bundle)).encode()


def no_proof(name: str) -> bytes:
    """Of a server without a key log."""
    return b""


class SessionLike(Protocol):
    """What presence needs of a session."""

    @property
    def user(self) -> str: ...


class BlocksLike(Protocol):
    """Who blocks whom (protocol §6.2)."""

    def is_blocked(self, owner: str, blocked: str) -> bool: ...

    def blockers_of(self, blocked: str) -> Container[str]:
        """Their names in lower case; false where there are none."""
        ...


S = TypeVar("S", bound=SessionLike)


@dataclass(frozen=True, slots=True)
class Message(Generic[S]):
    """To be sent to `session`: as the reply to the request under way, or as an event."""

    session: S
    verb: str
    argument: Argument | None = None
    reply: bool = False


@dataclass(eq=False, slots=True)
class _Bond(Generic[S]):
    """A call or chat. `receiver_session` is None while it rings."""

    invite: bytes
    caller: UserEntry[S]
    receiver: UserEntry[S]
    caller_session: S
    receiver_session: S | None
    deadline: float

    def peer(self, entry: UserEntry[S]) -> UserEntry[S]:
        return self.receiver if entry is self.caller else self.caller

    def session_of(self, entry: UserEntry[S]) -> S | None:
        return self.caller_session if entry is self.caller else self.receiver_session


@dataclass(eq=False, slots=True)
class UserEntry(Generic[S]):
    """A user with at least one session."""

    name: str
    key_id: bytes
    bundle: bytes  # encoded
    sessions: list[S] = field(default_factory=list)
    state: UserState = UserState.IDLE
    bond: _Bond[S] | None = None


@dataclass(frozen=True, slots=True)
class _Event(Generic[S]):
    """One event with all that conditions and effects look at."""

    entry: UserEntry[S]
    session: S
    invite: bytes = b""
    name: str = ""  # as the request names the peer
    target: UserEntry[S] | None = None  # chat, block: whom
    now: float = 0.0
    blocking: bool = False  # chat: whoever calls blocks whom he calls
    blocked: bool = False  # chat: and the other way round


@dataclass(frozen=True, slots=True)
class Rule:
    state: UserState
    event: str
    when: str  # a key of _CONDITIONS
    next: UserState
    peer_next: UserState | None  # None: the peer's state stays
    effect: str  # a name of a method of Presence


_IDLE, _RINGING, _IN_CHAT, _CALLING = UserState.IDLE, UserState.RINGING, UserState.IN_CHAT, UserState.CALLING

RULES: Final = (
    Rule(_IDLE, "chat", "peer is blocked by me", _IDLE, None, "remind"),
    Rule(_IDLE, "chat", "peer is idle", _CALLING, _RINGING, "ring"),
    Rule(_IDLE, "chat", "peer is not available", _IDLE, None, "unavailable"),
    Rule(_RINGING, "chat", "peer is calling me", _IN_CHAT, _IN_CHAT, "glare"),
    Rule(_RINGING, "acpt", "name and invite match", _IN_CHAT, _IN_CHAT, "bind"),
    Rule(_RINGING, "refu", "name and invite match", _IDLE, _IDLE, "refuse"),
    Rule(_RINGING, "gone", "last session", _IDLE, _IDLE, "vanish"),
    Rule(_RINGING, "block", "of the peer", _IDLE, _IDLE, "expire"),
    Rule(_CALLING, "cach", "my call and invite", _IDLE, _IDLE, "cancel"),
    Rule(_CALLING, "gone", "bound session", _IDLE, _IDLE, "stop_ringing"),
    Rule(_CALLING, "time out", "always", _IDLE, _IDLE, "expire"),
    Rule(_CALLING, "block", "of the peer", _IDLE, _IDLE, "expire"),
    Rule(_IN_CHAT, "exch", "bound session", _IDLE, _IDLE, "leave"),
    Rule(_IN_CHAT, "gone", "bound session", _IDLE, _IDLE, "disconnect"),
    Rule(_IN_CHAT, "block", "of the peer", _IDLE, _IDLE, "separate"),
)
_RULES_FOR: Final = {
    (one.state, one.event): tuple([rule for rule in RULES if (rule.state, rule.event) == (one.state, one.event)])
    for one in RULES
}


def _peer_idle(event: _Event[S]) -> bool:
    """Also for who is called; one who blocks the caller is as one who is not there."""
    target = event.target
    return target is not None and target is not event.entry and target.state is UserState.IDLE and not event.blocked


def _names_bond(event: _Event[S]) -> bool:
    bond = event.entry.bond
    return bond is not None and bond.caller.name == event.name and bond.invite == event.invite


def _bound_session(event: _Event[S]) -> bool:
    bond = event.entry.bond
    return bond is not None and bond.session_of(event.entry) is event.session


_CONDITIONS: Final[dict[str, Callable[[_Event[S]], bool]]] = {
    "always": lambda event: True,
    "peer is blocked by me": lambda event: event.blocking,
    "peer is idle": _peer_idle,
    "peer is not available": lambda event: not _peer_idle(event),
    "peer is calling me": lambda event: event.entry.bond is not None and event.entry.bond.caller is event.target,
    "name and invite match": _names_bond,
    "my call and invite": lambda event: (
        _bound_session(event) and event.entry.bond is not None and event.entry.bond.invite == event.invite
    ),
    "bound session": _bound_session,
    "last session": lambda event: len(event.entry.sessions) == 1,
    "of the peer": lambda event: event.entry.bond is not None and event.entry.bond.peer(event.entry) is event.target,
}


class Presence(Generic[S]):
    """All users that are online."""

    def __init__(
        self,
        ring_seconds: float,
        pem_of: Callable[[bytes], bytes] = _public_pem,
        proof_of: Callable[[str], bytes] = no_proof,
        blocks: BlocksLike | None = None,
    ) -> None:
        self._users: dict[str, UserEntry[S]] = {}
        self._ringing: dict[_Bond[S], None] = {}  # in the order of their deadlines
        self._ring_seconds = ring_seconds
        self._pem_of = pem_of  # made for a call that is answered: most sessions never need it
        self._proof_of = proof_of  # of the key log (protocol §12)
        self._blocks = blocks
        self.session_count = 0
        self._listing: Raw | None = None
        self._listed: list[tuple[str, bytes]] = []  # its entries: (lower-case name, encoded)

    # who is there -----------------------------------------------------------------------------------------------------

    def join(self, session: S, key_id: bytes, bundle: bytes) -> UserEntry[S]:
        entry = self._users.get(session.user)
        if entry is None:
            entry = self._users[session.user] = UserEntry(session.user, key_id, bundle)
        entry.key_id, entry.bundle = key_id, bundle
        entry.sessions.append(session)
        self.session_count += 1
        self._listing = None
        return entry

    def leave(self, session: S) -> list[Message[S]]:
        """The session is gone, whatever the reason. Calling it for one that is not there does nothing."""
        entry = self._users.get(session.user)
        if entry is None or session not in entry.sessions:
            return []
        messages = self._apply("gone", _Event(entry, session))
        entry.sessions.remove(session)
        self.session_count -= 1
        self._listing = None
        if not entry.sessions:
            del self._users[session.user]
        return messages or []

    def find(self, name: str) -> UserEntry[S] | None:
        return self._users.get(name)

    def listing(self, user: str = "") -> Raw:
        """The encoded reply to `list` for `user`, from whom those who block him are hidden.

        Every client asks again and again, so it is made once a change for all others.
        """
        if self._listing is None:
            self._listed = [
                (fold(entry.name), Listing((ListEntry(entry.name, entry.state),)).encode())
                for entry in self._users.values()
            ]
            self._listing = Raw(b"".join(encoded for _, encoded in self._listed))
        hidden = self._blocks.blockers_of(user) if self._blocks is not None else None
        if not hidden:
            return self._listing
        return Raw(b"".join(encoded for name, encoded in self._listed if name not in hidden))

    def sessions(self) -> Iterator[S]:
        for entry in list(self._users.values()):
            yield from list(entry.sessions)

    def chat_peer(self, session: S) -> S | None:
        """Where `frwd` of this session goes; None outside a chat."""
        entry = self._users.get(session.user)
        if entry is None or entry.state is not UserState.IN_CHAT or entry.bond is None:
            return None
        bond = entry.bond
        return bond.session_of(bond.peer(entry)) if bond.session_of(entry) is session else None

    # events -----------------------------------------------------------------------------------------------------------

    def chat(self, session: S, call: Call, now: float) -> list[Message[S]]:
        blocks, entry = self._blocks, self._users[session.user]
        event = _Event(entry, session, call.invite, call.user, self._users.get(call.user), now)
        if blocks is not None:  # both are asked whoever is online: it must not show in the time that it takes
            blocking, blocked = blocks.is_blocked(entry.name, call.user), blocks.is_blocked(call.user, entry.name)
            event = replace(event, blocking=blocking, blocked=blocked)
        return self._answer("chat", event)

    def accept(self, session: S, call: Call) -> list[Message[S]]:
        return self._request("acpt", session, call.user, call.invite)

    def refuse(self, session: S, call: Call) -> list[Message[S]]:
        return self._request("refu", session, call.user, call.invite)

    def cancel(self, session: S, invite: Invite) -> list[Message[S]]:
        return self._request("cach", session, "", invite.invite)

    def leave_chat(self, session: S) -> list[Message[S]]:
        return self._request("exch", session)

    def block(self, owner: str, blocked: str) -> list[Message[S]]:
        """`owner` blocks from now on: what both have to do with each other at this moment ends."""
        entry = self._users.get(owner)
        target = next((each for each in self._users.values() if fold(each.name) == fold(blocked)), None)
        if entry is None or target is None:
            return []
        return self._apply("block", _Event(entry, entry.sessions[0], target=target)) or []

    def expire(self, now: float) -> list[Message[S]]:
        """End the calls that rang for too long."""
        messages: list[Message[S]] = []
        for bond in list(self._ringing):
            if bond.deadline > now:
                break
            messages += self._apply("time out", _Event(bond.caller, bond.caller_session)) or []
        return messages

    def _request(self, name: str, session: S, user: str = "", invite: bytes = b"") -> list[Message[S]]:
        return self._answer(name, _Event(self._users[session.user], session, invite, user, self._users.get(user)))

    def _answer(self, name: str, event: _Event[S]) -> list[Message[S]]:
        messages = self._apply(name, event)
        if messages is None:
            return [Message(event.session, "erro", Errors(ErrorCode.NOT_NOW, NOT_NOW), reply=True)]
        return messages

    def _apply(self, name: str, event: _Event[S]) -> list[Message[S]] | None:
        for rule in _RULES_FOR.get((event.entry.state, name), ()):
            if _CONDITIONS[rule.when](event):
                bond = event.entry.bond
                peer = event.target if bond is None else bond.peer(event.entry)
                messages: list[Message[S]] = getattr(self, f"_{rule.effect}")(event)
                event.entry.state = rule.next
                self._listing = None
                if rule.peer_next is not None and peer is not None:
                    peer.state = rule.peer_next
                return messages
        return None

    # effects ----------------------------------------------------------------------------------------------------------

    def _ring(self, event: _Event[S]) -> list[Message[S]]:
        caller, called = event.entry, event.target
        assert called is not None  # noqa: S101 - the rule's condition
        bond = _Bond(event.invite, caller, called, event.session, None, event.now + self._ring_seconds)
        caller.bond = called.bond = bond
        self._ringing[bond] = None
        return [
            *(Message(session, "reqt", Call(caller.name, bond.invite)) for session in called.sessions),
            Message(event.session, "reqt", Call(called.name, bond.invite), reply=True),
        ]

    def _unavailable(self, event: _Event[S]) -> list[Message[S]]:
        return [Message(event.session, "erro", Errors(ErrorCode.NOT_AVAILABLE, NOT_AVAILABLE), reply=True)]

    def _remind(self, event: _Event[S]) -> list[Message[S]]:
        text = f"you block {event.name}; unblock {event.name} first"
        return [Message(event.session, "erro", Errors(ErrorCode.NOT_NOW, text), reply=True)]

    def _glare(self, event: _Event[S]) -> list[Message[S]]:
        """Both called: the call whose caller has the smaller key_id stands; the session that asked takes part."""
        rang = self._bond_of(event)
        bond = rang
        if event.entry.key_id < rang.caller.key_id:
            bond = _Bond(event.invite, event.entry, rang.caller, event.session, rang.caller_session, rang.deadline)
            event.entry.bond = rang.caller.bond = bond
        return self._connect(rang, bond, event)

    def _bind(self, event: _Event[S]) -> list[Message[S]]:
        bond = self._bond_of(event)
        return self._connect(bond, bond, event)

    def _connect(self, rang: _Bond[S], bond: _Bond[S], event: _Event[S]) -> list[Message[S]]:
        """pubk to both: the reply to who asked last, an event to the other; the user's other sessions stop ringing."""
        self._ringing.pop(rang, None)
        if bond.receiver_session is None:
            bond.receiver_session = event.session
        caller, receiver = bond.caller, bond.receiver
        to_caller, to_receiver = self._key_of(bond, receiver), self._key_of(bond, caller)
        return [
            *(self._silence(rang, event.entry, but=event.session)),
            Message(bond.caller_session, "pubk", to_caller, reply=bond.caller_session is event.session),
            Message(bond.receiver_session, "pubk", to_receiver, reply=bond.receiver_session is event.session),
        ]

    def _key_of(self, bond: _Bond[S], entry: UserEntry[S]) -> PeerKey:
        """pubk about `entry`, for the other side of the bond."""
        to_caller = entry is bond.receiver
        pem, proof = self._pem_of(entry.bundle), self._proof_of(entry.name)
        return PeerKey(bond.invite, to_caller, entry.name, entry.bundle, pem, proof)

    def _refuse(self, event: _Event[S]) -> list[Message[S]]:
        bond = self._dissolve(event)
        return [
            *self._silence(bond, event.entry, but=event.session),
            Message(bond.caller_session, "refu", Call(event.entry.name, bond.invite)),
            Message(event.session, "okay", reply=True),
        ]

    def _vanish(self, event: _Event[S]) -> list[Message[S]]:
        bond = self._dissolve(event)
        return [Message(bond.caller_session, "refu", Call(event.entry.name, bond.invite))]

    def _cancel(self, event: _Event[S]) -> list[Message[S]]:
        return [*self._stop_ringing(event), Message(event.session, "okay", reply=True)]

    def _stop_ringing(self, event: _Event[S]) -> list[Message[S]]:
        bond = self._dissolve(event)
        return self._silence(bond, bond.receiver)

    def _expire(self, event: _Event[S]) -> list[Message[S]]:
        bond = self._dissolve(event)
        return [
            *self._silence(bond, bond.receiver),
            Message(bond.caller_session, "refu", Call(bond.receiver.name, bond.invite)),
        ]

    def _leave(self, event: _Event[S]) -> list[Message[S]]:
        return [*self._part(event, disconnected=False), Message(event.session, "okay", reply=True)]

    def _disconnect(self, event: _Event[S]) -> list[Message[S]]:
        return self._part(event, disconnected=True)

    def _separate(self, event: _Event[S]) -> list[Message[S]]:
        """Of a client that did not leave first: it learns it as the peer does."""
        bond = self._dissolve(event)
        both = (bond.caller_session, bond.receiver_session)
        return [Message(session, "exch", Left(disconnected=False)) for session in both if session is not None]

    def _part(self, event: _Event[S], *, disconnected: bool) -> list[Message[S]]:
        bond = self._dissolve(event)
        peer = bond.session_of(bond.peer(event.entry))
        return [] if peer is None else [Message(peer, "exch", Left(disconnected))]

    @staticmethod
    def _silence(bond: _Bond[S], entry: UserEntry[S], but: S | None = None) -> list[Message[S]]:
        """The other sessions of `entry` learn that the call no longer rings."""
        return [Message(session, "cach", Invite(bond.invite)) for session in entry.sessions if session is not but]

    @staticmethod
    def _bond_of(event: _Event[S]) -> _Bond[S]:
        bond = event.entry.bond
        assert bond is not None  # noqa: S101 - the rule's condition
        return bond

    def _dissolve(self, event: _Event[S]) -> _Bond[S]:
        bond = self._bond_of(event)
        self._ringing.pop(bond, None)
        bond.caller.bond = bond.receiver.bond = None
        return bond
