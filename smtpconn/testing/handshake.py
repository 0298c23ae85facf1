"""TLS handshakes that go wrong on demand.

It knows the first octets of TLS records. It refuses to know which rule asked for it, and SMTP.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ssl

__all__ = ["spoil"]


def spoil(sock: socket.socket, kind: str, context: Callable[[], ssl.SSLContext]) -> str:
    """Read the ClientHello and answer it wrongly; returns how the connection is to end then."""
    client_hello = sock.recv(16384)
    if kind == "malformed":
        sock.sendall(b"220 mx.test ESMTP, in clear\r\n")
    elif kind == "alert":
        sock.sendall(b"\x15\x03\x03\x00\x02\x02\x28")  # fatal handshake_failure
    elif kind == "cut-reply":
        sock.sendall(_half_server_hello(context(), client_hello))
    elif kind == "oversize":
        sock.sendall(b"\x16\x03\x03\xff\xff" + bytes(0xFFFF))  # RFC 8446 section 5.1 allows 2^14 octets and 256 more
    elif kind == "drip":
        sock.sendall(b"\x16\x03\x03\x40\x00")  # a record of 16 KiB that never fills
    return kind if kind in ("RST", "EOF", "silence", "drip") else "EOF"


def _half_server_hello(context: ssl.SSLContext, client_hello: bytes) -> bytes:
    """Return the first half of the answer to this ClientHello."""
    import ssl

    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = context.wrap_bio(incoming, outgoing, server_side=True)
    incoming.write(client_hello)
    with contextlib.suppress(ssl.SSLError):
        server.do_handshake()
    octets = outgoing.read()
    return octets[: len(octets) // 2]
