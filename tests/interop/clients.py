"""How the tests of this directory connect by `SmtpConnection`, and what they need to find the connection again.

Knows the library's public doors and our servers; asserts nothing.
"""

from __future__ import annotations

import ipaddress
import itertools
import socket
from pathlib import Path
from typing import TYPE_CHECKING

from smtpconn import SmtpConnection, TlsConfig, TlsMode

from .dovecot import Dovecot

if TYPE_CHECKING:
    from typing import Any

    from .servers import MailServer

TIMEOUT = 20.0
SENDER = "sender@elsewhere.test"


def connect(
    server: MailServer, tls_mode: TlsMode = TlsMode.NONE, port: int | None = None, **options: Any
) -> SmtpConnection:
    """A connection by the protocol that the server speaks, which trusts the server's authority."""
    if tls_mode is not TlsMode.NONE:
        options.setdefault("tls_config", trusting(server))
    opening = SmtpConnection.connect_lmtp if isinstance(server, Dovecot) else SmtpConnection.connect
    where = port or (server.tls_port if tls_mode is TlsMode.IMPLICIT else server.port)
    return opening(server.host, where, tls_mode, timeout=TIMEOUT, **options)


def trusting(server: MailServer, **options: Any) -> TlsConfig:
    """The server's authority and a name of its certificate, unless `options` say otherwise."""
    return TlsConfig(**{"trust": Path(server.ca_path), "server_name": server.tls_name, **options})


def mail(message_id: str, text: str = "hello") -> bytes:
    """A mail to find again by its Message-ID."""
    return f"Message-ID: {message_id}\r\nSubject: interop\r\n\r\n{text}\r\n".encode()


_dialled = itertools.count(1)


class Dial:
    """For `dial=`: connects from loopback addresses that nobody else has, by which a server's log knows a connection.

    Ports come round again within one run of the tests.
    """

    def __init__(self) -> None:
        self.addresses: list[str] = []

    @property
    def address(self) -> str:
        """Of the only connection."""
        (address,) = self.addresses
        return address

    def __call__(self, host: str, port: int, timeout: float | None) -> socket.socket:
        """Connect as the library itself would."""
        address = str(ipaddress.IPv4Address("127.64.0.0") + next(_dialled))
        self.addresses.append(address)
        return socket.create_connection((host, port), timeout, source_address=(address, 0))
