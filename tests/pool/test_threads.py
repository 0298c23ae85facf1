"""Threads, forks, the collector and the interpreter's exit. Events and barriers put in order what must be in order."""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from smtpconn.pool import ConnectionPool
from smtpconn.protocol.errors import ConnectError, PoolClosedError, PoolTimeoutError, SmtpError, UsageError
from smtpconn.protocol.mail import Mail

from .fakes import ENVELOPE, FakeConnection, FakeServer, pool_of

LIMIT = 20.0  # seconds that a join or a wait may take before the test fails


def run(*works: Callable[[], object]) -> list[threading.Thread]:
    threads = [threading.Thread(target=work, daemon=True) for work in works]
    for thread in threads:
        thread.start()
    return threads


def join(threads: list[threading.Thread]) -> None:
    for thread in threads:
        thread.join(LIMIT)
    assert not any(thread.is_alive() for thread in threads)


def until(condition: Callable[[], bool]) -> None:
    """Wait for another thread to get there."""
    end = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.001)


@pytest.fixture
def server() -> FakeServer:
    return FakeServer()


def test_I1_PO2_64_threads_never_have_a_fifth_socket(server: FakeServer) -> None:
    def slowly(connection: FakeConnection) -> None:
        if connection.mails % 3 == 0:
            connection.poisoned = True
            raise SmtpError("broken", stage="body")

    pool = pool_of(server, max_size=4, max_connecting=4)
    server.next_act = lambda: slowly  # type: ignore[method-assign]  # every mail
    errors: list[BaseException] = []

    def work() -> None:
        for _ in range(20):
            try:
                pool.send(*ENVELOPE, timeout=LIMIT)
            except SmtpError as error:  # noqa: PERF203  # each mail has its own outcome
                if error.stage != "body":
                    errors.append(error)

    join(run(*[work] * 64))
    assert errors == []
    assert server.most <= 4
    stats = pool.stats()
    assert stats.opened == stats.idle + sum(stats.retired.values())
    assert stats.acquired == 64 * 20
    pool.close()


def test_I6_PO6_nobody_is_overtaken_and_everybody_is_served_alike(server: FakeServer) -> None:
    pool = pool_of(server, max_size=2)
    barrier = threading.Barrier(6)
    stop = threading.Event()
    served = [0] * 6

    def loop(who: int) -> None:
        barrier.wait(LIMIT)
        while not stop.is_set():
            with pool.connection(timeout=LIMIT):
                served[who] += 1
                time.sleep(0.001)  # the hold
            if sum(served) > 600:
                stop.set()

    join(run(*[partial(loop, who) for who in range(6)]))
    assert min(served) >= 0.8 * sum(served) / 6
    pool.close()


def test_I6_waiters_are_served_in_the_order_of_their_arrival(server: FakeServer) -> None:
    pool = pool_of(server, max_size=1)
    order: list[int] = []

    def work(who: int) -> None:
        with pool.connection(timeout=LIMIT):
            order.append(who)

    threads = []
    with pool.connection():
        for who in range(8):
            threads += run(partial(work, who))
            until(lambda who=who: pool.stats().waiting == who + 1)  # type: ignore[misc]
    join(threads)
    assert order == list(range(8))
    stats = pool.stats()
    assert (stats.waited, stats.wait_seconds > 0, stats.longest_wait > 0) == (8, True, True)
    pool.close()


def test_I8_I9_PO8_while_an_open_hangs_everything_else_is_immediate(server: FakeServer) -> None:
    pool = pool_of(server, max_size=2)
    hanging, release = threading.Event(), threading.Event()

    def hang(endpoint: object, budget: object) -> None:
        hanging.set()
        release.wait(LIMIT)

    lease = pool.connection()
    lease.__enter__()
    server.script = [hang]

    def open_late() -> None:
        with pytest.raises(PoolClosedError):
            pool.send(*ENVELOPE, timeout=LIMIT)

    opener = run(open_late)
    assert hanging.wait(LIMIT)
    served = threading.Event()

    def wait_and_send() -> None:
        pool.send(*ENVELOPE, timeout=LIMIT)
        served.set()

    waiter = run(wait_and_send)
    until(lambda: pool.stats().waiting == 1)
    begun = time.perf_counter()
    lease.__exit__(None, None, None)  # I9: to the waiter, though an open is under way
    assert served.wait(LIMIT)
    pool.send(*ENVELOPE)
    pool.stats()
    pool.close(timeout=1)
    assert time.perf_counter() - begun < 1.0
    release.set()
    join(opener + waiter)
    assert server.live == 0


def test_I3_PO7_a_failed_open_wakes_the_next_who_opens_and_the_error_goes_to_its_caller_only(
    server: FakeServer,
) -> None:
    pool = pool_of(server, max_size=1)
    hanging, fail = threading.Event(), threading.Event()

    def hang(endpoint: object, budget: object) -> None:
        hanging.set()
        fail.wait(LIMIT)
        raise ConnectError("refused")

    server.script = [hang]
    outcomes: list[Any] = []

    def work() -> None:
        try:
            outcomes.append(pool.send(*ENVELOPE, timeout=LIMIT))
        except SmtpError as error:
            outcomes.append(error)

    threads = run(work)
    assert hanging.wait(LIMIT)
    threads += run(work)
    until(lambda: pool.stats().waiting == 1)
    fail.set()
    join(threads)
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["ConnectError", "SendResult"]
    pool.close()


def test_I22_close_wakes_every_waiter_before_it_waits(server: FakeServer) -> None:
    pool = pool_of(server, max_size=1)
    errors: list[BaseException] = []

    def work() -> None:
        try:
            pool.send(*ENVELOPE, timeout=LIMIT)
        except PoolClosedError as error:
            errors.append(error)

    with pool.connection():
        threads = run(*[work] * 5)
        until(lambda: pool.stats().waiting == 5)
        closing = run(lambda: pool.close(timeout=LIMIT))
        join(threads)
        assert len(errors) == 5
        assert closing[0].is_alive()
    join(closing)


def test_CL5_a_second_thread_that_closes_waits_for_the_first(server: FakeServer) -> None:
    pool = pool_of(server, max_size=1)
    ended: list[int] = []

    def close(who: int) -> None:
        pool.close(timeout=LIMIT)
        ended.append(who)

    with pool.connection():
        first = run(lambda: close(1))
        until(lambda: "closed" in repr(pool))
        second = run(lambda: close(2))
        assert ended == []
    join(first + second)
    assert sorted(ended) == [1, 2]


def test_CL4_PO37_an_aborted_lease_ends_its_verb(server: FakeServer) -> None:
    pool = pool_of(server)
    begun = threading.Event()

    def block(connection: FakeConnection) -> None:
        begun.set()
        assert connection.aborted.wait(LIMIT)
        raise SmtpError("cut off", stage="body")

    server.acts = [block]
    errors: list[BaseException] = []

    def work() -> None:
        try:
            pool.send(*ENVELOPE, timeout=LIMIT)
        except SmtpError as error:
            errors.append(error)

    threads = run(work)
    assert begun.wait(LIMIT)
    pool.close(timeout=0)
    join(threads)
    assert [str(error) for error in errors] == ["cut off"]
    assert server.live == 0


def test_I16_a_lease_that_ends_while_another_thread_uses_it_gives_its_connection_to_nobody(server: FakeServer) -> None:
    pool = pool_of(server, max_size=1)
    begun = threading.Event()

    def block(connection: FakeConnection) -> None:
        begun.set()
        assert connection.aborted.wait(LIMIT)
        raise SmtpError("cut off", stage="body")

    server.acts = [block]
    with pool.connection() as lease:

        def use() -> None:
            with pytest.raises(SmtpError):
                lease.send(*ENVELOPE)

        threads = run(use)
        assert begun.wait(LIMIT)
    join(threads)
    pool.send(*ENVELOPE)
    assert [connection.mails for connection in server.connections] == [1, 1]
    pool.close()


@pytest.mark.skipif(sys.gettrace() is not None, reason="the tracer of coverage has a lock of its own, which it loses")
def test_I24_PO4_random_interrupts_lose_no_slot_and_none_is_swallowed(server: FakeServer) -> None:
    class Interrupt(BaseException):
        pass

    gc.collect()  # threads that other tests have left: in the callback of their WeakSet an interrupt would be lost
    pool = pool_of(server, max_size=4, max_connecting=4)
    stop = threading.Event()
    sent, seen = 0, [0] * 8
    ready: list[threading.Event] = [threading.Event() for _ in range(8)]

    def use() -> None:
        while not stop.is_set():
            with pool.connection(timeout=LIMIT) as lease:
                lease.send(*ENVELOPE)
            pool.send(*ENVELOPE, timeout=LIMIT)

    def work(who: int) -> None:
        while not stop.is_set():
            try:
                ready[who].set()
                use()
            except Interrupt:  # noqa: PERF203  # this is what is counted
                seen[who] += 1

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    threads = run(*[partial(work, who) for who in range(8)])
    try:
        set_exception = ctypes.pythonapi.PyThreadState_SetAsyncExc
        for number in range(1_500):
            who = number % 8
            ident = threads[who].ident
            assert ident is not None
            assert ready[who].wait(LIMIT)
            before = seen[who]
            assert set_exception(ctypes.c_ulong(ident), ctypes.py_object(Interrupt)) == 1
            sent += 1
            until(lambda who=who, before=before: seen[who] > before)  # type: ignore[misc]
    finally:
        sys.setswitchinterval(interval)
        stop.set()
    join(threads)
    assert sum(seen) == sent
    gc.collect()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # a lease whose end was cut short may be found as dropped
        pool.stats()
    leases = [pool.connection(timeout=2) for _ in range(4)]
    for lease in leases:
        lease.__enter__()
    for lease in leases:
        lease.__exit__(None, None, None)
    stats = pool.stats()
    assert (stats.idle, stats.leased, stats.opening, stats.closing, stats.waiting) == (4, 0, 0, 0, 0)
    assert server.most <= 4 + stats.interrupted  # a connector that was cut off may have left one to the collector
    pool.close()


def test_NN2_the_collector_may_run_anywhere(server: FakeServer) -> None:
    pool = pool_of(server, max_size=2)
    before = gc.get_threshold()
    gc.set_threshold(1)
    try:
        for _ in range(300):
            with pool.connection() as lease:
                box: list[Any] = [lease]
                box.append(box)
            pool.send(*ENVELOPE)
    finally:
        gc.set_threshold(*before)
    assert pool.stats().acquired == 600
    pool.close()


# ---- fork


def in_child(work: Callable[[], object], fork: Callable[[], int] | None = None) -> None:
    """Run it in a forked child; the exception of the child is the failure of the test."""
    read, write = os.pipe()
    pid = (fork or os.fork)()
    if pid == 0:  # pragma: no cover  # another process
        status = 1
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(30)  # the time limit of the parent's test is none of a child that hangs
            os.close(read)
            work()
            status = 0
        except BaseException as error:  # it is told, then the child is gone
            os.write(write, repr(error).encode())
        finally:
            os._exit(status)
    os.close(write)
    with os.fdopen(read, "rb") as told:
        text = told.read().decode()
    _, status = os.waitpid(pid, 0)
    assert status == 0, text


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_I27_LE6_PO35_a_child_starts_empty_and_leaves_the_parents_connections_alone(server: FakeServer) -> None:
    pool = pool_of(server, max_size=2)
    pool.send(*ENVELOPE)
    (parents,) = server.connections

    def child() -> None:
        assert parents.log[-1] == "abandon"
        assert pool.stats().opened == 0
        with pytest.raises(UsageError):
            lease.send(*ENVELOPE)
        assert pool.send(*ENVELOPE).all_delivered
        assert parents.log.count("QUIT") == parents.log.count("MAIL") - 1 == 0
        pool.close()

    def child_leaves() -> None:
        lease.__exit__(None, None, None)  # silent
        assert pool.stats().leased == 0

    with pool.connection() as lease:
        in_child(child)
        in_child(child_leaves)
    assert pool.send(*ENVELOPE).all_delivered
    assert "abandon" not in parents.log
    pool.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_NN8_a_child_works_though_another_thread_of_the_parent_held_the_lock(server: FakeServer) -> None:
    pool = pool_of(server, max_size=2)
    held, release = threading.Event(), threading.Event()

    def hold() -> None:
        with pool._supply.slots.lock:
            held.set()
            release.wait(LIMIT)

    def child() -> None:
        for lease in (current, over):
            with pytest.raises(UsageError):
                lease.noop()
        current.__exit__(None, None, None)  # silent
        pool.send(*ENVELOPE)

    with pool.connection() as over:
        pass
    current = pool.connection()
    current.__enter__()
    threads = run(hold)
    assert held.wait(LIMIT)
    try:
        in_child(child)
    finally:
        release.set()
    join(threads)
    current.__exit__(None, None, None)
    pool.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_LE6_a_closed_pool_stays_closed_in_the_child_and_the_pid_is_checked_without_the_hook(
    server: FakeServer,
) -> None:
    closed, other = pool_of(server), pool_of(server)
    closed.close()
    other.send(*ENVELOPE)

    def child() -> None:
        with pytest.raises(PoolClosedError):
            closed.send(*ENVELOPE)

    in_child(child)
    other._pid -= 1  # as if it had been cloned without hooks
    assert other.stats().idle == 0
    assert server.connections[0].log[-1] == "abandon"
    other.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("concurrency", [1, 2])
@pytest.mark.parametrize("begun", [False, True])
def test_I27_LE6_a_child_sends_no_mail_of_its_parents_batch(server: FakeServer, concurrency: int, begun: bool) -> None:
    pool = pool_of(server, max_size=2)
    mails = [Mail("from@example.com", ["to@example.net"], b"x\r\n") for _ in range(3)]
    outcomes = pool.send_many(mails, concurrency=concurrency)
    if begun:
        next(outcomes)

    def child() -> None:
        there = sum(connection.mails for connection in server.connections)
        with pytest.raises(UsageError, match="parent process"):
            list(outcomes)
        assert sum(connection.mails for connection in server.connections) == there

    in_child(child)
    assert len(list(outcomes)) == 3 - begun
    pool.close()


@pytest.mark.skipif(sys.platform != "linux", reason="where the C library can fork unnoticed by Python")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_LE6_NN8_a_child_that_was_made_without_pythons_hooks_begins_anew(server: FakeServer) -> None:
    """Also the child's child, and a lease of the parent's."""
    pool = pool_of(server, max_size=2)
    pool.send(*ENVELOPE)
    (parents,) = server.connections

    def fork() -> int:
        child: int = ctypes.PyDLL(None).fork()  # which keeps the GIL
        return child

    def grandchild() -> None:
        assert pool.stats().opened == 0
        assert pool.send(*ENVELOPE).all_delivered

    def child() -> None:
        with pytest.raises(UsageError):
            lease.send(*ENVELOPE)
        lease.__exit__(None, None, None)  # silent
        assert pool.stats().opened == 0
        assert pool.send(*ENVELOPE).all_delivered
        assert parents.log.count("MAIL") == 1
        in_child(grandchild, fork)

    with pool.connection() as lease:
        in_child(child, fork)
        lease.send(*ENVELOPE)
    assert (pool.stats().opened, parents.log.count("MAIL")) == (1, 2)
    assert "abandon" not in parents.log
    pool.close()


# ---- exit


@pytest.mark.parametrize("left", ["idle", "leased", "iterator"])
def test_I28_LE7_PO38_NN9_an_open_pool_does_not_hold_up_the_exit(left: str) -> None:
    script = f"""
        import sys, time
        from smtpconn.pool import ConnectionPool
        from smtpconn.protocol.mail import Mail
        from smtpconn.tls import TlsMode

        class Connection:
            connection_id, usable, is_shutting_down, closing_reply = 1, True, False, None
            mails = nonmail = noops = 0
            wear = (0, 0)
            class capabilities: limits = {{}}; supports_pipelining = supports_chunking = True
            def is_quiet(self): return True
            def command(self, *_): return None
            def send_mail(self, *_): time.sleep(30)
            def leave(self, budget): print("QUIT" if budget is None else "QUIT and wait")
            def close(self): pass
            def abort(self): pass

        ConnectionPool._system = ConnectionPool._system._replace(connector=lambda *_: Connection())
        pool = ConnectionPool("mx.example.com", 25, TlsMode.NONE)
        pool.noop()
        if {left!r} == "leased":
            lease = pool.connection()
            lease.__enter__()
        if {left!r} == "iterator":
            import threading
            mails = [Mail("a@b.example", ["c@d.example"], b"x")] * 3
            outcomes = pool.send_many(mails)
            threading.Thread(target=lambda: next(outcomes), daemon=True).start()
            time.sleep(0.2)
    """
    begun = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=LIMIT, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == ("QUIT\n" if left == "idle" else "")
    assert time.monotonic() - begun < 20  # the mail under way takes 30


def test_PoolTimeoutError_is_raised_by_its_deadline(server: FakeServer) -> None:
    pool: ConnectionPool = pool_of(server, max_size=1)
    with pool.connection():
        begun = time.monotonic()
        with pytest.raises(PoolTimeoutError):
            pool.send(*ENVELOPE, timeout=0.2)
        assert 0.19 <= time.monotonic() - begun < 0.2 + 0.3
    pool.close()
