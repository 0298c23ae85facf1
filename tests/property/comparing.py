"""What the comparisons with smtplib and aiosmtplib share: the rows of docs/comparison.rst, the three clients, a server.

It knows how each client is opened and what a row says; it refuses to know what is measured.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import re
import smtplib
import socket
import threading
import warnings
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import aiosmtplib

from smtpconn import SmtpConnection, TlsMode

PAGE = (Path(__file__).resolve().parent.parent.parent / "docs/comparison.rst").read_text(encoding="utf-8")
_CELL = r"     - (.*(?:\n       \S.*)*)\n"
ROWS = {
    name: tuple(" ".join(cell.split()) for cell in cells)
    for name, _, *cells in re.findall(r"^   \* - (CT\d+)\n" + _CELL * 4, PAGE + "\n", re.MULTILINE)
}
SENDER, BEN, CARLA = "anna@example.com", "ben@example.net", "carla@example.net"
MESSAGE = b"Subject: Hello\r\n\r\nHello.\r\n"

T = TypeVar("T")
Said = Callable[[str, str, str], None]


def old(server: Any, **options: Any) -> smtplib.SMTP:
    return smtplib.SMTP(server.host, server.port, local_hostname="client.test", **{"timeout": 20, **options})


def with_asyncio(server: Any, work: Callable[[aiosmtplib.SMTP], Awaitable[T]], **options: Any) -> T:
    """What the coroutine function gives for a client that is connected."""

    async def run() -> T:
        settings = {"timeout": 20, "start_tls": False, "local_hostname": "client.test", **options}
        client = aiosmtplib.SMTP(hostname=server.host, port=server.port, **settings)
        try:
            await client.connect()
            return await work(client)
        finally:
            transport = client.transport
            client.close()
            if isinstance(transport, asyncio.WriteTransport):
                transport.abort()

    return run_and_sweep(run())


def run_and_sweep(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine; what sockets of asyncio's it leaves to the collector are collected here, in silence."""
    try:
        return asyncio.run(work)
    finally:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            gc.collect()


def ours(server: Any, mode: TlsMode = TlsMode.NONE, **options: Any) -> SmtpConnection:
    return SmtpConnection.connect(
        server.host, server.port, mode, **{"timeout": 20, "ehlo_domain": "client.test", **options}
    )


def outcome(call: Callable[[], object], *errors: type[BaseException], good: str, bad: str) -> str:
    """`good` if the call returns, `bad` if it raises one of these."""
    try:
        call()
    except errors:
        return bad
    return good


class Peer:
    """A server that says what a function says, for one connection; `host` and `port` as those of the others."""

    def __init__(self, talk: Callable[[Peer], None]) -> None:
        self._talk = talk
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.host, self.port = self._listener.getsockname()[:2]
        self.heard: list[bytes] = []
        self.sock: socket.socket
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Peer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()
        self._thread.join(30)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        self.sock, _ = self._listener.accept()
        self.sock.settimeout(20)
        with self.sock, contextlib.suppress(OSError):
            self.say(b"220 peer.test\r\n")
            self.line()
            self.say(b"250 peer.test\r\n")
            self._talk(self)

    def say(self, octets: bytes) -> None:
        self.sock.sendall(octets)

    def line(self) -> bytes:
        """The next line of the client; at the end of the stream an `OSError`."""
        octets = b""
        while not octets.endswith(b"\n"):
            octet = self.sock.recv(1)
            if not octet:
                raise ConnectionAbortedError
            octets += octet
        self.heard.append(octets)
        return octets


async def ehlo_and_noop(client: aiosmtplib.SMTP) -> None:
    """Say EHLO, then NOOP."""
    await client.ehlo()
    await client.noop()


async def noop(client: aiosmtplib.SMTP) -> None:
    """Say NOOP, and what has to come in front of it."""
    await client.noop()
