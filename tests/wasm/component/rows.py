"""Rows of the feature list that need a socket, for Python's own sockets inside the component; the host has the server.

Each function gets the server's port on 127.0.0.1, asserts what can be seen from inside, and says in a few words what it
did.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Callable
from typing import Any

from smtpconn.connection import SmtpConnection
from smtpconn.protocol.errors import ConnectError, InvalidInputError, TlsError
from smtpconn.protocol.sasl import OAuthBearerAuth
from smtpconn.tls import TlsConfig, TlsMode

HOST = "127.0.0.1"
SENDER, RECIPIENTS, BODY = "a@example.com", ["b@example.com"], b"Subject: x\r\n\r\nhello\r\n"


def _connect(port: int, mode: TlsMode = TlsMode.NONE, **options: Any) -> SmtpConnection:
    return SmtpConnection.connect(HOST, port, mode, **{"timeout": 10, **options})


def _raised(kind: type[Exception], call: Callable[..., object], *arguments: Any, **keywords: Any) -> Exception:
    try:
        call(*arguments, **keywords)
    except kind as error:
        return error
    raise AssertionError(f"no {kind.__name__} was raised")


def closed_port(port: int) -> str:
    """E30: nobody listens there."""
    error = _raised(ConnectError, _connect, port)
    assert HOST in str(error), error
    assert str(port) in str(error), error
    assert isinstance(error.__cause__, ConnectionRefusedError), error.__cause__
    return str(error)


def own_address(port: int) -> str:
    """E114: no name with a dot, so that EHLO says the literal of the socket's own address."""
    with _connect(port) as connection:
        connection.noop(timeout=10)
    return "connected"


def lmtp_arguments(port: int) -> str:
    """E128."""
    connect: Any = SmtpConnection.connect_lmtp
    for arguments, options in (((HOST, 25), {}), ((HOST, port), {"unix_socket": "/s"}), ((), {})):
        _raised(InvalidInputError, connect, *arguments, timeout=5, **options)
    return "refused three times"


def tls_config_without_tls(port: int) -> str:
    """E130."""
    return str(_raised(InvalidInputError, _connect, port, tls_config=TlsConfig()))


class Asked:
    """A token callable that counts."""

    def __init__(self, token: str | Exception) -> None:
        self.token, self.times = token, 0

    def __call__(self) -> str:
        self.times += 1
        if isinstance(self.token, Exception):
            raise self.token
        return self.token


def token_callables(port: int) -> str:
    """E143: one call per AUTH; a bad token, and what a callable raises, leave the connection usable."""
    with _connect(port, allow_plaintext_auth=True) as connection:
        bad, raises, good = Asked("a token"), Asked(LookupError("no token")), Asked("pencil")
        for asked, kind in ((bad, InvalidInputError), (raises, LookupError)):
            credentials = OAuthBearerAuth(asked, user="user")
            error = _raised(kind, connection.auth, credentials, timeout=10)
            assert kind is InvalidInputError or error is asked.token
        connection.auth(OAuthBearerAuth(good, user="user"), timeout=10)
        assert connection.is_authenticated
        assert (bad.times, raises.times, good.times) == (1, 1, 1)
    return "authenticated"


def positioned_file(port: int) -> str:
    """E165: sent from where it stands, and not closed."""
    file = io.BytesIO(b"0123456789" + BODY)
    file.seek(10)
    with _connect(port) as connection:
        assert connection.send(SENDER, RECIPIENTS, file, timeout=10).all_delivered
    assert not file.closed
    assert file.read() == b""
    return "sent"


def wrong_timeouts(port: int) -> str:
    """E191."""
    with _connect(port) as connection:
        wrong: Any
        for wrong in (True, None, "5"):
            _raised(TypeError, connection.noop, timeout=wrong)
        for wrong in (0, -1, float("nan"), float("inf")):
            _raised(InvalidInputError, connection.noop, timeout=wrong)
        connection.noop(timeout=10)
    return "refused seven times, then served"


def raising_body(port: int) -> str:
    """E194: the server does not answer QUIT, and what the body raised passes unchanged."""
    mine = LookupError("mine")

    def body() -> None:
        with _connect(port):
            raise mine

    assert _raised(LookupError, body) is mine
    return "unchanged"


def tls_demanded(port: int) -> str:
    """SY0.3, SY27: TLS is the host's business; whoever asks for it here is told what is missing."""
    errors = [_raised(TlsError, _connect, port, mode) for mode in (TlsMode.IMPLICIT, TlsMode.STARTTLS)]
    return "; ".join(map(str, errors))


def host_name(port: int) -> str:
    """A name is looked up although no thread can be started for it."""
    _raised(RuntimeError, threading.Thread(target=print).start)
    with SmtpConnection.connect("localhost", port, TlsMode.NONE, timeout=10) as connection:
        return repr(connection)


def many_mails(port: int) -> str:
    """More octets than a socket takes at once, and several mails on one connection."""
    body = b"Subject: big\r\n\r\n" + b"x" * 70 + b"\r\n" + (b"y" * 998 + b"\r\n") * 3000
    with _connect(port) as connection:
        for _ in range(3):
            assert connection.send(SENDER, RECIPIENTS, body, timeout=60).all_delivered
    return str(len(body))


ROWS: dict[str, Callable[[int], str]] = {
    "E30": closed_port,
    "E114": own_address,
    "E128": lmtp_arguments,
    "E130": tls_config_without_tls,
    "E143": token_callables,
    "E165": positioned_file,
    "E191": wrong_timeouts,
    "E194": raising_body,
    "TLS demanded": tls_demanded,
    "a host name": host_name,
    "large mails": many_mails,
}
