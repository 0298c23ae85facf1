"""A TCP relay on loopback that delays, counts flights and cuts.

It knows octets, time and the two directions "to server" and "to client". It refuses to know SMTP and TLS: what it
counts holds for any protocol.

Laws: a flight is client octets that arrive here after server octets left here towards the client, up to the next such
change, and a connection's first client octets (pipelining 1); with a delay of 10 ms or more, answers cannot overtake
the tail of a flight; nothing passes a cut; every thread and descriptor is gone when `stop` returns.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Protocol

from .link import Direction, How, Link, RelayedConnection
from .wire import reset_on_close

__all__ = ["Relay", "RelayedConnection"]



class _Listening(Protocol):
    @property
    def host(self) -> str: ...
    @property
    def port(self) -> int: ...
    @property
    def unix_socket(self) -> str | bool | None: ...


@dataclass(eq=False)
class _Cut:
    direction: Direction
    after: int
    how: How
    connection: int | None


class Relay:
    """A relay in front of `upstream`, as a context manager or by `start` and `stop`.

    Args:
        upstream: `(host, port)`, the path of a Unix socket, or anything with `host`, `port`, `unix_socket` (a
            `LoopbackServer`).
        delay: seconds that octets take in each direction.
        host: the loopback address to listen on.
        keep: keep the octets, for `octets_to_server` and `octets_to_client`.

    Example::

        with LoopbackServer() as server, Relay(server, delay=0.01) as relay:
            ...  # send through relay.host, relay.port
            assert relay.flights == 5
    """

    def __init__(
        self,
        upstream: tuple[str, int] | str | _Listening,
        *,
        delay: float = 0.0,
        host: str = "127.0.0.1",
        keep: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._upstream = upstream
        self.delay = delay
        self.host = host
        self.port = 0
        self._keep = keep
        self.clock = clock
        self._lock = threading.Lock()
        self._connections: list[RelayedConnection] = []
        self._kept: dict[str, list[bytes]] = {"to server": [], "to client": []}
        self._cuts: list[_Cut] = []
        self._live: dict[threading.Thread, Link] = {}
        self._listener: socket.socket | None = None
        self._acceptor: threading.Thread | None = None
        self._waker: socket.socket | None = None

    # -- life

    def start(self) -> Relay:
        """Listen; returns itself."""
        if self._listener is not None:
            raise RuntimeError("the relay is running")
        listener = socket.create_server((self.host, self.port), backlog=512)
        listener.setblocking(False)
        self.port = listener.getsockname()[1]
        self._waker, wake = socket.socketpair()
        self._listener = listener
        self._acceptor = threading.Thread(target=self._accept, args=(listener, wake), name="relay", daemon=True)
        self._acceptor.start()
        return self

    def stop(self) -> None:
        """Drop every connection and stop listening; may be called twice."""
        if self._listener is None or self._acceptor is None or self._waker is None:
            return
        self._waker.close()
        self._acceptor.join()
        self._listener.close()
        self._listener = None
        self.kill()

    def __enter__(self) -> Relay:
        return self.start() if self._listener is None else self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    # -- what it saw

    @property
    def connections(self) -> list[RelayedConnection]:
        """One record per connection, oldest first; a copy of the list, the records are live."""
        with self._lock:
            return list(self._connections)

    @property
    def flights(self) -> int:
        """Client flights of all connections."""
        return sum(connection.flights for connection in self.connections)

    @property
    def octets_to_server(self) -> bytes:
        """Everything forwarded to the server, in order of forwarding."""
        with self._lock:
            return b"".join(self._kept["to server"])

    @property
    def octets_to_client(self) -> bytes:
        """Everything forwarded to the client, in order of forwarding."""
        with self._lock:
            return b"".join(self._kept["to client"])

    # -- what it shall do

    def cut(self, direction: Direction, *, after: int = 0, how: How = "FIN", connection: int | None = None) -> None:
        """Cut one direction once `after` octets of it were forwarded.

        Args:
            direction: "to server" or "to client".
            after: octets that still pass, counted from the connection's begin.
            how: "FIN" ends this direction (the other goes on), "RST" resets both sockets, "stall" forwards nothing
                more and reads nothing more: such a connection stays until `kill` or `stop`.
            connection: only the connection of this index; None: every one, those already open, too.
        """
        with self._lock:
            self._cuts.append(_Cut(direction, after, how, connection))
            links = list(self._live.values())
        for link in links:
            link.wake()

    def clear_cuts(self) -> None:
        """Forget cuts; what was cut stays cut."""
        with self._lock:
            self._cuts.clear()

    def kill(self, *, how: Literal["FIN", "RST"] = "FIN") -> int:
        """End every connection at once, on both sides; returns how many."""
        with self._lock:
            live = dict(self._live)
        for link in live.values():
            link.kill(how)
        for thread in live:
            thread.join()
        return len(live)

    # -- inside

    def _accept(self, listener: socket.socket, wake: socket.socket) -> None:
        with wake, selectors.DefaultSelector() as selector:
            selector.register(listener, selectors.EVENT_READ)
            selector.register(wake, selectors.EVENT_READ)
            while all(key.fileobj is listener for key, _ in selector.select()):
                with contextlib.suppress(OSError):
                    self._admit(listener.accept()[0])

    def _admit(self, client: socket.socket) -> None:
        try:
            server = self._connect()
        except OSError:
            reset_on_close(client)
            client.close()
            return
        with self._lock:
            record = RelayedConnection(len(self._connections) + 1)
            self._connections.append(record)
            link = Link(self, record, client, server)
            thread = threading.Thread(target=self._serve, args=(link,), name=f"relay-{record.index}", daemon=True)
            self._live[thread] = link
        thread.start()

    def _serve(self, link: Link) -> None:
        try:
            link.run()
        finally:
            with self._lock:
                self._live.pop(threading.current_thread(), None)

    def _connect(self) -> socket.socket:
        upstream = self._upstream
        if not isinstance(upstream, (tuple, str)):
            upstream = upstream.unix_socket if isinstance(upstream.unix_socket, str) else (upstream.host, upstream.port)
        if isinstance(upstream, str):
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                sock.connect(upstream)
            except BaseException:
                sock.close()
                raise
            return sock
        return socket.create_connection(upstream)

    def cut_for(self, index: int, direction: Direction) -> tuple[int, How] | None:
        """Return the nearest cut of this direction: after how many octets, and how."""
        with self._lock:
            cuts = [
                (cut.after, cut.how)
                for cut in self._cuts
                if cut.direction == direction and cut.connection in (None, index)
            ]
        return min(cuts, key=lambda cut: cut[0]) if cuts else None

    def forwarded(self, record: RelayedConnection, direction: Direction, octets: bytes) -> None:
        """Note octets that were just forwarded."""
        with self._lock:
            if direction == "to server":
                record.to_server += len(octets)
            else:
                record.to_client += len(octets)
            if self._keep:
                self._kept[direction].append(octets)
