"""Who may begin a handshake, by address and in all."""

from __future__ import annotations

import pytest

from messageapp.limits import Limits
from messageapp.server.quota import AddressQuota, TokenBucket, UserRates, address_group

DAY = 86_400.0


def test_a_bucket_gives_its_burst_then_its_rate() -> None:
    bucket = TokenBucket(2, 3, 0.0)
    assert [bucket.take(0.0) for _ in range(4)] == [True, True, True, False]
    assert [bucket.take(0.5), bucket.take(0.5)] == [True, False]
    assert [bucket.take(100.0) for _ in range(4)] == [True, True, True, False], "never more than the burst"


@pytest.mark.parametrize(
    ("address", "group"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2300::1", "2001:db8:1:2300::/56"),
        ("2001:db8:1:23ff:ffff::", "2001:db8:1:2300::/56"),
        ("2001:db8:1:2400::1", "2001:db8:1:2400::/56"),
        ("fe80::1%eth0", "fe80::/56"),
        ("memory", "memory"),
    ],
)
def test_addresses_of_one_customer_are_one_group(address: str, group: str) -> None:
    assert address_group(address) == group


def test_handshakes_of_one_address_are_bounded() -> None:
    quota = AddressQuota(Limits())
    assert [quota.begin("192.0.2.1", 0.0) for _ in range(9)] == [True] * 8 + [False]
    assert quota.begin("192.0.2.2", 0.0)
    quota.end("192.0.2.1", 1.0, good=False)
    assert quota.begin("192.0.2.1", 1.0)
    assert quota.under_way == 9


def test_refused_connections_are_not_under_way() -> None:
    quota = AddressQuota(Limits())
    for _ in range(100):
        quota.begin("192.0.2.1", 0.0)
    assert quota.under_way == 8
    for _ in range(8):
        quota.end("192.0.2.1", 0.0, good=False)
    assert quota.under_way == 0


def test_connections_of_one_address_are_slowed() -> None:
    quota = AddressQuota(Limits(handshakes_per_address=1000))
    assert sum(quota.begin("192.0.2.1", 0.0) for _ in range(50)) == 20
    assert sum(quota.begin("192.0.2.1", 1.0) for _ in range(50)) == 5
    assert quota.begin("192.0.2.2", 1.0)


def fill(quota: AddressQuota, number: int, now: float) -> None:
    for index in range(number):
        assert quota.begin(f"198.51.{index // 200}.{index % 200}", now)


def test_when_it_is_crowded_those_who_logged_in_lately_go_first() -> None:
    quota = AddressQuota(Limits())
    assert quota.begin("192.0.2.1", 0.0)
    quota.end("192.0.2.1", 0.0, good=True)
    assert quota.begin("192.0.2.9", 0.0)
    quota.end("192.0.2.9", 0.0, good=False)
    fill(quota, 64, 1.0)
    assert not quota.begin("192.0.2.9", 2.0)
    assert not quota.begin("192.0.2.8", 2.0)
    assert quota.begin("192.0.2.1", 2.0)
    assert not quota.begin("192.0.2.1", 1.0 + DAY), "not for ever"


def test_nobody_goes_over_the_bound_in_all() -> None:
    quota = AddressQuota(Limits(handshakes_crowded=1000))
    fill(quota, 128, 0.0)
    assert not quota.begin("192.0.2.1", 0.0)


def test_memory_for_addresses_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("messageapp.server.quota._REMEMBERED", 10)
    quota = AddressQuota(Limits(handshakes=10**6, handshakes_crowded=10**6))
    for index in range(1000):
        address = f"198.51.{index // 200}.{index % 200}"
        assert quota.begin(address, 0.0)
        quota.end(address, 0.0, good=True)
    assert max(len(quota._rate._buckets), len(quota._good), len(quota._under_way)) <= 10


def test_rates_are_a_users_whoever_else_asks() -> None:
    rates = UserRates(Limits(commands_burst=3, commands_per_second=1, chats_per_minute=2))
    assert [rates.command("alice", 0.0) for _ in range(4)] == [True] * 3 + [False]
    assert [rates.chat("alice", 0.0) for _ in range(3)] == [True] * 2 + [False]
    assert rates.command("bob", 0.0)
    assert rates.chat("bob", 0.0)
    assert [rates.command("alice", 1.0) for _ in range(2)] == [True, False]
    assert [rates.chat("alice", 30.0) for _ in range(2)] == [True, False]


def test_memory_for_users_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("messageapp.server.quota._REMEMBERED", 10)
    rates = UserRates(Limits())
    for index in range(100):
        assert rates.command(f"user{index}", 0.0)
        assert rates.chat(f"user{index}", 0.0)
    assert max(len(rate._buckets) for rate in vars(rates).values()) <= 10
