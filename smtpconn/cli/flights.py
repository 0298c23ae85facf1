"""Counts round trips where they happen: on the socket.

A flight is one or more writes followed by a read. Knows nothing of SMTP: the figure cannot flatter the protocol code.
"""

from __future__ import annotations

import socket
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing_extensions import Buffer


class Flights:
    """A `dial` for a pool whose sockets count their round trips."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.count = 0

    def dial(self, host: str, port: int, timeout: float | None) -> socket.socket:
        """Connect, and return a socket that counts."""
        plain = socket.create_connection((host, port), timeout)
        counting = _CountingSocket(plain.family, plain.type, plain.proto, plain.detach())
        counting.settimeout(timeout)
        counting.flights = self
        return counting

    def add(self) -> None:
        """One more round trip."""
        with self._lock:
            self.count += 1


class _CountingSocket(socket.socket):
    flights: Flights
    _written = False

    def send(self, data: Buffer, flags: int = 0, /) -> int:
        self._written = True
        return super().send(data, flags)

    def _reads(self) -> None:
        if self._written:
            self._written = False
            self.flights.add()

    def recv(self, bufsize: int, flags: int = 0, /) -> bytes:
        self._reads()
        return super().recv(bufsize, flags)

    def recv_into(self, buffer: Buffer, *arguments: Any) -> int:
        self._reads()
        return super().recv_into(buffer, *arguments)
