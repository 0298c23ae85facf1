"""One contract, every transport: what `smtpconn.transport.Transport` promises (features:SY20, F111), asserted of each.

A kind of transport is a function that opens a `Link`: our end, and the far end as a test plays it. Another kind joins
the suite by one more line in `KINDS`, and one in `UPGRADING` if it can start TLS.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol

import pytest

from smtpconn.protocol.errors import CertificateError, UsageError
from smtpconn.resolve import SocketAddress, unix_address
from smtpconn.testing import EOF, RESET, ScriptedTransport, TestAuthority
from smtpconn.tls import TlsConfig, TlsInfo
from smtpconn.transport import SocketTransport, Transport

V4 = int(socket.AF_INET)
SLICE = 16_384
DEAD = (OSError, RuntimeError)  # `UsageError` is a RuntimeError; the test kit does not import the library's errors


class Link(Protocol):
    """Our end, and what the test does at the other one."""

    ours: Transport

    def say(self, octets: bytes) -> None:
        """The far end writes; when this returns the octets are at our end."""

    def heard(self, count: int) -> bytes:
        """The next `count` octets that came to the far end."""

    def rest(self) -> bytes:
        """Everything else that came up to the end of our stream, under TLS as it was on the wire."""

    def end(self) -> None:
        """The far end says all is said; when this returns our end can know it."""

    def lose(self) -> None:
        """The connection breaks; when this returns our end can know it."""

    def upgrade(self, config: TlsConfig) -> Transport:
        """Both ends do a TLS handshake; `ours` stays the transport in clear."""


class Tls(NamedTuple):
    """What the far end shows, and what ours must be told to accept it or to refuse it."""

    context: ssl.SSLContext
    config: TlsConfig
    refusing: TlsConfig


@pytest.fixture(scope="module")
def tls(authority: TestAuthority) -> Tls:
    return Tls(
        authority.issue().server_context(),
        TlsConfig(trust=authority.pem, server_name="localhost"),
        TlsConfig(trust=TestAuthority().pem, server_name="localhost"),
    )


class SocketLink:
    """The far end is a socket in this process."""

    def __init__(self, ours: Transport, near: socket.socket, far: socket.socket, tls: Tls) -> None:
        self.ours = ours
        self._far = far
        self._watch = near.dup()  # the transport may detach or close its own descriptor
        self._tls = tls
        far.settimeout(10)

    def _arrived(self) -> None:
        assert select.select([self._watch], [], [], 10)[0]

    def say(self, octets: bytes) -> None:
        self._far.sendall(octets)
        self._arrived()

    def heard(self, count: int) -> bytes:
        octets = b""
        while len(octets) < count:
            more = self._far.recv(count - len(octets))
            assert more, octets
            octets += more
        return octets

    def rest(self) -> bytes:
        self._watch.close()  # or our end would never come to its end
        octets = b""
        while more := socket.socket.recv(self._far, 65_536):
            octets += more
        return octets

    def end(self) -> None:
        if isinstance(self._far, ssl.SSLSocket):
            self._far.settimeout(0)
            with contextlib.suppress(OSError):  # our end answers later
                self._far.unwrap()
            self._far.settimeout(10)
        socket.socket.shutdown(self._far, socket.SHUT_WR)
        self._arrived()

    def lose(self) -> None:
        with contextlib.suppress(OSError):  # a Unix socket has no such option: there, unread octets make the difference
            self._far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._far.close()
        self._arrived()

    def upgrade(self, config: TlsConfig) -> Transport:
        far = self._far

        def serve() -> None:
            with contextlib.suppress(OSError):  # the client says why
                self._far = self._tls.context.wrap_socket(far, server_side=True)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            return self.ours.start_tls(config, 10)
        finally:
            thread.join(10)
            assert not thread.is_alive()

    def close(self) -> None:
        self.ours.close()
        self._far.close()
        self._watch.close()


class ScriptedLink:
    """The far end is a script without a line."""

    def __init__(self, **options: Any) -> None:
        # More than one write can be taken, but not everything; never more than 100 octets at once.
        self.ours: Transport = ScriptedTransport([()], when_dry="silence", max_send=100, accept=40_000, **options)
        self._read = 0

    @property
    def _scripted(self) -> ScriptedTransport:
        assert isinstance(self.ours, ScriptedTransport)
        return self.ours

    def say(self, octets: bytes) -> None:
        self._scripted.push(octets)

    def heard(self, count: int) -> bytes:
        octets = self._scripted.written[self._read : self._read + count]
        assert len(octets) == count
        self._read += count
        return octets

    def rest(self) -> bytes:
        return self._scripted.written[self._read :]

    def end(self) -> None:
        self._scripted.push(EOF)

    def lose(self) -> None:
        self._scripted.push(RESET)

    def upgrade(self, config: TlsConfig) -> Transport:
        return self._scripted.start_tls(config, 10)


def connected(ours: SocketTransport, near: socket.socket, far: socket.socket, tls: Tls) -> SocketLink:
    for end in (near, far):  # a write is to fill them soon
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 32_768)
    return SocketLink(ours, near, far, tls)


@contextlib.contextmanager
def tcp(tls: Tls) -> Iterator[SocketLink]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = SocketTransport.connect(SocketAddress(V4, listener.getsockname(), "localhost"), timeout=5)
        link = connected(ours, ours._sock, listener.accept()[0], tls)
    with contextlib.closing(link):
        yield link


@contextlib.contextmanager
def unix(tls: Tls, path: str) -> Iterator[SocketLink]:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        ours = SocketTransport.connect(unix_address(path), timeout=5)
        link = connected(ours, ours._sock, listener.accept()[0], tls)
    with contextlib.closing(link):
        yield link


@contextlib.contextmanager
def pair(tls: Tls) -> Iterator[SocketLink]:
    near, far = socket.socketpair()
    with contextlib.closing(connected(SocketTransport.over(near), near, far, tls)) as link:
        yield link


@contextlib.contextmanager
def under_tls(tls: Tls, version: ssl.TLSVersion, *, settled: bool = True) -> Iterator[SocketLink]:
    client = ssl.create_default_context(cadata=tls.config.trust.decode())  # type: ignore[union-attr]  # it is PEM
    client.maximum_version = version
    with tcp(tls) as link:
        link.ours = link.upgrade(TlsConfig(context=client, server_name="localhost"))
        if settled:  # past the tickets of TLS 1.3: unread, they would make the kernel close with RST
            link.say(b"220 ready\r\n")
            assert link.ours.recv(100, 5) == b"220 ready\r\n"
        yield link


@contextlib.contextmanager
def scripted(**options: Any) -> Iterator[ScriptedLink]:
    yield ScriptedLink(**options)


INFO = TlsInfo("TLSv1.3", "TLS_AES_256_GCM_SHA384", "localhost", b"\x30\x00")
Opened = AbstractContextManager[Link]
KINDS: dict[str, Callable[[Tls, str], Opened]] = {
    "TCP": lambda tls, path: tcp(tls),
    "TLS 1.2": lambda tls, path: under_tls(tls, ssl.TLSVersion.TLSv1_2),
    "TLS 1.3": lambda tls, path: under_tls(tls, ssl.TLSVersion.TLSv1_3),
    "Unix socket": unix,
    "socket pair": lambda tls, path: pair(tls),
    "ScriptedTransport": lambda tls, path: scripted(),
    "ScriptedTransport under TLS": lambda tls, path: scripted(secure=True, tls=INFO),
}
UPGRADING: dict[str, Callable[[Tls, str], Opened]] = {
    **{kind: KINDS[kind] for kind in ("TCP", "Unix socket", "socket pair")},
    "ScriptedTransport": lambda tls, path: scripted(tls=INFO),
}
REFUSING: dict[str, Callable[[Tls, str], Opened]] = {
    **UPGRADING,
    "ScriptedTransport": lambda tls, path: scripted(start_tls_error=CertificateError("untrusted")),
}


def opening(kinds: dict[str, Callable[[Tls, str], Opened]]) -> Any:
    """A fixture that opens each of these kinds."""

    @pytest.fixture(params=list(kinds))
    def opened(request: pytest.FixtureRequest, tls: Tls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Link]:
        path = str(tmp_path_factory.mktemp("s") / "socket")
        with kinds[request.param](tls, path) as link:
            yield link
            link.ours.close()

    return opened


link = opening(KINDS)
upgrading = opening(UPGRADING)
refusing = opening(REFUSING)


def send_all(transport: Transport, octets: bytes) -> None:
    """As the driver does: a loop over what was taken."""
    view, sent = memoryview(octets), 0
    while sent < len(octets):
        taken = transport.send(view[sent:], 5)
        assert 1 <= taken <= len(octets) - sent
        sent += taken


def fill(transport: Transport) -> tuple[int, OSError]:
    """Send until that fails: how many octets were taken, and the failure."""
    taken = 0
    try:
        while True:
            taken += transport.send(b"x" * SLICE, 0.05)
    except OSError as error:
        return taken, error


def assert_dead(transport: Transport) -> None:
    for call in (
        lambda: transport.send(b"MAIL\r\n", 5),
        lambda: transport.recv(100, 5),
        lambda: transport.start_tls(TlsConfig(server_name="localhost"), 5),
    ):
        with pytest.raises(DEAD) as caught:
            call()
        assert not isinstance(caught.value, TimeoutError)


# --- send ---


def test_SY20_a_send_takes_at_least_one_octet_and_perhaps_not_all(link: Link) -> None:
    octets = bytes(range(256)) * 16
    send_all(link.ours, octets)
    assert link.heard(len(octets)) == octets
    assert link.ours.send(b"NOOP\r\n", 5) == 6
    assert link.heard(6) == b"NOOP\r\n"


def test_SY20_sending_nothing_takes_nothing(link: Link) -> None:
    assert link.ours.send(b"", 0) == 0
    assert link.ours.send(memoryview(b""), 5) == 0


def test_SY20_a_send_that_takes_nothing_in_time_is_a_TimeoutError_and_the_count_is_exact(link: Link) -> None:
    taken, failure = fill(link.ours)
    assert type(failure) is TimeoutError
    assert failure.errno is None, "the kernel's ETIMEDOUT is a lost connection"
    assert taken > 0
    assert link.heard(taken) == b"x" * taken


def test_SY20_a_send_on_a_lost_connection_is_an_OSError_and_no_TimeoutError(link: Link) -> None:
    link.ours.send(b"unread", 5)
    link.lose()
    with pytest.raises(OSError, match=r"."):
        link.ours.recv(100, 5)
    _, failure = fill(link.ours)
    assert not isinstance(failure, TimeoutError)


# --- recv ---


def test_SY20_a_recv_gives_one_octet_to_the_limit_and_keeps_the_rest(link: Link) -> None:
    link.say(b"220 hello\r\n")
    assert link.ours.recv(4, 5) == b"220 "
    octets = link.ours.recv(1, 0)
    while len(octets) < 7:
        more = link.ours.recv(100, 0)
        assert more
        octets += more
    assert octets == b"hello\r\n"


@pytest.mark.parametrize("timeout", [0.0, 0.02])
def test_SY20_no_data_yet_is_a_TimeoutError_and_never_the_end(link: Link, timeout: float) -> None:
    for _ in range(2):
        with pytest.raises(TimeoutError) as caught:
            link.ours.recv(100, timeout)
        assert caught.value.errno is None
    link.say(b"late")
    assert link.ours.recv(100, 5) == b"late"


def test_SY20_the_end_is_empty_again_and_again_and_not_before_the_octets_in_front_of_it(link: Link) -> None:
    link.say(b"221 bye\r\n")
    link.end()
    octets = b""
    while more := link.ours.recv(3, 5):
        assert len(more) <= 3
        octets += more
    assert octets == b"221 bye\r\n"
    assert [link.ours.recv(100, timeout) for timeout in (5, 0)] == [b"", b""]


def test_SY20_a_lost_connection_is_an_OSError_and_no_end(link: Link) -> None:
    link.ours.send(b"unread", 5)
    link.lose()
    with pytest.raises(OSError, match=r".") as caught:
        link.ours.recv(100, 5)
    assert not isinstance(caught.value, TimeoutError)


# --- readable ---


def test_SY20_readable_tells_silence_from_octets_and_the_end_and_takes_nothing(link: Link) -> None:
    assert not link.ours.readable()
    link.say(b"421 bye\r\n")
    assert [link.ours.readable() for _ in range(2)] == [True, True]
    assert link.ours.recv(4, 0) == b"421 "
    assert link.ours.readable(), "what is left, wherever it waits"
    assert link.ours.recv(100, 0) == b"bye\r\n"
    assert not link.ours.readable()
    link.end()
    assert [link.ours.readable() for _ in range(2)] == [True, True]
    assert link.ours.recv(100, 0) == b""
    assert link.ours.readable()


def test_SY20_readable_sees_a_lost_connection(link: Link) -> None:
    link.ours.send(b"unread", 5)
    link.lose()
    assert link.ours.readable()
    with pytest.raises(OSError, match=r"."):
        link.ours.recv(100, 0)


def test_SY20_readable_under_TLS_takes_a_record_without_data_for_silence(tls: Tls) -> None:
    """The socket is readable: two tickets wait there. Wanting more is healthy."""
    with under_tls(tls, ssl.TLSVersion.TLSv1_3, settled=False) as link:
        link._arrived()
        assert [link.ours.readable() for _ in range(2)] == [False, False]
        with pytest.raises(TimeoutError):
            link.ours.recv(100, 0)
        link.say(b"250 ok\r\n")
        assert link.ours.readable()
        assert link.ours.recv(100, 0) == b"250 ok\r\n"


def test_SY20_readable_under_TLS_sees_what_was_decrypted_already(tls: Tls) -> None:
    """The socket is silent: one record held both replies."""
    with under_tls(tls, ssl.TLSVersion.TLSv1_3) as link:
        link.say(b"250 ok\r\n421 bye\r\n")
        assert link.ours.recv(8, 5) == b"250 ok\r\n"
        assert not select.select([link._watch], [], [], 0)[0]
        assert link.ours.readable()
        assert link.ours.recv(100, 0) == b"421 bye\r\n"


# --- close ---


def test_SY20_close_is_final_silent_and_idempotent(link: Link) -> None:
    assert link.ours.send(b"NOOP\r\n", 5) == 6
    assert link.heard(6) == b"NOOP\r\n"
    link.ours.close()
    link.ours.close()
    for call in (lambda: link.ours.send(b"QUIT\r\n", 5), lambda: link.ours.recv(100, 5)):
        with pytest.raises(OSError, match="closed"):
            call()
    with contextlib.suppress(OSError):
        assert link.ours.readable(), "never healthy"
    link.ours.close()
    assert link.rest() == b"", "no octet, no close_notify"


def test_SY20_close_is_silent_on_a_lost_connection(link: Link) -> None:
    link.ours.send(b"unread", 5)
    link.lose()
    link.ours.close()
    link.ours.close()


# --- start_tls ---


def test_SY20_secure_and_tls_say_what_lies_below(link: Link) -> None:
    assert isinstance(link.ours.secure, bool)
    assert isinstance(link.ours.tls, TlsInfo) is link.ours.secure
    assert (link.ours.tls is None) is not link.ours.secure


def test_SY20_start_tls_gives_a_new_transport_and_the_old_one_is_dead(upgrading: Link, tls: Tls) -> None:
    old = upgrading.ours
    assert (old.secure, old.tls) == (False, None)
    new = upgrading.upgrade(tls.config)
    assert new is not old
    assert new.secure is True
    assert isinstance(new.tls, TlsInfo)
    assert new.tls.server_name == "localhost"
    assert_dead(old)
    old.close()
    upgrading.ours = new
    assert new.send(b"EHLO x\r\n", 5) == 8
    assert upgrading.heard(8) == b"EHLO x\r\n"
    upgrading.say(b"250 mx\r\n")
    assert new.recv(100, 5) == b"250 mx\r\n"


def test_SY20_a_second_start_tls_is_refused_and_harms_nothing(upgrading: Link, tls: Tls) -> None:
    upgrading.ours = new = upgrading.upgrade(tls.config)
    with pytest.raises(RuntimeError) as caught:
        new.start_tls(tls.config, 5)
    assert isinstance(new, ScriptedTransport) or type(caught.value) is UsageError
    assert new.send(b"NOOP\r\n", 5) == 6
    assert upgrading.heard(6) == b"NOOP\r\n"


def test_SY20_after_a_handshake_that_failed_the_transport_is_dead(refusing: Link, tls: Tls) -> None:
    with pytest.raises(CertificateError):
        refusing.upgrade(tls.refusing)
    assert_dead(refusing.ours)
    refusing.ours.close()
