from __future__ import annotations

import socket
from collections.abc import Callable, Iterator

import pytest

from smtpconn.testing import LoopbackServer


class Talk:
    """A client that does what it is told: the judge of the server shares no line with the library."""

    def __init__(self, address: tuple[str, int] | str) -> None:
        if isinstance(address, str):
            self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self.sock.connect(address)
        else:
            self.sock = socket.create_connection(address)
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock.settimeout(10)
        self._buffer = b""

    def say(self, text: str | bytes) -> None:
        self.sock.sendall(text.encode() if isinstance(text, str) else text)

    def reply(self) -> str:
        """One complete reply, its lines joined by LF; "" at the end of the stream."""
        lines = []
        while True:
            while b"\n" not in self._buffer:
                more = self.sock.recv(65536)
                if not more:
                    assert not self._buffer, f"cut reply {self._buffer!r}"
                    return ""
                self._buffer += more
            line, _, self._buffer = self._buffer.partition(b"\n")
            assert line.endswith(b"\r"), line
            lines.append(line[:-1].decode())
            if line[3:4] != b"-":
                return "\n".join(lines)

    def ask(self, line: str) -> str:
        self.say(line + "\r\n")
        return self.reply()

    def flight(self, *lines: str, replies: int | None = None) -> list[str]:
        """Write all lines at once and read so many replies: by default one each."""
        self.say("".join(line + "\r\n" for line in lines))
        return [self.reply() for _ in range(len(lines) if replies is None else replies)]

    def codes(self, *lines: str, replies: int | None = None) -> list[str]:
        return [reply[:3] for reply in self.flight(*lines, replies=replies)]

    def rest(self) -> bytes:
        """Everything up to the end of the stream."""
        octets, self._buffer = self._buffer, b""
        while True:
            more = self.sock.recv(65536)
            if not more:
                return octets
            octets += more

    def hello(self, domain: str = "client.test", verb: str = "EHLO") -> str:
        assert self.reply().startswith("220 ")
        return self.ask(f"{verb} {domain}")

    def ending(self) -> tuple[bytes, str]:
        """Everything up to the end of the stream, and how it ended: FIN or RST."""
        octets, self._buffer = self._buffer, b""
        try:
            while more := self.sock.recv(65536):
                octets += more
        except ConnectionResetError:
            return octets, "RST"
        return octets, "FIN"

    def close(self) -> None:
        self.sock.close()


Dial = Callable[..., Talk]


@pytest.fixture
def dial() -> Iterator[Dial]:
    """Connect to a server (or relay); with `hello=True` up to the EHLO or LHLO reply."""
    talks: list[Talk] = []

    def connect(server: object, *, hello: bool = True) -> Talk:
        path = getattr(server, "unix_socket", None)
        talk = Talk(path if isinstance(path, str) else (server.host, server.port))  # type: ignore[attr-defined]
        talks.append(talk)
        if hello:
            lmtp = getattr(server, "protocol", "smtp") == "lmtp"
            assert talk.hello(verb="LHLO" if lmtp else "EHLO").startswith("250")
        return talk

    yield connect
    for talk in talks:
        talk.close()


@pytest.fixture
def serve() -> Iterator[Callable[..., LoopbackServer]]:
    """Start servers; all are stopped at the end."""
    servers: list[LoopbackServer] = []

    def start(**options: object) -> LoopbackServer:
        server = LoopbackServer(**options)  # type: ignore[arg-type]
        servers.append(server)
        return server.start()

    yield start
    for server in servers:
        server.stop()
