"""The own prekeys: how many, how long, and on which disk (protocol §9.1)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import trio

from messageapp.client.prekeys import KEEP_DAYS, LIFE_DAYS, MAIL_DAYS, ONE_TIME, REFILL, REPLACE_DAYS, UPLOAD, Prekeys
from messageapp.clock import DAY_MS
from messageapp.errors import CannotStore, RequestRefused
from messageapp.store import arrivals
from messageapp.wire.commands import ErrorCode
from messageapp.wire.mail_forms import PrekeyState
from messageapp_keys.identity import IdentityBundle
from messageapp_keys.prekeys import Prekey, PrekeyKind, PrekeyRefused
from support.mail_ends import SERVER, End
from support.world import identity


class FakeServer:
    """What a server holds of one user."""

    def __init__(self) -> None:
        self.one_time: list[Prekey] = []
        self.last_resort: Prekey | None = None
        self.ours = False
        self.uploads: list[int] = []

    @property
    def state(self) -> PrekeyState:
        expires = 0 if self.last_resort is None else self.last_resort.expires_ms
        return PrekeyState(len(self.one_time), expires, self.ours, 30 * 86_400)

    async def upload(self, prekeys: Sequence[Prekey]) -> None:
        assert len(prekeys) <= UPLOAD
        if not self.ours:
            self.one_time, self.last_resort, self.ours = [], None, True
        self.uploads.append(len(prekeys))
        for prekey in prekeys:
            if prekey.kind is PrekeyKind.LAST_RESORT:
                self.last_resort = prekey
            else:
                self.one_time.append(prekey)
        assert len(self.one_time) <= 100


async def test_the_first_time_a_hundred_and_one_are_made_and_each_is_signed_and_found() -> None:
    with trio.fail_after(30):
        end, server = End("alice"), FakeServer()
        assert await end.prekeys.upkeep(server.state, server.upload)
        assert len(server.one_time) == ONE_TIME == 100
        assert server.last_resort is not None
        assert server.uploads == [UPLOAD] * 6 + [5]
        ids = set()
        for prekey in (*server.one_time, server.last_resort):
            prekey.verify_untrusted(end.identity.bundle, "alice", end.ms)
            assert end.ms + 30 * DAY_MS < prekey.expires_ms <= end.ms + 90 * DAY_MS
            found = end.prekeys.find(prekey.id)
            assert found is not None
            assert found.public == prekey
            ids.add(prekey.id)
        assert len(ids) == 101
        assert not await end.prekeys.upkeep(server.state, server.upload)
        assert end.prekeys.find(next(id for id in range(102) if id not in ids)) is None


@pytest.mark.parametrize(("left", "after"), [(REFILL + 1, REFILL + 1), (REFILL, 100), (0, 100)])
async def test_it_is_filled_up_at_fifty(left: int, after: int) -> None:
    with trio.fail_after(30):
        end, server = End("alice"), FakeServer()
        await end.prekeys.upkeep(server.state, server.upload)
        del server.one_time[left:]
        await end.prekeys.upkeep(server.state, server.upload)
        assert len(server.one_time) == after


async def test_a_one_time_prekey_is_gone_when_it_is_used_and_the_last_resort_one_is_not() -> None:
    with trio.fail_after(30):
        end, server = End("alice"), FakeServer()
        await end.prekeys.upkeep(server.state, server.upload)
        assert server.last_resort is not None
        for prekey in (server.one_time[0], server.last_resort):
            end.prekeys.used(prekey.id)
        assert end.prekeys.find(server.one_time[0].id) is None
        assert end.prekeys.find(server.last_resort.id) is not None


async def test_the_last_resort_prekey_is_replaced_each_week_and_kept_a_week_more() -> None:
    with trio.fail_after(30):
        end, server = End("alice"), FakeServer()
        await end.prekeys.upkeep(server.state, server.upload)
        seen: list[Prekey] = []
        for day in range(22):
            await end.prekeys.upkeep(server.state, server.upload)
            assert server.last_resort is not None
            if server.last_resort not in seen:
                assert day % REPLACE_DAYS == 0
                seen.append(server.last_resort)
            kept = [end.prekeys.find(each.id) is not None for each in seen]
            assert kept[-2:] == [True] * min(len(seen), 2)
            assert not any(kept[:-2])
            end.ms += DAY_MS
        assert len(seen) == 4
        assert [end.prekeys.find(each.id) is not None for each in seen] == [False, False, True, True]
        assert KEEP_DAYS == 7


async def test_whoever_was_away_for_weeks_can_still_open_what_was_started_meanwhile() -> None:
    with trio.fail_after(30):
        end, server = End("alice"), FakeServer()
        await end.prekeys.upkeep(server.state, server.upload)
        old = server.last_resort
        assert old is not None
        end.ms += 25 * DAY_MS
        await end.prekeys.upkeep(server.state, server.upload)
        assert server.last_resort not in (None, old)
        assert end.prekeys.find(old.id) is not None


async def test_private_halves_go_when_nothing_can_come_any_more_and_the_starts_with_them() -> None:
    with trio.fail_after(30):
        end, server = End("alice"), FakeServer()
        await end.prekeys.upkeep(server.state, server.upload)
        first, last_resort = server.one_time[0], server.last_resort
        assert last_resort is not None
        arrivals.note_start(end.database, SERVER, bytes(32), last_resort.id)
        end.ms = first.expires_ms + MAIL_DAYS * DAY_MS
        await end.prekeys.upkeep(server.state, server.upload)
        assert end.prekeys.find(first.id) is not None
        assert end.count("starts") == 1
        end.ms += (KEEP_DAYS + 1) * DAY_MS
        await end.prekeys.upkeep(server.state, server.upload)
        assert end.prekeys.find(first.id) is None
        assert end.prekeys.find(last_resort.id) is None
        assert end.count("starts") == 0


async def test_another_device_took_over_and_this_one_takes_back() -> None:
    with trio.fail_after(30):
        end, server = End("alice"), FakeServer()
        await end.prekeys.upkeep(server.state, server.upload)
        before = list(server.one_time)
        server.ours = False
        await end.prekeys.upkeep(server.state, server.upload)
        assert len(server.one_time) == 100
        assert not set(before) & set(server.one_time)
        assert all(end.prekeys.find(each.id) is not None for each in before)  # a start may be under way


async def test_after_a_change_of_the_own_key_all_are_new() -> None:
    with trio.fail_after(30):
        end, server = End("alice"), FakeServer()
        await end.prekeys.upkeep(server.state, server.upload)
        before = [*server.one_time, server.last_resort]
        server.one_time, server.last_resort = [], None  # the server drops those of another key
        end.identity = identity("alice's new key")
        end.restart()
        assert all(each is not None and end.prekeys.find(each.id) is None for each in before)
        await end.prekeys.upkeep(server.state, server.upload)
        assert end.count("prekeys") == 101
        bundle: IdentityBundle = end.identity.bundle
        for prekey in server.one_time:
            prekey.verify_untrusted(bundle, "alice", end.ms)


async def test_an_upload_that_is_refused_or_cut_is_made_up_for_the_next_time() -> None:
    with trio.fail_after(30):
        end, server = End("alice"), FakeServer()

        async def refuse(prekeys: Sequence[Prekey]) -> None:
            if len(server.uploads) == 2:
                raise RequestRefused(ErrorCode.STORAGE, "full")
            await server.upload(prekeys)

        with pytest.raises(RequestRefused):
            await end.prekeys.upkeep(server.state, refuse)
        assert len(server.one_time) == 31
        end.restart()
        await end.prekeys.upkeep(server.state, server.upload)
        assert len(server.one_time) == 100
        assert all(end.prekeys.find(each.id) is not None for each in server.one_time)


async def test_a_prekey_lives_for_60_days() -> None:
    with trio.fail_after(30):
        end, server = End("alice"), FakeServer()
        await end.prekeys.upkeep(server.state, server.upload)
        prekey = server.one_time[0]
        prekey.verify_untrusted(end.identity.bundle, "alice", end.ms + LIFE_DAYS * DAY_MS - 1)
        with pytest.raises(PrekeyRefused):
            prekey.verify_untrusted(end.identity.bundle, "alice", end.ms + LIFE_DAYS * DAY_MS)
        assert LIFE_DAYS == 60


async def test_a_damaged_prekey_is_none() -> None:
    with trio.fail_after(30):
        end, server = End("alice"), FakeServer()
        await end.prekeys.upkeep(server.state, server.upload)
        end.database.inner.execute("UPDATE prekeys SET private = x'00'")
        assert end.prekeys.find(server.one_time[0].id) is None
        end.database.inner.execute("UPDATE prekeys SET public = x'00'")
        assert end.prekeys.find(server.one_time[0].id) is None


@pytest.mark.parametrize("ask", [lambda keys: keys.find(1), lambda keys: keys.used(1), Prekeys.uploaded_before])
async def test_a_full_disk_is_said_whatever_is_asked(ask: Callable[[Prekeys], object]) -> None:
    end = End("alice")
    end.database.fail_at = end.database.statements + 1
    with pytest.raises(CannotStore):
        ask(end.prekeys)
