"""Several addresses at once: RFC 8305 sections 4 and 5, within one deadline (features F115, faults BR9)."""

from __future__ import annotations

import contextlib
import errno
import gc
import select
import socket
import sys
import threading
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from smtpconn import racing
from smtpconn.deadline import Deadline
from smtpconn.racing import connected, interleaved
from smtpconn.resolve import SocketAddress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

V4, V6 = int(socket.AF_INET), int(socket.AF_INET6)
FDS = Path("/proc/self/fd")


def four(last: int, port: int = 25) -> SocketAddress:
    return SocketAddress(V4, (f"127.0.0.{last}", port), "mx.test")


def six(last: int, port: int = 25) -> SocketAddress:
    return SocketAddress(V6, (f"2001:db8::{last}", port, 0, 0), "mx.test")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        pytest.param([], [], id="none"),
        pytest.param([four(1), four(2)], [four(1), four(2)], id="one family keeps its order"),
        pytest.param([six(1), six(2), four(1)], [six(1), four(1), six(2)], id="8305 4: the families take turns"),
        pytest.param([four(1), six(1), six(2)], [four(1), six(1), six(2)], id="6724: the system's first is the first"),
        pytest.param([six(1), six(2), six(3), four(1), four(2)], [six(1), four(1), six(2), four(2), six(3)],
                     id="8305 4: until one family has no more"),
    ],
)  # fmt: skip
def test_F115_families_take_turns(given: list[SocketAddress], expected: list[SocketAddress]) -> None:
    assert interleaved(given) == expected


@pytest.fixture
def port() -> Iterator[int]:
    """A port that answers at 127.0.0.1 and 127.0.0.4, is silent at 127.0.0.2 and .3, and refuses elsewhere."""
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        number = first.getsockname()[1]
        stack.enter_context(socket.create_server(("127.0.0.4", number)))
        for silent in ("127.0.0.2", "127.0.0.3"):
            listener = stack.enter_context(socket.create_server((silent, number), backlog=0))
            for sock in _fill_backlog(listener.getsockname()):
                stack.enter_context(sock)
        yield number


def _fill_backlog(address: Any) -> list[socket.socket]:
    """Connections until the listener's queue is full: the next one is neither taken nor refused."""
    waiting = []
    for _ in range(64):
        sock = socket.socket()
        sock.setblocking(False)
        waiting.append(sock)
        if sock.connect_ex(address) == errno.EINPROGRESS and not select.select([], [sock], [], 0.05)[1]:
            break
    return waiting


class Failures:
    """What went wrong where, in order."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str]] = []

    def __call__(self, address: SocketAddress, error: OSError) -> None:
        self.seen.append((str(address.ip), type(error).__name__))


def first(addresses: list[SocketAddress], seconds: float | None, failed: Callable[..., None]) -> str | None:
    """The IP address of the one that is connected first."""
    for transport in connected(addresses, Deadline.after(seconds), failed):
        ip = transport._sock.getpeername()[0]
        transport.close()
        return str(ip)
    return None


@pytest.fixture(params=["poll", "select"])
def waiting(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways to wait; where there is no poll there is select."""
    if request.param == "select":
        monkeypatch.delattr(select, "poll")


@pytest.mark.usefixtures("waiting")
def test_F115_a_dead_address_costs_its_head_start_and_not_the_deadline(port: int) -> None:
    failed = Failures()
    begin = time.monotonic()
    assert first([four(2, port), four(1, port)], 60, failed) == "127.0.0.1"
    assert racing.STAGGER * 0.9 <= time.monotonic() - begin < 20
    assert failed.seen == []  # it lost; nobody knows yet what is wrong with it


@pytest.mark.usefixtures("waiting")
def test_F115_an_address_that_refuses_costs_nothing(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(racing, "STAGGER", 30.0)
    failed = Failures()
    begin = time.monotonic()
    assert first([four(9, port), four(8, port), four(1, port)], 60, failed) == "127.0.0.1"
    assert time.monotonic() - begin < 20
    assert failed.seen == [("127.0.0.9", "ConnectionRefusedError"), ("127.0.0.8", "ConnectionRefusedError")]


def test_F115_an_address_that_answers_has_no_rival(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[str] = []
    connect = socket.socket.connect_ex

    def noted(sock: socket.socket, address: Any) -> int:
        begun.append(address[0])
        return connect(sock, address)

    monkeypatch.setattr(socket.socket, "connect_ex", noted)
    assert first([four(1, port), four(4, port)], None, Failures()) == "127.0.0.1"
    assert begun == ["127.0.0.1"]


@pytest.mark.usefixtures("waiting")
def test_BR9_all_addresses_are_tried_before_a_short_deadline(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(racing, "STAGGER", 30.0)  # longer than the deadline: each address has its share of that
    failed = Failures()
    assert first([four(2, port), four(3, port), four(1, port)], 1.8, failed) == "127.0.0.1"
    begin = time.monotonic()
    assert first([four(2, port), four(3, port)], 0.2, failed) is None
    assert 0.19 <= time.monotonic() - begin < 10
    assert failed.seen == [("127.0.0.2", "TimeoutError"), ("127.0.0.3", "TimeoutError")]


def test_BR9_a_deadline_that_has_passed_tries_nobody_and_says_so(port: int) -> None:
    for addresses in ([four(1, port)], [four(1, port), four(4, port)]):
        failed = Failures()
        assert first(addresses, 0.0, failed) is None
        assert failed.seen == [("127.0.0.1", "TimeoutError")]


def test_F115_whoever_has_not_failed_is_tried_when_the_winner_does_not_serve(port: int) -> None:
    failed = Failures()
    served = []
    for transport in connected([four(9, port), four(1, port), four(4, port)], Deadline.after(60), failed):
        served.append(transport._sock.getpeername()[0])
        transport.close()
    assert served == ["127.0.0.1", "127.0.0.4"]
    assert failed.seen == [("127.0.0.9", "ConnectionRefusedError")]


def test_the_kernels_own_time_out_is_a_lost_connection_here_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket.socket, "connect_ex", lambda sock, address: errno.ETIMEDOUT)
    failed = Failures()
    assert first([four(1), four(2)], 60, failed) is None
    assert failed.seen == [("127.0.0.1", "ConnectionError"), ("127.0.0.2", "ConnectionError")]


def test_a_port_of_our_own_is_used_by_one_attempt_at_a_time(port: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        own = free.getsockname()[1]
    failed = Failures()
    source = ("127.0.0.1", own)
    transports = connected(
        [four(2, port), four(1, port)], Deadline.after(1.0), failed, source_address=source
    )
    transport = next(transports)
    assert transport._sock.getsockname() == source
    transport.close()
    assert failed.seen == [("127.0.0.2", "TimeoutError")]


def test_a_source_address_is_bound_by_every_attempt(port: int) -> None:
    transport = next(
        connected([four(2, port), four(1, port)], Deadline.after(60), Failures(), source_address=("127.0.0.7", 0))
    )
    assert transport.local_address == "127.0.0.7"
    transport.close()
    failed = Failures()
    there = connected([four(1, port), four(4, port)], Deadline.after(60), failed, source_address=("192.0.2.77", 0))
    assert list(there) == []
    assert failed.seen == [("127.0.0.1", "OSError"), ("127.0.0.4", "OSError")]


@pytest.mark.skipif(not FDS.is_dir(), reason="descriptors are counted in /proc")
def test_nothing_but_the_winner_stays_open_and_no_thread_is_used(port: int) -> None:
    before, threads = len(list(FDS.iterdir())), threading.active_count()
    transports = connected([four(2, port), four(3, port), four(1, port)], Deadline.after(60), Failures())
    transport = next(transports)
    assert len(list(FDS.iterdir())) == before + 1
    assert threading.active_count() == threads
    transport.close()
    transports.close()  # type: ignore[attr-defined]  # a generator
    first([four(2, port), four(9, port), four(3, port)], 0.2, Failures())
    assert len(list(FDS.iterdir())) == before


class Interrupting:
    """Raises KeyboardInterrupt at the n-th line that `racing` and `connecting` execute."""

    def __init__(self, line: int) -> None:
        self.left = line

    def __call__(self, frame: Any, event: str, argument: Any) -> Any:
        if Path(frame.f_code.co_filename).name not in ("racing.py", "connecting.py"):
            return None
        if event == "line":
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt
        return self


@pytest.mark.skipif(not FDS.is_dir(), reason="descriptors are counted in /proc")
def test_KI_an_interrupt_at_any_line_leaves_no_descriptor_open(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(racing, "STAGGER", 0.001)
    addresses = [four(2, port), four(9, port), four(1, port)]
    before = len(list(FDS.iterdir()))
    line, finished = 0, False
    trace = sys.gettrace()
    while not finished:
        line += 1
        interrupting = Interrupting(line)
        with warnings.catch_warnings(), contextlib.suppress(KeyboardInterrupt):
            warnings.simplefilter("ignore", ResourceWarning)  # the interpreter closes what an interrupt tore away
            try:
                sys.settrace(interrupting)
                first(addresses, 60, Failures())
            finally:
                sys.settrace(trace)
        finished = interrupting.left > 0
        if len(list(FDS.iterdir())) != before:
            gc.collect()
            assert len(list(FDS.iterdir())) == before, f"line {line}"
    assert line > 50
