"""One relayed connection: two pipes, one thread.

It knows two sockets, what waits between them, and until when. It refuses to know listening and other connections; what
is to be cut it asks its relay.

Laws: octets leave in the order in which they came, no earlier than the delay; a source is read no further than
`_WINDOW` octets ahead, so that a peer that does not read is felt by the other; when one side is reset, so is the other.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from .wire import reset_on_close

if TYPE_CHECKING:
    from .relay import Relay

__all__ = ["Direction", "How", "Link", "RelayedConnection"]

Direction = Literal["to server", "to client"]
How = Literal["FIN", "RST", "stall"]
_RECEIVE = 65536
_WINDOW = 1 << 20  # octets that may wait in one direction


@dataclass(eq=False)
class RelayedConnection:
    """What passed on one connection.

    Attributes:
        index: 1 for the first.
        flights: client flights so far.
        to_server: octets forwarded to the server.
        to_client: octets forwarded to the client.
    """

    index: int
    flights: int = 0
    to_server: int = 0
    to_client: int = 0


@dataclass(eq=False)
class _Pipe:
    """One direction of one connection."""

    direction: Direction
    source: socket.socket
    target: socket.socket
    waiting: deque[tuple[float, bytes]] = field(default_factory=deque)  # b"" is the end of the stream
    held: int = 0
    passed: int = 0
    ended: bool = False  # the source has ended; what waits may still pass
    shut: bool = False  # nothing passes any more
    stalled: bool = False


class Link:
    """One connection: two pipes, one thread."""

    def __init__(self, relay: Relay, record: RelayedConnection, client: socket.socket, server: socket.socket) -> None:
        for sock in (client, server):
            sock.setblocking(False)
            if sock.family != getattr(socket, "AF_UNIX", None):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._relay = relay
        self._record = record
        self._pipes = (_Pipe("to server", client, server), _Pipe("to client", server, client))
        self._answered = True
        self._killed: str | None = None
        self._waker, self._wake = socket.socketpair()

    def wake(self) -> None:
        """Make the thread look again."""
        with contextlib.suppress(OSError):
            self._waker.send(b"\0")

    def kill(self, how: str) -> None:
        """End both directions from another thread."""
        self._killed = how
        self.wake()

    def run(self) -> None:
        """Forward until both directions have ended."""
        client, server = self._pipes[0].source, self._pipes[1].source
        with client, server, self._waker, self._wake:
            try:
                with selectors.DefaultSelector() as selector:
                    selector.register(self._wake, selectors.EVENT_READ)
                    self._forward(selector)
            except OSError:
                self._killed = self._killed or "RST"  # one side was reset: so is the other
            if self._killed == "RST":
                reset_on_close(client)
                reset_on_close(server)

    def _forward(self, selector: selectors.BaseSelector) -> None:
        while not self._over():
            now = self._relay.clock()  # one reading for both: what falls due between two would be waited for for ever
            self._watch(selector, now)
            for key, mask in selector.select(self._pause(now)):
                if key.fileobj is self._wake:
                    self._wake.recv(1024)
                elif mask & selectors.EVENT_READ:
                    self._take(self._pipes[0] if key.fileobj is self._pipes[0].source else self._pipes[1])

    def _over(self) -> bool:
        """Forward what is due and tell whether that was all."""
        now = self._relay.clock()
        for pipe in self._pipes:
            if self._killed is None:
                self._pass_on(pipe, now)
        return self._killed is not None or all(pipe.shut and pipe.ended for pipe in self._pipes)

    def _watch(self, selector: selectors.BaseSelector, now: float) -> None:
        for pipe, back in (self._pipes, self._pipes[::-1]):
            reading = not pipe.ended and not pipe.stalled and pipe.held < _WINDOW
            due = bool(back.waiting) and back.waiting[0][0] <= now and not back.stalled and not back.shut
            events = (selectors.EVENT_READ if reading else 0) | (selectors.EVENT_WRITE if due else 0)
            known = selector.get_map().get(pipe.source)
            if events and known is None:
                selector.register(pipe.source, events)
            elif events and known is not None and known.events != events:
                selector.modify(pipe.source, events)
            elif not events and known is not None:
                selector.unregister(pipe.source)

    def _pause(self, now: float) -> float | None:
        due = [
            pipe.waiting[0][0] - now
            for pipe in self._pipes
            if pipe.waiting and not pipe.stalled and not pipe.shut and pipe.waiting[0][0] > now
        ]
        return max(0.0, min(due)) if due else None

    def _take(self, pipe: _Pipe) -> None:
        try:
            octets = pipe.source.recv(_RECEIVE)
        except BlockingIOError:
            return
        if not pipe.shut:
            pipe.waiting.append((self._relay.clock() + self._relay.delay, octets))
            pipe.held += len(octets)
        if not octets:
            pipe.ended = True
        elif pipe.direction == "to server" and self._answered:
            self._answered = False
            self._record.flights += 1

    def _pass_on(self, pipe: _Pipe, now: float) -> None:
        """Forward what is due, up to a cut."""
        while not pipe.shut and not pipe.stalled:
            cut = self._relay.cut_for(self._record.index, pipe.direction)
            if cut is not None and pipe.passed >= cut[0]:
                self._cut(pipe, cut[1])
                return
            if not pipe.waiting or pipe.waiting[0][0] > now:
                return
            due, octets = pipe.waiting.popleft()
            if not octets:
                self._shut(pipe)
                return
            allowed = octets if cut is None else octets[: cut[0] - pipe.passed]
            try:
                sent = pipe.target.send(allowed)
            except BlockingIOError:
                sent = 0
            pipe.passed += sent
            pipe.held -= sent
            if pipe.direction == "to client" and sent:
                self._answered = True
            self._relay.forwarded(self._record, pipe.direction, octets[:sent])
            if sent < len(octets):
                pipe.waiting.appendleft((due, octets[sent:]))
                if sent < len(allowed):
                    return  # the target takes no more for now

    def _cut(self, pipe: _Pipe, how: How) -> None:
        if how == "RST":
            self._killed = "RST"
        elif how == "stall":
            pipe.stalled = True
        else:
            self._shut(pipe)

    def _shut(self, pipe: _Pipe) -> None:
        pipe.shut = True
        pipe.waiting.clear()
        pipe.held = 0
        with contextlib.suppress(OSError):
            pipe.target.shutdown(socket.SHUT_WR)
