"""A path with a round-trip time: `delay.py PORT MILLISECONDS` relays to that port of loopback, and prints its own.

Each octet is held back for half of the round trip in each direction, and the order is kept. The bandwidth is not
limited, and the handshake of TCP is not delayed: it ends here.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import selectors
import socket
import sys
import time

RECEIVE = 1 << 18


class Relay:
    """Sockets in pairs, and what is under way between them."""

    def __init__(self, target: int, delay: float) -> None:
        self._target = target
        self._delay = delay
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self._listener.setblocking(False)
        self._selector = selectors.SelectSelector()  # waits by microseconds; epoll by milliseconds
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._ended: set[socket.socket] = set()
        self._peers: dict[socket.socket, socket.socket] = {}
        self._flying: list[tuple[float, int, socket.socket, bytes]] = []
        self._numbers = itertools.count()
        self.port = self._listener.getsockname()[1]

    def turn(self) -> None:
        """Deliver what is due, take what comes in."""
        while self._flying and self._flying[0][0] <= time.monotonic():
            _, _, to, octets = heapq.heappop(self._flying)
            self._deliver(to, octets)
        rest = max(0.0, self._flying[0][0] - time.monotonic()) if self._flying else None
        for key, _ in self._selector.select(rest):
            if key.fileobj is self._listener:
                self._accept()
                continue
            source = key.fileobj
            assert isinstance(source, socket.socket)
            try:
                octets = source.recv(RECEIVE)
            except OSError:
                octets = b""
            if not octets:
                self._selector.unregister(source)
            due = time.monotonic() + self._delay
            heapq.heappush(self._flying, (due, next(self._numbers), self._peers[source], octets))

    def _accept(self) -> None:
        near, _ = self._listener.accept()
        far = socket.create_connection(("127.0.0.1", self._target))
        for sock in (near, far):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._selector.register(sock, selectors.EVENT_READ)
        self._peers[near], self._peers[far] = far, near

    def _deliver(self, to: socket.socket, octets: bytes) -> None:
        if not octets:
            self._end(to)
            return
        with contextlib.suppress(OSError):  # that side has left
            to.sendall(octets)

    def _end(self, to: socket.socket) -> None:
        """Nothing more goes to this socket. Once that is true of both sides, they are closed."""
        with contextlib.suppress(OSError):
            to.shutdown(socket.SHUT_WR)
        self._ended.add(to)
        other = self._peers[to]
        if other in self._ended:
            for sock in (to, other):
                self._ended.remove(sock)
                del self._peers[sock]
                sock.close()


def main(port: str, milliseconds: str) -> None:
    relay = Relay(int(port), float(milliseconds) / 2000)
    sys.stdout.write(f"{relay.port}\n")
    sys.stdout.flush()
    while True:
        relay.turn()


if __name__ == "__main__":
    main(*sys.argv[1:])
