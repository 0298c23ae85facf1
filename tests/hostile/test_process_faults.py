"""Faults that come from the process and not from the network (faults.md section 7: NN1 to NN24).

The collector, forks, the interpreter's exit, leases and hooks have their tests beside what they strike; here is what
was left: interrupts, clocks, descriptors, memory, signals, policies, sources, storms, consumers that go away.
"""

from __future__ import annotations

import ast
import contextlib
import errno
import itertools
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import smtpconn
from smtpconn import (
    BoundedPolicy,
    ConnectError,
    ConnectionLostError,
    ConnectionPool,
    Delivery,
    InvalidInputError,
    Mail,
    Pipelining,
    PolicyError,
    ServiceUnavailableError,
    SmtpConnection,
    SmtpError,
    SmtpTimeoutError,
    TlsMode,
    attempt_of,
)
from smtpconn.deadline import Budget
from smtpconn.testing import LoopbackServer, ScriptedTransport

from ..pool.fakes import ENVELOPE, Clock, FakeServer, pool_of, unavailable
from ..test_feature_rows import BYE, GREETING, OK, SENT, after_hello, hello, over
from .subjects import BODY, MAIL, ONE, SENDER, Lines, connection_over, pool_over

ND, UN = Delivery.NOT_DELIVERED, Delivery.UNKNOWN


def send(connection: Any, message: Any = BODY, **options: Any) -> Any:
    return connection.send(SENDER, [ONE], message, timeout=5, **options)


# --- NN6, NN13: the holder of the lock is interrupted -----------------------------------------------------------------


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, MemoryError, GeneratorExit])
def test_NN6_NN13_who_waits_for_an_interrupted_call_gets_the_lock_and_a_dead_connection(
    kind: type[BaseException],
) -> None:
    """faults:BR25: the lock is released, and no waiter waits for ever."""
    inside, go = threading.Event(), threading.Event()
    connection, transport = over()

    class Interrupted:
        def __getattr__(self, name: str) -> Any:
            return getattr(transport, name)

        def recv(self, limit: int, timeout: float | None) -> bytes:
            inside.set()
            assert go.wait(10)
            raise kind

    connection._driver.transport = Interrupted()
    caught: dict[str, BaseException] = {}

    def call(name: str, verb: Any) -> None:
        try:
            verb()
        except BaseException as error:
            caught[name] = error

    holder = threading.Thread(target=call, args=("holder", lambda: send(connection)))
    waiter = threading.Thread(target=call, args=("waiter", lambda: connection.noop(timeout=10)))
    holder.start()
    assert inside.wait(10)
    waiter.start()
    go.set()
    holder.join(10)
    waiter.join(10)
    assert type(caught["holder"]) is kind
    verdict = attempt_of(caught["holder"])
    assert verdict is not None
    assert verdict.delivery is ND
    assert type(caught["waiter"]) is ConnectionLostError
    assert transport.closed
    assert after_hello(transport).count(b"NOOP") == 0


# --- NN10: the clock of the wall --------------------------------------------------------------------------------------


def test_NN10_no_line_of_the_library_asks_the_clock_of_the_wall() -> None:
    """What a test server writes into its mails' headers is no deadline, nor is the moment in a claim, for people."""
    package = Path(smtpconn.__file__).parent
    asked = []
    for module in package.rglob("*.py"):
        if "testing" in module.parts or "cli" in module.parts:
            continue
        for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                name = f"{node.value.id}.{node.attr}"
                if name in ("time.time", "time.time_ns", "datetime.now", "datetime.utcnow", "time.localtime"):
                    asked.append(f"{module.relative_to(package).as_posix()}: {name}")
    assert asked == ["contrib/claims.py: time.time"]


@pytest.mark.parametrize("leap", [86_400.0, -86_400.0])
def test_NN10_a_leap_of_a_day_expires_nothing_and_extends_nothing(leap: float, monkeypatch: pytest.MonkeyPatch) -> None:
    real, leaps = time.time, itertools.count()
    monkeypatch.setattr(time, "time", lambda: real() + leap * (next(leaps) % 2))

    class Patient(Lines):
        def transport(self) -> ScriptedTransport:
            self.opened.append(ScriptedTransport([GREETING, hello("PIPELINING"), *[SENT, OK] * 3, BYE]))
            return self.opened[-1]

    lines = Patient()
    with pool_over(lines, max_idle=5.0, max_age=10.0) as pool:
        assert [send(pool).all_delivered for _ in range(3)] == [True] * 3
        assert len(lines.opened) == 1


# --- NN12: descriptors and buffers ------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM])
def test_NN12_without_a_descriptor_no_connection_and_no_slot_lost(
    number: int, server: LoopbackServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pool recovers when the resource is back; the error is no `ResolveError`, and safe to repeat."""
    with ConnectionPool("127.0.0.1", server.port, TlsMode.NONE, timeout=5, max_size=1) as pool:
        with monkeypatch.context() as patched:
            patched.setattr(socket, "socket", lambda *_, **__: (_ for _ in ()).throw(OSError(number, "none left")))
            with pytest.raises(ConnectError) as caught:
                send(pool)
        assert (caught.value.delivery, caught.value.retry_safe) == (ND, True)
        assert pool.stats().opening == 0
        pool.invalidate()  # forgets the back-off
        assert send(pool).all_delivered
        assert pool.stats().opened == 1


@pytest.mark.parametrize("number", [errno.ENOBUFS, errno.ENOMEM])
def test_NN12_a_write_that_the_kernel_has_no_room_for_is_a_lost_connection(number: int) -> None:
    transport = ScriptedTransport(
        [GREETING, hello("PIPELINING")], accept=30, then=OSError(number, "no room"), when_dry="silence"
    )
    connection = SmtpConnection.from_transport(
        transport, tls_mode=TlsMode.NONE, timeout=5, ehlo_domain="client.test"
    )
    with pytest.raises(ConnectionLostError) as caught:
        send(connection)
    assert caught.value.delivery is ND
    assert transport.closed


# --- NN14: signals ----------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="no signals for a thread here")
def test_NN14_signals_that_are_handled_change_nothing_and_do_not_restart_the_deadline(server: LoopbackServer) -> None:
    """PEP 475: a storm of them, every 2 ms, while mails are sent and while a server is silent."""
    struck = 0
    over_with, me = threading.Event(), threading.get_ident()

    def strike(number: int, frame: object) -> None:
        nonlocal struck
        struck += 1

    def storm() -> None:
        while not over_with.wait(0.002):
            signal.pthread_kill(me, signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, strike)
    thread = threading.Thread(target=storm)
    thread.start()
    try:
        with SmtpConnection.connect("127.0.0.1", server.port, TlsMode.NONE, timeout=20) as connection:
            for _ in range(20):
                assert connection.send(SENDER, [ONE], BODY * 2_000, timeout=20).all_delivered
            server.fault("NOOP", "silence")
            began = time.monotonic()
            with pytest.raises(SmtpTimeoutError):
                connection.noop(timeout=0.3)
            assert 0.29 <= time.monotonic() - began < 5
    finally:
        over_with.set()
        thread.join()
        signal.signal(signal.SIGUSR1, before)
    assert struck > 10
    assert server.received == 20


# --- NN17: policies ---------------------------------------------------------------------------------------------------


class Policy:
    """Raises at one of its questions."""

    def __init__(self, question: str, error: Exception) -> None:
        self._question, self._error = question, error

    def _ask(self, question: str) -> None:
        if question == self._question:
            raise self._error

    def check_sender(self, sender: object) -> None:
        self._ask("sender")

    def check_recipients(self, recipients: object) -> None:
        self._ask("recipients")

    def check_message_size(self, size: int | None) -> None:
        self._ask("size")


@pytest.mark.parametrize("error", [PolicyError("no"), LookupError("the database is away")], ids=["no", "raises"])
@pytest.mark.parametrize("question", ["sender", "recipients", "size"])
def test_NN17_a_policy_that_refuses_or_fails_lets_nothing_out(question: str, error: Exception) -> None:
    """features:F98-F100: fail closed; a foreign exception is the cause."""
    connection, transport = over(OK, policy=Policy(question, error))
    with pytest.raises(PolicyError) as caught:
        send(connection)
    assert caught.value.__cause__ is (error if isinstance(error, LookupError) else None)
    assert [entry.delivery for entry in caught.value.recipients] == [ND]
    assert after_hello(transport) == b""
    connection.noop(timeout=5)
    connection.close()


@pytest.mark.parametrize("chunking", [False, True], ids=["DATA", "BDAT"])
def test_NN17_a_policy_that_refuses_a_slice_of_a_stream_ends_it_uncommitted(chunking: bool) -> None:
    """faults:BR19: DATA closes, BDAT goes on after RSET."""
    connection, transport = over(
        SENT if not chunking else OK + OK, OK, OK, extensions=("PIPELINING", "CHUNKING"),
        policy=BoundedPolicy(max_message_bytes=40), dry="eof",
    )  # fmt: skip
    verb = connection.send_bdat if chunking else connection.send
    with pytest.raises(PolicyError) as caught:
        verb(SENDER, [ONE], iter([BODY, BODY]), timeout=5)
    assert [entry.delivery for entry in caught.value.recipients] == [ND]
    assert not transport.written.endswith(b"\r\n.\r\n")
    assert b"LAST" not in transport.written
    assert transport.closed is not chunking
    connection.close()


# --- NN19: the source of a body ---------------------------------------------------------------------------------------


class VaultError(Exception):
    pass


def raising() -> Iterator[bytes]:
    yield BODY
    raise VaultError("the disk is away")


SOURCES: dict[str, tuple[Any, type[BaseException]]] = {
    "raises": (raising, VaultError),
    "str": (lambda: iter([BODY, "text"]), TypeError),
    "None": (lambda: iter([BODY, None]), TypeError),
    "int": (lambda: iter([BODY, 5]), TypeError),
    "a bare LF": (lambda: iter([BODY, b"a\nb"]), InvalidInputError),
    "a CR that splits from its LF by the end": (lambda: iter([BODY, b"a\r"]), InvalidInputError),
    "NUL": (lambda: iter([BODY, b"\0"]), InvalidInputError),
}


@pytest.mark.parametrize("chunking", [False, True], ids=["DATA", "BDAT"])
@pytest.mark.parametrize("name", SOURCES)
def test_NN19_BR19_a_source_that_fails_commits_nothing(name: str, chunking: bool) -> None:
    make, error = SOURCES[name]
    replies = [OK + OK, OK, OK + OK + OK, OK] if chunking else [SENT]
    connection, transport = over(*replies, extensions=("PIPELINING", "CHUNKING"), dry="eof")
    verb = connection.send_bdat if chunking else connection.send
    with pytest.raises(error) as caught:
        verb(SENDER, [ONE], make(), timeout=5)
    verdict = attempt_of(caught.value) if not isinstance(caught.value, SmtpError) else caught.value
    assert verdict is not None
    assert verdict.delivery is ND
    assert not transport.written.endswith(b"\r\n.\r\n")
    assert b"LAST" not in transport.written
    assert transport.closed is not chunking
    assert connection.usable is chunking
    connection.close()


def test_NN19_empty_pieces_are_skipped_and_every_bytes_like_piece_is_taken() -> None:
    lines = Lines()
    connection = connection_over(lines)
    pieces = [b"", BODY[:5], bytearray(), bytearray(BODY[5:9]), memoryview(BODY)[9:], b""]
    assert send(connection, iter(pieces), size=len(BODY)).all_delivered
    assert lines.told == MAIL
    connection.close()


def test_NN19_the_time_that_a_source_takes_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    connection, transport = over(SENT, dry="silence")
    clock = transport.clock

    class Clocked(Budget):
        @classmethod
        def of(cls, timeout: Any, *_: object, **__: object) -> Budget:
            return Budget.of(timeout, clock)

    def slow() -> Iterator[bytes]:
        yield BODY
        clock.advance(10.0)
        yield BODY

    monkeypatch.setattr("smtpconn.outcomes.Budget", Clocked)
    with pytest.raises(SmtpTimeoutError) as caught:
        send(connection, slow())
    assert caught.value.delivery is ND
    assert not transport.written.endswith(b"\r\n.\r\n")
    assert transport.closed


# --- NN21: a storm of 421 ---------------------------------------------------------------------------------------------


def test_NN21_a_storm_of_421_costs_a_discard_for_each_connection_and_few_connects() -> None:
    """Four idle connections are told to go, then 421 is the greeting for a minute; a mail is tried each second."""
    server, clock = FakeServer(), Clock()
    pool = pool_of(server, clock, max_size=4, acquire_timeout=0.5)
    leases = [pool.connection() for _ in range(4)]
    with contextlib.ExitStack() as stack:
        for lease in leases:
            stack.enter_context(lease)
    assert pool.stats().idle == 4
    for connection in server.connections:
        connection.script = [unavailable()]
    server.script = [unavailable("greeting") for _ in range(500)]
    failures: list[SmtpError] = []
    for _ in range(60):
        with contextlib.suppress(SmtpError):
            try:
                pool.send(*ENVELOPE)
            except SmtpError as error:
                failures.append(error)
                raise
        clock.now += 1.0
    assert len(failures) == 60
    assert all(error.delivery is ND for error in failures)
    assert any(isinstance(error, ServiceUnavailableError) for error in failures)
    stats = pool.stats()
    assert (stats.leased, stats.opening, stats.waiting) == (0, 0, 0)
    assert sum(connection.closed for connection in server.connections[:4]) == 4
    assert 4 < len(server.opened_to) <= 4 + 30, "connects per second"
    server.script.clear()
    clock.now += 120.0
    assert pool.send(*ENVELOPE).all_delivered
    pool.close()


# --- NN22: the consumer goes away -------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["close", "del", "raise"])
@pytest.mark.parametrize("level", [Pipelining.GROUPED, Pipelining.PREFETCH])
def test_NN22_PF9_a_batch_that_is_abandoned_delivers_no_empty_message(level: Pipelining, end: str) -> None:
    """An open 354 is left by closing, never by a dot; where nothing is open the connection serves on."""
    flight = OK + OK + SENT if level is Pipelining.PREFETCH else OK
    connection, transport = over(SENT, flight, OK, OK, pipelining=level, dry="eof")
    mails = [Mail(SENDER, [ONE], BODY) for _ in range(3)]
    outcomes = connection.send_many(mails, timeout=5)
    assert next(outcomes).delivery is Delivery.DELIVERED
    if end == "close":
        outcomes.close()
    elif end == "raise":
        with pytest.raises(VaultError), outcomes:
            raise VaultError
    del outcomes
    assert transport.written.count(b"\r\n.\r\n") == 1
    assert transport.closed is (level is Pipelining.PREFETCH)
    assert connection.usable is (level is Pipelining.GROUPED)
    if connection.usable:
        connection.noop(timeout=5)
    connection.close()


def test_NN22_a_batch_of_a_pool_that_is_abandoned_gives_its_connection_back() -> None:
    lines = Lines()
    with pool_over(lines, max_size=1) as pool:
        outcomes = pool.send_many([Mail(SENDER, [ONE], BODY)] * 5, timeout=5, concurrency=1)
        assert next(outcomes).delivery is Delivery.DELIVERED
        outcomes.close()
        stats = pool.stats()
        assert (stats.leased, stats.idle + len([made for made in lines.opened if made.closed])) == (0, 1)
        assert lines.told == MAIL
