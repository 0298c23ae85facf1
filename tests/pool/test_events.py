"""The hook of a pool: which events there are, when, in which order, and that it can change nothing (pool.md 14)."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import logging
import threading
import time
import warnings
from collections.abc import Callable
from typing import Any

import pytest

from smtpconn.pool import ConnectionPool
from smtpconn.pooling import events
from smtpconn.pooling.events import PoolEvent
from smtpconn.pooling.stats import RETIRED
from smtpconn.protocol.audit import ListAuditSink
from smtpconn.protocol.errors import (
    AuthenticationError,
    ConnectError,
    PoolClosedError,
    PoolTimeoutError,
    ServiceUnavailableError,
    SmtpError,
)

from .fakes import ENVELOPE, Clock, FakeConnection, FakeServer, lost, pool_of, reply, unavailable

LIMIT = 20.0


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def server() -> FakeServer:
    return FakeServer()


def refused_login() -> AuthenticationError:
    return AuthenticationError("535 no", stage="AUTH PLAIN", reply=reply(535), permanent=True)


def everything(pool: ConnectionPool, server: FakeServer, clock: Clock) -> None:
    """A life in which every event happens."""
    pool.send(*ENVELOPE)
    server.acts = [lost(unanswered=True)]
    pool.send(*ENVELOPE)  # Retried, ClosingSeen
    clock.now += 3  # a 421 right behind a close of our own would be waited for
    with pool.connection():
        server.script = [ServiceUnavailableError("421 busy", stage="greeting", reply=reply(421))]
        with pytest.raises(PoolTimeoutError):
            pool.send(*ENVELOPE, timeout=1.0)  # ConnectionFailed, Limited, AcquireFailed
    pool.invalidate()
    server.script = [ConnectError("secret text")]
    with pytest.raises(ConnectError):
        pool.send(*ENVELOPE)  # BackedOff
    pool.invalidate()
    server.script = [refused_login()]
    with pytest.raises(AuthenticationError):
        pool.send(*ENVELOPE)  # BreakerOpened
    clock.now += 61
    pool.send(*ENVELOPE)  # BreakerClosed
    pool.resize(max_size=3)
    lease: Any = pool.connection()
    lease.__enter__()
    del lease
    gc.collect()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        pool.stats()  # Leaked
    pool.send(*ENVELOPE)
    pool.close()


def test_every_event_happens_and_says_where_when_and_to_whom(server: FakeServer, clock: Clock) -> None:
    seen: list[PoolEvent] = []
    pool = pool_of(server, clock, on_event=seen.append, name="mail", max_size=2)
    everything(pool, server, clock)
    assert {type(event) for event in seen} == set(PoolEvent.__subclasses__())
    of_connections = (
        events.ConnectionOpened, events.ConnectionClosed, events.Acquired, events.Returned, events.ClosingSeen,
        events.Retried, events.Leaked,
    )  # fmt: skip
    of_endpoints = (*of_connections, events.ConnectionFailed, events.Limited, events.BackedOff, events.BreakerOpened)
    numbers = [connection.connection_id for connection in server.connections]
    for event in seen:
        assert event.pool == "mail"
        assert (event.endpoint == "mx.example.com:25") == isinstance(event, of_endpoints)
        assert (event.connection_id in numbers) == isinstance(event, of_connections)
    times = [event.at for event in seen]
    assert times == sorted(times)
    assert (times[0], times[-1]) == (1_000.0, clock.now)  # the pool's own clock
    assert "secret" not in repr(seen)
    assert pool.stats().hook_errors == 0


def one(seen: list[PoolEvent], kind: type[Any]) -> Any:
    """The first event of this kind."""
    return next(event for event in seen if isinstance(event, kind))


def test_every_field_is_what_happened(server: FakeServer, clock: Clock) -> None:
    seen: list[PoolEvent] = []
    pool = pool_of(server, clock, on_event=seen.append, name="mail", max_size=2)
    server.script = [lambda endpoint, budget: setattr(clock, "now", clock.now + 0.25)]
    with pool.connection() as lease:
        clock.now += 3
        server.acts = [unavailable("DATA")]
        with pytest.raises(ServiceUnavailableError):
            lease.send(*ENVELOPE)
    assert one(seen, events.ConnectionOpened).seconds == 0.25
    assert (one(seen, events.Acquired).waited, one(seen, events.Acquired).reused) == (0.0, False)
    assert one(seen, events.Returned).seconds == 3.0
    assert one(seen, events.ClosingSeen).code == 421
    closed = one(seen, events.ConnectionClosed)
    assert (closed.reason, closed.code, closed.age) == ("closing", 421, 3.0)
    del seen[:]
    server.script = [ConnectError("no", reply=reply(554))]
    with pytest.raises(ConnectError):
        pool.send(*ENVELOPE)
    failed, backed, given_up = (
        one(seen, kind) for kind in (events.ConnectionFailed, events.BackedOff, events.AcquireFailed)
    )
    assert (failed.error, failed.code) == ("ConnectError", 554)
    assert backed.error == given_up.error == "ConnectError"
    assert backed.delay == pytest.approx(pool.stats().endpoints[0].backoff)
    pool.invalidate()
    pool.resize(max_size=5, min_size=1)
    assert one(seen, events.Invalidated).generation == 1
    assert (one(seen, events.Resized).max_size, one(seen, events.Resized).min_size) == (5, 1)
    pool.close()


def test_I36_opened_and_closed_acquires_and_their_ends_are_pairs(server: FakeServer, clock: Clock) -> None:
    seen: list[PoolEvent] = []
    everything(pool_of(server, clock, on_event=seen.append, max_size=2), server, clock)
    opened = [event.connection_id for event in seen if isinstance(event, events.ConnectionOpened)]
    closed = [event for event in seen if isinstance(event, events.ConnectionClosed)]
    assert sorted(opened) == sorted(event.connection_id for event in closed)
    assert opened == sorted(set(opened))  # rising, never used again
    assert {event.reason for event in closed} <= set(RETIRED)
    depth = 0
    for event in seen:
        depth += isinstance(event, events.AcquireStarted) - isinstance(event, (events.Acquired, events.AcquireFailed))
        assert depth in (0, 1)  # one thread
    assert depth == 0
    leases = {event.connection_id for event in seen if isinstance(event, events.Acquired)}
    assert leases <= {event.connection_id for event in seen if isinstance(event, events.ConnectionOpened)}


def test_the_order_is_that_in_which_it_happened(server: FakeServer, clock: Clock) -> None:
    seen: list[PoolEvent] = []
    pool = pool_of(server, clock, on_event=seen.append)
    pool.send(*ENVELOPE)
    server.acts = [lost(unanswered=True)]
    pool.send(*ENVELOPE)
    pool.close()
    assert [type(event).__name__ for event in seen] == [
        "AcquireStarted", "ConnectionOpened", "Acquired", "Returned",
        "AcquireStarted", "Acquired", "ClosingSeen", "ConnectionClosed", "Retried", "ConnectionOpened", "Returned",
        "ConnectionClosed", "PoolClosed",
    ]  # fmt: skip


def test_events_are_frozen_values(server: FakeServer) -> None:
    for kind in PoolEvent.__subclasses__():
        assert dataclasses.is_dataclass(kind)
        with pytest.raises(dataclasses.FrozenInstanceError):
            events.PoolClosed(pool="x").pool = "y"  # type: ignore[misc]  # that is what is tested
        assert kind.__hash__ is not None


def test_F101_an_audit_sink_serves_as_the_hook(server: FakeServer, clock: Clock) -> None:
    sink: Any = ListAuditSink()
    pool = pool_of(server, clock, on_event=sink.on_event)
    pool.send(*ENVELOPE)
    pool.close()
    assert [type(event) for event in sink][:2] == [events.AcquireStarted, events.ConnectionOpened]


def test_LE9_no_lock_of_the_pool_is_held_while_the_hook_runs(server: FakeServer, clock: Clock) -> None:
    held: list[str] = []
    pools: list[ConnectionPool] = []

    def hook(event: PoolEvent) -> None:
        if pools[0]._supply.slots.lock.locked():
            held.append(type(event).__name__)

    pool = pool_of(server, clock, on_event=hook, max_size=2)
    pools.append(pool)
    everything(pool, server, clock)
    assert held == []


CALLS: dict[str, Callable[[ConnectionPool], object]] = {
    "send": lambda pool: pool.send(*ENVELOPE),
    "a lease": lambda pool: pool.connection(timeout=0).__enter__().__exit__(None, None, None),
    "stats": lambda pool: pool.stats(),
    "maintain": lambda pool: pool.maintain(),
    "invalidate": lambda pool: pool.invalidate(),
    "resize": lambda pool: pool.resize(max_size=2),
    "close": lambda pool: pool.close(timeout=0),
    "repr": repr,
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("at", [events.AcquireStarted, events.ConnectionOpened, events.Acquired, events.Returned])
def test_I29_PO39_the_hook_may_call_the_pool(
    server: FakeServer, clock: Clock, call: str, at: type[PoolEvent]
) -> None:
    pools: list[ConnectionPool] = []
    done: list[BaseException | None] = []

    def hook(event: PoolEvent) -> None:
        if isinstance(event, at) and not done:
            done.append(None)
            try:
                CALLS[call](pools[0])
            except SmtpError as error:
                done.append(error)

    pool = pool_of(server, clock, on_event=hook, max_size=2)
    pools.append(pool)
    too_late = call == "close" and at is events.AcquireStarted
    with pytest.raises(PoolClosedError) if too_late else contextlib.nullcontext():
        pool.send(*ENVELOPE)
    assert done[0] is None
    assert all(isinstance(error, PoolTimeoutError) for error in done[1:])  # a try that found nothing idle
    pool.close()
    stats = pool.stats()
    assert (stats.leased, stats.opening, stats.closing, server.live) == (0, 0, 0, 0)
    assert stats.opened == sum(stats.retired.values())
    assert stats.hook_errors == 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", PoolEvent.__subclasses__(), ids=lambda kind: kind.__name__)
def test_I24_I29_an_interrupt_in_the_hook_passes_and_loses_no_slot(
    server: FakeServer, clock: Clock, kind: type[PoolEvent]
) -> None:
    class Interrupt(BaseException):
        pass

    armed = [True]

    def hook(event: PoolEvent) -> None:
        if isinstance(event, kind) and armed[0]:
            armed[0] = False
            raise Interrupt

    pool = pool_of(server, clock, on_event=hook, max_size=2)
    with pytest.raises(Interrupt):
        everything(pool, server, clock)
    gc.collect()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        stats = pool.stats()
    assert (stats.leased, stats.opening, stats.closing, stats.waiting) == (0, 0, 0, 0)
    pool.close()
    stats = pool.stats()
    assert stats.idle == server.live == 0
    assert stats.opened == sum(stats.retired.values())


def test_I29_NN16_a_hook_that_always_raises_changes_nothing_and_is_counted(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, logger="smtpconn.pool")  # a kept record would keep the lease that is dropped

    def life(hook: Callable[[PoolEvent], object]) -> tuple[list[list[str]], dict[str, Any]]:
        server = FakeServer()
        clock.now = 1_000.0
        pool = pool_of(server, clock, on_event=hook, max_size=2)
        everything(pool, server, clock)
        numbers = dataclasses.asdict(dataclasses.replace(pool.stats(), retired=dict(pool.stats().retired)))
        for varying in ("endpoints", "wait_seconds", "longest_wait"):  # a back-off is drawn
            numbers.pop(varying)
        return [connection.log for connection in server.connections], numbers

    seen: list[PoolEvent] = []

    def hook(event: PoolEvent) -> None:
        seen.append(event)
        raise RuntimeError("no")

    logs, numbers = life(hook)
    quiet_logs, quiet_numbers = life(lambda event: None)
    assert logs == quiet_logs
    assert numbers.pop("hook_errors") == len(seen) > 20
    assert quiet_numbers.pop("hook_errors") == 0
    assert numbers == quiet_numbers


def test_LE8_the_hook_is_called_by_one_thread_at_a_time_in_order(server: FakeServer) -> None:
    seen: list[PoolEvent] = []
    inside = threading.Lock()
    overlaps: list[PoolEvent] = []

    def hook(event: PoolEvent) -> None:
        if not inside.acquire(blocking=False):
            overlaps.append(event)
            return
        seen.append(event)
        time.sleep(0)
        inside.release()

    pool = pool_of(server, on_event=hook, max_size=2)

    def work() -> None:
        for _ in range(50):
            pool.send(*ENVELOPE, timeout=LIMIT)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
    pool.close()
    assert overlaps == []
    holding: set[int] = set()
    for event in seen:
        if isinstance(event, events.Acquired):
            assert event.connection_id not in holding, "a second holder before the first was gone"
            holding.add(event.connection_id)
        elif isinstance(event, events.Returned):
            holding.remove(event.connection_id)
    assert holding == set()
    assert sum(isinstance(event, events.Acquired) for event in seen) == 300


def test_a_hook_that_blocks_holds_up_its_own_thread_only(server: FakeServer) -> None:
    blocked, release = threading.Event(), threading.Event()

    def hook(event: PoolEvent) -> None:
        if isinstance(event, events.Returned) and not blocked.is_set():
            blocked.set()
            release.wait(LIMIT)

    pool = pool_of(server, on_event=hook, max_size=2)
    first = threading.Thread(target=pool.send, args=ENVELOPE, daemon=True)
    first.start()
    assert blocked.wait(LIMIT)
    assert pool.send(*ENVELOPE, timeout=LIMIT).all_delivered
    assert pool.stats().leased == 1
    release.set()
    first.join(LIMIT)
    assert pool.stats().leased == 0
    pool.close()


def test_a_connection_that_arrives_after_close_is_opened_and_closed_in_the_events(
    server: FakeServer, clock: Clock
) -> None:
    seen: list[PoolEvent] = []
    pool = pool_of(server, clock, on_event=seen.append)
    server.script = [lambda endpoint, budget: pool.close(timeout=0)]
    with pytest.raises(PoolClosedError):
        pool.send(*ENVELOPE)
    names = [type(event).__name__ for event in seen]
    assert names == ["AcquireStarted", "PoolClosed", "ConnectionOpened", "AcquireFailed", "ConnectionClosed"]
    assert one(seen, events.ConnectionClosed).reason == "closed"
    assert isinstance(server.connections[0], FakeConnection)
