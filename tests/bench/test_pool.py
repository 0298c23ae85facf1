"""What the pool costs, and what it gives to whom (pool.md 15). `tox -e bench` prints the figures.

Ratios are taken within one run and as medians of interleaved rounds. CPU is that of the measuring thread, so that
neighbours on the machine count little; waits are wall-clock.
"""

from __future__ import annotations

import queue
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import pytest

from smtpconn import ConnectionPool, TlsMode
from smtpconn.pooling.claims import Claim
from smtpconn.testing import ServerProcess

pytestmark = [pytest.mark.bench, pytest.mark.timeout(120)]

ROUNDS, TIMES = 15, 3_000


@pytest.fixture
def server() -> Iterator[ServerProcess]:
    with ServerProcess() as running:
        yield running


def pool_of(server: ServerProcess, **options: Any) -> ConnectionPool:
    return ConnectionPool(server.host, server.port, TlsMode.NONE, timeout=20, **options)


def tell(figures: str) -> None:
    """A line of the report: `tox -e bench` shows what is written."""
    sys.stdout.write(f"\n{figures}\n")


def repeatedly(work: Callable[[], object]) -> None:
    for _ in range(TIMES):
        work()


def cpu(work: Callable[[], object]) -> float:
    """Microseconds of this thread for one call of it."""
    begun = time.thread_time()
    repeatedly(work)
    return (time.thread_time() - begun) / TIMES * 1e6


def bare_pair(lock: threading.Lock = threading.Lock()) -> None:  # noqa: B008  # one for all calls
    lock.acquire()
    lock.release()


class Cost(NamedTuple):
    """Of one call: the median and the least of the rounds in microseconds, and the least in bare lock pairs.

    Neighbours on the machine can only make a round dearer: what a call costs is what it costs in the cheapest one.
    """

    median: float
    least: float
    ratio: float

    def __str__(self) -> str:
        return f"{self.least:.2f} us (median {self.median:.2f}), {self.ratio:.0f} x a bare lock"


def compared(work: Callable[[], object]) -> Cost:
    work()
    rounds = [(cpu(work), cpu(bare_pair)) for _ in range(ROUNDS)]
    costs, bare = [cost for cost, _ in rounds], min(bare for _, bare in rounds)
    return Cost(statistics.median(costs), min(costs), min(costs) / bare)


def test_PG1_slots_uncontended_acquire_and_return(server: ServerProcess) -> None:
    with pool_of(server) as pool:
        pool.noop()
        slots = pool._supply.slots

        def cycle() -> None:
            claim = Claim(slots)
            slots.take(claim, 1e18)
            slots.give_back(claim, 45.0)

        cost = compared(cycle)
    tell(f"PG1 take and give back: {cost} (goal 15)")
    assert cost.ratio < 30


def test_PG2_an_uncontended_lease_with_its_free_check(server: ServerProcess) -> None:
    with pool_of(server) as pool:

        def lease() -> None:
            with pool.connection():
                pass

        cost = compared(lease)
        assert pool.stats().opened == 1
    tell(f"PG2 with pool.connection(): {cost} (goals 5 us, 20 x)")
    assert cost.ratio < 70


def test_PG2_eight_threads_on_eight_connections(server: ServerProcess) -> None:
    with pool_of(server, max_size=8, max_connecting=8) as pool:

        def lease() -> None:
            with pool.connection():
                pass

        alone = compared(lease).median
        begun = time.process_time()
        together([lambda: repeatedly(lease)] * 8)
        shared = (time.process_time() - begun) / TIMES / 8 * 1e6
    tell(f"PG2 8 threads on 8 connections: {shared:.2f} us, {shared / alone:.1f} x one thread (goal 2)")
    assert shared < 8 * alone


# ---- fairness


class Served(NamedTuple):
    """What threads that take, hold and give back have seen in all."""

    waits: list[float]
    shares: list[int]
    seconds: float

    @property
    def throughput(self) -> float:
        return sum(self.shares) / self.seconds

    @property
    def least_share(self) -> float:
        return min(self.shares) / statistics.mean(self.shares)


def together(works: list[Callable[[], object]]) -> None:
    threads = [threading.Thread(target=work, daemon=True) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()


def served(take: Callable[[], Any], threads: int, hold: float, seconds: float) -> Served:
    """So many threads in a loop: `take` gives a context manager, inside which they sleep for `hold` seconds."""
    waits: list[list[float]] = [[] for _ in range(threads)]
    barrier = threading.Barrier(threads)
    begun = time.monotonic()

    def loop(mine: list[float]) -> None:
        barrier.wait(60)
        while time.monotonic() - begun < seconds:
            asked = time.monotonic()
            with take():
                mine.append(time.monotonic() - asked)
                time.sleep(hold)

    together([partial(loop, mine) for mine in waits])
    return Served([wait for mine in waits for wait in mine], [len(mine) for mine in waits], time.monotonic() - begun)


@contextmanager
def queued(resources: queue.SimpleQueue[int]) -> Iterator[None]:
    number = resources.get()
    try:
        yield
    finally:
        resources.put(number)


def from_a_simple_queue(size: int, threads: int, hold: float, seconds: float) -> Served:
    resources: queue.SimpleQueue[int] = queue.SimpleQueue()
    for number in range(size):
        resources.put(number)
    return served(lambda: queued(resources), threads, hold, seconds)


def test_PG3_32_threads_on_four_connections_held_a_millisecond(server: ServerProcess) -> None:
    """PO48, issue acceptance 1: no wait is much longer than the mean, everybody is served alike, little is lost."""
    with pool_of(server, max_size=4) as pool:
        with pool.connection(), pool.connection(), pool.connection(), pool.connection():
            pass
        rounds: list[tuple[float, float, float]] = []
        while len(rounds) < 3 or (len(rounds) < 6 and max(throughput for _, _, throughput in rounds) < 0.88):
            found = served(pool.connection, 32, 0.001, 2.0)
            other = from_a_simple_queue(4, 32, 0.001, 2.0)
            unfair = max(found.waits) / statistics.mean(found.waits)
            rounds.append((unfair, found.least_share, found.throughput / other.throughput))
            tell(
                f"PG3 max/mean wait {unfair:.1f} (5), least share {found.least_share:.3f} (0.9), "
                f"{found.throughput:.0f}/s, {rounds[-1][2]:.2f} of a SimpleQueue (0.88)"
            )
        # A pause of the machine lengthens one wait of one round: the best round shows what the pool does.
    assert min(unfair for unfair, _, _ in rounds) <= 5
    assert max(least for _, least, _ in rounds) >= 0.9
    assert max(throughput for _, _, throughput in rounds) >= 0.7, "the goal, on an idle machine, is 0.88"


def test_PG4_8_threads_on_four_connections_held_50_milliseconds(server: ServerProcess) -> None:
    with pool_of(server, max_size=4) as pool:
        with pool.connection(), pool.connection(), pool.connection(), pool.connection():
            pass
        rounds: list[float] = []
        while not rounds or (len(rounds) < 3 and min(rounds) >= 3):  # one pause of the machine is one long wait
            found = served(pool.connection, 8, 0.05, 3.0)
            other = from_a_simple_queue(4, 8, 0.05, 3.0)
            longest, ratio = max(found.waits) / 0.05, found.throughput / other.throughput
            rounds.append(longest)
            tell(f"PG4 longest wait {longest:.2f} holds (1.2; never 3), throughput {ratio:.2f} of a SimpleQueue (0.97)")
    assert min(rounds) < 3


def test_PG6_from_return_to_the_waiter(server: ServerProcess) -> None:
    with pool_of(server, max_size=1) as pool:
        waits: list[float] = []
        returned = [0.0]

        def wait() -> None:
            with pool.connection(timeout=20):
                waits.append(time.perf_counter() - returned[0])

        for _ in range(200):
            with pool.connection():
                thread = threading.Thread(target=wait)
                thread.start()
                while not pool.stats().waiting:
                    time.sleep(0.0001)
                returned[0] = time.perf_counter()
            thread.join(20)
    median = statistics.median(waits) * 1e3
    tell(f"PG6 return to wake-up of the waiter: median {median:.3f} ms (goal 1)")
    assert median < 20
