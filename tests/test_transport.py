from __future__ import annotations

import contextlib
import errno
import inspect
import os
import select
import signal
import socket
import ssl
import struct
import sys
import threading
import time
import types
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from smtpconn import connecting
from smtpconn.protocol.errors import CertificateError, InvalidInputError, SmtpTimeoutError, TlsError, UsageError
from smtpconn.resolve import SocketAddress, unix_address
from smtpconn.tls import TlsConfig
from smtpconn.transport import SocketTransport, TlsTransport

from .tls_authority import Authority, OneConnection, certify, server_context

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from smtpconn.transport import Transport

HOST = "mail.example.test"
V4 = int(socket.AF_INET)


@pytest.fixture(params=["poll", "select"])
def waiting(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways to wait; where there is no poll there is select."""
    if request.param == "select":
        monkeypatch.delattr(select, "poll")
    return str(request.param)


@pytest.fixture
def pair() -> Iterator[tuple[SocketTransport, socket.socket]]:
    ours, theirs = socket.socketpair()
    transport = SocketTransport.over(ours)
    theirs.settimeout(10)
    yield transport, theirs
    transport.close()
    theirs.close()


@pytest.fixture(scope="module")
def trusted() -> Authority:
    return Authority.new()


@pytest.fixture(scope="module")
def context(trusted: Authority, tmp_path_factory: pytest.TempPathFactory) -> ssl.SSLContext:
    leaf = certify("server", trusted.root, names=(HOST, "127.0.0.1"))
    return server_context(leaf.file(tmp_path_factory.mktemp("server")))


@pytest.fixture
def config(trusted: Authority) -> TlsConfig:
    return TlsConfig(trust=trusted.root.pem, server_name=HOST)


def elapsed(begin: float) -> float:
    return time.monotonic() - begin


# --- connect: A2 ---


def test_A2_a_tcp_connection_has_nodelay_and_knows_its_ends(waiting: str) -> None:
    with OneConnection(lambda sock: sock.sendall(b"220 hello\r\n")) as server:
        transport = SocketTransport.connect(SocketAddress(V4, server.address, HOST), timeout=5)
        assert transport._sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert not transport._sock.getblocking()
        assert transport.local_address == "127.0.0.1"
        assert transport.peer == f"{HOST}:{server.address[1]} (127.0.0.1)"
        assert repr(transport) == f"<SocketTransport {transport.peer}>"
        assert (transport.secure, transport.tls) == (False, None)
        assert transport.recv(100, 5) == b"220 hello\r\n"
        assert transport.recv(100, 5) == b""
        transport.close()


def test_E30_a_closed_port_is_the_systems_own_error(waiting: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
    with pytest.raises(ConnectionRefusedError) as caught:
        SocketTransport.connect(SocketAddress(V4, address, HOST), timeout=5)
    assert caught.value.errno == errno.ECONNREFUSED


@pytest.mark.parametrize("timeout", [5.0, None])
def test_F2_a_unix_socket_is_connected_without_a_name(tmp_path: Path, timeout: float | None) -> None:
    where = str(tmp_path / "lmtp")

    def serve(sock: socket.socket) -> None:
        sock.sendall(b"220 lmtp\r\n")

    with OneConnection(serve, family=socket.AF_UNIX, where=where) as server:
        assert server.address == where
        transport = SocketTransport.connect(unix_address(where), timeout=timeout, source_address=("192.0.2.1", 0))
        assert transport.recv(100, timeout) == b"220 lmtp\r\n"
        assert (transport.local_address, transport.peer, transport.secure) == (None, where, False)
        transport.close()


def test_A2_a_unix_socket_that_is_not_there_or_dead_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        SocketTransport.connect(unix_address(tmp_path / "none"), timeout=5)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "dead"))
    with pytest.raises(ConnectionRefusedError):
        SocketTransport.connect(unix_address(tmp_path / "dead"), timeout=5)


def _fill_backlog(address: Any, family: int) -> list[socket.socket]:
    """Connections until the listener's queue is full."""
    waiting = []
    for _ in range(64):
        sock = socket.socket(family)
        sock.setblocking(False)
        waiting.append(sock)
        code = sock.connect_ex(address)
        if code == errno.EAGAIN or (code == errno.EINPROGRESS and not select.select([], [sock], [], 0.05)[1]):
            break
    return waiting


@pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="the queue of a listener is full on Linux only")
def test_A2_a_full_queue_of_a_unix_socket_is_waited_for_until_the_timeout(tmp_path: Path) -> None:
    where = str(tmp_path / "busy")
    with socket.socket(socket.AF_UNIX) as listener, contextlib.ExitStack() as stack:
        listener.bind(where)
        listener.listen(0)
        for sock in _fill_backlog(where, socket.AF_UNIX):
            stack.enter_context(sock)
        begin = time.monotonic()
        with pytest.raises(TimeoutError):
            SocketTransport.connect(unix_address(where), timeout=0.05)
        assert 0.04 < elapsed(begin) < 2

        def accept_some() -> None:
            for _ in range(2):
                listener.accept()[0].close()

        releasing = threading.Timer(0.05, accept_some)
        releasing.start()
        SocketTransport.connect(unix_address(where), timeout=5).close()
        releasing.join()


def test_A2_silence_ends_with_the_timeout(waiting: str) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener, contextlib.ExitStack() as stack:
        for sock in _fill_backlog(listener.getsockname(), socket.AF_INET):
            stack.enter_context(sock)
        begin = time.monotonic()
        with pytest.raises(TimeoutError) as caught:
            SocketTransport.connect(SocketAddress(V4, listener.getsockname(), HOST), timeout=0.05)
        assert 0.04 < elapsed(begin) < 2
        assert caught.value.errno is None


def test_A2_the_kernels_own_time_out_is_a_lost_connection_and_no_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket.socket, "connect_ex", lambda sock, address: errno.ETIMEDOUT)
    with pytest.raises(ConnectionError) as caught:
        SocketTransport.connect(SocketAddress(V4, ("192.0.2.1", 25), HOST), timeout=5)
    assert caught.value.errno == errno.ETIMEDOUT
    assert not isinstance(caught.value, TimeoutError)


def test_A2_a_connection_to_itself_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    # TCP allows it: the kernel may pick the very port that is dialled for our end.
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = probe.getsockname()
    with pytest.raises(ConnectionRefusedError):
        SocketTransport.connect(SocketAddress(V4, address, HOST), timeout=5, source_address=address)


def test_the_source_address_is_bound() -> None:
    with OneConnection(lambda sock: sock.sendall(sock.getpeername()[0].encode())) as server:
        transport = SocketTransport.connect(
            SocketAddress(V4, server.address, HOST), timeout=5, source_address=("127.0.0.3", 0)
        )
        assert transport.recv(100, 5) == b"127.0.0.3"
        assert transport.local_address == "127.0.0.3"
        transport.close()


def test_a_source_address_that_is_not_ours_is_the_systems_error_and_leaks_nothing() -> None:
    begin = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0  # noqa: PTH112, PTH208
    for _ in range(5):
        with pytest.raises(OSError, match=r"."):
            SocketTransport.connect(
                SocketAddress(V4, ("127.0.0.1", 9), HOST), timeout=5, source_address=("192.0.2.77", 0)
            )
    if begin:
        assert len(os.listdir("/proc/self/fd")) == begin  # noqa: PTH208


def test_KI_an_interrupt_while_connecting_leaks_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[socket.socket] = []

    def interrupted(sock: socket.socket, address: Any) -> int:
        made.append(sock)
        raise KeyboardInterrupt

    monkeypatch.setattr(socket.socket, "connect_ex", interrupted)
    with pytest.raises(KeyboardInterrupt):
        SocketTransport.connect(SocketAddress(V4, ("127.0.0.1", 9), HOST), timeout=5)
    assert made[0].fileno() == -1


# --- over ---


def test_a_dialled_socket_is_taken_over_and_named() -> None:
    with OneConnection(lambda sock: sock.sendall(b"220 hello\r\n")) as server:
        dialled = socket.create_connection(server.address)
        transport = SocketTransport.over(dialled, host=HOST)
        assert transport.peer == f"{HOST} via 127.0.0.1:{server.address[1]}"
        assert not dialled.getblocking()
        assert transport.recv(100, 5) == b"220 hello\r\n"
        transport.close()
        assert dialled.fileno() == -1


def test_the_peer_of_a_socket_without_a_host_is_shown_by_its_address() -> None:
    assert connecting.shown_peer(("::1", 25, 0, 0), None) == "[::1]:25"
    assert connecting.shown_peer(("127.0.0.1", 25), None) == "127.0.0.1:25"
    assert connecting.shown_peer("/run/lmtp", None) == "/run/lmtp"
    assert connecting.shown_peer("", None) == "Unix socket"
    assert connecting.shown_peer(b"\0abstract", None) == "Unix socket"
    assert connecting.shown_peer("", HOST) == HOST


def test_over_refuses_what_is_no_plain_connected_stream(context: ssl.SSLContext) -> None:
    with pytest.raises(TypeError, match=r"socket\.socket is needed, not object"):
        SocketTransport.over(object())  # type: ignore[arg-type]
    with socket.socket() as fresh, pytest.raises(InvalidInputError, match="not connected"):
        SocketTransport.over(fresh)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        with pytest.raises(InvalidInputError, match="stream"):
            SocketTransport.over(datagrams)
        assert datagrams.fileno() >= 0
    ours, theirs = socket.socketpair()
    client = ssl.create_default_context()
    wrapped = client.wrap_socket(ours, server_hostname=HOST, do_handshake_on_connect=False)
    with theirs, wrapped, pytest.raises(InvalidInputError, match="TLS already"):
        SocketTransport.over(wrapped)


# --- send ---


def _fill(transport: Transport, timeout: float = 0.05) -> int:
    """Send until nothing is taken any more; how many octets were."""
    taken = 0
    with contextlib.suppress(TimeoutError):
        while True:
            taken += transport.send(memoryview(b"x" * 16_384), timeout)
    return taken


def test_BR14_send_counts_what_the_kernel_took_and_times_out_when_it_takes_nothing(
    pair: tuple[SocketTransport, socket.socket], waiting: str
) -> None:
    transport, theirs = pair
    taken = _fill(transport)
    begin = time.monotonic()
    with pytest.raises(TimeoutError):
        transport.send(b"x", 0.05)
    assert 0.04 < elapsed(begin) < 2
    received = b""
    while len(received) < taken:
        received += theirs.recv(65_536)
    assert len(received) == taken
    assert transport.send(b"again", 5) == 5  # plain TCP: nothing is stuck between the counts
    assert theirs.recv(100) == b"again"


def test_send_waits_until_the_peer_reads(pair: tuple[SocketTransport, socket.socket]) -> None:
    transport, theirs = pair
    assert _fill(transport, 0)
    reader = threading.Timer(0.05, lambda: [theirs.recv(65_536) for _ in range(3)])
    reader.start()
    assert transport.send(b"y", None) == 1
    reader.join()


def test_sending_nothing_is_nothing(pair: tuple[SocketTransport, socket.socket]) -> None:
    transport, _ = pair
    assert transport.send(b"", 0) == 0


def test_a_broken_pipe_is_an_os_error_and_no_signal(pair: tuple[SocketTransport, socket.socket]) -> None:
    transport, theirs = pair
    theirs.close()
    before = signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # as command-line programs like to have it
    try:
        with pytest.raises(BrokenPipeError):
            transport.send(b"x", 5)
    finally:
        signal.signal(signal.SIGPIPE, before)


# --- recv ---


def test_recv_gives_at_most_the_limit_and_the_end_of_the_stream_again_and_again(
    pair: tuple[SocketTransport, socket.socket], waiting: str
) -> None:
    transport, theirs = pair
    theirs.sendall(b"220 hello\r\n")
    assert transport.recv(4, 5) == b"220 "
    assert transport.recv(100, 0) == b"hello\r\n"
    theirs.shutdown(socket.SHUT_WR)
    assert transport.recv(100, 5) == b""
    assert transport.recv(100, 5) == b""
    assert transport.send(b"half-closed\r\n", 5) == 13


@pytest.mark.parametrize("timeout", [0, 0.05])
def test_recv_times_out_and_loses_nothing(
    pair: tuple[SocketTransport, socket.socket], waiting: str, timeout: float
) -> None:
    transport, theirs = pair
    begin = time.monotonic()
    with pytest.raises(TimeoutError) as caught:
        transport.recv(100, timeout)
    assert timeout * 0.9 <= elapsed(begin) < 2
    assert caught.value.errno is None
    theirs.sendall(b"late")
    assert transport.recv(100, 5) == b"late"


def test_time_that_is_over_is_no_time_and_not_for_ever(
    pair: tuple[SocketTransport, socket.socket], linked: TlsServer, waiting: str
) -> None:
    for transport in (pair[0], linked.ours):
        with pytest.raises(TimeoutError):
            transport.recv(100, -1)


def test_recv_without_a_limit_waits(pair: tuple[SocketTransport, socket.socket], waiting: str) -> None:
    transport, theirs = pair
    writer = threading.Timer(0.05, theirs.sendall, (b"late",))
    writer.start()
    assert transport.recv(100, None) == b"late"
    writer.join()


def test_a_timeout_longer_than_poll_can_count_is_a_timeout(pair: tuple[SocketTransport, socket.socket]) -> None:
    transport, theirs = pair
    theirs.sendall(b"x")
    assert transport.recv(100, 1e9) == b"x"


def test_a_signal_does_not_end_the_wait(pair: tuple[SocketTransport, socket.socket]) -> None:
    transport, _ = pair
    heard: list[int] = []
    before = signal.signal(signal.SIGALRM, lambda number, frame: heard.append(number))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
        begin = time.monotonic()
        with pytest.raises(TimeoutError):
            transport.recv(100, 0.1)
        assert 0.09 < elapsed(begin) < 2
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert len(heard) > 2


class ForgetfulSocket(socket.socket):
    """Says that it is ready and is not, so many times."""

    lies = 0

    def recv(self, *arguments: Any) -> bytes:
        if self.lies:
            self.lies -= 1
            raise BlockingIOError(errno.EAGAIN, "no")
        return super().recv(*arguments)


def _forgetful(lies: int) -> tuple[SocketTransport, socket.socket, ForgetfulSocket]:
    ours, theirs = socket.socketpair()
    forgetful = ForgetfulSocket(ours.family, ours.type, ours.proto, ours.detach())
    forgetful.lies = lies
    return SocketTransport.over(forgetful), theirs, forgetful


def test_spurious_readiness_is_not_the_end_of_the_stream() -> None:
    transport, theirs, _ = _forgetful(3)
    theirs.sendall(b"x")
    assert transport.recv(100, 5) == b"x"
    transport.close()
    theirs.close()


def test_endless_spurious_readiness_gains_no_time() -> None:
    transport, theirs, forgetful = _forgetful(10**9)
    theirs.sendall(b"x")
    begin = time.monotonic()
    with pytest.raises(TimeoutError):
        transport.recv(100, 0.05)
    assert elapsed(begin) < 2
    assert forgetful.lies < 10**9 - 1
    transport.close()
    theirs.close()


def _reset(sock: socket.socket) -> None:
    """Close with RST."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def test_a_reset_is_an_os_error_after_the_octets_that_came_before(waiting: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        transport = SocketTransport.connect(SocketAddress(V4, listener.getsockname(), HOST), timeout=5)
        _reset(listener.accept()[0])
        with pytest.raises(ConnectionResetError):
            transport.recv(100, 5)
        transport.close()


def test_the_kernels_own_time_out_is_a_lost_connection_in_the_middle_too(
    pair: tuple[SocketTransport, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    transport, theirs = pair

    def timed_out(*arguments: Any) -> Any:
        raise TimeoutError(errno.ETIMEDOUT, "Connection timed out")

    theirs.sendall(b"x")
    monkeypatch.setattr(socket.socket, "recv", timed_out)
    monkeypatch.setattr(socket.socket, "send", timed_out)
    for call in (lambda: transport.recv(100, 5), lambda: transport.send(b"x", 5)):
        with pytest.raises(ConnectionError) as caught:
            call()
        assert not isinstance(caught.value, TimeoutError)
        assert caught.value.errno == errno.ETIMEDOUT


# --- readable: EN5 ---


def test_readable_tells_silence_from_octets_end_and_error(waiting: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = SocketAddress(V4, listener.getsockname(), HOST)

        def opened() -> tuple[SocketTransport, socket.socket]:
            return SocketTransport.connect(address, timeout=5), listener.accept()[0]

        def says_bye(sock: socket.socket) -> None:
            sock.sendall(b"421 bye\r\n")

        for end in (says_bye, socket.socket.close, _reset):
            transport, theirs = opened()
            assert not transport.readable()
            end(theirs)
            assert select.select([transport._sock], [], [], 5)[0]
            assert transport.readable()
            assert transport.readable()
            transport.close()
            assert transport.readable()
            theirs.close()


# --- close and abort ---


def test_close_is_silent_idempotent_and_final(pair: tuple[SocketTransport, socket.socket]) -> None:
    transport, theirs = pair
    transport.close()
    transport.close()
    assert theirs.recv(100) == b""
    with pytest.raises(OSError, match="closed") as caught:
        transport.send(b"x", 5)
    assert caught.value.errno == errno.EBADF
    for call in (
        lambda: transport.recv(100, 5),
        lambda: transport.send(b"", 5),
        lambda: transport.start_tls(TlsConfig(server_name=HOST), 5),
    ):
        with pytest.raises(OSError, match="closed"):
            call()
    transport.abort()
    assert repr(transport) == "<SocketTransport Unix socket, closed>"


def test_after_close_no_call_reaches_a_descriptor_that_is_used_again() -> None:
    ours, theirs = socket.socketpair()
    transport = SocketTransport.over(ours)
    number = ours.fileno()
    transport.close()
    again, other = socket.socketpair()
    with again, other, theirs:
        assert number in (again.fileno(), other.fileno())
        for call in (lambda: transport.recv(1, 0), lambda: transport.send(b"x", 0)):
            with pytest.raises(OSError, match="closed"):
                call()
        transport.abort()
        transport.close()
        again.sendall(b"unharmed")
        assert other.recv(100) == b"unharmed"


def test_LE6_a_lock_that_nobody_will_release_does_not_keep_a_socket_open(
    pair: tuple[SocketTransport, socket.socket],
) -> None:
    transport, theirs = pair
    holder = threading.Thread(target=transport._ending.acquire)  # gone, as a thread of the parent is after fork
    holder.start()
    holder.join(10)
    begin = time.monotonic()
    transport.close()
    assert elapsed(begin) < 2
    assert theirs.recv(100) == b""


def _woken_by_abort(transport: Any, call: Callable[[], object]) -> list[Any]:
    outcome: list[Any] = []
    started = threading.Event()

    def blocked() -> None:
        started.set()
        try:
            outcome.append(call())
        except OSError as error:
            outcome.append(error)

    thread = threading.Thread(target=blocked)
    thread.start()
    assert started.wait(5)
    thread.join(0.05)
    assert thread.is_alive()
    begin = time.monotonic()
    transport.abort()
    thread.join(10)
    assert not thread.is_alive()
    assert elapsed(begin) < 1
    return outcome


def test_CL4_abort_wakes_a_blocked_recv_in_another_thread(
    pair: tuple[SocketTransport, socket.socket], waiting: str
) -> None:
    transport, _ = pair
    assert _woken_by_abort(transport, lambda: transport.recv(100, 30)) == [b""]
    with pytest.raises(OSError, match=r"."):
        transport.send(b"x", 5)


def test_CL4_abort_wakes_a_blocked_send_in_another_thread(pair: tuple[SocketTransport, socket.socket]) -> None:
    transport, _ = pair
    assert _fill(transport, 0)
    [error] = _woken_by_abort(transport, lambda: transport.send(b"x", 30))
    assert isinstance(error, BrokenPipeError)


# --- start_tls ---


class TlsServer:
    """Both ends of one TLS connection in this process; `theirs` is the server's, blocking."""

    def __init__(self, context: ssl.SSLContext, config: TlsConfig, *, before: bytes = b"") -> None:
        listener = socket.create_server(("127.0.0.1", 0))
        plain = SocketTransport.connect(SocketAddress(V4, listener.getsockname(), HOST), timeout=5)
        accepted = listener.accept()[0]
        listener.close()
        accepted.settimeout(10)
        self.raw = accepted.dup()
        self.raw.settimeout(10)
        made: list[ssl.SSLSocket] = []
        thread = threading.Thread(target=lambda: made.append(context.wrap_socket(accepted, server_side=True)))
        thread.start()
        self.plain = plain
        self.ours: TlsTransport = plain.start_tls(config, 10)
        thread.join(10)
        self.theirs = made[0]

    def close(self) -> None:
        self.ours.close()
        self.theirs.close()
        self.raw.close()


@pytest.fixture(params=["TLSv1.2", "TLSv1.3"])
def linked(request: pytest.FixtureRequest, trusted: Authority, context: ssl.SSLContext) -> Iterator[TlsServer]:
    """A TLS connection of each version, past the tickets of 1.3: unread, they would make the kernel close with RST."""
    client = ssl.create_default_context(cadata=trusted.root.pem.decode())
    client.maximum_version = ssl.TLSVersion.TLSv1_2 if request.param == "TLSv1.2" else ssl.TLSVersion.TLSv1_3
    server = TlsServer(context, TlsConfig(context=client, server_name=HOST))
    assert server.ours.tls is not None
    assert server.ours.tls.version == request.param
    server.theirs.sendall(b"220 ready\r\n")
    assert server.ours.recv(100, 5) == b"220 ready\r\n"
    yield server
    server.close()


def test_start_tls_gives_a_new_transport_and_the_old_one_is_dead(linked: TlsServer) -> None:
    assert isinstance(linked.ours, TlsTransport)
    assert linked.ours.secure is True
    assert linked.ours.local_address == "127.0.0.1"
    assert linked.ours.peer == linked.plain.peer
    for call in (
        lambda: linked.plain.send(b"MAIL in clear\r\n", 5),
        lambda: linked.plain.recv(100, 5),
        lambda: linked.plain.readable(),
        lambda: linked.plain.start_tls(TlsConfig(), 5),
    ):
        with pytest.raises(UsageError, match="replaced by its TLS transport"):
            call()
    linked.plain.close()
    linked.plain.abort()
    assert linked.ours.send(b"EHLO x\r\n", 5) == 8
    assert linked.theirs.recv(100) == b"EHLO x\r\n"


def test_F111_a_second_start_tls_is_a_usage_error_and_harms_nothing(linked: TlsServer, config: TlsConfig) -> None:
    with pytest.raises(UsageError, match="active already"):
        linked.ours.start_tls(config, 5)
    assert linked.ours.send(b"x", 5) == 1
    assert linked.theirs.recv(100) == b"x"


def test_tls_without_a_name_to_verify_is_refused_before_anything_is_written(trusted: Authority) -> None:
    ours, theirs = socket.socketpair()
    transport = SocketTransport.over(ours)
    with pytest.raises(InvalidInputError, match=r"TlsConfig\.server_name is needed"):
        transport.start_tls(TlsConfig(trust=trusted.root.pem), 5)
    transport.close()
    assert theirs.recv(100) == b""
    theirs.close()


def test_F112_tls_over_a_unix_socket_verifies_the_configured_name(
    trusted: Authority, context: ssl.SSLContext, config: TlsConfig
) -> None:
    ours, theirs = socket.socketpair()
    served: list[bytes] = []

    def serve() -> None:
        with context.wrap_socket(theirs, server_side=True) as wrapped:
            served.append(wrapped.recv(100))

    thread = threading.Thread(target=serve)
    thread.start()
    transport = SocketTransport.over(ours).start_tls(config, 10)
    transport.send(b"LHLO x\r\n", 5)
    thread.join(10)
    assert served == [b"LHLO x\r\n"]
    transport.close()


def test_a_name_that_cannot_be_sent_is_refused_and_closes(trusted: Authority) -> None:
    ours, theirs = socket.socketpair()
    transport = SocketTransport.over(ours, host=".example.test")  # not from check_host
    with pytest.raises(InvalidInputError, match="cannot be used for TLS"):
        transport.start_tls(TlsConfig(trust=trusted.root.pem), 5)
    assert theirs.recv(100) == b""
    theirs.close()


def _answering(octets: bytes, *, then: Callable[[socket.socket], None] = lambda sock: None) -> OneConnection:
    """A server that reads the ClientHello and answers with these octets."""

    def serve(sock: socket.socket) -> None:
        assert sock.recv(65_536)[:1] == b"\x16"
        sock.sendall(octets)
        then(sock)

    return OneConnection(serve)


@pytest.mark.parametrize(
    ("octets", "text"),
    [
        (b"220 mail.example.test ESMTP\r\n", "does it speak TLS here"),  # E29, TC25
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "does it speak TLS here"),
        (b"\x15\x03\x03\x00\x02\x02\x28", "handshake failure"),  # TC26: fatal alert
        (b"", "closed the connection in the TLS handshake"),
        (b"\x16\x03\x03\x40", "closed the connection in the TLS handshake"),  # TC27
        (b"\x16\x03\x03\x00\x04\x02\x00\xff\xff", "failed|closed"),
        (b"\x16\x03\x03\xff\xff" + b"\0" * 200, "failed"),  # a record too long
    ],
    ids=["E29 TC25 greeting", "HTTP", "TC26 alert", "EOF", "cut record", "cut ServerHello", "oversize"],
)
def test_A3_whatever_is_no_handshake_is_a_tls_error_and_the_socket_is_closed(
    config: TlsConfig, octets: bytes, text: str
) -> None:
    def until_end(sock: socket.socket) -> None:
        rest = b""
        with contextlib.suppress(OSError):  # closed with our octets unread: RST, perhaps before we are done
            sock.shutdown(socket.SHUT_WR)
            while more := sock.recv(65_536):
                rest += more
        assert rest[:1] in (b"", b"\x15")  # F16: at most an alert, never SMTP

    with _answering(octets, then=until_end) as server:
        transport = SocketTransport.connect(SocketAddress(V4, server.address, HOST), timeout=5)
        with pytest.raises(TlsError, match=text) as caught:
            transport.start_tls(config, 5)
    assert not isinstance(caught.value, CertificateError)
    assert caught.value.stage == "tls"
    assert isinstance(caught.value.__cause__, OSError)
    assert HOST in str(caught.value)
    transport.close()
    with pytest.raises(UsageError):
        transport.send(b"MAIL\r\n", 5)


def _records(octets: bytes) -> list[bytes]:
    records = []
    while octets:
        size = 5 + int.from_bytes(octets[3:5], "big")
        records.append(octets[:size])
        octets = octets[size:]
    return records


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
@pytest.mark.parametrize("end", ["FIN", "silence"])
def test_TC27_a_flight_that_is_cut_at_any_record_boundary_is_no_handshake(
    trusted: Authority, context: ssl.SSLContext, version: str, end: str
) -> None:
    client = ssl.create_default_context(cadata=trusted.root.pem.decode())
    client.maximum_version = ssl.TLSVersion[version]
    config = TlsConfig(context=client, server_name=HOST)
    kept = 0
    complete = False
    while not complete:
        ours, theirs = socket.socketpair()

        def serve(sock: socket.socket = theirs, kept: int = kept) -> bool:
            heard, said = ssl.MemoryBIO(), ssl.MemoryBIO()
            server = context.wrap_bio(heard, said, server_side=True)
            heard.write(sock.recv(65_536))
            with contextlib.suppress(ssl.SSLWantReadError):
                server.do_handshake()
            records = _records(said.read())
            sock.sendall(b"".join(records[:kept]))
            if end == "FIN":
                sock.shutdown(socket.SHUT_WR)
            return kept + 1 == len(records)

        with ThreadPoolExecutor(1) as thread, theirs:
            served = thread.submit(serve)
            with pytest.raises(TlsError if end == "FIN" else SmtpTimeoutError) as caught:
                SocketTransport.over(ours).start_tls(config, 5 if end == "FIN" else 0.05)
            assert not isinstance(caught.value, CertificateError)
            complete = served.result(10)
        kept += 1
    assert kept >= 2


def test_A7_a_reset_in_the_handshake_is_a_tls_error(config: TlsConfig) -> None:
    with _answering(b"\x16\x03\x03\x00", then=_reset) as server:
        transport = SocketTransport.connect(SocketAddress(V4, server.address, HOST), timeout=5)
        with pytest.raises(TlsError, match="failed: Connection reset") as caught:
            transport.start_tls(config, 5)
    assert isinstance(caught.value.__cause__, ConnectionResetError)


def test_A7_a_peer_that_is_gone_before_the_handshake_is_a_tls_error(
    config: TlsConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = socket.socketpair()
    transport = SocketTransport.over(ours)
    theirs.close()
    with pytest.raises(TlsError):
        transport.start_tls(config, 5)

    def gone(*arguments: Any, **keywords: Any) -> Any:
        raise OSError(errno.EINVAL, "Invalid argument")  # macOS: getpeername of a socket that was reset

    ours, theirs = socket.socketpair()
    transport = SocketTransport.over(ours)
    monkeypatch.setattr(ssl.SSLContext, "wrap_socket", gone)
    with pytest.raises(TlsError, match="Invalid argument"):
        transport.start_tls(config, 5)
    assert theirs.recv(100) == b""
    theirs.close()


def test_A3_silence_in_the_handshake_ends_with_the_timeout(config: TlsConfig, waiting: str) -> None:
    ours, theirs = socket.socketpair()
    transport = SocketTransport.over(ours, host=HOST)
    begin = time.monotonic()
    with pytest.raises(SmtpTimeoutError, match="TLS handshake with") as caught:
        transport.start_tls(config, 0.05)
    assert 0.04 < elapsed(begin) < 2
    assert caught.value.stage == "tls"
    assert theirs.recv(65_536)[:1] == b"\x16"
    assert theirs.recv(65_536) == b""  # closed, and nothing more was written
    theirs.close()


def test_A3_a_dripping_handshake_ends_with_the_timeout(config: TlsConfig) -> None:
    ours, theirs = socket.socketpair()
    stop = threading.Event()

    def drip() -> None:
        with contextlib.suppress(OSError):
            theirs.sendall(b"\x16\x03\x03\x3f\xff")
            while not stop.wait(0.001):
                theirs.sendall(b"\x02")

    thread = threading.Thread(target=drip)
    thread.start()
    begin = time.monotonic()
    with pytest.raises(SmtpTimeoutError):
        SocketTransport.over(ours).start_tls(config, 0.1)
    assert 0.09 < elapsed(begin) < 2
    stop.set()
    thread.join(10)
    theirs.close()


def test_KI_an_interrupt_in_the_handshake_closes_the_socket(config: TlsConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments: Any) -> None:
        raise KeyboardInterrupt

    ours, theirs = socket.socketpair()
    monkeypatch.setattr(ssl.SSLSocket, "do_handshake", interrupted)
    with pytest.raises(KeyboardInterrupt):
        SocketTransport.over(ours).start_tls(config, 5)
    assert theirs.recv(100) == b""
    theirs.close()


# --- octets under TLS ---


def test_tls_carries_octets_in_both_directions(linked: TlsServer, waiting: str) -> None:
    body = os.urandom(200_000)
    received = b""

    def read() -> None:
        nonlocal received
        while len(received) < len(body):
            received += linked.theirs.recv(65_536)
        linked.theirs.sendall(received)

    thread = threading.Thread(target=read)
    thread.start()
    sent = 0
    view = memoryview(body)
    while sent < len(body):
        taken = linked.ours.send(view[sent : sent + 50_000], 10)
        assert 0 < taken <= 16_384  # one record: it is taken whole or not at all
        sent += taken
    back = b""
    while len(back) < len(body):
        part = linked.ours.recv(30_000, 10)
        assert 0 < len(part) <= 30_000
        back += part
    thread.join(10)
    assert back == body
    assert linked.ours.send(b"", 0) == 0


@pytest.mark.parametrize("timeout", [0, 0.05])
def test_recv_under_tls_times_out_and_loses_nothing(linked: TlsServer, waiting: str, timeout: float) -> None:
    begin = time.monotonic()
    with pytest.raises(TimeoutError):
        linked.ours.recv(100, timeout)
    assert elapsed(begin) < 2
    linked.theirs.sendall(b"late")
    assert linked.ours.recv(100, 5) == b"late"


def _wait_for_octets(transport: TlsTransport) -> None:
    assert select.select([transport._sock], [], [], 5)[0]


def test_EN5_what_readable_decrypted_is_what_recv_gives_next(linked: TlsServer) -> None:
    assert not linked.ours.readable()
    linked.theirs.sendall(b"421 4.3.2 going down\r\n")
    _wait_for_octets(linked.ours)
    assert linked.ours.readable()
    assert linked.ours.readable()
    assert linked.ours.recv(4, 0) == b"421 "
    assert linked.ours.readable()
    assert linked.ours.recv(100, 0) == b"4.3.2 going down\r\n"
    assert not linked.ours.readable()
    with pytest.raises(TimeoutError):
        linked.ours.recv(100, 0)


def test_EN5_octets_that_the_tls_object_holds_are_seen_though_the_socket_is_silent(linked: TlsServer) -> None:
    linked.theirs.sendall(b"250 ok\r\n421 bye\r\n")
    assert linked.ours.recv(8, 5) == b"250 ok\r\n"
    assert linked.ours._sock.pending() == 9  # type: ignore[attr-defined]
    assert not select.select([linked.ours._sock], [], [], 0)[0]
    assert linked.ours.readable()
    assert linked.ours.recv(100, 0) == b"421 bye\r\n"


def test_TC37_a_ticket_that_arrives_late_is_no_data(config: TlsConfig, context: ssl.SSLContext) -> None:
    server = TlsServer(context, config)
    _wait_for_octets(server.ours)  # the two tickets of TLS 1.3, unread
    assert not server.ours.readable()
    with pytest.raises(TimeoutError):
        server.ours.recv(100, 0.02)
    server.theirs.sendall(b"250 ok\r\n")
    assert server.ours.recv(100, 5) == b"250 ok\r\n"
    server.close()


@pytest.mark.parametrize("notified", [True, False], ids=["close_notify", "bare FIN"])
@pytest.mark.parametrize("looked", [True, False], ids=["looked before", "not looked"])
def test_TC38_the_end_of_the_stream_is_an_end_with_and_without_close_notify(
    linked: TlsServer, notified: bool, looked: bool
) -> None:
    linked.theirs.sendall(b"221 bye\r\n")
    assert linked.ours.recv(100, 5) == b"221 bye\r\n"
    if notified:
        linked.theirs.settimeout(0)
        with contextlib.suppress(OSError):
            linked.theirs.unwrap()
    linked.raw.shutdown(socket.SHUT_WR)
    if looked:
        _wait_for_octets(linked.ours)
        assert linked.ours.readable()
    assert linked.ours.recv(100, 5) == b""
    assert linked.ours.recv(100, 5) == b""
    assert linked.ours.readable()


def test_TC38_an_end_that_was_read_is_told_again_though_the_socket_stays_open(linked: TlsServer) -> None:
    linked.theirs.settimeout(0)
    with contextlib.suppress(OSError):
        linked.theirs.unwrap()  # close_notify, and no FIN behind it
    assert linked.ours.recv(100, 5) == b""
    assert linked.ours.recv(100, 0) == b""
    assert linked.ours.readable()


@pytest.mark.parametrize("strict", [True, False], ids=["given context without the option", "built context"])
def test_TC38_a_bare_fin_is_an_end_whatever_the_context_ignores(
    trusted: Authority, context: ssl.SSLContext, config: TlsConfig, strict: bool
) -> None:
    if strict:
        given = ssl.create_default_context(cadata=trusted.root.pem.decode())
        given.options &= ~getattr(ssl, "OP_IGNORE_UNEXPECTED_EOF", 0)
        config = TlsConfig(context=given, server_name=HOST)
    server = TlsServer(context, config)
    server.raw.shutdown(socket.SHUT_WR)
    assert server.ours.recv(100, 5) == b""
    server.close()


@pytest.mark.parametrize("looked", [True, False], ids=["looked before", "not looked"])
def test_a_reset_under_tls_is_a_lost_connection_too(linked: TlsServer, looked: bool) -> None:
    linked.theirs.close()
    _reset(linked.raw)
    if looked:
        _wait_for_octets(linked.ours)
        assert linked.ours.readable()
    with pytest.raises(ConnectionResetError):
        linked.ours.recv(100, 5)
    assert linked.ours.readable()
    with pytest.raises(OSError, match=r"."):
        linked.ours.send(b"x", 5)


@pytest.mark.parametrize("looked", [True, False], ids=["looked before", "not looked"])
def test_garbage_under_tls_is_an_os_error_even_if_readable_met_it(linked: TlsServer, looked: bool) -> None:
    linked.raw.sendall(b"421 in clear\r\n")
    if looked:
        _wait_for_octets(linked.ours)
        assert linked.ours.readable()
        assert linked.ours.readable()
    for _ in range(2):
        with pytest.raises(ssl.SSLError):
            linked.ours.recv(100, 5)
    assert linked.ours.readable()


def test_a_dripping_record_gains_no_time(linked: TlsServer) -> None:
    stop = threading.Event()

    def drip() -> None:
        with contextlib.suppress(OSError):
            linked.raw.sendall(b"\x17\x03\x03\x3f\xff")
            while not stop.wait(0.001):
                linked.raw.sendall(b"\0")

    thread = threading.Thread(target=drip)
    thread.start()
    begin = time.monotonic()
    with pytest.raises(TimeoutError):
        linked.ours.recv(100, 0.1)
    assert 0.09 < elapsed(begin) < 2
    stop.set()
    thread.join(10)


# --- BR14: a write that failed under TLS ---


def _decrypted(server: TlsServer) -> int:
    received = 0
    with contextlib.suppress(ssl.SSLError):
        while octets := server.theirs.recv(65_536):
            received += len(octets)
    return received


@pytest.mark.parametrize("ending", ["close", "close_notify", "send again"])
def test_BR14_the_peer_can_decrypt_exactly_the_octets_that_were_counted(linked: TlsServer, ending: str) -> None:
    taken = _fill(linked.ours)
    assert taken > 0
    if ending == "close_notify":
        linked.ours.close_notify()
    elif ending == "send again":
        with pytest.raises(OSError, match="an earlier write failed"):
            linked.ours.send(b"QUIT\r\n", 5)
    linked.ours.close()
    assert _decrypted(linked) == taken


def test_BR16_after_a_failed_write_the_reply_can_still_be_read(linked: TlsServer) -> None:
    taken = _fill(linked.ours)
    linked.theirs.sendall(b"452 4.3.1 disk full\r\n")
    assert linked.ours.recv(100, 5) == b"452 4.3.1 disk full\r\n"
    linked.ours.close()
    assert _decrypted(linked) == taken


def test_a_send_under_tls_that_has_to_wait_goes_on_when_the_peer_reads(linked: TlsServer) -> None:
    total = 4_000_000
    received = 0

    def read_late() -> None:
        nonlocal received
        while received < total:
            received += len(linked.theirs.recv(65_536))

    thread = threading.Timer(0.05, read_late)
    thread.start()
    sent = 0
    while sent < total:
        sent += linked.ours.send(b"x" * min(16_384, total - sent), 10)
    thread.join(10)
    assert received == total


# --- F116, CL4: the end of a TLS connection ---


def test_F116_close_writes_nothing_and_close_notify_writes_one_alert(linked: TlsServer) -> None:
    linked.theirs.settimeout(5)
    linked.ours.close_notify()
    linked.ours.close_notify()
    with pytest.raises(OSError, match="ended"):
        linked.ours.send(b"in clear?\r\n", 5)
    with pytest.raises(OSError, match="ended"):
        linked.ours.recv(100, 5)
    linked.ours.close()
    alert = linked.raw.recv(65_536)
    assert alert[:1] == (b"\x15" if linked.theirs.version() == "TLSv1.2" else b"\x17")
    assert linked.raw.recv(65_536) == b""


def test_F116_close_notify_on_a_lost_connection_is_silent(linked: TlsServer) -> None:
    linked.raw.shutdown(socket.SHUT_RDWR)
    _wait_for_octets(linked.ours)
    linked.ours.close_notify()
    linked.ours.close()
    linked.ours.close_notify()


def test_BR14_close_under_tls_writes_not_even_close_notify(linked: TlsServer) -> None:
    linked.ours.close()
    linked.ours.close()
    assert linked.raw.recv(65_536) == b""
    with pytest.raises(OSError, match="closed"):
        linked.ours.send(b"x", 5)
    with pytest.raises(OSError, match="closed"):
        linked.ours.recv(100, 5)
    assert linked.ours.readable()


def test_CL4_abort_wakes_a_blocked_recv_under_tls_and_nothing_goes_out_in_clear(
    linked: TlsServer, waiting: str
) -> None:
    assert _woken_by_abort(linked.ours, lambda: linked.ours.recv(100, 30)) == [b""]
    assert linked.raw.recv(65_536) == b""
    with pytest.raises(OSError, match=r"."):
        linked.ours.send(b"MAIL in clear\r\n", 5)
    assert linked.raw.recv(65_536) == b""
    linked.ours.close()


def test_the_transports_satisfy_the_protocol(linked: TlsServer, pair: tuple[SocketTransport, socket.socket]) -> None:
    both: list[Transport] = [pair[0], linked.ours]
    assert [each.secure for each in both] == [False, True]
    assert [each.tls is None for each in both] == [True, False]


@pytest.mark.parametrize("line", ["self._gone = _REPLACED", "retry(wrapped.do_handshake"])
def test_KI_an_interrupt_behind_the_wrapping_leaves_no_socket_open(line: str, config: TlsConfig) -> None:
    """faults:A3/async-exc, A7/async-exc: the descriptor belongs to the TLS socket then, which nobody else knows."""
    source, first = inspect.getsourcelines(SocketTransport.start_tls)
    at = first + next(number for number, text in enumerate(source) if line in text)

    def trace(frame: types.FrameType, event: str, argument: object) -> Any:
        if frame.f_code is not SocketTransport.start_tls.__code__:
            return None
        if event == "line" and frame.f_lineno == at:
            sys.settrace(None)
            raise KeyboardInterrupt
        return trace

    ours, theirs = socket.socketpair()
    with theirs:
        transport = SocketTransport.over(ours, host="localhost")
        number = ours.fileno()
        before = sys.gettrace()
        try:
            sys.settrace(trace)
            with pytest.raises(KeyboardInterrupt):
                transport.start_tls(config, 1.0)
        finally:
            sys.settrace(before)
        transport.close()
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(number)
