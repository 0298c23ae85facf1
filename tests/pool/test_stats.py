"""`pool.stats()`: one picture under one lock, whose sums agree and whose counters never go down (pool.md 14)."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import os
import random
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from smtpconn.pool import ConnectionPool
from smtpconn.pooling import stats as stats_module
from smtpconn.pooling.claims import Slot
from smtpconn.pooling.stats import RETIRED, PoolStats
from smtpconn.protocol.errors import ConnectError, PoolTimeoutError, ProtocolError, SmtpError, StartTlsInjectionError
from smtpconn.protocol.flow import Pipelining

from .fakes import ENVELOPE, Clock, FakeConnection, FakeServer, capabilities, lost, pool_of, rejected, unavailable

GROWING = (*stats_module._COUNTERS, "acquired", "reused", "generation")


def check(stats: PoolStats) -> None:
    """What holds in every picture, whenever it is taken."""
    counted = stats.idle + stats.leased + stats.opening + stats.closing
    assert len(stats.holders) == stats.leased
    assert sum(endpoint.live for endpoint in stats.endpoints) == counted
    assert stats.idle + stats.leased <= stats.opened - sum(stats.retired.values()) <= counted
    assert stats.reused <= stats.acquired
    assert stats.waited <= stats.acquired
    assert stats.longest_wait <= stats.wait_seconds
    assert tuple(stats.retired) == RETIRED
    assert min(stats.retired.values()) >= 0


def check_growth(before: PoolStats, after: PoolStats) -> None:
    """Counters only grow."""
    check(after)
    shrunk = {
        name: (getattr(before, name), getattr(after, name))
        for name in GROWING
        if getattr(after, name) < getattr(before, name)
    }
    shrunk |= {
        reason: (count, after.retired[reason])
        for reason, count in before.retired.items()
        if after.retired[reason] < count
    }
    assert shrunk == {}


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def server() -> FakeServer:
    return FakeServer()


class Watched:
    """A pool that looks at itself at every event."""

    def __init__(self, server: FakeServer, clock: Clock, **options: Any) -> None:
        self.pool: ConnectionPool = pool_of(server, clock, on_event=self._look, **options)
        self.pictures = [self.pool.stats()]
        self.wrong: list[AssertionError] = []  # what a hook raises is dropped

    def _look(self, event: object) -> None:
        picture = self.pool.stats()
        try:
            check_growth(self.pictures[-1], picture)
        except AssertionError as error:
            error.args = (f"at {type(event).__name__}: {error}",)
            self.wrong.append(error)
        self.pictures.append(picture)


def a_mail(pool: ConnectionPool, server: FakeServer, clock: Clock) -> None:
    pool.send(*ENVELOPE)


def a_refused_mail(pool: ConnectionPool, server: FakeServer, clock: Clock) -> None:
    server.acts.append(rejected(550, "RCPT"))
    pool.send(*ENVELOPE)


def a_stale_connection(pool: ConnectionPool, server: FakeServer, clock: Clock) -> None:
    server.acts.append(lost(unanswered=True))
    pool.send(*ENVELOPE)


def a_stale_connection_that_cannot_be_replaced(pool: ConnectionPool, server: FakeServer, clock: Clock) -> None:
    server.acts.append(lost(unanswered=True))
    server.script.append(ConnectError("no"))
    pool.send(*ENVELOPE)


def code_421_in_the_middle(pool: ConnectionPool, server: FakeServer, clock: Clock) -> None:
    server.acts.append(unavailable("DATA"))
    pool.send(*ENVELOPE)


def dead_while_idle(pool: ConnectionPool, server: FakeServer, clock: Clock) -> None:
    for connection in server.connections:
        connection.quiet = False
    pool.send(*ENVELOPE)


def no_answer_to_noop(pool: ConnectionPool, server: FakeServer, clock: Clock) -> None:
    for connection in server.connections:
        connection.alive = False
    clock.now += 20
    pool.send(*ENVELOPE)


def a_failed_open(pool: ConnectionPool, server: FakeServer, clock: Clock) -> None:
    pool.invalidate()
    server.script.append(ConnectError("no"))
    pool.send(*ENVELOPE)


def too_late(pool: ConnectionPool, server: FakeServer, clock: Clock) -> None:
    clock.now += 400
    pool.send(*ENVELOPE)


def invalidate(pool: ConnectionPool, server: FakeServer, clock: Clock) -> None:
    pool.invalidate()


def resize(pool: ConnectionPool, server: FakeServer, clock: Clock) -> None:
    pool.resize(max_size=1)
    pool.resize(max_size=4)


def maintain(pool: ConnectionPool, server: FakeServer, clock: Clock) -> None:
    pool.maintain()


ACTS: list[Callable[[ConnectionPool, FakeServer, Clock], None]] = [
    a_mail, a_refused_mail, a_stale_connection, a_stale_connection_that_cannot_be_replaced, code_421_in_the_middle,
    dead_while_idle, no_answer_to_noop, a_failed_open, too_late, invalidate, resize, maintain,
]  # fmt: skip


@pytest.mark.parametrize("act", ACTS, ids=lambda act: act.__name__)
def test_section_14_counters_never_go_down_not_even_while_a_connection_is_closed(
    server: FakeServer, clock: Clock, act: Callable[[ConnectionPool, FakeServer, Clock], None]
) -> None:
    watched = Watched(server, clock)
    pool = watched.pool
    pool.send(*ENVELOPE)
    pool.send(*ENVELOPE)
    for _ in range(2):
        with contextlib.suppress(SmtpError):
            act(pool, server, clock)
        if pool.stats().endpoints[0].backoff:
            pool.invalidate()
    pool.close()
    check_growth(watched.pictures[-1], pool.stats())
    assert watched.wrong == []
    assert len(watched.pictures) > 8
    final = pool.stats()
    assert final.opened == sum(final.retired.values())  # I36
    assert final.messages == sum(connection.mails for connection in server.connections)


@pytest.mark.parametrize("retire", ["broken", "closing"])
def test_a_lease_counts_as_acquired_from_its_beginning_to_the_end_of_its_connection(
    server: FakeServer, clock: Clock, retire: str
) -> None:
    watched = Watched(server, clock)
    pool = watched.pool
    pool.send(*ENVELOPE)
    server.acts = [unavailable("DATA") if retire == "closing" else SmtpError("no", stage="body")]
    with pool.connection() as lease:
        assert (pool.stats().acquired, pool.stats().reused) == (2, 1)
        if retire == "broken":
            lease.close()
        else:
            with pytest.raises(SmtpError):
                lease.send(*ENVELOPE)
    assert watched.wrong == []
    assert (pool.stats().acquired, pool.stats().reused) == (2, 1)
    pool.close()


def test_I26_a_dropped_lease_stays_counted(server: FakeServer, clock: Clock) -> None:
    pool = pool_of(server, clock)
    pool.send(*ENVELOPE)
    lease: Any = pool.connection()
    lease.__enter__()
    assert (pool.stats().acquired, pool.stats().reused) == (2, 1)
    del lease
    gc.collect()
    with pytest.warns(ResourceWarning):
        picture = pool.stats()
    assert (picture.acquired, picture.reused, picture.leaks) == (2, 1, 1)
    pool.close()


def test_stats_survive_a_connection_that_is_closed_at_the_same_moment(server: FakeServer, clock: Clock) -> None:
    """The owner of a slot takes its connection out without the lock: each look at it must be one look."""
    pool = pool_of(server, clock)
    pool.send(*ENVELOPE)
    (slot,) = [slot for slot in pool._supply.slots.each() if slot.connection is not None]
    connection = slot.connection

    class Vanishing:
        """The slot's connection, once; then None, as if the owner had come in between."""

        looks = 0

        def __get__(self, instance: object, owner: object) -> Any:
            self.looks += 1
            return connection if self.looks == 1 else None

    vanishing = Vanishing()
    slot.__class__ = type("Racing", (Slot,), {"__slots__": (), "connection": vanishing})
    assert pool.stats().messages == 1
    assert vanishing.looks == 1
    slot.__class__ = Slot
    pool.close()


def test_a_picture_costs_one_look_under_the_lock_and_no_io(
    server: FakeServer, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = pool_of(server, clock)
    pool.send(*ENVELOPE)
    before = list(server.connections[0].log)
    looks = []

    class CountingLock:
        def __enter__(self) -> None:
            looks.append("look")

        def __exit__(self, *_: object) -> None:
            pass

    with monkeypatch.context() as patched:
        patched.setattr(pool._supply.slots, "lock", CountingLock())
        pool.stats()
    assert looks == ["look"]
    assert server.connections[0].log == before
    pool.close()


def test_a_picture_is_frozen_and_names_its_pool(server: FakeServer, clock: Clock) -> None:
    pool = pool_of(server, clock, name="mail")
    picture = pool.stats()
    with pytest.raises(dataclasses.FrozenInstanceError):
        picture.idle = 5  # type: ignore[misc]  # that is what is tested
    with pytest.raises(TypeError):
        picture.retired["age"] = 5  # type: ignore[index]  # that is what is tested
    assert (picture.name, picture.closed) == ("mail", False)
    pool.close()
    assert pool.stats().closed
    assert not picture.closed


def test_every_number_says_what_happened(server: FakeServer, clock: Clock) -> None:
    pool = pool_of(server, clock, max_size=2, max_waiting=0, acquire_timeout=5)
    pool.send(*ENVELOPE)
    clock.now += 3
    with pool.connection() as first, pool.connection():
        picture = pool.stats()
        assert (picture.idle, picture.leased, picture.opening, picture.closing, picture.waiting) == (0, 2, 0, 0, 0)
        assert {(holder.thread, holder.endpoint) for holder in picture.holders} == {
            (threading.current_thread().name, "mx.example.com:25")
        }
        with pytest.raises(SmtpError):
            pool.send(*ENVELOPE)
        with pytest.raises(PoolTimeoutError), pool.connection(timeout=0):
            raise AssertionError("unreachable")
        first.send(*ENVELOPE)
        assert pool.stats().messages == 2
    server.connections[0].quiet = server.connections[1].quiet = False
    server.script = [KeyboardInterrupt()]
    with pytest.raises(KeyboardInterrupt):
        pool.send(*ENVELOPE)
    picture = pool.stats()
    assert (picture.acquired, picture.reused, picture.overloads, picture.timeouts) == (3, 1, 1, 1)
    assert (picture.interrupted, picture.checks_failed, picture.leased) == (1, 2, 0)
    assert (picture.opened, picture.messages, picture.delivered) == (2, 2, 2)
    pool.close()


@pytest.mark.parametrize(("offer", "level"), [("PIPELINING", Pipelining.GROUPED), ("8BITMIME", Pipelining.OFF)])
def test_LV1_the_level_in_effect_is_what_the_last_EHLO_allows(
    server: FakeServer, clock: Clock, offer: str, level: Pipelining
) -> None:
    server.capabilities = capabilities(offer)
    pool = pool_of(server, clock)
    pool.send(*ENVELOPE)
    assert pool.stats().endpoints[0].pipelining is level
    pool.close()


def test_the_verdicts_of_a_lease_count_however_its_verb_ends(server: FakeServer, clock: Clock) -> None:
    pool = pool_of(server, clock)
    server.acts = [None, LookupError("the body's own")]
    with pool.connection() as lease:
        lease.send(*ENVELOPE)
        with pytest.raises(LookupError):
            lease.send(*ENVELOPE)
    picture = pool.stats()
    assert (picture.delivered, picture.not_delivered, picture.unknown) == (1, 1, 0)
    pool.close()


def test_replies_that_are_none_are_counted_wherever_they_come(server: FakeServer, clock: Clock) -> None:
    """Section 14: worth an alarm."""
    pool = pool_of(server, clock)

    def malformed(connection: FakeConnection) -> None:
        connection.poisoned = True
        raise ProtocolError("malformed", stage="MAIL")

    server.script = [ProtocolError("malformed", stage="EHLO"), None, StartTlsInjectionError("injected")]
    server.acts = [malformed]
    for _ in range(3):
        with pytest.raises(SmtpError):
            pool.send(*ENVELOPE)
        clock.now += 2
    picture = pool.stats()
    assert (picture.protocol_errors, picture.starttls_injections) == (2, 1)
    pool.close()


class Traffic:
    """Threads that use a pool at random: holds, refusals, 421s, dead connections, failed opens; all from one seed."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.server = FakeServer()
        self.pool = pool_of(self.server, max_size=4, max_connecting=4, max_messages=7)
        self.server.next_act = self._next_act  # type: ignore[method-assign]  # for every mail
        self.wrong: list[BaseException] = []
        self.over = threading.Event()
        self._chance = random.Random(seed)  # noqa: S311  # no secret
        self._lock = threading.Lock()

    def _next_act(self) -> SmtpError | None:
        with self._lock:
            what = self._chance.random()
        if what < 0.5:
            return None
        return lost(unanswered=what < 0.7) if what < 0.8 else unavailable() if what < 0.9 else rejected(450, "RCPT")

    def use(self, number: int) -> None:
        """What one thread does."""
        chance = random.Random(self.seed + number)  # noqa: S311  # no secret
        with self._noted():
            for _ in range(150):
                with contextlib.suppress(SmtpError):
                    self._call(chance)

    def _call(self, chance: random.Random) -> None:
        what = chance.random()
        if what < 0.6:
            self.pool.send(*ENVELOPE, timeout=20)
        elif what < 0.9:
            with self.pool.connection(timeout=20) as lease:
                lease.send(*ENVELOPE)
                if chance.random() < 0.2:
                    lease.close()
        elif what < 0.95:
            self.pool.invalidate()
        else:
            self.pool.maintain()

    def watch(self) -> None:
        """Picture after picture."""
        with self._noted():
            before = self.pool.stats()
            while not self.over.is_set():
                after = self.pool.stats()
                check_growth(before, after)
                assert after.idle + after.leased + after.opening + after.closing <= after.max_size
                before = after

    @contextlib.contextmanager
    def _noted(self) -> Iterator[None]:
        try:
            yield
        except BaseException as error:  # a test fails in its own thread only
            self.wrong.append(error)


def test_I1_I36_pictures_agree_while_threads_use_the_pool() -> None:
    """SMTPCONN_SEED repeats a run, as far as the order of threads can be repeated."""
    seed = int(os.environ.get("SMTPCONN_SEED") or random.SystemRandom().randrange(2**32))
    traffic = Traffic(seed)
    pool, server = traffic.pool, traffic.server
    watcher = threading.Thread(target=traffic.watch, daemon=True)
    threads = [threading.Thread(target=traffic.use, args=(number,), daemon=True) for number in range(8)]
    for thread in [watcher, *threads]:
        thread.start()
    for thread in threads:
        thread.join(40)
    traffic.over.set()
    watcher.join(20)
    told = f"seed {seed}"
    assert traffic.wrong == [], told
    assert not any(thread.is_alive() for thread in [watcher, *threads]), told
    assert server.most <= 4, told
    final = pool.stats()
    check(final)
    assert (final.leased, final.opening, final.closing, final.waiting) == (0, 0, 0, 0), told
    assert final.opened == final.idle + sum(final.retired.values()), told
    assert final.messages == sum(connection.mails for connection in server.connections), told
    pool.close()
