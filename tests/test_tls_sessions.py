"""TLS 1.3 sessions that are resumed: for whom, how long, how often, and what happens when it goes wrong."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import socket
import ssl
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import pytest

from smtpconn import ConnectionPool, ScramAuth, SmtpConnection, TlsMode, tls_context
from smtpconn.finding.records import TlsaRecord
from smtpconn.finding.tlsa import TlsaDemand
from smtpconn.protocol.errors import CertificateError, TlsError
from smtpconn.resolve import SocketAddress
from smtpconn.testing import LoopbackServer, TestAuthority
from smtpconn.tls import TlsConfig, TlsInfo
from smtpconn.tls_sessions import LONGEST, TlsSessions
from smtpconn.transport import SocketTransport, TlsTransport

from .tls_authority import Authority, certify, server_context

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

HOST, OTHER = "mail.example.test", "other.example.test"
KEY = (HOST, "mail.example.test via 192.0.2.1:465")
LINE = b"250 ok\r\n"


# --- the store, with a clock of its own ---


class Clock:
    now = 1_000.0

    def __call__(self) -> float:
        return self.now


class Session:
    """What the store sees of an ssl.SSLSession."""

    has_ticket = True

    def __init__(self, hint: int = 7_200) -> None:
        self.ticket_lifetime_hint = hint


class Sock:
    """What a `Resumption` sees of an ssl.SSLSocket."""

    def __init__(self, gives: object = None, *, reused: bool = False, version: str = "TLSv1.3") -> None:
        self.offered: list[object] = []
        self.gives = gives
        self.session_reused = reused
        self._version = version

    def version(self) -> str:
        return self._version

    @property
    def session(self) -> object:
        if isinstance(self.gives, Exception):
            raise self.gives
        return self.gives

    @session.setter
    def session(self, session: object) -> None:
        self.offered.append(session)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def sessions(clock: Clock) -> TlsSessions:
    return TlsSessions(clock)


def connected(sessions: TlsSessions, session: object, *, reused: bool = False, key: tuple[str, str] = KEY) -> object:
    """One connection from its handshake to its second read: the session that it offered."""
    sock = Sock(session, reused=reused)
    part = sessions.begin(sock, key)
    assert part.agreed(sock)
    part.heard = True
    part.keep(sock)
    assert len(sock.offered) <= 1
    return sock.offered[0] if sock.offered else None


def kept(sessions: TlsSessions, key: tuple[str, str] = KEY) -> list[object]:
    """What is still to be had, newest first."""
    found = iter(lambda: sessions.take(key), None)
    return [ticket.session for ticket in found]


def test_a_ticket_is_offered_once_and_the_newest_first(sessions: TlsSessions) -> None:
    first, second, third = Session(), Session(), Session()
    assert connected(sessions, first) is None
    sessions.put(KEY, second, 1_000.0)
    assert connected(sessions, third) is second
    assert kept(sessions) == [third, first]
    assert kept(sessions) == []


class Age(NamedTuple):
    label: str
    hint: int
    later: float
    good: bool


AGES = [
    Age("at once", 7_200, 0.0, True),
    Age("just within the hour", 7_200, LONGEST - 1, True),
    Age("the hour is over", 7_200, LONGEST, False),
    Age("the ticket itself says less", 60, 59.0, True),
    Age("the time that the ticket gives itself is over", 60, 60.0, False),
    Age("a week is never honoured", 604_800, LONGEST, False),
    Age("a lifetime of zero means not at all (RFC 8446 section 4.6.1)", 0, 0.0, False),
]


@pytest.mark.parametrize("row", AGES, ids=[row.label for row in AGES])
def test_a_ticket_is_good_for_as_long_as_it_says_and_for_an_hour_at_most(
    row: Age, sessions: TlsSessions, clock: Clock
) -> None:
    session = Session(row.hint)
    connected(sessions, session)
    clock.now += row.later
    assert connected(sessions, None) is (session if row.good else None)


def test_resuming_again_and_again_does_not_put_off_the_next_look_at_the_certificate(
    sessions: TlsSessions, clock: Clock
) -> None:
    """The hour runs from the full handshake, not from the last one that was resumed."""
    connected(sessions, Session())
    for _ in range(5):
        clock.now += LONGEST / 6
        assert connected(sessions, Session(), reused=True) is not None
    clock.now += LONGEST / 6
    assert connected(sessions, Session()) is None, "an hour after the full handshake there is another one"
    clock.now += LONGEST - 1
    assert connected(sessions, None) is not None


@pytest.mark.skipif(not hasattr(time, "CLOCK_BOOTTIME"), reason="this system has no clock that counts its sleep")
def test_the_hour_goes_on_while_the_machine_sleeps(monkeypatch: pytest.MonkeyPatch) -> None:
    def told(number: int) -> float:
        if number == unknown:
            raise OSError("no such clock")
        return {time.CLOCK_BOOTTIME: 7.0, time.CLOCK_MONOTONIC: 3.0}[number]

    unknown = -1
    monkeypatch.setattr(time, "clock_gettime", told)
    assert TlsSessions().clock() == 7.0
    unknown = time.CLOCK_BOOTTIME
    assert TlsSessions().clock() == 3.0


def test_a_ticket_that_the_server_refused_begins_a_new_hour(sessions: TlsSessions, clock: Clock) -> None:
    connected(sessions, Session())
    clock.now += LONGEST - 1
    assert connected(sessions, Session(), reused=False) is not None
    clock.now += LONGEST - 1
    assert connected(sessions, None) is not None, "everything was verified in the handshake that did not resume"


def test_a_few_tickets_are_kept_for_a_server_and_no_session_is_copied_for_nothing(sessions: TlsSessions) -> None:
    given = [Session() for _ in range(4)]
    for session in given:
        sessions.put(KEY, session, 1_000.0)
    asked = Sock(AssertionError("asked for a session though there are enough"))
    part = sessions.begin(asked, ("elsewhere", KEY[1]))
    part._key = KEY
    part.keep(asked)
    for _ in range(1_000):
        sessions.put(KEY, Session(), 1_000.0)
    assert len(kept(sessions)) == 4


def test_the_least_used_servers_are_forgotten_first(sessions: TlsSessions) -> None:
    keys = [(HOST, str(number)) for number in range(33)]
    for key in keys[:32] * 2:
        sessions.put(key, Session(), 1_000.0)
    assert sessions.take(keys[0]) is not None
    sessions.put(keys[32], Session(), 1_000.0)
    assert sessions.take(keys[0]) is not None, "used a moment ago"
    assert sessions.take(keys[1]) is None
    assert sessions.take(keys[2]) is not None
    for number in range(5_000):
        sessions.bar((HOST, f"hostile {number}"))
        sessions.put((HOST, f"hostile {number}"), Session(), 1_000.0)
    assert len(sessions._barred) <= 32
    assert len(sessions._shelves) == 32


@pytest.mark.parametrize(
    "gives", [None, OSError("broken"), ValueError("broken"), type("NoTicket", (), {"has_ticket": False})()], ids=repr
)
def test_a_server_without_tickets_and_a_library_that_fails_are_no_trouble(gives: object, sessions: TlsSessions) -> None:
    assert connected(sessions, gives) is None
    assert kept(sessions) == []


def test_below_1_3_nothing_is_kept(sessions: TlsSessions) -> None:
    """The key of a TLS 1.2 ticket opens everything that was resumed with it: no forward secrecy."""
    sock = Sock(Session(), version="TLSv1.2")
    assert not sessions.begin(sock, KEY).agreed(sock)


def test_after_a_failure_with_a_ticket_no_ticket_is_offered_for_an_hour(sessions: TlsSessions, clock: Clock) -> None:
    for _ in range(3):
        sessions.put(KEY, Session(), 1_000.0)
    sessions.begin(Sock(), KEY).failed()
    for _ in range(3):
        assert connected(sessions, Session()) is None
        clock.now += LONGEST / 3 - 1
    clock.now += 3
    connected(sessions, Session())
    assert connected(sessions, None) is not None


def test_a_failure_without_a_ticket_says_nothing_of_tickets(sessions: TlsSessions) -> None:
    sock = Sock()
    first = sessions.begin(sock, KEY)
    sessions.put(KEY, Session(), 1_000.0)
    first.failed()
    second = sessions.begin(sock, KEY)
    second.heard = True
    second.failed()
    sessions.put(KEY, Session(), 1_000.0)
    assert len(kept(sessions)) == 1


@pytest.mark.parametrize("gives", [Session(), None], ids=["takes none back", "gives none"])
def test_a_server_with_which_it_is_never_worth_while_is_left_alone_for_an_hour(
    gives: object, sessions: TlsSessions, clock: Clock
) -> None:
    """Offering and copying a session takes as long as half of what a resumed handshake saves."""
    for _ in range(9):
        connected(sessions, gives, reused=False)
    asked = Sock(AssertionError("asked all the same"))
    part = sessions.begin(asked, KEY)
    assert part.agreed(asked)
    part.keep(asked)
    assert asked.offered == []
    clock.now += LONGEST
    connected(sessions, Session())
    assert connected(sessions, None) is not None


def test_a_server_that_takes_a_ticket_now_and_then_is_not_left_alone(sessions: TlsSessions) -> None:
    """A few behind one address, each with keys of its own."""
    connected(sessions, Session())
    for turn in range(100):
        assert connected(sessions, Session(), reused=turn % 7 == 0) is not None


def test_AK15_a_finaliser_that_closes_a_connection_waits_for_no_lock(sessions: TlsSessions) -> None:
    """The collector may run it in the very thread that has the lock."""
    sessions.put(KEY, Session(), 1_000.0)
    part = sessions.begin(Sock(), KEY)
    sessions.put(KEY, Session(), 1_000.0)
    with sessions._lock:
        other = threading.Thread(target=part.failed, daemon=True)
        other.start()
        other.join(10)
        assert not other.is_alive()
    assert kept(sessions) == []


def test_threads_get_each_ticket_once(sessions: TlsSessions) -> None:
    for _ in range(200):
        for _ in range(4):
            sessions.put(KEY, Session(), 1_000.0)
        with ThreadPoolExecutor(6) as threads:
            taken = [each for each in threads.map(lambda _: sessions.take(KEY), range(6)) if each is not None]
        assert len({id(each.session) for each in taken}) == len(taken) == 4


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_AK16_a_forked_child_has_no_ticket_of_its_parent_and_waits_for_none_of_its_threads() -> None:
    with TestAuthority() as own:
        _, sessions = tls_context.context_and_sessions(TlsConfig(trust=own.pem))
    assert sessions is not None
    sessions.put(KEY, Session(), sessions.clock())
    with sessions._lock:
        child = os.fork()
        if child == 0:  # nothing of pytest may run here
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(10)
            os._exit(0 if sessions.take(KEY) is None else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert len(kept(sessions)) == 1


# --- over the wire ---


class Server:
    """Serves TLS on one loopback port, a thread for each connection: `220`, then an answer for each line.

    `context` and `ends` may be replaced between connections; `ends` cuts the next one off: behind the ClientHello,
    behind the handshake, or never.
    """

    def __init__(self, context: ssl.SSLContext) -> None:
        self.context = context
        self.ends: Literal["at the hello", "behind the handshake", "hangs behind the handshake", ""] = ""
        self.turns: list[int] = []  # how often the server had to wait for the client, before the first line
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._threads: list[threading.Thread] = []
        self._acceptor = threading.Thread(target=self._accept, daemon=True)
        self._acceptor.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock = self._listener.accept()[0]
                sock.settimeout(10)
                thread = threading.Thread(target=self._serve, args=(sock, self.context, self.ends), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _serve(self, sock: socket.socket, context: ssl.SSLContext, ends: str) -> None:
        with sock, contextlib.suppress(OSError):
            if ends == "at the hello":
                sock.recv(65_536)
                return
            taken, given = ssl.MemoryBIO(), ssl.MemoryBIO()
            tls = context.wrap_bio(taken, given, server_side=True)
            turns = self._until(tls.do_handshake, sock, taken, given)
            if ends == "behind the handshake":
                return
            if ends:
                sock.recv(65_536)
                return
            sock.sendall(self._sealed(tls, b"220 ready\r\n", given))
            turns += self._until(lambda: tls.read(1_000), sock, taken, given)
            self.turns.append(turns)
            while True:
                sock.sendall(self._sealed(tls, LINE, given))
                self._until(lambda: tls.read(1_000), sock, taken, given)

    def _until(self, call: Callable[[], Any], sock: socket.socket, taken: ssl.MemoryBIO, given: ssl.MemoryBIO) -> int:
        """Call until it does not want to read; how often it had to."""
        turns = 0
        while not self._is_done(call):
            sock.sendall(given.read())
            octets = sock.recv(65_536)
            if not octets:
                raise ConnectionError
            turns += 1
            taken.write(octets)
        sock.sendall(given.read())
        return turns

    @staticmethod
    def _is_done(call: Callable[[], Any]) -> bool:
        try:
            call()
        except ssl.SSLWantReadError:
            return False
        return True

    @staticmethod
    def _sealed(tls: ssl.SSLObject, octets: bytes, given: ssl.MemoryBIO) -> bytes:
        tls.write(octets)
        return given.read()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in [self._acceptor, *self._threads]:
            thread.join(15)
            assert not thread.is_alive()


class World(NamedTuple):
    authority: Authority
    directory: Path
    server: Server
    config: TlsConfig

    def context(self, *names: str, issuer: str = "root", days: tuple[int, int] = (-2, 2)) -> ssl.SSLContext:
        """A new server context: another certificate, and other ticket keys."""
        leaf = certify("server", getattr(self.authority, issuer), names=names, days=days)
        return server_context(leaf.file(self.directory))

    def open(self, config: TlsConfig | None = None, *, port: int | None = None) -> TlsTransport:
        """Up to the end of the handshake."""
        address = SocketAddress(socket.AF_INET, ("127.0.0.1", port or self.server.port), HOST)
        return SocketTransport.connect(address, timeout=10).start_tls(config or self.config, 10)

    def visit(self, config: TlsConfig | None = None) -> bool:
        """A connection that says a line: whether it was resumed."""
        transport = self.open(config)
        try:
            talk(transport)
            assert transport.tls is not None
            return transport.tls.resumed
        finally:
            transport.close()


def talk(transport: TlsTransport) -> None:
    assert transport.recv(100, 10) == b"220 ready\r\n"
    assert transport.send(b"EHLO x\r\n", 10) == 8
    assert transport.recv(100, 10) == LINE


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """An authority of its own for each test: no context and no ticket is shared."""
    authority = Authority.new()
    leaf = certify("server", authority.root, names=(HOST, OTHER))
    server = Server(server_context(leaf.file(tmp_path)))
    yield World(authority, tmp_path, server, TlsConfig(trust=authority.root.pem))
    server.close()


def test_F112a_the_second_connection_resumes_and_has_the_same_certificate_and_version(world: World) -> None:
    found = []
    for _ in range(2):
        transport = world.open()
        talk(transport)
        assert transport.tls is not None
        found.append(transport.tls)
        transport.close()
    first, second = found
    assert (first.resumed, second.resumed) == (False, True)
    assert second.peer_certificate == first.peer_certificate != b""
    assert (second.version, second.server_name, second.verified_by) == ("TLSv1.3", HOST, "PKIX")


def test_a_resumed_handshake_takes_no_more_turns_than_a_full_one(world: World) -> None:
    assert [world.visit() for _ in range(3)] == [False, True, True]
    assert world.server.turns[0] > 0
    assert world.server.turns[1:] == world.server.turns[:1] * 2


def test_a_ticket_is_taken_while_the_connection_lives_and_not_at_its_end(world: World) -> None:
    """A pool grows while its first connections are busy."""
    living = []
    for _ in range(3):
        living.append(world.open())
        talk(living[-1])
    assert [each.tls is not None and each.tls.resumed for each in living] == [False, True, True]
    for each in living:
        each.close()


def test_AK10_TC33_a_session_is_never_offered_for_another_name_not_even_to_the_same_server(world: World) -> None:
    """OpenSSL does not look at the name again: a ticket offered for the wrong name would verify anything."""
    assert [world.visit() for _ in range(2)] == [False, True]
    other, wrong = (TlsConfig(trust=world.config.trust, server_name=name) for name in (OTHER, "wrong.example.test"))
    assert tls_context.ssl_context(other) is tls_context.ssl_context(world.config)
    assert world.visit(other) is False
    with pytest.raises(CertificateError):
        world.visit(wrong)
    assert world.visit() is True
    assert world.visit(other) is True
    with pytest.raises(CertificateError):
        world.visit(wrong)


def test_what_OpenSSL_does_with_the_wrong_name_is_why_the_name_is_in_the_key(world: World) -> None:
    context = tls_context.ssl_context(world.config)
    session = None
    for name in (HOST, "wrong.example.test"):
        with (
            socket.create_connection(("127.0.0.1", world.server.port), 10) as sock,
            context.wrap_socket(sock, server_hostname=name, session=session) as tls,
        ):
            assert tls.recv(100) == b"220 ready\r\n"
            session, resumed = tls.session, tls.session_reused
    assert resumed, "as soon as this is refused, the law may be looked at again"


def test_a_session_is_not_offered_at_another_address_or_port(world: World) -> None:
    assert world.visit() is False
    second = Server(world.server.context)
    try:
        transport = world.open(port=second.port)
        talk(transport)
        assert transport.tls is not None
        assert transport.tls.resumed is False
        transport.close()
    finally:
        second.close()


def test_AK10_a_server_that_cannot_open_the_ticket_is_verified_in_full_and_unnoticed(world: World) -> None:
    assert [world.visit() for _ in range(2)] == [False, True]
    world.server.context = world.context(HOST)
    assert [world.visit() for _ in range(2)] == [False, True]


@pytest.mark.parametrize(
    "bad",
    [
        {"names": ("evil.example.test",)},
        {"names": (HOST,), "issuer": "stranger"},
        {"names": (HOST,), "days": (-9, -2)},
    ],
    ids=["another name", "an unknown authority", "expired"],
)
def test_AK10_an_attacker_between_us_gains_nothing_by_our_ticket(bad: dict[str, Any], world: World) -> None:
    """He cannot open it, so he has to show a certificate; afterwards the true server is verified in full again."""
    true = world.server.context
    assert [world.visit() for _ in range(2)] == [False, True]
    world.server.context = world.context(*bad.pop("names"), **bad)
    for _ in range(2):
        with pytest.raises(CertificateError):
            world.visit()
    world.server.context = true
    assert world.visit() is False


def test_A3_a_handshake_that_fails_with_a_ticket_fails_once(world: World) -> None:
    """Something on the way that stumbles over tickets must not break every second connection."""
    living = [world.open() for _ in range(3)]
    for each in living:
        talk(each)  # three tickets are there
    world.server.ends = "at the hello"
    with pytest.raises(TlsError):
        world.visit()
    world.server.ends = ""
    assert [world.visit() for _ in range(4)] == [False] * 4
    for each in living:
        each.close()


@pytest.mark.parametrize("ends", ["behind the handshake", "hangs behind the handshake"])
def test_A3_a_server_that_takes_the_ticket_and_says_no_word_gets_no_other(
    ends: Literal["behind the handshake", "hangs behind the handshake"], world: World
) -> None:
    living = [world.open() for _ in range(3)]
    for each in living:
        talk(each)
    world.server.ends = ends
    transport = world.open()
    assert transport.tls is not None
    assert transport.tls.resumed
    if ends.startswith("hangs"):
        with pytest.raises(TimeoutError):
            transport.recv(100, 0.2)
    else:
        with contextlib.suppress(OSError):
            assert transport.recv(100, 10) == b""
    transport.close()
    world.server.ends = ""
    assert [world.visit() for _ in range(2)] == [False] * 2
    for each in living:
        each.close()


def test_TC42_a_context_of_the_callers_is_used_as_it_is(world: World) -> None:
    context = ssl.create_default_context(cadata=world.authority.root.pem.decode())
    config = TlsConfig(context=context)
    assert [world.visit(config) for _ in range(3)] == [False] * 3
    assert tls_context.context_and_sessions(config) == (context, None)


def test_OB20_with_TLSA_records_every_handshake_shows_its_chain(world: World) -> None:
    leaf = certify("server", world.authority.root, names=(HOST,))
    world.server.context = server_context(leaf.file(world.directory))
    config = TlsConfig(tlsa=TlsaDemand((TlsaRecord(3, 0, 0, leaf.der),), names=(HOST,)))
    assert [world.visit(config) for _ in range(2)] == [False] * 2
    both = TlsConfig(
        trust=world.config.trust, tlsa=TlsaDemand((TlsaRecord(3, 0, 0, leaf.der),), names=(HOST,), alone=False)
    )
    assert [world.visit() for _ in range(2)] == [False, True]
    assert [world.visit(both) for _ in range(2)] == [False] * 2, "the same context, and yet"


def test_below_1_3_every_handshake_is_a_full_one(world: World) -> None:
    world.server.context.maximum_version = ssl.TLSVersion.TLSv1_2
    assert [world.visit() for _ in range(3)] == [False] * 3


def test_TC34_a_trust_file_that_was_replaced_takes_its_sessions_along(world: World) -> None:
    path = world.directory / "roots.pem"
    path.write_bytes(world.authority.root.pem)
    config = TlsConfig(trust=path)
    assert [world.visit(config) for _ in range(2)] == [False, True]
    path.write_bytes(world.authority.stranger.pem + world.authority.root.pem)
    assert [world.visit(config) for _ in range(2)] == [False, True]
    path.write_bytes(world.authority.stranger.pem)
    with pytest.raises(CertificateError):
        world.visit(config)


def test_AK11_thousands_of_tickets_cost_one_and_none_is_no_trouble(world: World) -> None:
    world.server.context.num_tickets = 2_000
    assert [world.visit() for _ in range(2)] == [False, True]
    sessions = tls_context.context_and_sessions(world.config)[1]
    assert sessions is not None
    assert [len(shelf.tickets) for shelf in sessions._shelves.values()] == [1]
    world.server.context = world.context(HOST)
    world.server.context.num_tickets = 0
    assert [world.visit() for _ in range(3)] == [False] * 3


def test_SEC3_no_session_shows_in_a_repr_or_goes_into_a_pickle(world: World) -> None:
    transport = world.open()
    talk(transport)
    sessions = tls_context.context_and_sessions(world.config)[1]
    assert sessions is not None
    ticket = next(iter(sessions._shelves.values())).tickets[0]
    secret = ticket.session.id.hex()
    for each in (transport, sessions, ticket, transport._resumption, transport.tls, world.config):
        assert secret not in repr(each)
        assert "\\x" not in repr(each)
    assert pickle.loads(pickle.dumps(world.config)) == world.config  # noqa: S301 - our own octets
    for each in (sessions, ticket, transport._resumption):
        with pytest.raises(TypeError):
            pickle.dumps(each)
    transport.close()


def test_the_log_says_that_a_session_was_resumed(authority: TestAuthority, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG", "smtpconn")
    with LoopbackServer(tls="implicit", ca=authority) as server:
        for _ in range(2):
            config = TlsConfig(trust=authority.pem)
            SmtpConnection.connect(server.host, server.port, TlsMode.IMPLICIT, timeout=10, tls_config=config).close()
    said = [record.getMessage() for record in caplog.records if "TLS" in record.getMessage()]
    assert [text.endswith("resumed") for text in said] == [False, True]


# --- whole sessions ---


@pytest.fixture
def authority() -> Iterator[TestAuthority]:
    with TestAuthority() as made:
        yield made


@pytest.mark.parametrize("mode", ["implicit", "starttls"])
def test_a_pool_that_grows_resumes_what_its_first_connection_verified(
    mode: Literal["implicit", "starttls"], authority: TestAuthority
) -> None:
    with LoopbackServer(tls=mode, ca=authority, auth={"user": "pencil"}) as server:
        config = TlsConfig(trust=authority.pem)
        pool = ConnectionPool(
            server.host, server.port, TlsMode(mode), tls_config=config, credentials=("user", "pencil"), timeout=10
        )
        with pool, pool.connection() as first, pool.connection() as second:
            assert first.tls is not None
            assert second.tls is not None
            assert (first.tls.resumed, second.tls.resumed) == (False, True)
            assert first.tls.peer_certificate == second.tls.peer_certificate


def test_F44_E153_a_login_that_is_bound_to_the_certificate_does_not_rest_on_a_resumed_session(
    authority: TestAuthority,
) -> None:
    """A server whose certificate was replaced reckons with the new one, though it opens its old tickets still."""
    with LoopbackServer(tls="starttls", ca=authority, auth={"user": "pencil"}) as server:
        config = TlsConfig(trust=authority.pem)

        def login(binding: str | None) -> bool:
            with SmtpConnection.connect(
                server.host,
                server.port,
                TlsMode.STARTTLS,
                timeout=10,
                tls_config=config,
                credentials=ScramAuth("user", "pencil", channel_binding=binding),
            ) as connection:
                assert connection.tls is not None
                return connection.tls.resumed

        assert [login(None), login(None)] == [False, True]
        assert login("tls-server-end-point") is True  # this one was there before anybody asked for a binding
        renewed = authority.issue(("127.0.0.1", "localhost"))
        context = server._identity.context()
        context.load_cert_chain(renewed.path)
        server._identity._issued = renewed
        server.certificate = renewed
        server._identity._context = context  # the same ticket keys
        assert [login("tls-server-end-point") for _ in range(3)] == [False] * 3


def test_TC42_a_client_certificate_has_sessions_of_its_own(authority: TestAuthority) -> None:
    with LoopbackServer(tls="implicit", ca=authority, client_certificates="optional") as server:
        issued = authority.client_certificate("client.test")
        bare, with_certificate = (
            TlsConfig(trust=authority.pem, client_certificate=path) for path in (None, issued.path)
        )

        def visit(config: TlsConfig) -> tuple[bool, bytes | None]:
            with SmtpConnection.connect(
                server.host, server.port, TlsMode.IMPLICIT, timeout=10, tls_config=config
            ) as connection:
                assert connection.tls is not None
                resumed = connection.tls.resumed
            record = server.sessions[-1].tls
            assert record is not None
            return resumed, record.client_certificate

        assert [visit(bare), visit(bare)] == [(False, None), (True, None)]
        assert [visit(with_certificate), visit(with_certificate)] == [(False, issued.der), (True, issued.der)]
        assert visit(bare) == (True, None)


def test_F121_what_an_older_version_wrote_of_a_handshake_is_still_read() -> None:
    info = TlsInfo("TLSv1.3", "TLS_AES_256_GCM_SHA384", HOST, b"\x30\x00", resumed=True)
    assert TlsInfo.from_dict(info.to_dict()) == info
    older = info.to_dict()
    del older["resumed"], older["verified_by"]
    assert TlsInfo.from_dict(older) == TlsInfo("TLSv1.3", "TLS_AES_256_GCM_SHA384", HOST, b"\x30\x00")
