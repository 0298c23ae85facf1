"""Rules of the pool's specification that no other module has as its subject."""

from __future__ import annotations

import contextlib
import inspect
import io
import itertools
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from smtpconn.deadline import Timeouts
from smtpconn.opening import Endpoint, Opening
from smtpconn.pool import ConnectionPool
from smtpconn.pooling.claims import Claim, Outcome
from smtpconn.pooling.events import PoolEvent
from smtpconn.protocol.errors import (
    ConnectError,
    ConnectionLostError,
    Delivery,
    ExtensionUnavailableError,
    PoolClosedError,
    PoolTimeoutError,
    SmtpError,
    SmtpTimeoutError,
    UsageError,
)
from smtpconn.protocol.flow import Pipelining
from smtpconn.protocol.mail import Mail
from smtpconn.tls import TlsMode

from .fakes import ENVELOPE, Clock, FakeConnection, FakeServer, lost, pool_of, slots_of, unavailable

LIMIT = 20.0


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def server() -> FakeServer:
    return FakeServer()


@pytest.fixture
def pool(server: FakeServer, clock: Clock) -> Iterator[ConnectionPool]:
    made = pool_of(server, clock)
    yield made
    made.close(timeout=0)


def test_DF_the_defaults_are_those_of_the_specification() -> None:
    """DF1-DF10, DF16-DF18."""
    defaults = {name: each.default for name, each in inspect.signature(ConnectionPool.__init__).parameters.items()}
    expected = {
        "max_size": 4,
        "min_size": 0,
        "acquire_timeout": 30.0,
        "max_waiting": None,
        "max_connecting": 2,
        "max_idle": 45.0,
        "max_age": 300.0,
        "max_messages": 100,
        "probe_after": 15.0,
        "track_leases": False,
        "on_event": None,
        "name": None,
        "pipelining": Pipelining.GROUPED,
    }
    assert {name: defaults[name] for name in expected} == expected
    assert Timeouts().probe == 2.0
    assert inspect.signature(ConnectionPool.close).parameters["timeout"].default == 5.0


def test_DF15_RN5_a_quit_is_waited_for_at_most_a_second_and_not_while_somebody_queues(
    server: FakeServer, clock: Clock
) -> None:
    pool = pool_of(server, clock, max_messages=1)
    limits: list[float | None] = []

    def leave(connection: FakeConnection, budget: Any) -> None:
        limits.append(None if budget is None else budget.phase("quit").remaining())
        connection.close()

    server.acts = [lambda connection: setattr(connection, "leave", lambda budget: leave(connection, budget))] * 2
    pool.send(*ENVELOPE)
    pool.send(*ENVELOPE, timeout=0.5)
    assert limits == [1.0, 0.5]
    pool.close()


def test_TM4_the_timeout_of_connection_bounds_the_acquiring_only(pool: ConnectionPool, clock: Clock) -> None:
    with pool.connection(timeout=0.5) as lease:
        clock.now += 3_600
        assert lease.send(*ENVELOPE).all_delivered
    with pytest.raises(PoolTimeoutError), pool.connection(timeout=0):
        raise AssertionError("its connection was too old to be had for nothing")


def test_AQ11_I2_a_failed_open_is_its_callers_alone_and_gives_the_slot_back(
    server: FakeServer, clock: Clock
) -> None:
    pool = pool_of(server, clock, max_size=1)
    missing, silent = ExtensionUnavailableError("no", extension="AUTH"), SmtpTimeoutError("silent", stage="tls")
    for failure in (ConnectError("refused"), missing, silent):
        server.script = [failure]
        with pytest.raises(type(failure)) as caught:
            pool.send(*ENVELOPE)
        assert caught.value is failure
        assert caught.value.delivery is Delivery.NOT_DELIVERED
        clock.now += 100
    assert pool.send(*ENVELOPE).all_delivered
    assert pool.stats().open_errors == 3
    pool.close()


def test_BO5_a_missing_extension_is_told_and_backs_off(pool: ConnectionPool, server: FakeServer) -> None:
    server.script = [ExtensionUnavailableError("no AUTH", extension="AUTH")]
    with pytest.raises(ExtensionUnavailableError):
        pool.send(*ENVELOPE)
    assert pool.stats().backoffs == 1


def test_I15_RN4_a_poisoned_connection_is_closed_without_a_word_and_serves_nobody(
    pool: ConnectionPool, server: FakeServer
) -> None:
    for failure in (SmtpTimeoutError("silent", stage="RCPT"), unavailable("RCPT"), lost("RCPT")):
        server.acts = [failure]
        with pytest.raises(SmtpError):
            pool.send(*ENVELOPE)
    for connection in server.connections:
        assert connection.closed
        assert connection.log == ["MAIL"]
    assert pool.stats().idle == 0


def test_I21_RN6_what_goes_wrong_on_return_does_not_replace_the_result(
    pool: ConnectionPool, server: FakeServer, clock: Clock
) -> None:
    pool.resize(max_size=1)
    pool.send(*ENVELOPE)

    def fail(*_: object) -> None:
        raise OSError("no")

    for connection in server.connections:
        connection.leave = fail  # type: ignore[method-assign,assignment]
    server.connections[0].mails = 99
    assert pool.send(*ENVELOPE).all_delivered
    assert pool.stats().retired["messages"] == 1
    assert server.live == 0


def test_RN1_RN3_PO14_a_late_or_foreign_return_changes_nothing(pool: ConnectionPool, server: FakeServer) -> None:
    """I17: twice, after close, and while another lease has the connection."""
    lease = pool.connection()
    with lease:
        pass
    with pool.connection():
        before = pool.stats()
        with pytest.raises(UsageError):
            lease.__exit__(None, None, None)
        with pytest.raises(UsageError):
            lease.noop()
        assert pool.stats() == before
    assert server.connections[0].log == ["check"]
    pool.close()
    with pytest.raises(UsageError):
        lease.__exit__(None, None, None)


def test_AQ9_one_noop_per_acquire_then_an_open_in_the_same_slot(server: FakeServer, clock: Clock) -> None:
    pool = pool_of(server, clock)
    with pool.connection(), pool.connection(), pool.connection():
        pass
    for place, connection in enumerate(server.connections):
        connection.alive = False
        clock.now += 1  # they have been idle for different times
        pool._supply.slots.each()[place].returned += place
    clock.now += 20
    assert pool.send(*ENVELOPE).all_delivered
    assert sum(connection.noops for connection in server.connections) == 1
    assert pool.stats().opened == 4
    pool.close()


def test_VA2_no_round_trip_otherwise(pool: ConnectionPool, server: FakeServer, clock: Clock) -> None:
    for _ in range(5):
        clock.now += 10
        pool.send(*ENVELOPE)
    assert {entry for connection in server.connections for entry in connection.log} == {"check", "MAIL"}


def test_I7_GN4_something_free_and_a_waiter_is_progress_without_maintain(server: FakeServer) -> None:
    pool = pool_of(server, max_size=1)
    done: list[int] = []

    def work(who: int) -> None:
        pool.send(*ENVELOPE, timeout=LIMIT)
        done.append(who)

    with pool.connection():
        threads = [threading.Thread(target=work, args=(who,), daemon=True) for who in range(6)]
        for thread in threads:
            thread.start()
        while pool.stats().waiting < 6:
            time.sleep(0.001)
    for thread in threads:
        thread.join(LIMIT)
    assert sorted(done) == list(range(6))
    pool.close()


def test_I36_PO47_what_was_opened_is_live_or_retired_at_every_quiet_moment(server: FakeServer, clock: Clock) -> None:
    """Section 14: and each event has its counterpart."""
    seen: list[PoolEvent] = []
    pool = pool_of(server, clock, on_event=seen.append, max_messages=5, max_size=3)

    def consistent() -> None:
        stats = pool.stats()
        assert stats.opened == stats.idle + stats.leased + sum(stats.retired.values())
        assert server.live == stats.idle + stats.leased

    silent = SmtpTimeoutError("silent", stage="DATA")
    acts = itertools.cycle([None, unavailable(unanswered=True), None, lost("RCPT"), silent])
    for act in itertools.islice(acts, 60):
        server.acts = [act] if act else []
        with contextlib.suppress(SmtpError):
            pool.send(*ENVELOPE)
        consistent()
        clock.now += 7
    pool.invalidate()
    consistent()
    with pool.connection():
        pool.resize(max_size=1)
        consistent()
    consistent()
    pool.close()
    consistent()
    names = [type(event).__name__ for event in seen]
    assert names.count("ConnectionOpened") == names.count("ConnectionClosed") == pool.stats().opened
    assert names.count("AcquireStarted") == names.count("Acquired") + names.count("AcquireFailed")
    assert names.count("Returned") == names.count("Acquired")


def test_PO5_I4_I5_I14_a_time_out_at_the_instant_of_the_hand_off_loses_nothing(clock: Clock) -> None:
    """Ten thousand times: the waiter has it, or the next has it, never both and never nobody."""
    slots = slots_of(1, clock, idle=1)
    kept = 0
    for number in range(10_000):
        holder, waiter, third = Claim(slots), Claim(slots), Claim(slots)
        assert slots.take(holder, clock.now + 10) is Outcome.CHECK
        until = clock.now + 1
        assert slots.take(waiter, until) is Outcome.QUEUED
        clock.now = until - 1e-9 if number % 2 else until
        slots.give_back(holder, 1e6)
        outcome = slots.wait(waiter, until)
        if outcome is Outcome.CHECK:
            kept += 1
            assert slots.take(third, clock.now) is not Outcome.CHECK
            slots.give_back(waiter, 1e6)
            slots.forfeit(third)
        else:
            assert outcome is Outcome.EXPIRED
            assert slots.take(third, clock.now + 1) is Outcome.CHECK
            slots.give_back(third, 1e6)
        for claim in (holder, waiter, third):
            slots.end(claim)
    assert kept == 5_000


def test_PO5_I4_real_time_outs_in_the_midst_of_hand_offs(server: FakeServer) -> None:
    """With threads that switch at every chance, and deadlines as long as the hold."""
    pool = pool_of(server, max_size=1)
    served, late = [0] * 4, [0] * 4

    def work(who: int) -> None:
        for _ in range(300):
            try:
                with pool.connection(timeout=0.001):
                    served[who] += 1
                    time.sleep(0.0005)
            except PoolTimeoutError:  # noqa: PERF203  # each turn has its own end
                late[who] += 1

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=work, args=(who,), daemon=True) for who in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(LIMIT)
            assert not thread.is_alive()
    finally:
        sys.setswitchinterval(interval)
    stats = pool.stats()
    assert sum(served) + sum(late) == 1_200
    assert (stats.acquired, stats.timeouts) == (sum(served), sum(late))
    assert (stats.idle, stats.leased, stats.waiting) == (1, 0, 0)
    assert server.most == 1
    pool.close()


def test_PO9_I9_whoever_queues_has_what_is_returned_first(server: FakeServer) -> None:
    """Two opens hang, two callers queue behind them: one return serves the first of them at once."""
    pool = pool_of(server, max_size=4, max_connecting=2)
    release = threading.Event()
    lease = pool.connection()
    lease.__enter__()
    server.script = [lambda endpoint, budget: release.wait(LIMIT)] * 2
    order: list[int] = []

    def work(who: int) -> None:
        with pool.connection(timeout=LIMIT):
            order.append(who)

    threads = []
    for who in range(4):
        threads.append(threading.Thread(target=work, args=(who,), daemon=True))
        threads[-1].start()
        while pool.stats().opening + pool.stats().waiting < who + 1:
            time.sleep(0.001)
    assert (pool.stats().opening, pool.stats().waiting) == (2, 2)
    lease.__exit__(None, None, None)
    while len(order) < 2:
        time.sleep(0.001)
    assert order == [2, 3]
    release.set()
    for thread in threads:
        thread.join(LIMIT)
    pool.close()


def test_PO26_BO9_I10_a_storm_of_421_opens_no_more_than_the_backoff_allows(server: FakeServer) -> None:
    """32 threads, 3 seconds, an endpoint that accepts and says 421 at once: at most 9 + t/24 opens."""
    pool = pool_of(server, max_size=4)
    server.script = [unavailable("greeting") for _ in range(500)]
    end = time.monotonic() + 3.0

    def work() -> None:
        while time.monotonic() < end:
            try:
                pool.send(*ENVELOPE, timeout=0.2)
            except SmtpError:  # noqa: PERF203  # each try has its own end
                time.sleep(0.01)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
    assert len(server.opened_to) <= 9 + 3 / 24
    pool.close()


@pytest.mark.parametrize(
    "difference",
    [
        {"credentials": ("user", "other")},
        {"ehlo_domain": "b.example"},
        {"source_address": ("127.0.0.1", 0)},
        {"allow_plaintext_auth": True},
        {"pipelining": Pipelining.OFF},
        {"protocol": "lmtp"},
        {"tls_mode": TlsMode.STARTTLS},
    ],
    ids=lambda options: next(iter(options)),
)
def test_EP7_PO41_configurations_that_differ_are_different_and_show_no_secret(difference: dict[str, Any]) -> None:
    """I34: one pool has one configuration, and its connections serve no other."""
    common: dict[str, Any] = {"tls_mode": TlsMode.NONE, "credentials": ("user", "hunter2")}
    one, other = Opening(**common), Opening(**{**common, **difference})
    assert one != other
    assert one == Opening(**common)
    assert "hunter2" not in repr(one)
    assert "hunter2" not in repr(Endpoint("mx.example.com", 25))


def test_I34_EP7_two_pools_never_share_a_connection(server: FakeServer, clock: Clock) -> None:
    secrets = ("hunter1", "hunter1", "hunter2")
    pools = [pool_of(server, clock, credentials=("user", secret)) for secret in secrets]
    for each in pools:
        each.send(*ENVELOPE)
    assert [connection.mails for connection in server.connections] == [1, 1, 1]
    for each in pools:
        assert "hunter" not in repr(each) + repr(each.stats())
        each.close()


def test_SN3_PO29_a_body_that_was_touched_is_not_sent_again(server: FakeServer, clock: Clock) -> None:
    """In the fake as on the wire: the error of a connection that has read from a one-shot body is not `unanswered`."""
    pool = pool_of(server, clock)
    pool.send(*ENVELOPE)
    body = io.BytesIO(b"x\r\n")

    def read_and_lose(connection: FakeConnection) -> None:
        body.read()
        connection._fail(lost("body"))

    server.acts = [read_and_lose]
    with pytest.raises(ConnectionLostError):
        pool.send("a@b.example", ["c@d.example"], body)
    assert pool.stats().stale_retries == 0
    pool.close()


def test_SM5_the_timeout_of_a_batch_is_for_each_mail(server: FakeServer, clock: Clock) -> None:
    pool = pool_of(server, clock, max_size=1)

    def takes_a_second(connection: FakeConnection) -> None:
        clock.now += 1.0

    server.acts = [takes_a_second] * 10
    mails = [Mail("a@b.example", ["c@d.example"], b"x\r\n") for _ in range(10)]
    outcomes = list(pool.send_many(mails, concurrency=1, timeout=1.5))
    assert {outcome.delivery for outcome in outcomes} == {Delivery.DELIVERED}
    pool.close()


def test_SM10_each_connection_carries_its_mails_in_the_order_of_the_input(server: FakeServer) -> None:
    pool = pool_of(server, max_size=3)
    carried: dict[int, list[int]] = {}
    numbers = {}
    mails = []
    for number in range(120):
        mails.append(Mail("a@b.example", ["c@d.example"], b"x\r\n", tag=number))
        numbers[id(mails[-1])] = number
    send_mail = FakeConnection.send_mail

    def noted(connection: FakeConnection, mail: Mail, budget: Any) -> Any:
        carried.setdefault(connection.connection_id, []).append(mail.tag)
        return send_mail(connection, mail, budget)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FakeConnection, "send_mail", noted)
        list(pool.send_many(mails, concurrency=3))
    assert sorted(tag for tags in carried.values() for tag in tags) == list(range(120))
    assert all(tags == sorted(tags) for tags in carried.values())
    pool.close()


def test_LE2_LE5_a_thread_that_acquires_twice_is_told_that_it_holds_the_connection_itself(
    server: FakeServer, clock: Clock
) -> None:
    pool = pool_of(server, clock, max_size=1)
    with pool.connection():
        assert [holder.thread for holder in pool.stats().holders] == [threading.current_thread().name]
        with pytest.raises(PoolTimeoutError, match=f"held by {threading.current_thread().name}"):
            pool.send(*ENVELOPE, timeout=1.0)
    pool.close()


def test_LE8_LE9_PG7_events_of_many_threads_come_one_at_a_time_and_may_call_the_pool(server: FakeServer) -> None:
    inside, most = [0], [0]

    def hook(event: PoolEvent) -> None:
        inside[0] += 1
        most[0] = max(most[0], inside[0])
        told.stats()
        inside[0] -= 1

    told = pool_of(server, max_size=2, on_event=hook)
    threads = [
        threading.Thread(target=lambda: [told.send(*ENVELOPE, timeout=LIMIT) for _ in range(50)], daemon=True)
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
    assert most == [1]
    told.close()


def test_PO36_CL1_close_with_waiters_leases_and_an_open_that_hangs(server: FakeServer) -> None:
    """I22, I23: everybody has his exception, nothing is left, from two threads, in the time that was given."""
    pool = pool_of(server, max_size=2)
    release = threading.Event()
    errors: list[str] = []
    lease = pool.connection()
    lease.__enter__()
    server.script = [lambda endpoint, budget: release.wait(LIMIT)]

    def work() -> None:
        try:
            pool.send(*ENVELOPE, timeout=LIMIT)
        except SmtpError as error:
            errors.append(type(error).__name__)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    while (pool.stats().opening, pool.stats().waiting) != (1, 3):
        time.sleep(0.001)
    begun = time.monotonic()
    closers = [threading.Thread(target=lambda: pool.close(timeout=0.3), daemon=True) for _ in range(2)]
    for closer in closers:
        closer.start()
    for closer in closers:
        closer.join(LIMIT)
    assert time.monotonic() - begun < 2.0
    assert server.connections[0].aborted.is_set()
    release.set()
    for thread in threads:
        thread.join(LIMIT)
    lease.__exit__(None, None, None)
    assert errors == ["PoolClosedError"] * 4
    assert server.live == 0
    with pytest.raises(PoolClosedError):
        pool.send(*ENVELOPE)
