"""A connection to one of several addresses: each is given a head start, then the next one is tried beside it.

Knows RFC 8305 section 5 ("Happy Eyeballs"); refuses to know who serves behind an address. Its laws: no thread; one
winner, and every other descriptor is closed before the winner is handed out; a dead address costs `STAGGER` seconds;
the deadline ends all attempts; whoever did not win may be tried again if the winner does not serve.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import zip_longest

from smtpconn import connecting
from smtpconn.deadline import Deadline
from smtpconn.readiness import as_loss, first_writable, moment, rest_until
from smtpconn.resolve import SocketAddress
from smtpconn.transport import SocketTransport

STAGGER = 0.25  # seconds: the Connection Attempt Delay of RFC 8305 section 8

Failed = Callable[[SocketAddress, OSError], None]


def interleaved(addresses: Iterable[SocketAddress]) -> list[SocketAddress]:
    """The addresses with their families taking turns, the first one's first (RFC 8305 section 4).

    Within a family their order stays: the system's preference.
    """
    families: dict[int, list[SocketAddress]] = {}
    for address in addresses:
        families.setdefault(address.family, []).append(address)
    return [address for turn in zip_longest(*families.values()) for address in turn if address is not None]


def connected(
    addresses: Sequence[SocketAddress],
    deadline: Deadline,
    failed: Failed,
    *,
    source_address: tuple[str, int] | None = None,
) -> Iterator[SocketTransport]:
    """Transports to the addresses that answer; the caller stops when one of them serves.

    `failed` is told what went wrong at which address; TimeoutError: the deadline. While a transport is in the caller's
    hands nothing else is open.
    """
    left = interleaved(addresses)
    # Two attempts from one port of our own would be in each other's way, and a Unix socket has no second address.
    together = len(left) > 1 and (source_address is None or source_address[1] == 0)
    while left and not deadline.expired:
        if together:
            transport = _race(left, deadline, failed, source_address)
        else:
            transport = _next(left, deadline, failed, source_address)
        if transport is not None:
            yield transport
    if left and deadline.at is not None and len(left) == len(addresses):
        failed(left[0], TimeoutError())  # there was no time for any


def _next(
    left: list[SocketAddress], deadline: Deadline, failed: Failed, source_address: tuple[str, int] | None
) -> SocketTransport | None:
    """The next address alone; it may use its share of the time, so that a dead one does not eat it all."""
    remaining = deadline.remaining()
    share = None if remaining is None else remaining / len(left)
    address = left.pop(0)
    try:
        return SocketTransport.connect(address, timeout=share, source_address=source_address)
    except OSError as error:
        failed(address, error)
        return None


class _Attempt:
    """One connect under way, which owns its socket."""

    def __init__(self, address: SocketAddress) -> None:
        self.address = address
        self.sock: socket.socket | None = None

    def begin(self, source_address: tuple[str, int] | None) -> bool:
        """True if it is connected already."""
        self.sock = socket.socket(self.address.family, socket.SOCK_STREAM)
        self.sock.setblocking(False)
        if source_address is not None:
            self.sock.bind(source_address)
        return connecting.begin(self.sock, self.address)

    @property
    def fd(self) -> int:
        """Its descriptor."""
        return -1 if self.sock is None else self.sock.fileno()

    def finish(self) -> None:
        """Raises what the system says of it."""
        assert self.sock is not None
        connecting.finish(self.sock, self.address)

    def transport(self) -> SocketTransport:
        """The socket in other hands."""
        assert self.sock is not None
        return SocketTransport(self.sock, str(self.address), self.address.host)

    def close(self) -> None:
        """Give up."""
        if self.sock is not None:
            with contextlib.suppress(OSError):
                self.sock.close()


def _race(
    left: list[SocketAddress], deadline: Deadline, failed: Failed, source_address: tuple[str, int] | None
) -> SocketTransport | None:
    """The first of the addresses that answers, or None. Who has failed, and who has won, is no longer in `left`."""
    waiting = list(left)
    running: list[_Attempt] = []
    end = moment(deadline.remaining())
    next_at = time.monotonic()
    try:
        while waiting or running:
            now = time.monotonic()
            if end is not None and now >= end:
                _drop_all(running, left, failed)
                return None
            attempt: _Attempt | None
            try:
                if waiting and (now >= next_at or not running):
                    attempt = _Attempt(waiting.pop(0))
                    running.append(attempt)
                    next_at = now + _head_start(end, now, len(waiting))
                    done = attempt.begin(source_address)
                else:
                    attempt = _first_ready(running, min(end or next_at, next_at) if waiting else end)
                    done = attempt is not None
                    if attempt is not None:
                        attempt.finish()
            except OSError as error:
                assert attempt is not None
                _drop(attempt, as_loss(error), running, left, failed)
                next_at = now  # RFC 8305 section 5: the next one need not wait for what has failed
                continue
            if done and attempt is not None:
                transport = attempt.transport()
                running.remove(attempt)
                left.remove(attempt.address)
                return transport
    finally:
        for loser in running:
            loser.close()
    return None


def _head_start(end: float | None, now: float, waiting: int) -> float:
    """Seconds until the next one may begin: all of them must have their turn before the end."""
    return STAGGER if end is None else min(STAGGER, (end - now) / (waiting + 1))


def _first_ready(running: Sequence[_Attempt], until: float | None) -> _Attempt | None:
    fd = first_writable([attempt.fd for attempt in running], rest_until(until))
    return next((attempt for attempt in running if attempt.fd == fd), None)


def _drop(
    attempt: _Attempt, error: OSError, running: list[_Attempt], left: list[SocketAddress], failed: Failed
) -> None:
    attempt.close()
    running.remove(attempt)
    left.remove(attempt.address)
    failed(attempt.address, error)


def _drop_all(running: list[_Attempt], left: list[SocketAddress], failed: Failed) -> None:
    for attempt in list(running):
        _drop(attempt, TimeoutError(), running, left, failed)
