"""Stored messages at the prompt: two or three players and a server with a mailbox, in memory."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from messageapp.client import events as ev
from messageapp.client.client import Client, State
from messageapp.client.messages import Cause
from messageapp.client.messages import State as Stored
from messageapp.clock import wall_ms
from messageapp.store.conversations import conversation_of
from messageapp.store.database import transaction
from messageapp.store.messages import add_received, fill
from messageapp_cli.messaging import SETTLE_SECONDS
from messageapp_cli.notices import HEALING_SECONDS, NOTICE_SECONDS
from messageapp_cli.open_conversation import MOST_ON_OPENING
from messageapp_cli.remembered import RECENT
from support.fake_console import Player, Stage, open_stage, settled
from support.mail import MemoryBlocks

COMPARE = "Compare it with {} by another way (in person, on the telephone), then: verify {} confirm"


@asynccontextmanager
async def mail_stage(*names: str, **changes: Any) -> AsyncIterator[Stage]:
    """Those players at a server with a mailbox; the first two have exchanged a message, and their lines are taken."""
    with trio.fail_after(60):
        async with open_stage(*names, mail=True, **changes) as stage:
            if len(names) > 1:
                one, other = (stage.players[name] for name in names[:2])
                for player, peer, text in ((one, names[1], "first"), (other, names[0], "second")):
                    player.type(f"msg {peer} {text}")
                    await settled()
                for player, peer in ((one, names[1]), (other, names[0])):
                    player.type(f"history {peer}")
                    await settled()
                    player.new()
            yield stage


async def do(player: Player, *lines: str) -> list[str]:
    player.type(*lines)
    await settled()
    return player.new()


async def quiet() -> None:
    """Until a message of a conversation that is not open gives a line at once again. By a clock that jumps."""
    await trio.sleep(NOTICE_SECONDS + 0.1)


def about_messages(player: Player) -> str:
    """What of the bottom line is about messages."""
    return player.repl.toolbar().partition(" · login ")[0].rpartition(" · ")[0]


# a message ------------------------------------------------------------------------------------------------------------


async def test_the_first_message_shows_the_number_on_both_sides() -> None:
    with trio.fail_after(60):
        async with open_stage("alice", "bob", mail=True) as stage:
            alice, bob = stage.players["alice"], stage.players["bob"]
            seen = await do(alice, "msg bob   two  spaces")
            assert seen[:3] == [
                "#1 to bob",
                "This is the first message to bob; the key is remembered from now on.",
                "safety number with bob:",
            ]
            assert seen[-1] == COMPARE.format("bob", "bob")
            came = bob.new()
            assert came[0] == "This is the first message from alice; the key is remembered from now on."
            assert came[-2] == COMPARE.format("alice", "alice")
            assert came[-1] == "alice:   two  spaces  — 1 unread, to alice"
            assert came[2:4] == seen[3:5]
            assert [line[len("12:31 ") :] for line in bob.console.dim] == [came[-1]]
            assert about_messages(alice) == "#1 delivered"
            assert about_messages(bob) == "1 unread"


async def test_a_user_who_is_away_gets_it_at_the_next_login() -> None:
    async with mail_stage("alice", "bob") as stage:
        alice = stage.players["alice"]
        await do(stage.players["bob"], "exit")
        assert await do(alice, "msg bob see you") == ["#3 to bob"]
        assert about_messages(alice) == "#3 sent"
        assert (await do(alice, "pending"))[1].startswith("  #3 to bob  sent  ")
        assert (await do(alice, "why 3"))[0].startswith("#3 to bob, sent: The server has it on its disk")
        bob = await stage.enter("bob")
        await settled()
        assert bob.new() == ["alice: see you  — 1 unread, to alice"]
        assert about_messages(alice) == "#3 delivered"
        assert await do(alice, "pending") == ["No message of yours is under way."]


async def test_in_a_script_a_message_is_at_the_server_before_the_next_line(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with mail_stage("alice", "bob") as stage:
        script = await stage.enter("carol", plain=True)
        seen = await do(script, "msg bob one", "msg bob two", "exit")
        assert [line for line in seen if line.startswith("#")] == ["#1 to bob", "#2 to bob"]
        assert script.left
        await quiet()
        assert stage.players["bob"].new()[-1] == "carol: two  — 2 unread, to carol"


async def test_a_script_waits_10_seconds_at_most(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def leave_queued(self: Client, peer: str, text: str, *, reply_to: int | None = None) -> int:
        return self.messages.write(peer, text, reply_to=reply_to)

    async with mail_stage("alice", "bob") as stage:
        await do(stage.players["alice"], "exit")
        script = await stage.enter("alice", plain=True)
        monkeypatch.setattr(Client, "write", leave_queued)
        assert await do(script, "msg bob slow", "pending") == ["#3 to bob"]
        await trio.sleep(SETTLE_SECONDS - 1)
        assert script.new() == []
        await trio.sleep(2)
        assert script.new()[0] == "Not arrived yet; why N explains one:"


async def test_in_a_script_what_comes_has_no_number_and_is_read() -> None:
    async with mail_stage("alice", "bob") as stage:
        alice = stage.players["alice"]
        await do(stage.players["bob"], "exit")
        bob = await stage.enter("bob", plain=True)
        await do(alice, "msg bob one\ntwo", "reply 2 three")
        assert bob.console.lines[-4:] == ["<alice> one", "<alice> two", "re #2 <bob> second", "<alice> three"]
        assert bob.client.messages.unread() == 0


async def test_a_script_reads_what_had_waited_for_it(autojump_clock: trio.testing.MockClock) -> None:
    async with mail_stage("alice", "bob") as stage:
        await do(stage.players["bob"], "exit")
        await do(stage.players["alice"], "msg bob third")
        bob = await stage.enter("bob", plain=True)
        bob.type("conversations", "history alice 1")
        await quiet()
        seen = bob.new()
        assert seen.index("<alice> third") < seen.index("Conversations:"), "before the first answer"
        assert seen[-1] == "<alice> third"


async def test_forget_says_what_is_still_on_its_way() -> None:
    async with mail_stage("alice", "bob") as stage:
        alice = stage.players["alice"]
        await do(stage.players["bob"], "exit")
        await do(alice, "msg bob third", "msg bob fourth")
        assert await do(alice, "forget bob") == ["4 messages with bob deleted here; 2 of them may still reach bob"]


async def test_a_conversation_with_somebody_new_says_so() -> None:
    """The name may be mistyped."""
    async with mail_stage("alice", "bob") as stage:
        alice = stage.players["alice"]
        said = "no messages with bub yet; whether there is such a user shows when you write"
        assert said in await do(alice, "to bub")
        assert said.replace("bub", "bob") not in await do(alice, "/to bob")


async def test_own_messages_are_found_by_the_own_name() -> None:
    async with mail_stage("alice", "bob") as stage:
        alice = stage.players["alice"]
        assert await do(alice, "search from:alice") == await do(alice, "search from:me") == ["to bob <alice> first"]


# an open conversation -------------------------------------------------------------------------------------------------


async def test_in_a_conversation_everything_goes_to_its_peer(autojump_clock: trio.testing.MockClock) -> None:
    async with mail_stage("alice", "bob", "carol") as stage:
        alice, bob, carol = (stage.players[name] for name in ("alice", "bob", "carol"))
        assert (await do(alice, "to bob"))[-2:] == ["<alice> first (delivered)", "<bob> second"]
        assert alice.repl.prompt() == "[CHAT bob]-> "
        await do(alice, "hello", "exit", "//slash", " two  spaces ")
        await quiet()
        assert bob.new()[-1] == "alice:  two  spaces   — 4 unread, to alice"
        assert await do(bob, "to alice") == [
            "── alice ──",
            "<alice> first",
            "<bob> second (delivered)",
            "── 4 new ──",
            "<alice> hello",
            "<alice> exit",
            "<alice> /slash",
            "<alice>  two  spaces ",
        ]
        await do(alice, "more")
        assert bob.new() == ["<alice> more"]
        assert "unread" not in about_messages(bob)
        await do(alice, "/to carol")
        assert alice.repl.prompt() == "[CHAT carol]-> "
        await do(alice, "for carol")
        assert carol.new()[-1] == "alice: for carol  — 1 unread, to alice"
        await do(bob, "not seen now")
        assert alice.new()[-1] == "bob: not seen now  — 1 unread, to bob"
        await do(alice, "/exit")
        assert alice.repl.prompt() == "[SERVER-COMMAND]-> "
        assert not alice.left
        assert (await do(alice, "to"))[-1] == "error: no conversation is open; to USER opens one"
        assert (await do(alice, "to alice"))[-1] == "error: that is yourself"


async def test_many_messages_at_once_give_one_line(autojump_clock: trio.testing.MockClock) -> None:
    async with mail_stage("alice", "bob") as stage:
        alice = stage.players["alice"]
        await do(stage.players["bob"], "exit")
        await do(alice, "to bob", *(f"line {number}" for number in range(40)))
        bob = await stage.enter("bob")
        await quiet()
        seen = bob.new()
        assert seen[-1] == "alice: line 39  — 40 unread, to alice"
        assert len(seen) <= 2
        opened = await do(bob, "to alice")
        assert opened[1:4] == ["<alice> first", "<bob> second (delivered)", "── 40 new ──"]
        assert len(opened) == 44


async def test_what_was_there_on_opening_is_not_shown_again() -> None:
    async with mail_stage("alice", "bob") as stage:
        alice = stage.players["alice"]
        assert "<bob> second" in await do(alice, "to bob")
        late = ev.MessageReceived("bob", 2, "second", wall_ms())  # read from the disk before it was told
        await alice.client.tell(late)
        await settled()
        assert alice.new() == []
        await alice.client.tell(replace(late, healed=True))
        await settled()
        assert alice.new() == ["<bob> second (unreadable before)"]
        await do(alice, "/exit")
        await alice.client.tell(late)
        await settled()
        assert alice.new() == []  # it was looked at meanwhile


async def test_opening_shows_200_messages_at_most() -> None:
    async with mail_stage("alice", "bob") as stage:
        alice = stage.players["alice"]
        database, now = alice.client.account.trust.database, wall_ms()
        conversation = conversation_of(database, alice.client.server_name, "bob")
        with transaction(database):
            for number in range(210):
                id = number.to_bytes(16)
                add_received(database, conversation, id, f"line {number}", written_ms=now, now_ms=now)
        opened = await do(alice, "to bob")
        assert opened[:4] == ["── bob ──", "── 210 new ──", "10 earlier ones: /history bob 210", "<bob> line 10"]
        assert len(opened) == MOST_ON_OPENING + 3
        assert alice.client.messages.unread("bob") == 0
        assert len(alice.completions("/why ")) == RECENT
        assert len(await do(alice, "/history 300")) == 212
        assert (await do(alice, "/history bob 210"))[0] == "<bob> line 0"


async def test_a_half_typed_line_stays_with_its_conversation() -> None:
    async with mail_stage("alice", "bob", "carol") as stage:
        alice, carol = stage.players["alice"], stage.players["carol"]
        await do(carol, "msg alice hi")
        alice.console.half_typed = "his"
        alice.jump(1)
        await settled()
        assert alice.repl.prompt() == "[CHAT bob]-> "
        assert alice.console.half_typed == ""
        alice.console.half_typed = "dear bob"
        alice.jump(2)
        await settled()
        assert alice.repl.prompt() == "[CHAT carol]-> "
        assert alice.console.half_typed == ""
        for place in (2, 9):  # the same, and none
            alice.console.half_typed = "dear carol"
            alice.jump(place)
            await settled()
            assert (alice.repl.prompt(), alice.console.half_typed) == ("[CHAT carol]-> ", "dear carol")
        alice.jump(1)
        await settled()
        assert (alice.repl.prompt(), alice.console.half_typed) == ("[CHAT bob]-> ", "dear bob")
        assert [each.draft for each in alice.client.messages.conversations()] == ["dear carol", "dear bob"]
        alice.console.half_typed = ""
        await do(alice, "dear bob, hello", "/exit")
        assert alice.console.half_typed == "his"  # where it was typed
        assert alice.client.messages.draft("bob") == ""
        assert (await do(alice, "conversations"))[-1].startswith("  2  carol  (draft)  ")


async def test_a_half_typed_line_survives_the_session() -> None:
    async with mail_stage("alice", "bob") as stage:
        alice = stage.players["alice"]
        await do(alice, "to bob")
        alice.console.half_typed = "not yet"
        alice.end()
        await settled()
        assert alice.left
        again = await stage.enter("alice")
        await do(again, "to bob")
        assert again.console.half_typed == "not yet"


async def test_what_is_entered_is_half_typed_no_more() -> None:
    async with mail_stage("alice", "bob", "carol") as stage:
        alice = stage.players["alice"]
        await do(alice, "msg carol hi", "to bob")
        for entered in ("dear bob, hello", "/help", ""):
            alice.console.half_typed = "dear bob"
            alice.jump(2)
            alice.jump(1)
            await settled()
            assert alice.console.half_typed == alice.client.messages.draft("bob") == "dear bob"
            alice.console.half_typed = ""
            await do(alice, entered)
            assert alice.client.messages.draft("bob") == "", "also if the process dies now"
        alice.console.half_typed = "dear bob"
        alice.jump(2)
        alice.jump(1)
        await settled()
        alice.console.half_typed = ""  # all of it was deleted
        alice.jump(2)
        alice.jump(1)
        await settled()
        assert alice.console.half_typed == ""


async def test_the_places_of_conversations_are_for_good() -> None:
    async with mail_stage("alice", "bob", "carol", "dan") as stage:
        bob, carol, dan = (stage.players[name] for name in ("bob", "carol", "dan"))

        async def places() -> list[list[str]]:
            lines = await do(stage.players["alice"], "conversations")
            return [line.split()[:2] for line in lines[lines.index("Conversations:") + 1 :]]

        await do(carol, "msg alice hi")
        for newest in (dan, bob, carol):
            await do(newest, "msg alice hi")
            await do(stage.players["alice"], "exit")
            await stage.enter("alice")
            assert (await places())[:2] == [["1", "bob"], ["2", "carol"]]
        assert await places() == [["1", "bob"], ["2", "carol"], ["3", "dan"]]
        await do(stage.players["alice"], "forget bob")
        assert await places() == [["1", "carol"], ["2", "dan"]]
        await do(bob, "msg alice again")
        assert await places() == [["1", "carol"], ["2", "dan"], ["3", "bob"]]


async def test_the_places_of_conversations_stay() -> None:
    async with mail_stage("alice", "bob", "carol") as stage:
        alice, bob, carol = (stage.players[name] for name in ("alice", "bob", "carol"))
        await do(carol, "msg alice hi")
        await do(bob, "msg alice newest")
        lines = await do(alice, "conversations")
        places = [line.split()[:2] for line in lines[lines.index("Conversations:") + 1 :]]
        assert places == [["1", "bob"], ["2", "carol"]]
        await do(alice, "exit")
        again = await stage.enter("alice")
        assert again.new() == ["unread: bob 1, carol 1; to bob"]
        assert again.console.dim == ["unread: bob 1, carol 1; to bob"]
        again.jump(2)
        await settled()
        assert again.repl.prompt() == "[CHAT carol]-> "


async def test_a_live_chat_with_the_peer_of_the_open_conversation() -> None:
    async with mail_stage("alice", "bob") as stage:
        alice, bob = stage.players["alice"], stage.players["bob"]
        await do(alice, "to bob", "/chat bob")
        await do(bob, "acpt")
        assert alice.client.state is State.CHAT
        assert alice.repl.prompt() == "[CHAT bob]-> "
        assert bob.repl.prompt() == "[CHAT]-> "
        alice.new(), bob.new()
        assert "LIVE chat with bob" in alice.repl.toolbar()
        assert "LIVE" not in bob.repl.toolbar()
        await do(alice, "live")
        assert bob.new() == ["<alice> live"]
        assert alice.client.messages.history("bob")[-1].live
        await do(bob, "me too")
        assert alice.new() == ["<bob> me too"]
        assert (await do(alice, "/exit"))[-1] == "You left the chat with bob"
        assert alice.repl.prompt() == "[SERVER-COMMAND]-> "
        assert bob.new() == ["alice left the chat"]


async def test_a_chat_that_begins_takes_nothing_from_an_open_conversation(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with mail_stage("alice", "bob", "carol") as stage:
        alice, bob, carol = (stage.players[name] for name in ("alice", "bob", "carol"))
        await do(alice, "to bob", "/chat carol")
        await do(carol, "acpt")
        assert alice.client.peer == "carol"
        assert alice.client.state is State.CHAT
        assert alice.repl.prompt() == "[CHAT bob]-> "
        bob.new(), carol.new(), alice.new()
        await do(alice, "for bob")
        assert bob.new() == ["alice: for bob  — 1 unread, to alice"]
        assert carol.new() == []
        await do(carol, "hello?")
        assert alice.new() == ["carol: hello?  — 1 unread, to carol"]
        assert (await do(alice, "/verify confirm")) == ["bob is verified"]
        assert alice.repl.prompt() == "✓ [CHAT bob]-> "
        await do(carol, "it's me")
        await quiet()
        assert alice.new() == ["carol: it's me  — 2 unread, to carol"]
        assert await do(alice, "/exit") == ["── 2 new ──", "<carol> hello?", "<carol> it's me"]
        assert alice.client.messages.unread("carol") == 0
        assert "unread" not in alice.repl.toolbar()
        assert alice.repl.prompt() == "[CHAT]-> "
        assert await do(alice, "/to bob", "/to") == [
            "── bob ──",
            "<alice> first (delivered)",
            "<bob> second",
            "<alice> for bob (delivered)",
        ]
        await do(alice, "for carol")
        assert carol.new() == ["<alice> for carol"]


# lines that wait ------------------------------------------------------------------------------------------------------


async def test_a_conversation_that_is_not_open_gives_few_lines(autojump_clock: trio.testing.MockClock) -> None:
    async with mail_stage("alice", "bob", "carol") as stage:
        alice, bob, carol = (stage.players[name] for name in ("alice", "bob", "carol"))
        for number in range(6):
            await do(alice, f"msg bob line {number}")
        await do(carol, "msg bob hi")
        assert [line for line in bob.new() if "unread" in line] == [
            "alice: line 0  — 1 unread, to alice",
            "carol: hi  — 1 unread, to carol",
        ]
        await quiet()
        assert bob.new() == ["alice: line 5  — 6 unread, to alice"]
        assert re.fullmatch(r"\d\d:\d\d alice: line 5  — 6 unread, to alice", bob.console.dim[-1])
        await quiet()
        assert bob.new() == []
        await do(alice, "msg bob one")
        assert bob.new() == ["alice: one  — 7 unread, to alice"]
        await do(alice, "msg bob two")
        await do(bob, "to alice", "/exit")
        await quiet()
        assert bob.new() == [], "it was looked at"
        await do(alice, "msg bob three")
        assert bob.new() == ["alice: three  — 1 unread, to alice"]
        await do(alice, "msg bob four")
        assert "alice: four  — 2 unread, to alice" in await do(bob, "exit")


async def test_what_cannot_be_read_yet_is_told_if_it_stays_so(autojump_clock: trio.testing.MockClock) -> None:
    async with mail_stage("alice", "bob") as stage:
        alice, bob = stage.players["alice"], stage.players["bob"]
        for text in ("lost", ""):  # a message, and a note without a text
            await do(alice, "exit")
            await do(bob, f"msg alice {text}" if text else "react 1 👍")
            with alice.client.mail.sessions.step():
                alice.client.mail.sessions.drop("bob")
            alice = await stage.enter("alice")
            await trio.sleep(HEALING_SECONDS + 1)
            seen = alice.new()
            assert not [line for line in seen if "read" in line.replace("unread", "")], seen
        assert [each.text for each in alice.client.messages.history("bob")] == ["first", "second", "lost"]

        await do(bob, "exit")
        database, now = alice.client.account.trust.database, wall_ms()
        conversation = conversation_of(database, alice.client.server_name, "bob")
        lines: list[int] = []
        for cause in (Cause.ASKED_AGAIN, Cause.ASKED_AGAIN, Cause.CANNOT_ASK, Cause.GAVE_UP):
            number = add_received(
                database,
                conversation,
                bytes([len(lines)]) * 16,
                None,
                written_ms=now,
                now_ms=now,
                state=Stored.UNREADABLE,
                cause=cause,
            )
            assert number is not None
            lines.append(number)
            await alice.client.tell(ev.MessageUnreadable("bob", number))
        await settled()
        assert alice.new() == []
        await trio.sleep(HEALING_SECONDS + 1)
        assert alice.new() == [
            f"2 messages from bob cannot be read yet; asked for again (why {lines[0]})",
            f"a message from bob cannot be read yet (why {lines[2]})",
            f"error: #{lines[3]} from bob could not be read; why {lines[3]}",
        ]
        assert len([text for text in alice.console.dim if "cannot be read yet" in text]) == 2


async def test_what_follows_on_forget_can_be_read(autojump_clock: trio.testing.MockClock) -> None:
    async with mail_stage("alice", "bob") as stage:
        alice, bob = stage.players["alice"], stage.players["bob"]
        await do(alice, "forget bob")
        number = bob.client.messages.write("alice", "still there?")
        bob.client.mail.poke()
        await trio.sleep(HEALING_SECONDS + 1)
        assert alice.new() == ["bob: still there?  — 1 unread, to bob"]
        assert bob.client.messages.message(number).state is Stored.DELIVERED
        assert [each.text for each in alice.client.messages.history("bob")] == ["still there?"]
        await do(alice, "msg bob yes")
        assert bob.client.messages.history("alice")[-1].text == "yes"


async def test_what_was_closed_on_opening_is_shown_when_it_opens() -> None:
    async with mail_stage("alice", "bob") as stage:
        alice = stage.players["alice"]
        database, now = alice.client.account.trust.database, wall_ms()
        conversation = conversation_of(database, alice.client.server_name, "bob")
        number = add_received(
            database, conversation, b"h" * 16, None, written_ms=now, now_ms=now, state=Stored.HELD, cause=Cause.HELD_KEY
        )
        assert number is not None
        assert (await do(alice, "to bob"))[-1] == f"bob: it is kept closed; why {number}"
        fill(database, number, "held", written_ms=now, now_ms=now, cause=Cause.NONE)
        await alice.client.tell(ev.MessageReceived("bob", number, "held", now))
        await settled()
        assert alice.new() == ["<bob> held"]


async def test_long_messages_are_folded_when_they_are_shown_again() -> None:
    async with mail_stage("alice", "bob") as stage:
        alice, bob = stage.players["alice"], stage.players["bob"]
        long = "\n".join(f"line {number}" for number in range(50))
        await do(bob, "to alice")
        await do(alice, f"msg bob {long}", "msg bob short")
        assert [line for line in bob.new() if "line" in line] == [f"<alice> line {number}" for number in range(50)]
        await do(bob, "/exit")
        folded = [*(f"<alice> line {number}" for number in range(12)), "… 38 more lines: /history alice 2"]
        assert [line for line in await do(bob, "to alice") if "line" in line] == folded
        assert [line for line in await do(bob, "/history") if "line" in line] == folded
        assert len(await do(bob, "/history alice 2")) == 51
        await do(bob, "/exit")
        await do(alice, f"msg bob {long}")
        bob.new()
        assert sum("line" in line for line in await do(bob, "to alice")) == 13 + 50, "one has not been seen yet"


# what may be done with a message --------------------------------------------------------------------------------------


async def test_answers_changes_and_reactions() -> None:
    async with mail_stage("alice", "bob") as stage:
        alice, bob = stage.players["alice"], stage.players["bob"]
        assert await do(alice, "reply 2 yes") == ["#3 to bob"]
        await do(bob, "to alice")
        assert bob.client.messages.history("alice")[-1].reply_to == 2
        assert await do(alice, "edit 1 first, changed", "react #2 👍") == ["#1 is changed", "#2: 👍"]
        assert bob.new() == ["<alice> first, changed (edited)", "alice reacts to #2: 👍 (second)"]
        assert await do(bob, "/exit", "react 1 🙂", "edit 2 2nd") == ["#1: 🙂", "#2 is changed"]
        assert alice.new() == ["bob reacts to #1: 🙂 (first, changed)", "bob has changed #2: 2nd"]
        assert await do(alice, "history bob") == [
            "<alice> first, changed (delivered, edited, 🙂 bob)",
            "<bob> 2nd (edited, 👍 you)",
            "↳ #2 <bob> 2nd",
            "<alice> yes (delivered)",
        ]
        assert re.fullmatch(r"  before, \d\d:\d\d: first", (await do(alice, "why 1"))[1])
        assert await do(alice, "react 2", "edit 2 mine?", "react 99 x") == [
            "#2: your reaction is taken back",
            "error: message 2 is bob's: only own ones can be edited",
            "error: there is no message 99",
        ]


async def test_looking_for_messages() -> None:
    async with mail_stage("alice", "bob") as stage:
        alice = stage.players["alice"]
        await do(alice, "msg bob the invoice of May", "msg bob another invoice")
        assert await do(alice, "search invoice") == [
            "to bob <alice> the invoice of May",
            "to bob <alice> another invoice",
        ]
        assert await do(alice, "search second from:bob") == ["<bob> second"]
        assert await do(alice, "search nothing") == ["Nothing found."]
        assert alice.completions("edit ")[:1] == ["edit 4 "]
        assert await do(alice, "history bob 1") == ["<alice> another invoice (delivered)"]
        assert await do(alice, "history") == ["error: with whom? Give a USER, or open a conversation: to USER"]
        assert await do(alice, "history dan") == ["error: there are no messages with dan"]
        assert (await do(alice, "to bob", "/history 2"))[-2:] == [
            "<alice> the invoice of May (delivered)",
            "<alice> another invoice (delivered)",
        ]


async def test_history_that_shows_all_that_is_new_has_shown_it() -> None:
    async with mail_stage("alice", "bob") as stage:
        alice, bob = stage.players["alice"], stage.players["bob"]
        await do(bob, "msg alice one", "msg alice two")
        await do(alice, "history bob 1")
        assert alice.client.messages.unread("bob") == 2
        await do(alice, "history bob")
        assert alice.client.messages.unread("bob") == 0
        assert "unread" not in about_messages(alice)


async def test_read_receipts_are_the_users_choice() -> None:
    async with mail_stage("alice", "bob") as stage:
        alice, bob = stage.players["alice"], stage.players["bob"]
        await do(alice, "msg bob one")
        await do(bob, "to alice")
        assert alice.client.messages.message(3).state is Stored.DELIVERED
        assert (await do(bob, "/receipts alice on"))[-1] == "alice is told what you have read"
        await do(alice, "msg bob two")
        assert alice.client.messages.message(4).state is Stored.READ
        assert about_messages(alice) == "#4 read"
        await do(bob, "/exit")
        await do(alice, "msg bob three")
        assert alice.client.messages.message(5).state is Stored.DELIVERED
        await do(bob, "to alice")
        assert alice.client.messages.message(5).state is Stored.READ
        await do(bob, "/receipts alice off")
        await do(alice, "msg bob four")
        assert alice.client.messages.message(6).state is Stored.DELIVERED


async def test_messages_that_vanish() -> None:
    async with mail_stage("alice", "bob") as stage:
        alice, bob = stage.players["alice"], stage.players["bob"]
        assert await do(alice, "expire bob 1h") == ["messages with bob vanish after 1h on both sides, from now on"]
        assert bob.new() == [
            "Messages with alice vanish after 1h, from now on (alice says so; expire alice off ends it)."
        ]
        assert "(vanish after 1h)" in (await do(bob, "conversations"))[1]
        assert await do(bob, "expire alice off") == ["messages with alice stay, from now on"]
        assert alice.new() == ["Messages with bob stay, from now on (bob says so)."]


async def test_deleting() -> None:
    async with mail_stage("alice", "bob") as stage:
        alice = stage.players["alice"]
        assert await do(alice, "delete 1", "delete 2", "delete 2") == [
            "#1 is deleted here; bob still has it",
            "#2 is deleted here only; bob still has it",
            "error: there is no message 2",
        ]
        await do(alice, "msg bob third")
        assert alice.completions("why ") == ["why 3"]
        assert await do(alice, "forget bob", "forget bob", "forget dan") == [
            "1 message with bob deleted here",
            "error: there is no conversation with bob",
            "error: there is no conversation with dan",
        ]
        assert await do(alice, "conversations") == ["No conversations yet; msg USER TEXT begins one."]
        assert alice.completions("why ") == []


async def test_a_message_that_cannot_go_says_why_at_once() -> None:
    async with mail_stage("alice", "bob") as stage:
        alice = stage.players["alice"]
        seen = await do(alice, "msg nobody one", "to nobody", "two", "/exit")
        told = next(line for line in seen if " to nobody wait" in line)  # both in one, if they are told at once
        assert re.match(r"#3( and 1 more)? to nobody waits?: .* \(why 3; delete 3 withdraws it\)$", told)
        assert sum(" to nobody wait" in line for line in seen) == 1, "once for each reason"
        assert about_messages(alice) == "2 queued · #4 queued"
        assert await do(alice, "retry 1") == ["error: message 1 is delivered: there is nothing to try again"]
        assert (await do(alice, "exit"))[
            -1
        ] == "2 messages are queued on this disk; the next login sends what can be sent"
        alice = await stage.enter("alice")
        await stage.enter("nobody")
        assert (await do(alice, "retry 3"))[0] == "#3 is tried again"
        assert "queued" not in about_messages(alice)


async def test_of_a_message_that_is_deleted_it_is_said_who_has_it() -> None:
    async with mail_stage("alice", "bob") as stage:
        alice, bob = stage.players["alice"], stage.players["bob"]
        await do(bob, "exit")
        await do(alice, "msg bob at the server", "msg nobody waits")
        assert await do(alice, "delete 3", "delete 4") == [
            "#3 is deleted here; it waits at the server and will still reach bob",
            "#4 is deleted, and will not be sent",
        ]
        await stage.enter("nobody")
        bob = await stage.enter("bob")
        await settled()
        assert bob.client.messages.history("alice")[-1].text == "at the server"
        assert stage.players["nobody"].client.messages.conversations() == []
        await do(bob, "to alice")
        # As the client's tasks would find them.
        execute = alice.client.messages._database.execute
        numbers = [alice.client.messages.write("bob", str(each)) for each in range(3)]
        for number, (now, cause) in zip(
            numbers, (("queued", "in-chat"), ("sent", "unconfirmed"), ("failed", "")), strict=True
        ):
            execute("UPDATE messages SET state = ?, cause = ? WHERE number = ?", (now, cause, number))
        assert await do(alice, *(f"delete {number}" for number in numbers)) == [
            "#5 is deleted here; it was said in a chat, and bob may have it",
            "#6 is deleted here; it was said in a chat, and bob may have it",
            "#7 is deleted",
        ]


async def test_a_reaction_is_no_word() -> None:
    async with mail_stage("alice", "bob") as stage:
        alice = stage.players["alice"]
        refused = "error: a reaction is an emoji and no word; reply N TEXT answers in words"
        assert await do(alice, "react 2 hello", "react 2 3", "react 2 hello!", "react 2 nö") == [refused] * 4
        assert await do(alice, "react 2 1️⃣", "react 2 +1", "react 2 🇩🇪") == ["#2: 1️⃣", "#2: +1", "#2: 🇩🇪"]


async def test_settings_without_a_value_are_shown() -> None:
    async with mail_stage("alice", "bob") as stage:
        alice = stage.players["alice"]
        assert (
            await do(alice, "expire bob", "receipts bob")
            == ["messages with bob stay; bob is not told what you have read"] * 2
        )
        await do(alice, "expire bob 1h", "receipts bob on")
        shown = "messages with bob vanish after 1h; bob is told what you have read"
        assert await do(alice, "expire bob", "receipts BOB") == [shown] * 2
        assert (await do(alice, "to bob"))[0] == "── bob (vanish after 1h, told what you read) ──"
        assert await do(alice, "/expire off", "/receipts", "/receipts off") == [
            "messages with bob stay, from now on",
            "messages with bob stay; bob is told what you have read",
            "bob is not told what you have read",
        ]
        assert await do(alice, "/expire nobody") == ["error: there is no conversation with nobody"]
        assert alice.completions("/receipts bob o") == ["/receipts bob on", "/receipts bob off"]
        assert alice.completions("/help rece") == ["/help receipts"]
        assert (await do(alice, "/help receipts"))[0].startswith("  receipts [USER] [on|off]  ")


async def test_who_cannot_be_called_can_be_written_to() -> None:
    async with mail_stage("alice", "bob") as stage:
        alice = stage.players["alice"]
        await do(stage.players["bob"], "exit")
        assert (await do(alice, "chat bob"))[1:] == ["msg bob TEXT waits for them"]
        script = await stage.enter("carol", plain=True)
        assert len(await do(script, "chat bob")) == 1
    with trio.fail_after(60):
        async with open_stage("alice") as stage:
            assert len(await do(stage.players["alice"], "chat bob")) == 1, "the server stores nothing"


async def test_a_command_without_its_slash_is_sent_and_told_of_once() -> None:
    async with mail_stage("alice", "bob") as stage:
        alice, bob = stage.players["alice"], stage.players["bob"]
        await do(alice, "to bob")
        hint = "sent as text; commands begin with / here"
        assert await do(alice, "list of things", "chatty", "receipts bob maybe") == []
        assert await do(alice, "receipts bob on") == [hint]
        assert alice.console.dim[-1] == hint
        assert await do(alice, "exit", "history") == []
        shown = [message.text for message in bob.client.messages.history("alice")]
        assert shown[-3:] == ["receipts bob on", "exit", "history"]
        script = await stage.enter("carol", plain=True)
        assert hint not in await do(script, "to bob", "exit")
        assert not script.left


async def test_what_matters_stands_first_in_the_bottom_line() -> None:
    async with mail_stage("alice", "bob") as stage:
        alice, bob = stage.players["alice"], stage.players["bob"]
        await do(bob, "msg alice hi", "chat alice")
        assert alice.repl.toolbar().startswith("bob is calling: acpt or refu · 1 unread · ")
        assert bob.repl.toolbar().startswith(
            "calling alice … (cach cancels) · #3 delivered · bob@chat.example · login "
        )


async def test_what_waits_for_one_reason_is_told_once() -> None:
    async with mail_stage("alice", "bob", blocks=MemoryBlocks()) as stage:
        alice = stage.players["alice"]

        async def told(*lines: str) -> list[str]:
            return [line for line in await do(alice, *lines) if " to nobody wait" in line or " to bob wait" in line]

        (line,) = await told("msg nobody one")
        assert line.endswith(" (why 3; delete 3 withdraws it)")
        assert await told("msg nobody two", "msg nobody three") == []
        await do(alice, "block bob")
        assert [line[:15] for line in await told("msg bob four")] == ["#6 to bob waits"]
        assert await told("msg bob five") == []
        await do(alice, "unblock bob")
        await do(alice, "block bob")
        assert [line[:15] for line in await told("msg bob six")] == ["#8 to bob waits"], "others went meanwhile"


async def test_a_failed_message_is_always_told() -> None:
    async with mail_stage("alice", "bob") as stage:
        alice = stage.players["alice"]
        await do(stage.players["bob"], "exit")
        await do(alice, "msg bob lost")
        # As the client's tasks tell it.
        alice.client.messages._database.execute(
            "UPDATE messages SET state = 'failed', cause = 'refused' WHERE number = 3"
        )
        await alice.client.tell(ev.MessageChanged(3, "bob", "failed", "refused"))
        await settled()
        assert alice.new() == ["error: #3 to bob failed: The server has refused it. Try again with: retry 3 (why 3)"]
        assert await do(alice, "retry 3") == ["#3 is tried again"]


# files ----------------------------------------------------------------------------------------------------------------


def modes_in(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()}


async def test_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    async with mail_stage("alice", "bob") as stage:
        alice = stage.players["alice"]
        await do(alice, "reply 2 \x1b[2J\u202eü", "react 2 👍", "edit 1 first of all")
        assert await do(alice, "export bob --json", "export bob --text my file.txt") == [
            "3 messages in bob.json",
            "3 messages in my file.txt",
        ]
        assert await do(alice, "export bob --json") == ["error: bob.json is there already, and is not overwritten"]
        assert (await do(alice, "export bob --text no/where"))[0].startswith("error: no/where cannot be written: ")
        assert await do(alice, "export dan --text") == ["error: there is no conversation with dan"]
    assert modes_in(tmp_path) == {"bob.json": 0o600, "my file.txt": 0o600}
    raw = (tmp_path / "bob.json").read_bytes()
    assert raw.isascii()
    assert b"\x1b" not in raw
    first, second, third = json.loads(raw)
    assert (first["number"], first["from"], first["to"], first["text"]) == (1, "alice", "bob", "first of all")
    assert first["state"] == "delivered"
    assert [each["text"] for each in first["before"]] == ["first"]
    assert first["written"].endswith("+00:00")
    assert second["reactions"] == {"alice": "👍"}
    assert (third["reply_to"], third["text"]) == (2, "\x1b[2J\u202eü")
    text = (tmp_path / "my file.txt").read_text("utf-8")
    assert "\x1b" not in text
    assert re.search(r"^\d{4}-\d\d-\d\d \d\d:\d\d #2 <bob> second \(👍 you\)$", text, re.MULTILINE)


async def test_an_export_that_fails_leaves_no_half_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("messageapp_cli.exporting._text", full)
    async with mail_stage("alice", "bob") as stage:
        seen = await do(stage.players["alice"], "export bob --text")
        assert seen == ["error: bob.txt cannot be written: No space left on device"]
    assert modes_in(tmp_path) == {}
