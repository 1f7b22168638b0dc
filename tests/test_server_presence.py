"""The table of calls: each row, everything else, and every state that three users can reach."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from messageapp.server.presence import RULES, Message, Presence
from messageapp.wire.commands import Call, Errors, Invite, Left, ListEntry, Listing, PeerKey, Raw, UserState
from messageapp_keys.identity import PrivateIdentity
from messageapp_keys.pem import export_public_pem

IDLE, RINGING, IN_CHAT, CALLING = UserState.IDLE, UserState.RINGING, UserState.IN_CHAT, UserState.CALLING
RING = 60.0
OF_STRANGER = b"S" * 16


@dataclass(eq=False)
class Device:
    """A session, and what its client believes from the messages it got."""

    user: str
    label: str
    believes: tuple[str, bytes] | None = None  # (calling | ringing | chat, invite)

    def __repr__(self) -> str:
        return self.label

    def hear(self, message: Message[Device]) -> None:
        argument: Any = message.argument
        match message.verb:
            case "reqt":
                self.believes = ("calling" if message.reply else "ringing", argument.invite)
            case "pubk":
                self.believes = ("chat", argument.invite)
            case "cach" if self.believes == ("ringing", argument.invite):
                self.believes = None
            case "refu" if self.believes == ("calling", argument.invite):
                self.believes = None
            case "exch" | "okay":
                self.believes = None


def pem_of(bundle: bytes) -> bytes:
    return b"pem of " + bundle


def invite_of(user: str) -> bytes:
    return user.encode() * 16


class Office:
    """Presence with the clients' half, so that both can be compared."""

    KEYS = {"A": b"\1", "B": b"\2", "C": b"\3"}  # noqa: RUF012

    def __init__(self, *labels: str) -> None:
        self.presence: Presence[Device] = Presence(RING, pem_of)
        self.devices: dict[str, Device] = {}
        self.sent: list[Message[Device]] = []
        for label in labels:
            self.join(label)

    def join(self, label: str) -> None:
        device = self.devices[label] = Device(label[0], label)
        self.presence.join(device, self.KEYS[label[0]], b"bundle of " + label[:1].encode())

    def told(self, messages: list[Message[Device]]) -> list[Message[Device]]:
        for message in messages:
            message.session.hear(message)
        self.sent = messages
        return messages

    def leave(self, label: str) -> None:
        self.told(self.presence.leave(self.devices.pop(label)))

    def chat(self, label: str, user: str, invite: bytes | None = None, now: float = 0.0) -> None:
        call = Call(user, invite or invite_of(label[0]))
        self.told(self.presence.chat(self.devices[label], call, now))

    def acpt(self, label: str, user: str, invite: bytes | None = None) -> None:
        self.told(self.presence.accept(self.devices[label], Call(user, invite or invite_of(user))))

    def refu(self, label: str, user: str, invite: bytes | None = None) -> None:
        self.told(self.presence.refuse(self.devices[label], Call(user, invite or invite_of(user))))

    def cach(self, label: str, invite: bytes | None = None) -> None:
        self.told(self.presence.cancel(self.devices[label], Invite(invite or invite_of(label[0]))))

    def exch(self, label: str) -> None:
        self.told(self.presence.leave_chat(self.devices[label]))

    def expire(self) -> None:
        self.told(self.presence.expire(RING))

    def state(self, user: str) -> UserState | None:
        entry = self.presence.find(user)
        return None if entry is None else entry.state

    def got(self) -> set[tuple[str, str, bool]]:
        return {(message.session.label, message.verb, message.reply) for message in self.sent}

    def snapshot(self) -> tuple[Any, ...]:
        rows = []
        for user in "ABC":
            entry = self.presence.find(user)
            if entry is not None:
                bond = entry.bond
                shape = None
                if bond is not None:
                    answered = None if bond.receiver_session is None else bond.receiver_session.label
                    shape = (bond.caller.name, bond.receiver.name, bond.caller_session.label, answered, bond.invite)
                rows.append((user, entry.state, tuple(device.label for device in entry.sessions), shape))
        return (*rows, tuple(sorted((label, device.believes) for label, device in self.devices.items())))


def test_pem_is_made_for_a_call_that_is_answered_and_not_before() -> None:
    made: list[bytes] = []
    office = Office()

    def make(bundle: bytes) -> bytes:
        made.append(bundle)
        return b"pem"

    office.presence = Presence(RING, make)
    for label in ("A1", "A2", "B1"):
        office.join(label)
    office.chat("A1", "B")
    assert made == []
    office.acpt("B1", "A")
    assert sorted(made) == [b"bundle of A", b"bundle of B"]


def test_keys_are_handed_out_in_pem_as_they_are_exported() -> None:
    presence: Presence[Device] = Presence(RING)
    who = {user: PrivateIdentity.generate("ed25519").bundle for user in "AB"}
    devices = {user: Device(user, f"{user}1") for user in "AB"}
    for user, device in devices.items():
        presence.join(device, who[user].key_id, who[user].encode())
    presence.chat(devices["A"], Call("B", invite_of("A")), 0.0)
    told = presence.accept(devices["B"], Call("A", invite_of("A")))
    found = {message.session.user: message.argument for message in told if message.verb == "pubk"}
    for user, peer in (("A", "B"), ("B", "A")):
        argument: Any = found[user]
        assert (argument.bundle, argument.pem) == (who[peer].encode(), export_public_pem(who[peer]).encode())


# each row ---------------------------------------------------------------------------------------------------------


def idle() -> Office:
    return Office("A1", "A2", "B1", "B2", "C1")


def ringing() -> Office:
    office = idle()
    office.chat("A1", "B")
    return office


def chatting() -> Office:
    office = ringing()
    office.acpt("B1", "A")
    return office


def test_a_call_rings_on_every_device() -> None:
    office = idle()
    office.chat("A1", "B")
    assert (office.state("A"), office.state("B"), office.state("C")) == (CALLING, RINGING, IDLE)
    assert office.got() == {("A1", "reqt", True), ("B1", "reqt", False), ("B2", "reqt", False)}
    named = {message.session.label: message.argument for message in office.sent}
    assert named["A1"] == Call("B", invite_of("A"))
    assert named["B1"] == named["B2"] == Call("A", invite_of("A"))


def test_all_reasons_not_to_be_available_are_answered_alike() -> None:
    """Unknown, offline, busy, oneself: one code and one text."""
    answers = []
    for caller, called in (("C1", "A"), ("C1", "B"), ("C1", "D"), ("C1", "C")):
        office = ringing()
        office.chat(caller, called)
        assert office.state("C") is IDLE
        answers.append(office.sent)
    for (message,) in answers:
        assert message.reply
        assert message.argument == Errors(10, "not available")


def test_accepting_gives_both_the_others_key() -> None:
    office = ringing()
    office.acpt("B2", "A")
    assert office.state("A") is office.state("B") is IN_CHAT
    assert office.got() == {("A1", "pubk", False), ("B2", "pubk", True), ("B1", "cach", False)}
    keys = {message.session.label: message.argument for message in office.sent}
    assert keys["A1"] == PeerKey(invite_of("A"), True, "B", b"bundle of B", b"pem of bundle of B")
    assert keys["B2"] == PeerKey(invite_of("A"), False, "A", b"bundle of A", b"pem of bundle of A")


@pytest.mark.parametrize("first", ["A", "B"])
def test_glare_ends_in_one_chat_and_the_smaller_key_is_the_caller(first: str) -> None:
    second = "B" if first == "A" else "A"
    office = idle()
    office.chat(f"{first}1", second)
    office.chat(f"{second}2", first)
    assert office.state("A") is office.state("B") is IN_CHAT
    keys = {message.session.label: message for message in office.sent if message.verb == "pubk"}
    caller, receiver = (f"{first}1", f"{second}2") if first == "A" else (f"{second}2", f"{first}1")
    assert set(keys) == {caller, receiver}
    assert keys[caller].argument == PeerKey(invite_of("A"), True, "B", b"bundle of B", b"pem of bundle of B")
    assert keys[receiver].argument == PeerKey(invite_of("A"), False, "A", b"bundle of A", b"pem of bundle of A")
    assert [message.session.label for message in office.sent if message.reply] == [f"{second}2"]
    assert office.presence.chat_peer(office.devices[caller]) is office.devices[receiver]
    assert office.presence.chat_peer(office.devices[receiver]) is office.devices[caller]


def test_refusing_tells_the_caller_and_the_other_devices() -> None:
    office = ringing()
    office.refu("B1", "A")
    assert office.state("A") is office.state("B") is IDLE
    assert office.got() == {("A1", "refu", False), ("B1", "okay", True), ("B2", "cach", False)}


def test_a_canceled_call_stops_ringing() -> None:
    office = ringing()
    office.cach("A1")
    assert office.state("A") is office.state("B") is IDLE
    assert office.got() == {("A1", "okay", True), ("B1", "cach", False), ("B2", "cach", False)}


def test_the_vanished_caller_stops_ringing() -> None:
    office = ringing()
    office.leave("A1")
    assert office.state("A") is office.state("B") is IDLE
    assert office.got() == {("B1", "cach", False), ("B2", "cach", False)}


def test_the_callers_other_device_may_vanish() -> None:
    office = ringing()
    office.leave("A2")
    assert (office.state("A"), office.state("B"), office.sent) == (CALLING, RINGING, [])


def test_the_called_user_has_vanished_with_the_last_device() -> None:
    office = ringing()
    office.leave("B1")
    assert (office.state("B"), office.sent) == (RINGING, [])
    office.leave("B2")
    assert (office.state("A"), office.state("B")) == (IDLE, None)
    assert office.got() == {("A1", "refu", False)}


def test_a_call_rings_until_its_deadline() -> None:
    office = ringing()
    assert office.presence.expire(RING - 0.01) == []
    assert office.state("B") is RINGING
    office.expire()
    assert office.state("A") is office.state("B") is IDLE
    assert office.got() == {("A1", "refu", False), ("B1", "cach", False), ("B2", "cach", False)}


@pytest.mark.parametrize("end", ["cach", "refu", "acpt", "glare", "caller gone", "called gone"])
def test_the_deadline_of_a_call_that_is_over_does_not_end_the_next(end: str) -> None:
    office = Office("A1", "B1")
    office.chat("A1", "B")
    match end:
        case "cach":
            office.cach("A1")
        case "refu":
            office.refu("B1", "A")
        case "acpt":
            office.acpt("B1", "A")
            office.exch("A1")
        case "glare":
            office.chat("B1", "A")
            office.exch("A1")
        case "caller gone":
            office.leave("A1")
            office.join("A1")
        case "called gone":
            office.leave("B1")
            office.join("B1")
    office.chat("A1", "B", now=30.0)
    assert office.presence.expire(RING + 29.9) == []
    assert (office.state("A"), office.state("B")) == (CALLING, RINGING)
    office.told(office.presence.expire(RING + 30))
    assert office.state("A") is office.state("B") is IDLE


@pytest.mark.parametrize("who", ["A1", "B1"])
def test_who_leaves_a_chat_ends_it_for_both(who: str) -> None:
    office, other = chatting(), "B1" if who == "A1" else "A1"
    office.exch(who)
    assert office.state("A") is office.state("B") is IDLE
    assert office.got() == {(who, "okay", True), (other, "exch", False)}
    assert next(message.argument for message in office.sent if message.verb == "exch") == Left(disconnected=False)


@pytest.mark.parametrize("who", ["A1", "B1"])
def test_who_vanishes_from_a_chat_ends_it_for_the_other(who: str) -> None:
    office, other = chatting(), "B1" if who == "A1" else "A1"
    office.leave(who)
    assert office.state("A") is office.state("B") is IDLE
    assert [(message.session.label, message.argument) for message in office.sent] == [(other, Left(disconnected=True))]


@pytest.mark.parametrize("who", ["A2", "B2"])
def test_devices_outside_the_chat_may_come_and_go(who: str) -> None:
    office = chatting()
    office.leave(who)
    assert (office.sent, office.state("A"), office.state("B")) == ([], IN_CHAT, IN_CHAT)


# everything else --------------------------------------------------------------------------------------------------

NOT_NOW: dict[str, tuple[Callable[[], Office], Callable[[Office], None]]] = {
    "idle, acpt": (idle, lambda o: o.acpt("A1", "B")),
    "idle, refu": (idle, lambda o: o.refu("A1", "B")),
    "idle, cach": (idle, lambda o: o.cach("A1")),
    "idle, exch": (idle, lambda o: o.exch("A1")),
    "ringing, chat with a third": (ringing, lambda o: o.chat("B1", "C")),
    "ringing, chat with oneself": (ringing, lambda o: o.chat("B1", "B")),
    "ringing, acpt of another name": (ringing, lambda o: o.acpt("B1", "C", invite_of("A"))),
    "ringing, acpt of another invite": (ringing, lambda o: o.acpt("B1", "A", OF_STRANGER)),
    "ringing, acpt of an empty name": (ringing, lambda o: o.acpt("B1", "", invite_of("A"))),
    "ringing, acpt of the own name": (ringing, lambda o: o.acpt("B1", "B", invite_of("A"))),
    "ringing, refu of another name": (ringing, lambda o: o.refu("B1", "C", invite_of("A"))),
    "ringing, refu of another invite": (ringing, lambda o: o.refu("B1", "A", OF_STRANGER)),
    "ringing, cach": (ringing, lambda o: o.cach("B1", invite_of("A"))),
    "ringing, exch": (ringing, lambda o: o.exch("B1")),
    "calling, chat again": (ringing, lambda o: o.chat("A1", "B")),
    "calling, chat with a third": (ringing, lambda o: o.chat("A1", "C")),
    "calling, acpt of the own call": (ringing, lambda o: o.acpt("A1", "A")),
    "calling, acpt of the called": (ringing, lambda o: o.acpt("A1", "B", invite_of("A"))),
    "calling, refu": (ringing, lambda o: o.refu("A1", "B", invite_of("A"))),
    "calling, cach of another invite": (ringing, lambda o: o.cach("A1", OF_STRANGER)),
    "calling, cach by another device": (ringing, lambda o: o.cach("A2")),
    "calling, exch": (ringing, lambda o: o.exch("A1")),
    "chat, chat": (chatting, lambda o: o.chat("A1", "C")),
    "chat, acpt again": (chatting, lambda o: o.acpt("B1", "A")),
    "chat, acpt by another device": (chatting, lambda o: o.acpt("B2", "A")),
    "chat, refu": (chatting, lambda o: o.refu("B1", "A")),
    "chat, cach": (chatting, lambda o: o.cach("A1")),
    "chat, exch by another device": (chatting, lambda o: o.exch("A2")),
}


@pytest.mark.parametrize("case", NOT_NOW)
def test_everything_else_is_refused_and_changes_nothing(case: str) -> None:
    make, act = NOT_NOW[case]
    office = make()
    before = office.snapshot()
    act(office)
    (message,) = office.sent
    assert message.reply
    assert message.argument == Errors(3, "not now")
    assert office.snapshot() == before


def test_only_the_two_bound_devices_are_in_the_chat() -> None:
    office = chatting()
    reached = {label: office.presence.chat_peer(device) for label, device in office.devices.items()}
    assert reached == {
        "A1": office.devices["B1"],
        "B1": office.devices["A1"],
        "A2": None,
        "B2": None,
        "C1": None,
    }


# blocks ---------------------------------------------------------------------------------------------------------------


class Blocked:
    """(who, whom), as the directory has them."""

    def __init__(self, *pairs: str) -> None:
        self.pairs = set(pairs)

    def is_blocked(self, owner: str, blocked: str) -> bool:
        return owner + blocked in self.pairs

    def blockers_of(self, blocked: str) -> set[str]:
        return {pair[0].lower() for pair in self.pairs if pair[1] == blocked}


def blocking(*pairs: str) -> Office:
    office = Office()
    office.presence = Presence(RING, pem_of, blocks=Blocked(*pairs))
    for label in ("A1", "A2", "B1", "B2", "C1"):
        office.join(label)
    return office


def test_who_is_blocked_is_answered_as_by_one_who_is_offline() -> None:
    office = blocking("AB")
    office.chat("B1", "A")
    of_blocked, state = office.sent, office.snapshot()
    office.chat("B1", "D")
    assert of_blocked == office.sent
    assert of_blocked[0].argument == Errors(10, "not available")
    assert state == office.snapshot() == blocking("AB").snapshot()
    office.chat("C1", "A")  # others are not concerned
    assert office.state("A") is RINGING


def test_who_blocks_is_reminded_of_it_also_where_the_other_is_offline() -> None:
    office = blocking("AB", "AD")
    for user in "BD":
        office.chat("A1", user)
        assert [message.argument for message in office.sent] == [Errors(3, f"you block {user}; unblock {user} first")]
        assert office.state("A") is IDLE


def test_who_blocks_is_hidden_from_the_blocked_and_from_nobody_else() -> None:
    office = blocking("AB")
    everybody = office.presence.listing("C")
    assert everybody == Raw(Listing(tuple(ListEntry(user, IDLE) for user in "ABC")).encode())
    assert office.presence.listing("A") is office.presence.listing("C") is everybody
    office.chat("A1", "C")
    found = office.presence.listing("B")
    assert found == Raw(Listing((ListEntry("B", IDLE), ListEntry("C", RINGING))).encode())


def test_a_call_that_rings_at_the_blocking_ends_as_an_unanswered_one() -> None:
    unanswered = ringing()
    unanswered.expire()
    for owner, other in ("BA", "AB"):
        office = ringing()
        office.told(office.presence.block(owner, other))
        assert office.got() == unanswered.got()
        assert office.state("A") is office.state("B") is IDLE
        assert {device.believes for device in office.devices.values()} == {None}


def test_a_chat_at_the_blocking_ends_as_one_that_was_left() -> None:
    for owner, other in ("BA", "AB"):
        office = chatting()
        office.told(office.presence.block(owner, other))
        assert {(message.session.label, message.argument) for message in office.sent} == {
            ("A1", Left(disconnected=False)),
            ("B1", Left(disconnected=False)),
        }
        assert office.presence.chat_peer(office.devices["A1"]) is None


def test_blocking_somebody_else_ends_nothing() -> None:
    for make in (idle, ringing, chatting):
        office = make()
        before = office.snapshot()
        for owner, other in ("AC", "BC", "CA", "CB", "AD", "DA", "AA"):
            assert office.presence.block(owner, other) == []
        assert office.snapshot() == before


# every reachable state --------------------------------------------------------------------------------------------

DEVICES = ("A1", "A2", "B1", "B2", "C1")
Step = tuple[str, ...]


def steps() -> list[Step]:
    found: list[Step] = [("expire",)]
    for device in DEVICES:
        found += [("join", device), ("leave", device), ("exch", device)]
        found += [("cach", device, user) for user in "ABC"]
        found += [(verb, device, user) for verb in ("chat", "block") for user in "ABC"]
        found += [(verb, device, user) for verb in ("acpt", "refu") for user in "ABC" if user != device[0]]
        other = "C" if device[0] != "C" else "A"
        found += [(verb, device, other, user) for verb in ("acpt", "refu") for user in "AB" if user != other]
    return found


def perform(office: Office, step: Step) -> bool:
    """False where the step makes no sense: a device that is there joins, one that is not acts."""
    match step:
        case ("expire",):
            office.expire()
            return True
        case ("join", device):
            if device in office.devices:
                return False
            office.join(device)
            office.sent = []
            return True
    device = step[1]
    if device not in office.devices:
        return False
    match step:
        case ("leave", _):
            office.leave(device)
        case ("block", _, user):
            office.told(office.presence.block(device[0], user))
        case ("exch", _):
            office.exch(device)
        case ("cach", _, user):
            office.cach(device, invite_of(user))
        case ("chat", _, user):
            office.chat(device, user)
        case (("acpt" | "refu") as verb, _, user):
            getattr(office, verb)(device, user)
        case (verb, _, user, invited):
            getattr(office, verb)(device, user, invite_of(invited))
    return True


def check(office: Office, step: Step) -> None:
    """What holds in every state, whatever led there."""
    bound: dict[str, tuple[str, bytes]] = {}
    for user in "ABC":
        entry = office.presence.find(user)
        if entry is None:
            assert not any(device.user == user for device in office.devices.values())
            continue
        bond = entry.bond
        assert (bond is None) == (entry.state is IDLE), "a bond without a call, or a call without one"
        if bond is None:
            continue
        assert bond.caller is not bond.receiver
        assert bond.peer(entry).bond is bond, "both sides hold the same bond"
        assert bond.caller_session in bond.caller.sessions
        if entry.state is IN_CHAT:
            assert bond.peer(entry).state is IN_CHAT
            mine, theirs = bond.session_of(entry), bond.session_of(bond.peer(entry))
            assert mine is not None
            assert office.presence.chat_peer(mine) is theirs
            bound[mine.label] = ("chat", bond.invite)
        elif entry is bond.caller:
            assert (entry.state, bond.receiver.state) == (CALLING, RINGING)
            bound[bond.caller_session.label] = ("calling", bond.invite)
        else:
            assert (entry.state, bond.caller.state) == (RINGING, CALLING)
    for label, device in office.devices.items():
        entry = office.presence.find(device.user)
        assert entry is not None
        if label in bound:
            assert device.believes == bound[label], f"{label} was not told, after {step}"
        elif entry.state is RINGING:
            assert entry.bond is not None
            assert device.believes in (None, ("ringing", entry.bond.invite)), f"{label} believes an old call"
        else:
            assert device.believes is None, f"{label} was not told, after {step}"
        if label not in bound or bound[label][0] != "chat":
            assert office.presence.chat_peer(device) is None


def test_the_list_is_made_once_a_change() -> None:
    """Every client asks for it again and again."""
    office = idle()

    def fresh() -> bytes:
        """In the order in which the users came, as they are listed."""
        users = dict.fromkeys(device.user for device in office.presence.sessions())
        found = (office.presence.find(user) for user in users)
        return Listing(tuple(ListEntry(entry.name, entry.state) for entry in found if entry is not None)).encode()

    changes: list[Callable[[], None]] = [
        lambda: office.chat("A1", "B"),
        lambda: office.acpt("B2", "A"),
        lambda: office.exch("A1"),
        lambda: office.chat("A1", "B"),
        lambda: office.refu("B1", "A"),
        lambda: office.chat("A1", "B"),
        lambda: office.cach("A1"),
        lambda: office.chat("A1", "B"),
        lambda: office.expire(),
        lambda: office.chat("A1", "B"),
        lambda: office.leave("A1"),
        lambda: office.leave("A2"),
        lambda: office.join("A3"),
        lambda: office.chat("B1", "C"),
        lambda: office.chat("C1", "B"),
        lambda: office.leave("C1"),
    ]
    for number, change in enumerate(changes):
        before = office.presence.listing()
        assert before.encode() == fresh(), f"before change {number}"
        assert office.presence.listing() is before
        change()
    assert office.presence.listing().encode() == fresh()


def test_in_every_reachable_state_both_sides_agree_and_every_client_knows() -> None:
    """All sequences of events of three users with five devices, until nothing new comes."""
    paths: dict[tuple[Any, ...], tuple[Step, ...]] = {Office().snapshot(): ()}
    queue, all_steps = deque(paths.values()), steps()
    seen = set()
    while queue:
        path = queue.popleft()
        for step in all_steps:
            office = Office()
            for earlier in path:
                perform(office, earlier)
            before = office.snapshot()
            if not perform(office, step):
                continue
            check(office, step)
            after = office.snapshot()
            refused = any(message.verb == "erro" for message in office.sent)
            if refused:
                assert after == before
            for user in "ABC":
                entry = office.presence.find(user)
                seen.add((None if entry is None else entry.state, step[0], refused))
            replies = [message for message in office.sent if message.reply]
            assert len(replies) == (0 if step[0] in ("expire", "join", "leave", "block") else 1)
            assert all(message.session.label == step[1] for message in replies)
            if after not in paths:
                paths[after] = (*path, step)
                queue.append(paths[after])
    assert {state for state, _, refused in seen if not refused} == {None, IDLE, RINGING, IN_CHAT, CALLING}
    assert len(paths) > 300


def test_every_row_is_named_by_something() -> None:
    """A row that nothing reaches would be dead text."""
    fired = set()

    class Watched(Presence[Device]):
        pass

    for rule in RULES:
        real = getattr(Presence, f"_{rule.effect}")

        def watch(self: Any, event: Any, real: Any = real, effect: str = rule.effect) -> Any:
            fired.add(effect)
            return real(self, event)

        setattr(Watched, f"_{rule.effect}", watch)
    for scenario in (
        [("chat", "A1", "B"), ("acpt", "B1", "A"), ("exch", "A1")],
        [("chat", "A1", "B"), ("refu", "B1", "A"), ("chat", "A1", "B"), ("cach", "A1", "A")],
        [("chat", "A1", "B"), ("chat", "B1", "A"), ("leave", "A1")],
        [("chat", "A1", "B"), ("chat", "C1", "B"), ("chat", "C1", "A"), ("leave", "A1")],
        [("chat", "A1", "B"), ("expire",), ("chat", "A1", "B"), ("leave", "B1")],
        [("chat", "B1", "C"), ("chat", "A1", "B"), ("acpt", "C1", "B"), ("block", "C1", "B")],
    ):
        office = Office()
        office.presence = Watched(RING, pem_of, blocks=Blocked("CA"))
        for label in ("A1", "B1", "C1"):
            office.join(label)
        for step in scenario:
            assert perform(office, step)
    assert fired == {rule.effect for rule in RULES}
