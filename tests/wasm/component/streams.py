"""What a `smtpconn.Transport` promises (features F111), kept by the one over a stream of the host.

Each function gets the port of a peer on 127.0.0.1 and the roots to trust, asserts, and says in a few words what it saw.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from mailer import HostTransport

from smtpconn.protocol.errors import CertificateError, ConnectError, TlsError, UsageError
from smtpconn.tls import TlsConfig

HOST = "127.0.0.1"


def _connect(port: int) -> HostTransport:
    return HostTransport.connect(HOST, port, 10.0)


def _raised(kind: type[BaseException], call: Callable[..., object], *arguments: Any) -> BaseException:
    try:
        call(*arguments)
    except kind as error:
        return error
    raise AssertionError(f"no {kind.__name__} was raised")


def _received(transport: HostTransport, count: int) -> bytes:
    octets = b""
    while len(octets) < count:
        got = transport.recv(65_536, 10.0)
        assert got, "the end came too early"
        octets += got
    return octets


def echo(port: int, roots: bytes) -> str:
    """Octets go out and come in as they are, however many are taken at once; `limit` is a limit."""
    transport = _connect(port)
    assert (transport.secure, transport.tls) == (False, None)
    assert transport.local_address == HOST
    assert not transport.readable()
    assert transport.send(memoryview(b"hello"), 10.0) == 5
    assert transport.recv(3, 10.0) + _received(transport, 2) == b"hello"
    octets = bytes(range(256)) * 400
    sent, echoed = 0, b""
    while sent < len(octets):
        taken = transport.send(octets[sent : sent + 16_384], 10.0)
        assert taken >= 1
        echoed += _received(transport, taken)
        sent += taken
    transport.close()
    assert echoed == octets
    return f"{sent} octets"


def end(port: int, roots: bytes) -> str:
    """The peer says `bye` and closes: the end is empty octets, again and again, and can be seen without waiting."""
    transport = _connect(port)
    assert _received(transport, 3) == b"bye"
    assert [transport.recv(10, 10.0) for _ in range(3)] == [b"", b"", b""]
    assert transport.readable()
    transport.close()
    return "ended"


def silence(port: int, roots: bytes) -> str:
    """The peer says nothing until it is spoken to: a time-out is ours, is no end, and leaves the stream usable."""
    transport = _connect(port)
    for timeout in (0.2, 0.0):
        began = time.monotonic()
        error = _raised(TimeoutError, transport.recv, 10, timeout)
        assert isinstance(error, TimeoutError)
        assert error.errno is None
        assert timeout <= time.monotonic() - began < timeout + 5
    assert not transport.readable()
    transport.send(b"now", 10.0)
    assert _received(transport, 3) == b"now"
    transport.close()
    return "waited"


def reset(port: int, roots: bytes) -> str:
    """The peer resets: a lost connection, no time-out and no end."""
    transport = _connect(port)
    transport.send(b"x", 10.0)
    error = _raised(OSError, transport.recv, 10, 10.0)
    assert not isinstance(error, TimeoutError)
    transport.close()
    return str(error)


def closed(port: int, roots: bytes) -> str:
    """After `close` everything raises; closing again is silent."""
    transport = _connect(port)
    transport.close()
    transport.close()
    transport.close_notify()
    _raised(OSError, transport.send, b"x", 1.0)
    _raised(OSError, transport.recv, 1, 1.0)
    assert transport.readable()
    return "closed"


def nobody(port: int, roots: bytes) -> str:
    """Nobody listens there."""
    return str(_raised(ConnectError, _connect, port))


def tls(port: int, roots: bytes) -> str:
    """A handshake gives a new transport, the old one is dead, and there is no second one."""
    plain = _connect(port)
    config = TlsConfig(trust=roots, server_name=HOST)
    secure = plain.start_tls(config, 10.0)
    assert secure is not plain
    assert secure.secure
    assert secure.tls is not None
    assert secure.tls.version.startswith("TLSv1.")
    assert secure.tls.server_name == HOST
    assert secure.tls.peer_certificate.startswith(b"\x30")
    for dead in (plain.send, plain.recv):
        _raised(OSError, dead, *((b"x", 1.0) if dead == plain.send else (1, 1.0)))
    _raised(UsageError, plain.start_tls, config, 1.0)
    _raised(UsageError, secure.start_tls, config, 1.0)
    plain.close()
    assert _received(secure, 4).startswith(b"220 ")
    secure.close_notify()
    secure.close()
    return str(secure.tls.version)


def tls_refused(port: int, roots: bytes) -> str:
    """A certificate that is not trusted ends the stream; so does what is no TLS at all."""
    transport = _connect(port)
    error = _raised(TlsError, transport.start_tls, TlsConfig(trust=roots, server_name=HOST), 10.0)
    _raised(OSError, transport.send, b"x", 1.0)
    transport.close()
    return "certificate" if isinstance(error, CertificateError) else "no TLS"


ROWS: dict[str, Callable[[int, bytes], str]] = {
    "echo": echo,
    "end": end,
    "silence": silence,
    "reset": reset,
    "closed": closed,
    "nobody": nobody,
    "tls": tls,
    "tls refused": tls_refused,
}
