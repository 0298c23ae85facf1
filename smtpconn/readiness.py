"""Waiting for a descriptor: readable, writable, or the end of the caller's time.

Knows poll and the monotonic clock; refuses to know what is read or written. TimeoutError means that the caller's own
time has passed; what the kernel calls ETIMEDOUT is a lost connection.
"""

from __future__ import annotations

import math
import select
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from smtpconn.tls import HAVE_SSL

if HAVE_SSL:
    import ssl

_T = TypeVar("_T")

_LONGEST_POLL = 2_000_000_000  # milliseconds that poll() surely takes
# The numbers are not the same everywhere: in WASI's C library POLLOUT is 2. Where there is no poll any two will do.
READ, WRITE = getattr(select, "POLLIN", 1), getattr(select, "POLLOUT", 4)


def moment(timeout: float | None) -> float | None:
    """The monotonic moment `timeout` seconds from now; None is never."""
    return None if timeout is None else time.monotonic() + timeout


def rest_until(at: float | None) -> float | None:
    """Seconds left until that moment, at least 0; None if it never comes."""
    return None if at is None else max(0.0, at - time.monotonic())


def ready_once(fd: int, events: int, timeout: float | None) -> bool:
    """One system call: True if the descriptor is ready, or at an end."""
    if not hasattr(select, "poll"):  # Windows, some WASI runtimes
        reading = [fd] if events & READ else []
        writing = [fd] if events & WRITE else []
        return any(select.select(reading, writing, writing, timeout))  # Windows tells a failed connect by the third set
    poll = select.poll()
    poll.register(fd, events)
    return bool(poll.poll(None if timeout is None else min(_LONGEST_POLL, math.ceil(timeout * 1000))))


def first_writable(fds: Sequence[int], timeout: float | None) -> int | None:
    """One system call: the first of the descriptors that is writable, or at an end; None after `timeout` seconds."""
    if not hasattr(select, "poll"):
        ready = {fd for each in select.select([], fds, fds, timeout)[1:] for fd in each}
    else:
        poll = select.poll()
        for fd in fds:
            poll.register(fd, WRITE)
        limit = None if timeout is None else min(_LONGEST_POLL, math.ceil(timeout * 1000))
        ready = {fd for fd, _ in poll.poll(limit)}
    return next((fd for fd in fds if fd in ready), None)


class Readable:
    """Is a descriptor readable, or at an end? Asked many times of the same one, and cheaper than `ready_once`.

    `look(0)` is true if it is now, and waits for nothing.
    """

    __slots__ = ("_fd", "_polls", "look")

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._polls = hasattr(select, "poll")
        self.look: Callable[[float | None], object] = lambda timeout: ready_once(fd, READ, timeout)
        if self._polls:
            poll = select.poll()  # which takes milliseconds
            poll.register(fd, READ)
            self.look = poll.poll

    def within(self, timeout: float | None) -> bool:
        """One system call, which waits so many seconds at most; None is for ever."""
        if timeout and timeout < 0.0:
            timeout = 0.0  # to poll it would be for ever
        if not self._polls:
            return ready_once(self._fd, READ, timeout)
        return bool(self.look(timeout and min(_LONGEST_POLL, math.ceil(timeout * 1000))))


def wait(fd: int, events: int, at: float | None) -> None:
    """Wait until the descriptor is ready. Raises TimeoutError once the moment has passed."""
    while True:
        rest = rest_until(at)
        if ready_once(fd, events, rest):
            return
        if rest is not None and rest <= 0.0:
            raise TimeoutError("timed out")


def retry(attempt: Callable[[], _T], fd: Callable[[], int], default: int, at: float | None) -> _T:
    """Call until it does not ask to wait; a peer that keeps it busy with what is no data gains no time by it."""
    while True:
        try:
            return attempt()
        except OSError as error:
            events = wanted_by(error, default)
            if not events:
                raise
        if at is not None and at <= time.monotonic():
            raise TimeoutError("timed out")
        wait(fd(), events, at)


def wanted_by(error: OSError, default: int) -> int:
    """The events that the failed call waits for; 0 if it really failed."""
    if HAVE_SSL:
        if isinstance(error, ssl.SSLWantReadError):
            return READ
        if isinstance(error, ssl.SSLWantWriteError):
            return WRITE
    return default if isinstance(error, (BlockingIOError, InterruptedError)) else 0


def as_loss(error: OSError) -> OSError:
    """The kernel's own time-out as a lost connection: the caller's deadline did not pass."""
    if isinstance(error, TimeoutError) and error.errno is not None:
        return ConnectionError(error.errno, error.strerror)
    return error
