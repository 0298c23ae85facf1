"""A transport without a socket: the peer is a script, time is a fake clock, every write is kept.

It knows the transport protocol (`send`, `recv`, `start_tls`, `readable`, `close`) and the shapes in which octets may
come and go. It refuses to know the client library; that one's transports raise other errors for misuse, these
`RuntimeError` and `OSError`.

Laws: nothing waits for real; a read that would wait lets the clock run and raises `TimeoutError`; a write may be short;
after `close`, and on a transport that TLS has replaced, everything but `close` raises.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable
from typing import Any, Literal

from .clock import FakeClock
from .conversation import EOF, RESET, SILENCE, Said, Script, StartTls, Wait, script
from .peer import FlightPeer, LinePeer, Peer, Turn, said_turns

__all__ = ["ScriptedTransport"]

Delivery = Literal["coalesced", "whole", "line", "octet"]
Dry = Literal["fail", "silence", "eof"]


class ScriptedTransport:
    r"""A `Transport` whose peer follows a conversation.

    Args:
        conversation: a `Script`, its text, or an iterable of what the server says: `bytes`, `EOF`, `RESET`, `SILENCE`,
            `Wait(seconds)`, an exception to be raised by the read, `TLS`, or a tuple of these, said together. In an
            iterable the first item is there at once, each further one follows what the client writes, see `release`.
        release: for an iterable: "flight" releases the next item when the client reads after having written, "line" as
            soon as it has written one command, message content, or chunk.
        delivery: what one `recv` returns: "coalesced" all there is, "whole" a reply (an item), "line", "octet".
        secure, tls: the attributes; `tls` is what the transport returned by `start_tls` shows.
        start_tls_error: raised by `start_tls`.
        max_send: octets that one `send` takes at most.
        accept: octets that all sends together take; then `then` happens.
        then: "stall" (time-out) or an exception to be raised.
        rtt: seconds on the clock before each answer.
        clock: the `FakeClock` to advance; a new one by default.
        when_dry: a read where the script has nothing to say and the client is to write: "fail" is a `ScriptMismatch`,
            or be silent, or end the stream.

    Example::

        transport = ScriptedTransport([b"220 hello\r\n", b"250 ok\r\n", b"221 bye\r\n"])
        ...
        assert transport.written == b"EHLO client.test\r\nQUIT\r\n"

    Attributes:
        writes: what each `send` took, over all transports of this conversation.
        clock: the clock.
        tls_starts: the arguments (config, timeout) of each `start_tls`.
    """

    def __init__(
        self,
        conversation: Script | str | Iterable[Turn],
        *,
        release: Literal["flight", "line"] = "flight",
        delivery: Delivery = "coalesced",
        secure: bool = False,
        tls: Any = None,
        start_tls_error: BaseException | None = None,
        max_send: int | None = None,
        accept: int | None = None,
        then: Literal["stall"] | BaseException | type[BaseException] = "stall",
        rtt: float = 0.0,
        clock: FakeClock | None = None,
        when_dry: Dry = "fail",
    ) -> None:
        self.clock = clock if clock is not None else FakeClock()
        if isinstance(conversation, str):
            conversation = script(conversation)
        if isinstance(conversation, Script):
            if conversation.used:
                raise ValueError("a script serves one transport; call script() again")
            conversation.used = True
            self._peer: Peer = Peer(conversation.steps, rtt)
        else:
            self._peer = (FlightPeer if release == "flight" else LinePeer)(list(said_turns(conversation)), rtt)
        self._delivery = delivery
        self._tls_when_started = tls
        self.secure = secure
        self.tls: Any = tls if secure else None
        self._start_tls_error = start_tls_error
        self._max_send = max_send
        self._accept = accept
        self._then = then
        self._when_dry = when_dry
        self._replaced = False
        self._broken = False
        self.writes: list[bytes] = []
        self.tls_starts: list[tuple[Any, float | None]] = []

    # -- the protocol

    def send(self, data: bytes | bytearray | memoryview, timeout: float | None) -> int:
        """Take octets, perhaps not all; returns how many."""
        self._check_open()
        if self._broken:
            raise BrokenPipeError(errno.EPIPE, "the connection broke at a read")
        data = bytes(data)
        room = len(data) if self._accept is None else max(0, self._accept - len(self.written))
        count = min(len(data), room, self._max_send or len(data))
        if not count and data:
            self._refuse_write(timeout)
        self.writes.append(data[:count])
        if self._peer.answered:
            self._peer.answered = False
            self._peer.flights += 1
        self._peer.hear(data[:count])
        return count

    def recv(self, max_octets: int, timeout: float | None) -> bytes:
        """Return octets, b"" at the end of the stream."""
        self._check_open()
        self._peer.about_to_read()
        inbox = self._peer.inbox
        while inbox:
            item = inbox[0]
            if isinstance(item, bytes):
                self._peer.answered = True
                return self._take(max_octets)
            if isinstance(item, Wait):
                inbox.popleft()
                timeout = self._pass_time(item.seconds, timeout)
                continue
            return self._happen(item, timeout)
        if self._when_dry == "fail":
            raise self._peer.fail(f"the client waits for a reply; {self._peer.due()}")
        return self._happen(SILENCE if self._when_dry == "silence" else EOF, timeout)

    def start_tls(self, config: Any, timeout: float | None) -> ScriptedTransport:
        """Return the transport that takes over; this one is dead."""
        self._check_open()
        if self.secure:
            raise RuntimeError("TLS is active already")
        self.tls_starts.append((config, timeout))
        if self._start_tls_error is not None:
            self._replaced = True
            raise self._start_tls_error
        if any(isinstance(item, bytes) for item in self._peer.inbox):
            raise self._peer.fail("TLS was started though octets in clear were left unread")
        self._peer.hear_event(StartTls)
        successor = object.__new__(ScriptedTransport)
        vars(successor).update(vars(self))
        successor.secure, successor.tls = True, self._tls_when_started
        self._replaced = True
        return successor

    def readable(self) -> bool:
        """Tell whether a read would return or raise something else than a time-out."""
        self._check_open()
        first = self._peer.inbox[0] if self._peer.inbox else None
        return first is not None and first is not SILENCE and not isinstance(first, Wait)

    def close(self) -> None:
        """Close; may be called twice, never raises."""
        if not self.closed and not self._replaced:
            self._peer.closed = True
            self._peer.hear_close()

    # -- for the test

    @property
    def written(self) -> bytes:
        """All octets that were taken."""
        return b"".join(self.writes)

    @property
    def flights(self) -> int:
        """Flights of the client: a write after a read that brought octets, and the first write (pipelining 1)."""
        return self._peer.flights

    @property
    def closed(self) -> bool:
        """Whether the client closed the transport in use."""
        return self._peer.closed

    def push(self, *said: Said | str) -> None:
        """Let the server say something unasked, now."""
        for turn in said_turns(said):
            self._peer.inbox.extend(turn)

    def assert_finished(self) -> None:
        """Raise `AssertionError` if the script met a difference or is not at its end, or something was left unread."""
        self._peer.assert_finished()

    # -- inside

    def _check_open(self) -> None:
        if self._replaced:
            raise OSError(errno.EBADF, "this transport was replaced by start_tls")
        if self.closed:
            raise OSError(errno.EBADF, "this transport is closed")

    def _refuse_write(self, timeout: float | None) -> None:
        if self._then == "stall":
            self._happen(SILENCE, timeout)
        raise self._then  # type: ignore[misc]

    def _pass_time(self, seconds: float, timeout: float | None) -> float | None:
        if timeout is None:
            self.clock.advance(seconds)
            return None
        if seconds > timeout:
            self.clock.advance(max(0.0, timeout))
            self._peer.inbox.appendleft(Wait(seconds - max(0.0, timeout)))
            raise TimeoutError(f"nothing came within {timeout} s")
        self.clock.advance(seconds)
        return timeout - seconds

    def _happen(self, event: Said, timeout: float | None) -> bytes:
        if event is EOF:
            return b""
        if event is RESET:
            self._broken = True
            raise ConnectionResetError(errno.ECONNRESET, "reset by the script")
        if isinstance(event, BaseException):
            if isinstance(event, OSError):
                self._broken = not isinstance(event, TimeoutError)
            else:
                self._peer.inbox.popleft()  # an interruption happens once, a broken connection stays broken
            raise event
        if timeout is None:
            raise self._peer.fail("the client waits for ever")
        self.clock.advance(max(0.0, timeout))
        raise TimeoutError(f"nothing came within {timeout} s")

    def _take(self, limit: int) -> bytes:
        inbox = self._peer.inbox
        first = inbox.popleft()
        assert isinstance(first, bytes)
        if self._delivery == "coalesced":
            while inbox and isinstance(inbox[0], bytes) and len(first) < limit:
                more = inbox.popleft()
                assert isinstance(more, bytes)
                first += more
        elif self._delivery == "octet":
            limit = 1
        elif self._delivery == "line":
            limit = min(limit, first.find(b"\n") + 1 or len(first))
        if first[limit:]:
            inbox.appendleft(first[limit:])
        return first[:limit]
