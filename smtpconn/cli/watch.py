"""A transport and an audit sink that watch a session being opened: how long each phase took, and what was said in it.

Knows phases, a clock and octets in clear; refuses to know what they mean. The law: it only watches, every octet passes
as it is.
"""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from smtpconn import Reply
from smtpconn.protocol import audit
from smtpconn.protocol.reply import MalformedReplyError, ReplyParser
from smtpconn.tls_context import ssl_context

if TYPE_CHECKING:
    from collections.abc import Callable

    from smtpconn import TlsConfig, TlsInfo, Transport

_KEPT = 65_536  # octets of one phase that are kept: a reply has no more
_CERTIFICATE = 11  # the handshake message of that name (RFC 8446 section 4.4.2)


class Phase(NamedTuple):
    """What a phase of the conversation cost; `round_trips`: how often the client wrote and then waited, or None."""

    name: str
    seconds: float
    round_trips: int | None


class Watch:
    """The log book of one session: `phases`, `greeting`, and the replies to EHLO in clear and over TLS."""

    def __init__(self) -> None:
        self.phases: list[Phase] = []
        self.greeting: Reply | None = None
        self.hellos: list[Reply] = []
        self.refused_certificate: bytes | None = None
        self._began = time.monotonic()
        self._flights = 0
        self._written = False
        self._elsewhere = 0.0  # seconds of this phase that belong to another one
        self._heard = bytearray()

    def begin(self) -> None:
        """A phase begins now."""
        self._began, self._flights, self._elsewhere = time.monotonic(), 0, 0.0
        self._heard.clear()

    def end(self, name: str) -> Phase:
        """The phase that was begun is over, and the next one begins."""
        phase = Phase(name, max(time.monotonic() - self._began - self._elsewhere, 0.0), self._flights)
        self.phases.append(phase)
        self.begin()
        return phase

    def measure(self, name: str, call: Callable[[], Any]) -> Any:
        """Call, and note its time as a phase of its own, whatever comes of it."""
        began = time.monotonic()
        try:
            return call()
        finally:
            took = time.monotonic() - began
            self._elsewhere += took
            self.phases.append(Phase(name, took, None))

    def on_event(self, event: audit.AuditEvent) -> None:
        """What the session reports: each event ends a phase."""
        if isinstance(event, audit.Connected):
            self.begin()
        elif isinstance(event, audit.GreetingReceived):
            self.greeting = _last_reply(bytes(self._heard))
            self.end("greeting")
        elif isinstance(event, audit.EhloCompleted):
            hello = _last_reply(bytes(self._heard))
            if hello is not None:
                self.hellos.append(hello)
            self.end("EHLO" if len(self.hellos) < 2 else "EHLO over TLS")
        elif isinstance(event, audit.TlsUpgraded):
            self.end("STARTTLS")
        elif isinstance(event, audit.AuthCompleted):
            self.end("AUTH")

    def wrote(self) -> None:
        """The client has written."""
        self._written = True

    def waits(self) -> None:
        """The client waits for the server."""
        if self._written:
            self._written = False
            self._flights += 1

    def heard(self, octets: bytes) -> None:
        """The server has said this."""
        self._heard += octets[: max(_KEPT - len(self._heard), 0)]

    def start_tls(self, transport: Transport, config: TlsConfig, timeout: float | None) -> Transport:
        """The handshake, its time, and the certificate if it was refused."""
        context: Any = ssl_context(config)
        # For debugging only, says Python's source, and that is what this is. No other way shows the certificate that
        # verification refused, but for a second connection that does not verify.
        context._msg_callback = self._on_tls_message
        try:
            secured: Transport = self.measure("tls", lambda: transport.start_tls(config, timeout))
        finally:
            context._msg_callback = None
        self.refused_certificate = None
        return secured

    def _on_tls_message(
        self, _sock: object, direction: str, version: object, _type: object, kind: object, octets: bytes
    ) -> None:
        if direction == "read" and kind == _CERTIFICATE:
            self.refused_certificate = _first_certificate(octets, has_context=getattr(version, "name", "") == "TLSv1_3")


def _last_reply(octets: bytes) -> Reply | None:
    """The last of the replies of a phase: a server that refuses EHLO is asked by HELO."""
    parser = ReplyParser()
    parser.feed(octets)
    last = None
    with contextlib.suppress(MalformedReplyError):  # behind the reply that the session took
        while (reply := parser.next_reply()) is not None:
            last = reply
    return last


def _first_certificate(message: bytes, *, has_context: bool) -> bytes | None:
    """The server's own certificate in a Certificate message (RFC 8446 section 4.4.2, RFC 5246 section 7.4.2)."""
    at = 4  # type and length of the message
    if has_context:
        at += 1 + (message[at] if len(message) > at else 0)
    at += 3  # length of the list
    length = int.from_bytes(message[at : at + 3], "big")
    certificate = message[at + 3 : at + 3 + length]
    return certificate if length and len(certificate) == length else None


class WatchedTransport:
    """A `Transport` whose octets a `Watch` sees."""

    def __init__(self, inner: Transport, watch: Watch) -> None:
        self._inner = inner
        self._watch = watch
        self.peer: str = getattr(inner, "peer", "")
        self.local_address: str | None = getattr(inner, "local_address", None)

    @property
    def secure(self) -> bool:
        """See `Transport`."""
        return self._inner.secure

    @property
    def tls(self) -> TlsInfo | None:
        """See `Transport`."""
        return self._inner.tls

    def send(self, octets: bytes | memoryview, timeout: float | None) -> int:
        """See `Transport`."""
        self._watch.wrote()
        return self._inner.send(octets, timeout)

    def recv(self, limit: int, timeout: float | None) -> bytes:
        """See `Transport`."""
        self._watch.waits()
        octets = self._inner.recv(limit, timeout)
        self._watch.heard(octets)
        return octets

    def start_tls(self, config: TlsConfig, timeout: float | None) -> Transport:
        """See `Transport`."""
        return WatchedTransport(self._watch.start_tls(self._inner, config, timeout), self._watch)

    def readable(self) -> bool:
        """See `Transport`."""
        return self._inner.readable()

    def close(self) -> None:
        """See `Transport`."""
        self._inner.close()

    def abort(self) -> None:
        """See `Transport`."""
        getattr(self._inner, "abort", self._inner.close)()

    def close_notify(self) -> None:
        """See `Transport`."""
        getattr(self._inner, "close_notify", lambda: None)()
