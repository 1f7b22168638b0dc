"""Limits per session and per address (protocol §7). Pure: the time comes as an argument."""

from __future__ import annotations

import ipaddress
from collections import Counter, OrderedDict
from functools import lru_cache
from typing import Final, TypeVar

from messageapp.limits import Limits

__all__ = ["AddressQuota", "TokenBucket", "UserRates", "address_group"]

T = TypeVar("T")

_REMEMBERED: Final = 65_536  # addresses, and users, kept in memory at most; the longest unused go first
_RECENT_SECONDS: Final = 86_400.0


class TokenBucket:
    """`rate` tokens a second up to `burst`."""

    __slots__ = ("_burst", "_rate", "_time", "_tokens")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._rate, self._burst = rate, burst
        self._tokens, self._time = burst, now

    def take(self, now: float) -> bool:
        """True and one token less, or False."""
        self._tokens = min(self._burst, self._tokens + (now - self._time) * self._rate)
        self._time = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


@lru_cache(4096)
def address_group(address: str) -> str:
    """An IPv4 address, or the /56 of an IPv6 one, which is what one customer has. Mapped IPv4 counts as IPv4."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.ip_network((parsed, 56), strict=False))
    return str(parsed)


class _Rate:
    """How fast each user, or each address, may do one thing."""

    def __init__(self, rate: float, burst: float) -> None:
        self._rate, self._burst = rate, burst
        self._buckets: OrderedDict[str, TokenBucket] = OrderedDict()

    def __call__(self, who: str, now: float) -> bool:
        """Whether `who` may at this moment; then it counts."""
        bucket = self._buckets.get(who) or TokenBucket(self._rate, self._burst, now)
        _remember(self._buckets, who, bucket)
        return bucket.take(now)


class AddressQuota:
    """Who may begin a handshake. `begin` and `end` come in pairs where `begin` said yes."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._under_way: Counter[str] = Counter()
        self._total = 0
        self._rate = _Rate(limits.connections_per_second, limits.connections_burst)
        self._good: OrderedDict[str, float] = OrderedDict()

    @property
    def under_way(self) -> int:
        return self._total

    def begin(self, address: str, now: float) -> bool:
        limits, group = self._limits, address_group(address)
        crowded = self._total >= limits.handshakes_crowded and not self._lately_good(group, now)
        if (
            not self._rate(group, now)
            or crowded
            or self._total >= limits.handshakes
            or self._under_way[group] >= limits.handshakes_per_address
        ):
            return False
        self._under_way[group] += 1
        self._total += 1
        return True

    def end(self, address: str, now: float, *, good: bool) -> None:
        group = address_group(address)
        self._under_way[group] -= 1
        if not self._under_way[group]:
            del self._under_way[group]
        self._total -= 1
        if good:
            _remember(self._good, group, now)

    def _lately_good(self, group: str, now: float) -> bool:
        since = self._good.get(group)
        return since is not None and now - since < _RECENT_SECONDS


class UserRates:
    """How fast a user may ask and call, over all sessions and logins: logging in again buys nothing."""

    def __init__(self, limits: Limits) -> None:
        def each(seconds: float, count: float) -> _Rate:
            return _Rate(count / seconds, max(1, count))

        self.command = _Rate(limits.commands_per_second, limits.commands_burst)
        self.chat = each(60, limits.chats_per_minute)
        self.klog = each(60, limits.klogs_per_minute)
        self.newk = each(3600, limits.newks_per_hour)
        self.block = each(60, limits.blocks_per_minute)
        self.prek = each(60, limits.preks_per_minute)
        self.bndl = each(60, limits.bndls_per_minute)


def _remember(table: OrderedDict[str, T], key: str, value: T) -> None:
    table[key] = value
    table.move_to_end(key)
    if len(table) > _REMEMBERED:
        table.popitem(last=False)
