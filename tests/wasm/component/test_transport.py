"""The promises of a transport, kept inside the component by the one over a stream of the host."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

from smtpconn.testing import LoopbackServer, TestAuthority

if TYPE_CHECKING:
    from .host import Host

pytestmark = pytest.mark.timeout(300)


def _echo(served: socket.socket) -> None:
    while octets := served.recv(65_536):
        served.sendall(octets)


def _bye(served: socket.socket) -> None:
    served.sendall(b"bye")


def _reset(served: socket.socket) -> None:
    served.recv(1)
    served.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@contextlib.contextmanager
def peer(serve: Callable[[socket.socket], None]) -> Iterator[int]:
    """A server for one connection; its port."""

    def accept() -> None:
        with contextlib.suppress(OSError), listener.accept()[0] as served:
            served.settimeout(20)
            serve(served)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(20)
        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            thread.join()


@pytest.mark.parametrize(
    ("row", "serve"), [("echo", _echo), ("end", _bye), ("silence", _echo), ("reset", _reset), ("closed", _echo)]
)
def test_F111_a_stream_of_the_host_keeps_the_promises_of_a_transport(
    host: Host, row: str, serve: Callable[[socket.socket], None]
) -> None:
    with peer(serve) as port:
        outcome = host.call("check-stream", row, port, b"")
    assert outcome.tag == "ok", outcome.payload


def test_F111_where_nobody_listens_there_is_no_stream(host: Host) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        outcome = host.call("check-stream", "nobody", bound.getsockname()[1], b"")
    assert outcome.tag == "ok", outcome.payload
    assert "refused" in outcome.payload


def test_F111_a_handshake_gives_another_transport(host: Host, authority: TestAuthority) -> None:
    with LoopbackServer(tls="implicit", ca=authority) as server:
        outcome = host.call("check-stream", "tls", server.port, authority.pem)
        assert outcome.tag == "ok", outcome.payload
        server.wait_for_connections(0, 10)


def test_F111_a_handshake_that_fails_ends_the_stream(host: Host, authority: TestAuthority) -> None:
    with LoopbackServer(tls="implicit", ca=authority) as server:
        outcome = host.call("check-stream", "tls refused", server.port, TestAuthority("another").pem)
    assert (outcome.tag, outcome.payload) == ("ok", "certificate")
    with LoopbackServer() as clear:
        outcome = host.call("check-stream", "tls refused", clear.port, authority.pem)
    assert (outcome.tag, outcome.payload) == ("ok", "no TLS")
