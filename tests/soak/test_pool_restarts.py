"""pool PO49: a pool of many threads, and one in each of several forked workers, while the server restarts.

Nobody hangs, each call ends in its own time, what was said to be delivered was delivered, and once. Five restarts by
default; SMTPCONN_SOAK=1000000, the long form, a minute of one every five seconds.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from smtpconn import ConnectionPool, Delivery, SmtpError, TlsMode
from smtpconn.testing import ServerProcess

from .soaking import fits
from .test_soak import MAILS

RESTARTS, EVERY = (12, 5.0) if MAILS > 20_000 else (5, 0.6)
LIMIT, LATE = 3.0, 0.1  # seconds of a call, and those that it may take more
THREADS, WORKERS = 32, 4
SENDER, RECIPIENT = "a@example.com", "b@example.com"


def pool_of(server: ServerProcess) -> ConnectionPool:
    return ConnectionPool(server.host, server.port, TlsMode.NONE, timeout=LIMIT, max_size=8)


class Senders:
    """Threads that send until they are told to stop. `said`: (id, verdict) of each mail; `took`: seconds of each."""

    def __init__(self, pool: ConnectionPool, name: str, count: int) -> None:
        self.pool = pool
        self.said: list[tuple[str, str]] = []
        self.took: list[float] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._send, args=(f"{name}.{n}",), daemon=True) for n in range(count)]
        for thread in self._threads:
            thread.start()

    def _send(self, who: str) -> None:
        number = 0
        while not self._stop.is_set():
            number += 1
            body, begun = f"X-Id: {who}.{number}\r\n\r\nx\r\n".encode(), time.monotonic()
            try:
                delivery = self.pool.send(SENDER, [RECIPIENT], body).delivery
            except SmtpError as error:
                delivery = error.delivery
                self._stop.wait(0.01)
            self.said.append((f"{who}.{number}", delivery.name))
            self.took.append(time.monotonic() - begun)

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(20)
            assert not thread.is_alive()
        stats = self.pool.stats()
        assert (stats.leased, stats.opening, stats.waiting) == (0, 0, 0)
        assert stats.opened == stats.idle + sum(stats.retired.values())


def restart_again_and_again(server: ServerProcess) -> None:
    for number in range(RESTARTS):
        time.sleep(EVERY)
        server.call("restart", reset=bool(number % 2))
    time.sleep(EVERY)


def judge(said: Iterable[tuple[str, str]], took: list[float], server: ServerProcess) -> None:
    report = server.report()
    counts = {message_id: count for message_id, _, count in report["ledger"]}
    verdicts = dict(said)
    assert max(took) < LIMIT + LATE
    assert report["violations"] == []
    assert sum(1 for verdict in verdicts.values() if verdict == Delivery.DELIVERED.name) > 100
    wrong = [name for name, verdict in verdicts.items() if not fits(Delivery[verdict], counts.get(name, 0))]
    assert wrong == []
    assert set(counts) <= set(verdicts)


@pytest.mark.timeout(180)
def test_PO49_threads_share_a_pool_while_the_server_restarts() -> None:
    with ServerProcess(keep=0) as server, pool_of(server) as pool:
        senders = Senders(pool, "threads", THREADS)
        restart_again_and_again(server)
        senders.stop()
        judge(senders.said, senders.took, server)


@pytest.mark.timeout(180)
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform has no fork")
def test_PO49_forked_workers_use_the_pool_of_their_parent_while_the_server_restarts(tmp_path: Path) -> None:
    """The parent has used the pool: each worker begins with an empty one."""
    with ServerProcess(keep=0) as server, pool_of(server) as pool:
        assert pool.send(SENDER, [RECIPIENT], b"X-Id: parent\r\n\r\nx\r\n").all_delivered
        told, stop = os.pipe()
        files = [tmp_path / str(number) for number in range(WORKERS)]
        children = [forked(lambda file=file: work(pool, file, told, stop)) for file in files]  # type: ignore[misc]  # mypy infers no types for defaults
        os.close(told)
        restart_again_and_again(server)
        os.close(stop)  # the end of the stream for all of them
        assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0] * WORKERS
        reports = [json.loads(file.read_text()) for file in files]
        said = [("parent", "DELIVERED"), *((name, verdict) for report in reports for name, verdict in report["said"])]
        judge(said, [seconds for report in reports for seconds in report["took"]], server)


def forked(work: Callable[[], None]) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the fork of a process that has threads
        child = os.fork()
    if child == 0:  # pragma: no cover  # another process
        status = 1
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(150)
            work()
            status = 0
        finally:
            os._exit(status)
    return child


def work(pool: ConnectionPool, file: Path, told: int, stop: int) -> None:
    os.close(stop)
    assert pool.stats().opened == 0
    senders = Senders(pool, file.name, THREADS // WORKERS)
    os.read(told, 1)
    senders.stop()
    file.write_text(json.dumps({"said": senders.said, "took": senders.took}))
    pool.close()
