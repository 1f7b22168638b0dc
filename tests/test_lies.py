"""A server that lies, in every way of the table: each lie is noticed, by whom and with what the table says."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from lies.acts import ACTS
from lies.table import AT_CALL, LIES, LieRow, markdown
from lies.world import open_log_world
from messageapp.client import events as ev
from messageapp.client.client import Client
from messageapp.client.lies import KeyRefused, Lie, Refusal
from messageapp.server.router import Router
from messageapp.store.logs import find_log
from messageapp.wire.records import Record
from messageapp_cli.render import render
from support.world import SERVER_NAME, Pass, on_forward


def test_every_row_has_an_act_and_every_act_a_row() -> None:
    assert sorted(ACTS) == sorted(row.name for row in LIES)
    assert len({row.name for row in LIES}) == len(LIES)
    assert markdown().count("\n") == len(LIES) + 2
    assert markdown() in (Path(__file__).parent.parent / "docs" / "security.md").read_text("utf-8")


def test_every_alarm_and_every_refusal_is_tried() -> None:
    shown = "\n".join(row.shows for row in LIES)
    for lie in Lie:
        assert lie.sentence in shown, lie
    outside = {Refusal.NOT_WITNESSED, Refusal.NOT_FOLLOWED, Refusal.ALARM}  # no lies; see test_client_keylog
    for refusal in set(Refusal) - outside:
        assert refusal.value.format(peer="bob") in shown, refusal


@pytest.mark.parametrize("row", LIES, ids=[row.name for row in LIES])
async def test_the_lie_is_noticed(
    row: LieRow, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    with trio.fail_after(200):
        async with AsyncExitStack() as stack:
            w = await stack.enter_async_context(open_log_world(monkeypatch))
            sent: list[str] = []  # by whom

            def noted(router: Router, session: Any, record: Record, go_on: Pass) -> None:
                sent.append(session.user)
                go_on(record)

            on_forward(monkeypatch, noted)
            client, event = await ACTS[row.name](w, stack, monkeypatch)
            assert row.when != AT_CALL or row.seen_by not in sent
            assert client.account.user == row.seen_by
            assert type(event).__name__ == row.event
            assert row.shows in " ".join(render(event))
            if isinstance(event, ev.LogAlarmed):
                await check_alarm(w, client, event)


def check_file(name: str) -> None:
    text = Path(name).read_text()
    assert f"server: {SERVER_NAME}" in text
    assert f"{SERVER_NAME}/msgapp-keys\n" in text


async def check_alarm(w: object, client: Client, event: ev.LogAlarmed) -> None:
    """Kept, and nothing is sent any more; the evidence is there, where there is any."""
    assert client.log.alarm == event.reason
    with pytest.raises(KeyRefused):
        await client.chat("carol")
    await trio.testing.wait_all_tasks_blocked()
    assert client.peer is None
    known = find_log(client.account.trust.database, SERVER_NAME)
    first_contact = event.reason.startswith(Lie.UNBOUND.kind)
    assert (known is None) == first_contact
    if known is not None:
        assert known.alarm == event.reason
    check_file(event.evidence)
