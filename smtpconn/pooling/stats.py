"""`PoolStats`: one consistent picture of a pool, taken under its lock.

Knows slots and endpoints; changes nothing. Counters only grow, since the pool was made or since the process was forked.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from smtpconn.pooling.claims import CLOSING, HANDED, IDLE, LEASED, OPENING, Slot
from smtpconn.pooling.endpoints import Endpoints, Health
from smtpconn.pooling.settings import PoolSettings
from smtpconn.protocol.flow import Pipelining
from smtpconn.slots import Slots

RETIRED = (
    "age",
    "idle",
    "messages",
    "generation",
    "surplus",
    "nonmail",
    "closing",
    "stale",
    "probe",
    "broken",
    "leaked",
    "closed",
)


@dataclass(frozen=True, kw_only=True)
class Holder:
    """One lease: who took it, how many seconds ago, to which endpoint; `stack` only with `track_leases`."""

    thread: str
    seconds: float
    endpoint: str
    stack: str | None = None


@dataclass(frozen=True, kw_only=True)
class EndpointStats:
    """One endpoint. `backoff`: seconds until an open may be tried; `error`: the last failed open, one safe line.

    `max_messages`: MAILs per connection in effect, None without limit. `pipelining`: the level in effect, of what its
    last EHLO offered; `mark`: why it is not served with more than `GROUPED`, one safe line, or None.
    """

    name: str
    live: int
    limit: int
    backoff: float
    error: str | None
    max_messages: int | None
    pipelining: Pipelining = Pipelining.GROUPED
    mark: str | None = None


@dataclass(frozen=True, kw_only=True)
class PoolStats:
    """What a pool has now and has done so far. Times are in seconds.

    `name` is the pool's; `closed`: it is closed, or about to be. `leased` includes connections that are being checked
    or handed over; `limit` is how many connections the endpoints are believed to take; `retired` counts closed ones by
    reason. `opened` is the sum of `retired` and what is live.
    """

    name: str
    closed: bool
    max_size: int
    min_size: int
    limit: int
    generation: int
    idle: int
    leased: int
    opening: int
    closing: int
    waiting: int
    holders: tuple[Holder, ...]
    endpoints: tuple[EndpointStats, ...]
    breaker: float | None
    acquired: int
    reused: int
    waited: int
    wait_seconds: float
    longest_wait: float
    timeouts: int
    overloads: int
    interrupted: int
    opened: int
    open_errors: int
    open_seconds: float
    messages: int
    delivered: int
    not_delivered: int
    unknown: int
    stale_retries: int
    probes: int
    probe_failures: int
    checks_failed: int
    retired: Mapping[str, int]
    closing_signals: int
    shrinks: int
    backoffs: int
    breaker_trips: int
    protocol_errors: int
    starttls_injections: int
    leaks: int
    hook_errors: int

    def __reduce__(self) -> tuple[Any, ...]:
        fields = {**self.__dict__, "retired": dict(self.retired)}
        return _rebuild, (fields,)


def _rebuild(fields: dict[str, Any]) -> PoolStats:
    return PoolStats(**{**fields, "retired": MappingProxyType(fields["retired"])})


def holders(slots: list[Slot], now: float) -> tuple[Holder, ...]:
    """Who holds what (AQ12). Caller holds the lock."""
    found = []
    for slot in slots:
        watch = slot.watch
        if slot.state in (LEASED, HANDED) and watch is not None:
            endpoint = slot.endpoint.name if slot.endpoint is not None else ""
            stack = getattr(watch, "stack", None)
            found.append(Holder(thread=watch.thread.name, seconds=now - slot.since, endpoint=endpoint, stack=stack))
    return tuple(found)


def snapshot(
    slots: Slots, endpoints: Endpoints, settings: PoolSettings, min_size: int, asked: Pipelining, now: float
) -> PoolStats:
    """The picture; `asked`: the level of pipelining that the pool was made with. Caller holds the lock."""
    rooms = slots.each()
    counters = dict.fromkeys(_COUNTERS, 0.0) | slots.counters
    acquired, reused = _current(rooms)
    numbers: dict[str, Any] = {name: value if name in _SECONDS else int(value) for name, value in counters.items()}
    numbers["messages"] += sum(_mails(slot) for slot in rooms if slot.opened)
    return PoolStats(
        name=settings.name,
        closed=slots.closed,
        max_size=slots.size,
        min_size=min_size,
        limit=endpoints.most(slots.size),
        generation=slots.generation,
        idle=_count(rooms, IDLE),
        leased=_count(rooms, LEASED) + _count(rooms, HANDED),
        opening=_count(rooms, OPENING),
        closing=_count(rooms, CLOSING),
        waiting=slots.waiting,
        holders=holders(rooms, now),
        endpoints=tuple(
            EndpointStats(
                name=health.name,
                live=endpoints.live(health, rooms),
                limit=health.limit or slots.size,
                backoff=max(0.0, health.not_before - now),
                error=None if health.error is None else str(health.error),
                max_messages=smallest(settings.max_messages, health.most(now)),
                pipelining=_level(health, asked, now),
                mark=health.mark.reason,
            )
            for health in endpoints.healths
        ),
        breaker=None if endpoints.refusal is None else max(0.0, endpoints.refused_until - now),
        acquired=slots.acquired + acquired,
        reused=slots.reused + reused,
        waited=slots.waited,
        wait_seconds=slots.wait_seconds,
        longest_wait=slots.longest_wait,
        retired=MappingProxyType({reason: slots.retired.get(reason, 0) for reason in RETIRED}),
        **numbers,
    )


def _level(health: Health, asked: Pipelining, now: float) -> Pipelining:
    """LV1: the level in effect; as it was asked for before anything is known."""
    level = asked if health.offers is None else health.offers
    return level if health.mark.allows(now) else min(level, Pipelining.GROUPED)


def smallest(*limits: float | None) -> int | None:
    """The smallest of the limits that are there; None and inf are none."""
    least = min((limit for limit in limits if limit is not None), default=math.inf)
    return None if least == math.inf else int(least)


def _current(rooms: list[Slot]) -> tuple[int, int]:
    """Leases that have not been counted yet, and how many of them are on a reused connection.

    A lease is one until its slot is free, also while its connection is closed or replaced; a dropped one, whose claim
    is gone, until somebody has found it.
    """
    leases: dict[object, bool] = {}
    for slot in rooms:
        watch = slot.watch
        claim = watch() if watch is not None else None
        if claim is not None and claim.granted:
            leases[claim] = claim.reused
        elif claim is None and watch is not None and slot.state is LEASED:
            leases[watch] = slot.uses > 0
    return len(leases), sum(leases.values())


def _mails(slot: Slot) -> int:
    """MAILs written on the connection of a slot: its owner takes it out without the lock, so one look at it."""
    connection = slot.connection
    return slot.mails if connection is None else int(connection.mails)


def _count(rooms: list[Slot], state: object) -> int:
    return sum(1 for slot in rooms if slot.state is state)


_SECONDS = ("open_seconds",)
_COUNTERS = (
    *_SECONDS,
    "timeouts",
    "overloads",
    "interrupted",
    "opened",
    "open_errors",
    "messages",
    "delivered",
    "not_delivered",
    "unknown",
    "stale_retries",
    "probes",
    "probe_failures",
    "checks_failed",
    "closing_signals",
    "shrinks",
    "backoffs",
    "breaker_trips",
    "protocol_errors",
    "starttls_injections",
    "leaks",
    "hook_errors",
)
