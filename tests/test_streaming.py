"""Streams of a hundred mebibytes through a whole connection, weighed: SY14, F63, BS10, features:E65.

The peer keeps nothing of what it is given, so that what is weighed is the client's.
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from smtpconn import SmtpConnection, TlsMode
from smtpconn.protocol.session import ProtocolName

MEBIBYTE = 1 << 20
OK = b"250 ok\r\n"
RECIPIENTS = ["b@example.com", "c@example.com"]


class ForgetfulServer:
    """A `Transport` whose peer counts content and forgets it."""

    secure = False
    tls = None

    def __init__(self, protocol: ProtocolName) -> None:
        self._ends = len(RECIPIENTS) if protocol == "lmtp" else 1
        self._said = b"220 mx.example.com\r\n"
        self._line = b""
        self._chunk = 0  # octets of a BDAT chunk that are still to come
        self._replies = 0  # owed at its end
        self._tail: bytes | None = None  # of the content of DATA
        self.content = 0  # octets of it

    def send(self, data: bytes | memoryview, timeout: float | None) -> int:
        octets = bytes(data)
        while octets:
            if self._chunk:
                octets = self._take_chunk(octets)
            elif self._tail is not None:
                octets = self._take_content(octets, self._tail)
            else:
                octets = self._take_line(octets)
        return len(data)

    def _take_chunk(self, octets: bytes) -> bytes:
        taken = min(len(octets), self._chunk)
        self.content += taken
        self._chunk -= taken
        if not self._chunk:
            self._said += OK * self._replies
        return octets[taken:]

    def _take_content(self, octets: bytes, tail: bytes) -> bytes:
        self.content += len(octets)
        self._tail = (tail + octets)[-5:]
        if self._tail == b"\r\n.\r\n":
            self._tail = None
            self._said += OK * self._ends
        return b""

    def _take_line(self, octets: bytes) -> bytes:
        line, end, rest = (self._line + octets).partition(b"\r\n")
        if not end:
            self._line = line
            return b""
        self._line = b""
        if line[4:5] == b" " and line[1:4] == b"HLO":
            self._said += b"250-mx.example.com\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 CHUNKING\r\n"
        elif line == b"DATA":
            self._tail = b"\r\n"
            self._said += b"354 go\r\n"
        elif line.startswith(b"BDAT "):
            self._chunk = int(line.split()[1])
            self._replies = self._ends if line.endswith(b" LAST") else 1
            if not self._chunk:
                self._said += OK * self._replies
        else:
            self._said += OK
        return rest

    def recv(self, max_octets: int, timeout: float | None) -> bytes:
        said, self._said = self._said, b""
        assert said, "the client waits for a reply that nothing calls for"
        return said

    def start_tls(self, config: Any, timeout: float | None) -> Any:
        raise AssertionError("TLS was not asked for")

    def readable(self) -> bool:
        return bool(self._said)

    def close(self) -> None:
        pass


class File:
    """A binary file of so many octets that stand nowhere."""

    def __init__(self, octets: int) -> None:
        self.left = octets

    def read(self, size: int) -> bytes:
        size = min(size, self.left)
        self.left -= size
        return line_of(size)


def line_of(octets: int) -> bytes:
    return b"x" * (octets - 2) + b"\r\n" if octets else b""


def pieces(octets: int, size: int) -> Iterator[bytes]:
    """New objects each: an object that comes a thousand times is weighed once."""
    for _ in range(octets // size):
        yield line_of(size)


def peak_of(send: Callable[..., Any], source: Any) -> int:
    """The most that was allocated at one time while the source was sent."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        assert send("a@example.com", RECIPIENTS, source, timeout=600).all_delivered
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("octets", "make"),
    [
        pytest.param(100 * MEBIBYTE, File, id="a file"),
        pytest.param(20 * MEBIBYTE, lambda octets: pieces(octets, 16_384), id="pieces of 16 KiB"),
        pytest.param(20 * MEBIBYTE, lambda octets: pieces(octets, 65_536), id="pieces of 64 KiB"),
        pytest.param(69_999, lambda octets: pieces(octets, 3), id="pieces of 3 octets"),
    ],
)
@pytest.mark.parametrize("chunking", [False, True], ids=["DATA", "BDAT"])
@pytest.mark.parametrize("protocol", ["smtp", "lmtp"])
def test_a_stream_takes_a_mebibyte_more_than_an_empty_one_at_most_SY14_F63_BS10(
    protocol: ProtocolName, chunking: bool, octets: int, make: Callable[[int], Any]
) -> None:
    server = ForgetfulServer(protocol)
    connection = SmtpConnection.from_transport(
        server, tls_mode=TlsMode.NONE, timeout=5, protocol=protocol, ehlo_domain="client.test"
    )
    send = connection.send_bdat if chunking else connection.send
    send("a@example.com", RECIPIENTS, [], timeout=5)  # what the first use of anything allocates for good
    empty = peak_of(send, [])
    server.content = 0
    full = peak_of(send, make(octets))
    assert server.content == octets + (0 if chunking else len(b".\r\n"))
    assert full - empty <= MEBIBYTE
    connection.close()
