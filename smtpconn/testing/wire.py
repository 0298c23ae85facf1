"""Octets of one server-side connection: buffering, batching of replies, TLS, flights, ways to end.

It knows sockets, TLS records and how replies are cut into segments. It refuses to know SMTP beyond the line end.

Laws: replies wait until the input buffer is empty and leave together (RFC 2920 3.2); a flight is counted when octets
arrive after octets were sent; nothing is read ahead of TLS; another thread may end the connection at any time.
"""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import threading
from typing import TYPE_CHECKING, Literal

from .captured import SessionRecord

if TYPE_CHECKING:
    import ssl

__all__ = ["Delivery", "LineTooLong", "SessionOver", "Wire", "has_octets", "readable", "reset_on_close"]

Delivery = Literal["coalesced", "whole", "line", "octet"]

RECEIVE = 65536
MAX_LINE = 16384


class LineTooLong(Exception):  # noqa: N818 - a condition of the client's line, not of this program
    """A command line beyond `MAX_LINE` octets."""


def readable(sock: socket.socket, timeout: float) -> bool:
    """Tell whether a read would not block within `timeout` seconds."""
    if hasattr(select, "poll"):
        poll = select.poll()
        poll.register(sock, select.POLLIN)
        return bool(poll.poll(timeout * 1000))
    return bool(select.select([sock], [], [], timeout)[0])


def has_octets(sock: socket.socket) -> bool:
    """Tell whether octets wait in a socket. The end of the stream is none: a client may go away at any time."""
    try:
        return readable(sock, 0) and sock.recv(1, socket.MSG_PEEK) != b""
    except OSError:
        return False


def reset_on_close(sock: socket.socket) -> None:
    """Make the next close of this socket a TCP reset."""
    if sock.family != getattr(socket, "AF_UNIX", None):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


class SessionOver(Exception):  # noqa: N818 - an end, not an error
    """The connection is finished."""

    def __init__(self, closed_by: Literal["QUIT", "client", "server"]) -> None:
        super().__init__(closed_by)
        self.closed_by = closed_by


class TlsLayer:
    """TLS over a socket by memory BIOs, so that the socket stays ours to cut, reset and shut down."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext) -> None:
        import ssl

        self._ssl = ssl
        self._sock = sock
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._lock = threading.Lock()
        self.object = context.wrap_bio(self._incoming, self._outgoing, server_side=True)

    def handshake(self) -> None:
        """Do the handshake. Raises `ssl.SSLError` or `OSError`."""
        try:
            while not self._advance():
                self._flush()
                self._take(self._sock.recv(RECEIVE))
        finally:
            self._flush()  # the last message, or the alert

    def _advance(self) -> bool:
        try:
            self.object.do_handshake()
        except self._ssl.SSLWantReadError:
            return False
        return True

    def recv(self) -> bytes:
        """Return at least one octet, or b"" at the end of the stream, with close_notify or without."""
        while True:
            with self._lock:
                try:
                    return self.object.read(RECEIVE)
                except self._ssl.SSLWantReadError:
                    pass
                except (self._ssl.SSLZeroReturnError, self._ssl.SSLEOFError):
                    return b""
                self._flush()
            self._take(self._sock.recv(RECEIVE))

    def send(self, data: bytes) -> None:
        """Encrypt and write all of `data`."""
        with self._lock:
            view = memoryview(data)
            while view:
                view = view[self.object.write(view) :]
            self._flush()

    def close_notify(self) -> None:
        """Write close_notify without waiting for the peer's."""
        with self._lock, contextlib.suppress(self._ssl.SSLError, OSError):
            self.object.unwrap()
        with self._lock, contextlib.suppress(OSError):
            self._flush()

    def _take(self, octets: bytes) -> None:
        if octets:
            self._incoming.write(octets)
        else:
            self._incoming.write_eof()

    def _flush(self) -> None:
        if self._outgoing.pending:
            self._sock.sendall(self._outgoing.read())


class Wire:
    """One connection's octets, in both directions.

    Attributes:
        record: flights and octets are counted there.
        server_name: the name that the client asked for by SNI.
        lockstep: the client may not send ahead; `overrun` counts how often it did so unseen by the buffer.
        resting: set by the session while it waits for a command outside any transaction (`close_idle`).
    """

    def __init__(
        self, sock: socket.socket, record: SessionRecord, delivery: Delivery, rtt: float, stopping: threading.Event
    ) -> None:
        self.sock = sock
        self.record = record
        self.delivery = delivery
        self.rtt = rtt
        self.stopping = stopping
        self.tls: TlsLayer | None = None
        self.server_name: str | None = None
        self.lockstep = False
        self.overrun = 0
        self.resting = False
        self.killed = False
        self._reset = False
        self.lock = threading.Lock()
        self._buffer = b""
        self._position = 0
        self._replies: list[bytes] = []
        self._answered = True

    # -- in

    def pending(self) -> bool:
        """Tell whether octets wait in the buffer."""
        return self._position < len(self._buffer)

    def discard(self) -> bytes:
        """Throw the buffer away and return what was in it."""
        rest, self._buffer, self._position = self._buffer[self._position :], b"", 0
        return rest

    def read_line(self) -> bytes | None:
        """Return the next line up to and without its LF, None at the end of the stream."""
        start = self._position
        while True:
            end = self._buffer.find(b"\n", start)
            if end >= 0:
                line = self._buffer[self._position : end]
                self._position = end + 1
                if len(line) > MAX_LINE:
                    raise LineTooLong
                return line
            held = len(self._buffer) - self._position
            if held > MAX_LINE:
                raise LineTooLong
            if not self.fill():
                return None
            start = held  # fill() moved the unfinished line to the front

    def read_some(self, limit: int) -> bytes:
        """Return up to `limit` octets, b"" at the end of the stream."""
        if not self.pending() and not self.fill():
            return b""
        piece = self._buffer[self._position : self._position + limit]
        self._position += len(piece)
        return piece

    def give_back(self, octets: bytes) -> None:
        """Put octets back in front of the buffer."""
        self._buffer, self._position = octets + self._buffer[self._position :], 0

    def fill(self) -> bool:
        """Send what waits to be sent, then read more. False at the end of the stream."""
        if self._replies:
            if self.rtt:
                # Half-way models of latency would miscount flights: what arrived while the replies were "on their
                # way" belongs to the flight that is being answered.
                self.stopping.wait(self.rtt)
                if readable(self.sock, 0):
                    return self._receive()
            elif self.lockstep and self.tls is None and has_octets(self.sock):
                self.overrun += 1
            # While the session rests, `dismiss` may speak from another thread: not between a reply and its sending.
            with self.lock if self.resting else contextlib.nullcontext():
                if self.killed:
                    return False
                self.flush()
        return self._receive()

    def _receive(self) -> bool:
        octets = self.tls.recv() if self.tls else self.sock.recv(RECEIVE)
        with self.lock:
            self.resting = False
            if self.killed:
                return False
        if not octets:
            return False
        if self._answered:
            self._answered = False
            self.record.flights += 1
        self.record.octets += len(octets)
        self._buffer = self._buffer[self._position :] + octets if self.pending() else octets
        self._position = 0
        return True

    # -- out

    def queue(self, octets: bytes) -> None:
        """Let a reply wait for the next flush."""
        self._replies.append(octets)

    def flush(self) -> None:
        """Send the replies that wait, cut as `delivery` says."""
        if not self._replies:
            return
        replies, self._replies = self._replies, []
        self._answered = True
        if self.delivery == "coalesced":
            self.send(b"".join(replies))
            return
        for reply in replies:
            if self.delivery == "whole":
                self.send(reply)
            elif self.delivery == "line":
                for line in reply.splitlines(keepends=True):
                    self.send(line)
            else:
                for position in range(len(reply)):
                    self.send(reply[position : position + 1])

    def send(self, octets: bytes) -> None:
        """Send octets now."""
        if self.tls:
            self.tls.send(octets)
        else:
            self.sock.sendall(octets)

    def start_tls(self, context: ssl.SSLContext) -> ssl.SSLObject:
        """Do the server's handshake; from here on everything is encrypted."""
        layer = TlsLayer(self.sock, context)
        layer.handshake()
        self.tls = layer
        self.server_name = vars(layer.object).get("requested_name")
        return layer.object

    # -- ends

    def close(self, *, reset: bool = False, ragged: bool = False, linger: float = 0.0) -> None:
        """Close for good: by FIN (with close_notify unless `ragged`) or by RST.

        Octets that nobody has read would turn a FIN into an RST and may destroy the replies before it, so they are
        read and dropped first, for at most `linger` seconds if the client is in the middle of writing.
        """
        with contextlib.suppress(OSError):
            if reset or self._reset:
                reset_on_close(self.sock)
            else:
                if self.tls and not ragged:
                    self.tls.close_notify()
                self.sock.shutdown(socket.SHUT_WR)
                while readable(self.sock, linger) and self.sock.recv(RECEIVE):
                    pass
        self.sock.close()

    def drain(self) -> None:
        """Read and drop until the client closes."""
        with contextlib.suppress(OSError):
            while self.sock.recv(RECEIVE):
                pass

    @property
    def hung_up(self) -> bool:
        """Whether the client has closed its end, also while octets of it wait to be read."""
        if not hasattr(select, "POLLRDHUP"):
            return False
        poll = select.poll()
        try:
            poll.register(self.sock, select.POLLRDHUP)
        except (OSError, ValueError):  # the session has closed it just now
            return True
        return bool(poll.poll(0))

    def stall(self) -> None:
        """Read nothing until the client closes or the server stops.

        The end of the stream stands behind what the client could not send: with a full window only `kill` ends this.
        """
        with contextlib.suppress(OSError):
            if hasattr(select, "POLLRDHUP"):
                poll = select.poll()
                poll.register(self.sock, select.POLLRDHUP)
                while not poll.poll(1000):
                    pass
            else:
                self.stopping.wait()

    def drip(self, interval: float) -> None:
        """Send one octet of an endless reply each `interval` seconds until the client closes."""
        with contextlib.suppress(OSError):
            while True:
                for octet in b"250-drip\r\n":
                    self.send(bytes((octet,)))
                    if self.stopping.wait(interval):
                        return

    def sip(self, interval: float) -> None:
        """Read an octet each `interval` seconds until the client closes or the server stops."""
        with contextlib.suppress(OSError):
            while not self.hung_up and self.sock.recv(1):
                if self.stopping.wait(interval):
                    return

    def kill(self, *, reset: bool = False) -> None:
        """End the connection from another thread; its session notices at once."""
        with self.lock:
            self.killed = True
        with contextlib.suppress(OSError):
            if reset:
                self._reset = True
                # Only close() sends the RST, and the descriptor is the session's: wake it.
                self.sock.shutdown(socket.SHUT_RD)
            else:
                self.sock.shutdown(socket.SHUT_RDWR)

    def dismiss(self, octets: bytes) -> bool:
        """End the connection if it rests, with these octets as a last word. False if it is at work."""
        with self.lock:
            if not self.resting or self.killed or self._replies:
                return False
            self.killed = True
            with contextlib.suppress(OSError):
                if octets:
                    self.send(octets)
                if self.tls:
                    self.tls.close_notify()
                self.sock.shutdown(socket.SHUT_RDWR)
        return True
