"""What the pool promises of any number, with many: pool PO34 and PO42.

Three thousand by default; the specification's 100 000 in the long form, SMTPCONN_SOAK=1000000.
"""

from __future__ import annotations

import gc
import threading
import tracemalloc
import warnings
from collections.abc import Iterator
from typing import Any

import pytest

from smtpconn import Delivery, Mail

from ..pool.fakes import ENVELOPE, FakeServer, pool_of
from .test_soak import MAILS

MANY = 100_000 if MAILS > 20_000 else 3_000
THREADS = 4
MEBIBYTE = 1_048_576


@pytest.mark.timeout(600)
@pytest.mark.parametrize("concurrency", [1, 4, 64])
def test_SM1_SM2_SM3_PO42_a_batch_of_any_length_takes_the_memory_of_its_window(concurrency: int) -> None:
    """The server forgets what it was sent. tracemalloc counts what this process keeps: next to nothing for a mail."""
    pulled = yielded = farthest = 0
    threads = set()

    def mails() -> Iterator[Mail]:
        nonlocal pulled, farthest
        for number in range(MANY):
            pulled += 1
            farthest = max(farthest, pulled - yielded)
            threads.add(threading.current_thread())
            yield Mail("a@example.com", ["b@example.net"], b"x\r\n", tag=number)

    server = FakeServer()
    seen = bytearray(MANY)
    with pool_of(server, max_size=64, max_connecting=64, max_messages=None) as pool:
        tracemalloc.start()
        try:
            for outcome in pool.send_many(mails(), concurrency=concurrency, timeout=60):
                yielded += 1
                assert outcome.delivery is Delivery.DELIVERED
                tag: Any = outcome.mail.tag
                seen[tag] += 1
                for connection in server.connections if not yielded % 1_000 else ():
                    connection.log.clear()
                if yielded == MANY // 10:
                    tracemalloc.reset_peak()
                    before, _ = tracemalloc.get_traced_memory()
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        stats = pool.stats()
    assert seen == b"\x01" * MANY
    assert threads == {threading.current_thread()}
    assert farthest <= 4 * concurrency + 1  # one more: `yielded` is counted after the outcome was had
    assert (stats.messages, stats.leased, stats.waiting) == (MANY, 0, 0)
    assert peak - before < MEBIBYTE


@pytest.mark.timeout(600)
def test_I26_LE4_PO34_a_collector_that_runs_at_every_allocation_stops_nobody() -> None:
    """Each tenth lease is dropped in a cycle, so that its end comes from the collector, in whatever line that runs."""
    server = FakeServer()
    dropped = 0
    count = threading.Lock()

    def work() -> None:
        nonlocal dropped
        for number in range(MANY // THREADS):
            lease: Any = pool.connection(timeout=30)
            if number % 10:
                with lease:
                    pass
                continue
            lease.__enter__()
            cycle = [lease]
            cycle.append(cycle)
            del lease, cycle
            with count:
                dropped += 1

    thresholds = gc.get_threshold()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # one for each lease that is dropped
        with pool_of(server, max_size=THREADS + 2, max_connecting=THREADS + 2, timeout=30) as pool:
            threads = [threading.Thread(target=work) for _ in range(THREADS)]
            gc.set_threshold(1)
            try:
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
            finally:
                gc.set_threshold(*thresholds)
            gc.collect()
            assert pool.send(*ENVELOPE).all_delivered
            stats = pool.stats()
    assert stats.leaks == dropped == THREADS * -(-(MANY // THREADS) // 10)
    assert (stats.leased, stats.opening, stats.waiting) == (0, 0, 0)
    assert stats.opened == stats.idle + sum(stats.retired.values())
