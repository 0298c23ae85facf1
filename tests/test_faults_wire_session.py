"""faults 3, stages A1 to A9, C1 to C4 and D1 to D3: faults around the mails of a pool, over sockets.

Each cell of `faults.tsv` at these stages, in every shape that the server can give it, x {SMTP, LMTP} x {plain, TLS}
where that has a meaning. Each run asserts class, stage and `permanent` of the error, that nobody has the mail (or that
the masked fault changed nothing), the counters of the pool, that the slot is there for the next mail, that nothing is
written in clear that should not be, no thread and descriptor more than before, and the deadline.

An interrupt is SIGINT, sent to this thread once the server has come to the stage and keeps silent.
"""

from __future__ import annotations

import contextlib
import itertools
import signal
import socket
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import pytest

from smtpconn import (
    AuthenticationError,
    CertificateError,
    ConnectError,
    ConnectionLostError,
    ConnectionPool,
    Delivery,
    PermanentReplyError,
    PoolClosedError,
    PoolTimeoutError,
    ProtocolError,
    ResolveError,
    ServiceUnavailableError,
    SmtpError,
    SmtpTimeoutError,
    StartTlsInjectionError,
    Timeouts,
    TlsConfig,
    TlsError,
    TlsMode,
    TransientReplyError,
    attempt_of,
)
from smtpconn.testing import LoopbackServer, TestAuthority
from smtpconn.transport import Transport

from .cell_report import CELLS, cells
from .tampering import Plan, Tampered, tampered_pool
from .thoroughness import share
from .wire_faults import DEADLINE, PATIENCE, SLACK, nothing_left

ND, DL = Delivery.NOT_DELIVERED, Delivery.DELIVERED
Tls = Literal["implicit", "starttls"]
MODES = {None: TlsMode.NONE, "implicit": TlsMode.IMPLICIT, "starttls": TlsMode.STARTTLS}
CODES = {(stage.split(" ")[0], fault): code for stage, fault, code in cells()}
SENDER, RECIPIENTS, BODY = "s@client.test", ["a@x.test", "b@x.test"], b"X-Id: one\r\n\r\nx\r\n"
SHAPES = {
    "421": ["421", "221 bye"],
    "4yz": ["4yz", "450-a\r\n450 b"],
    "cut-reply": ["cut-reply", "cut-reply-RST"],
    "EOF": ["EOF", "EOF-ragged"],
}
HANDSHAKE_SHAPES = {"malformed": ["malformed", "alert"]}
TRIES = 4  # as in `wire_faults`: a time-out in front of the fault is no run of its cell


@dataclass(frozen=True)
class Session:
    """A cell of the opening in one setting. `shape`: what the server is told to do."""

    stage: str
    fault: str
    shape: str
    protocol: Literal["smtp", "lmtp"] = "smtp"
    tls: Tls | None = None

    @property
    def code(self) -> str:
        return CODES[self.stage, self.fault]

    @property
    def id(self) -> str:
        shape = self.shape[:3] if " " in self.shape else self.shape
        return f"faults:{self.stage}-{self.fault}={self.code}-{shape}-{self.protocol}-{self.tls or 'plain'}"

    @property
    def verb(self) -> str:
        """The server's name of the stage."""
        return {"A3": "tls", "A4": "greeting", "A6": "STARTTLS", "A7": "tls", "A9": "AUTH"}.get(self.stage, "EHLO")

    @property
    def names(self) -> set[str]:
        """What `stage` of the error may be."""
        hello = "LHLO" if self.protocol == "lmtp" else "EHLO"
        said = {self.stage: self.verb, "A5": hello, "A8": hello, "A9": "AUTH PLAIN"}[self.stage]
        if self.fault == "surplus":  # found in front of the next command
            return {said, "EHLO", "LHLO", "MAIL"}
        return {said}


def sessions() -> Iterator[Session]:
    settings: dict[str, list[Tls | None]] = {
        "A3": ["implicit"],
        "A4": [None, "implicit"],
        "A5": [None, "implicit"],
        "A6": ["starttls"],
        "A7": ["starttls"],
        "A8": ["starttls"],
        "A9": [None, "implicit", "starttls"],
    }
    protocols: tuple[Literal["smtp", "lmtp"], ...] = ("smtp", "lmtp")
    for stage, modes in settings.items():
        for fault in (fault for of, fault in CODES if of == stage):
            shapes = (HANDSHAKE_SHAPES if stage in ("A3", "A7") else SHAPES).get(fault, [fault])
            if stage == "A5" and fault == "5yz":
                shapes = ["5yz", "502 no"]
            for shape in shapes:
                for tls in modes:
                    for protocol in protocols:
                        if stage == "A9" and protocol == "lmtp":
                            continue
                        yield Session(stage, fault, shape, protocol, tls)


def _by_cell(everything: Iterable[Session]) -> list[list[Session]]:
    found: dict[tuple[str, str], list[Session]] = defaultdict(list)
    for session in everything:
        found[session.stage, session.fault].append(session)
    return list(found.values())


ALL = list(sessions())
PLAYED = [each for place, of_cell in enumerate(_by_cell(ALL)) for each in share(of_cell, 4, place)]


def test_every_cell_of_the_opening_is_played() -> None:
    assert {(each.stage, each.fault) for each in PLAYED} == {
        cell for cell in CODES if cell[0] in {"A3", "A4", "A5", "A6", "A7", "A8", "A9"}
    }


# --- the opening ---


class Deaf(Tampered):
    """The handshake cannot write."""

    def start_tls(self, config: TlsConfig, timeout: float | None) -> Transport:
        if not self._plan.struck:
            self._plan.strikes()
            self._inner._sock.shutdown(socket.SHUT_WR)
        return super().start_tls(config, timeout)


@contextlib.contextmanager
def interrupted_when(met: Callable[[], bool]) -> Iterator[None]:
    """SIGINT to this thread as soon as `met` says so.

    Again after a second: a signal that strikes just before the system call waits for the call's end.
    """
    over, target = threading.Event(), threading.main_thread().ident
    assert target == threading.get_ident()

    def watch() -> None:
        while not over.wait(0.001):
            if met():
                signal.pthread_kill(target, signal.SIGINT)
                over.wait(1)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


def pool_for(server: LoopbackServer, kind: type[ConnectionPool] = ConnectionPool, **options: Any) -> ConnectionPool:
    options = {"timeout": PATIENCE, "max_size": 1, "protocol": server.protocol, "ehlo_domain": "client.test", **options}
    if server.tls and server.ca is not None:
        options["tls_config"] = TlsConfig(trust=server.ca.pem, server_name="localhost")
    return kind(server.host, server.port, MODES[server.tls], **options)


def _plan_of(case: Session) -> Plan | None:
    if case.fault != "write-fail":
        return None
    hello = len("EHLO client.test\r\n")
    in_front = {"A5": 0, "A6": hello, "A8": hello + len("STARTTLS\r\n"), "A9": hello}.get(case.stage, 0)
    if case.stage == "A9" and case.tls == "starttls":
        in_front = 2 * hello + len("STARTTLS\r\n")
    plan = Plan(in_front + 3, BrokenPipeError(32, "gone"), False)
    plan.armed = case.stage not in ("A3", "A7")  # there the handshake itself cannot write
    return plan


@pytest.mark.parametrize("case", PLAYED, ids=lambda case: case.id)
def test_a_fault_while_a_session_opens(case: Session, authority: TestAuthority) -> None:
    deadline = DEADLINE if case.fault in ("silence", "drip") else PATIENCE
    with CELLS.run(case.stage, case.fault):
        for number in range(1, TRIES + 1):
            with nothing_left():
                if _opened_into(case, authority, deadline, last=number == TRIES):
                    return
            deadline *= 2


def _opened_into(case: Session, authority: TestAuthority, deadline: float, *, last: bool) -> bool:
    """False if the run proves nothing and may be repeated."""
    plan = _plan_of(case)
    options: dict[str, Any] = {"auth": {"u": "secret"}} if case.stage == "A9" else {}
    with LoopbackServer(protocol=case.protocol, tls=case.tls, ca=authority if case.tls else None, **options) as server:
        keywords: dict[str, Any] = {"credentials": ("u", "secret"), "allow_plaintext_auth": True} if options else {}
        if options:
            server.mechanisms = ["PLAIN"]
        wrapping = Deaf if case.stage in ("A3", "A7") else Tampered
        kind = ConnectionPool if plan is None else tampered_pool(plan, wrapping)
        with pool_for(server, kind, **keywords) as pool:
            rule = _rule(server, case)
            began = time.perf_counter()
            error = _sent(pool, deadline, (lambda: _is_silent(server, rule)) if case.fault == "async-exc" else None)
            took = time.perf_counter() - began
            met = plan.struck if plan is not None else rule.applied > 0
            if not last and (not met or took > deadline + SLACK):
                return False
            assert met
            assert took <= deadline + SLACK
            _judge(case, pool, server, error)
            server.clear_rules()
            server.mechanisms = None
            pool.invalidate()
            assert pool.send(SENDER, RECIPIENTS, BODY).all_delivered
            assert server.violations == []
        end = pool.stats()
        assert (end.leased, end.idle, end.opening, end.waiting) == (0, 0, 0, 0)
        assert end.opened == sum(end.retired.values())
    return True


def _is_silent(server: LoopbackServer, rule: Any) -> bool:
    """The server has come to the stage; at `tls` it has read the ClientHello: the client is in its handshake."""
    if not rule.applied or rule.stage != "tls":
        return bool(rule.applied)
    return any(frame.f_code.co_name == "drain" for frame in sys._current_frames().values())


def _rule(server: LoopbackServer, case: Session) -> Any:
    nth = 2 if case.stage == "A8" else 1
    if case.fault == "write-fail":
        return None
    if case.fault == "async-exc":
        return server.fault(case.verb, "silence", nth)
    if " " in case.shape:
        return server.reply(case.verb, case.shape, nth, close=case.fault == "421")
    return server.fault(case.verb, case.shape, nth)


def _sent(pool: ConnectionPool, deadline: float, interrupt: Callable[[], bool] | None) -> BaseException | None:
    with interrupted_when(interrupt) if interrupt else contextlib.nullcontext():
        try:
            pool.send(SENDER, RECIPIENTS, BODY, timeout=deadline)
        except (SmtpError, KeyboardInterrupt) as error:
            return error
    return None


CLASSES: dict[str, tuple[type[SmtpError], bool | None]] = {
    "DX": (ConnectionLostError, None),
    "TX": (SmtpTimeoutError, None),
    "TL": (TlsError, None),
    "SX": (ServiceUnavailableError, False),
    "PX": (ProtocolError, None),
    "G4": (TransientReplyError, False),
    "G5": (PermanentReplyError, True),
    "H5": (PermanentReplyError, True),
    "TI": (StartTlsInjectionError, None),
    "AT": (AuthenticationError, False),
    "AP": (AuthenticationError, True),
    "AC": (ProtocolError, None),
}


def _judge(case: Session, pool: ConnectionPool, server: LoopbackServer, error: BaseException | None) -> None:
    stats = pool.stats()
    if case.code == "H5" and case.shape == "502 no" and case.protocol == "smtp":
        assert error is None
        assert server.ledger.count("one", "a@x.test") == 1
        assert "HELO" in server.sessions[0].commands
        server.clear()
        return
    assert server.ledger.counts() == {}
    if case.code == "KI":
        assert type(error) is KeyboardInterrupt
        attempt = attempt_of(error)
        assert attempt is not None
        assert [entry.delivery for entry in attempt.recipients] == [ND, ND]
        assert stats.not_delivered == 2
    else:
        _judge_error(case, stats, error)
    late = case.fault == "surplus" and case.stage in ("A5", "A8")
    assert (stats.idle, stats.leased, stats.opening, stats.waiting) == (0, 0, 0, 0)
    assert stats.opened == sum(stats.retired.values()) == int(late)
    for session in server.sessions:
        clear = session.commands if case.tls and session.tls is None else []
        assert set(clear) <= {"EHLO", "LHLO", "STARTTLS", "QUIT"}


def _judge_error(case: Session, stats: Any, error: BaseException | None) -> None:
    cls, permanent = CLASSES["G4" if case.code == "TS" else case.code]
    late = case.fault == "surplus" and case.stage in ("A5", "A8")
    if case.code == "TS":
        cls, permanent = TlsError, case.fault != "4yz"
    if case.stage == "A4" and case.tls is None and "RST" in case.shape and isinstance(error, ConnectError):
        assert error.stage == "connect"  # the reset came while the connect was waited for: cell A2/RST
    else:
        assert type(error) is cls
        assert isinstance(error, SmtpError)
        assert error.stage in case.names
    assert (error.delivery, error.retry_safe) == (ND, True)
    assert [entry.delivery for entry in error.recipients] == [ND, ND]
    assert permanent is None or error.permanent is permanent
    assert (error.reply is not None) or case.code not in ("SX", "G4", "G5", "TS", "AT", "AP")
    assert "secret" not in str(error)
    assert stats.not_delivered == 2
    if not late:
        assert stats.open_errors == 1
    assert stats.protocol_errors == (case.code in ("PX", "AC"))
    assert stats.starttls_injections == (case.code == "TI")
    assert stats.breaker_trips == (case.code == "AP")
    # A time-out as short as these says nothing of the endpoint; and a refused login has the breaker.
    assert stats.backoffs == (case.code not in ("TX", "AP") and not late)


# --- A1: the resolver ---

_GAI = socket.gaierror
RESOLVED: list[tuple[str, Any, type[SmtpError], bool | None]] = [
    ("refused", _GAI(socket.EAI_AGAIN, "no server could be reached"), ResolveError, False),
    ("4yz", _GAI(socket.EAI_AGAIN, "SERVFAIL"), ResolveError, False),
    ("5yz", _GAI(socket.EAI_NONAME, "NXDOMAIN"), ResolveError, True),
    ("malformed", _GAI(socket.EAI_FAIL, "a bad packet"), ResolveError, False),
    ("silence", "hangs", SmtpTimeoutError, None),
    ("drip", "hangs", SmtpTimeoutError, None),
]


@pytest.mark.parametrize(("fault", "answer", "cls", "permanent"), RESOLVED, ids=[row[0] for row in RESOLVED])
def test_faults_A1_the_name_is_not_resolved(
    fault: str, answer: Any, cls: type[SmtpError], permanent: bool | None, server: LoopbackServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    real, over = socket.getaddrinfo, threading.Event()

    def resolver(host: str, *arguments: Any, **keywords: Any) -> Any:
        if answer == "hangs":
            over.wait(PATIENCE)
        elif over.is_set():
            return real("127.0.0.1", *arguments, **keywords)
        else:
            raise answer
        return real("127.0.0.1", *arguments, **keywords)

    monkeypatch.setattr(socket, "getaddrinfo", resolver)
    deadline = DEADLINE if answer == "hangs" else PATIENCE
    with CELLS.run("A1", fault), ConnectionPool("mail.test", server.port, TlsMode.NONE, max_size=1, timeout=5) as pool:
        began = time.perf_counter()
        error = _sent(pool, deadline, None)
        took = time.perf_counter() - began
        assert type(error) is cls
        assert isinstance(error, SmtpError)
        assert (error.stage, error.permanent, error.retry_safe) == ("resolve", permanent, True)
        assert [entry.delivery for entry in error.recipients] == [ND, ND]
        assert took <= deadline + SLACK
        stats = pool.stats()
        assert (stats.opened, stats.open_errors, stats.backoffs, stats.opening, stats.leased) == (
            0, 1, int(answer != "hangs"), 0, 0
        )  # fmt: skip
        over.set()
        pool.invalidate()
        assert pool.send(SENDER, RECIPIENTS, BODY).all_delivered


def test_faults_A1_async_exc_KI(server: LoopbackServer, monkeypatch: pytest.MonkeyPatch) -> None:
    real, over, asked = socket.getaddrinfo, threading.Event(), threading.Event()

    def resolver(host: str, *arguments: Any, **keywords: Any) -> Any:
        asked.set()
        over.wait(PATIENCE)
        return real("127.0.0.1", *arguments, **keywords)

    monkeypatch.setattr(socket, "getaddrinfo", resolver)
    with CELLS.run("A1", "async-exc"), ConnectionPool("mail.test", server.port, TlsMode.NONE, max_size=1) as pool:
        error = _sent(pool, PATIENCE, asked.is_set)
        assert type(error) is KeyboardInterrupt
        over.set()
        assert pool.stats().opening == pool.stats().leased == 0
        assert pool.send(SENDER, RECIPIENTS, BODY, timeout=PATIENCE).all_delivered


# --- A2: the connect ---


@contextlib.contextmanager
def full_listener() -> Iterator[int]:
    """A port whose queue is full: a connect to it is not answered."""
    with contextlib.ExitStack() as held:
        listener = held.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        for _ in range(4):
            sock = held.enter_context(socket.socket())
            sock.setblocking(False)
            sock.connect_ex(("127.0.0.1", port))
        time.sleep(0.01)  # the queue fills while nobody measures anything
        yield port


@pytest.mark.parametrize("fault", ["refused", "RST", "silence", "async-exc"])
def test_faults_A2_the_connect_fails(fault: str) -> None:
    def reset(host: str, port: int, timeout: float | None) -> socket.socket:
        raise ConnectionResetError(104, "reset by the tunnel")

    with CELLS.run("A2", fault), nothing_left(), full_listener() as full:
        with socket.create_server(("127.0.0.1", 0)) as closed:
            port = closed.getsockname()[1]
        if fault in ("silence", "async-exc"):
            port = full
        dial = reset if fault == "RST" else None
        deadline = DEADLINE if fault == "silence" else 2.0
        entered = time.monotonic() + 0.05
        with ConnectionPool("127.0.0.1", port, TlsMode.NONE, max_size=1, timeout=5, dial=dial) as pool:
            began = time.perf_counter()
            error = _sent(pool, deadline, (lambda: time.monotonic() > entered) if fault == "async-exc" else None)
            assert time.perf_counter() - began <= deadline + SLACK
            stats = pool.stats()
            assert (stats.opened, stats.opening, stats.leased, stats.waiting) == (0, 0, 0, 0)
            assert stats.not_delivered == 2
            if fault == "async-exc":
                assert type(error) is KeyboardInterrupt
                return
            assert type(error) is (SmtpTimeoutError if fault == "silence" else ConnectError)
            assert isinstance(error, SmtpError)
            assert (error.stage, error.retry_safe, error.permanent is True) == ("connect", True, False)
            assert (stats.open_errors, stats.backoffs) == (1, int(fault != "silence"))


@pytest.mark.parametrize("tls", ["implicit", "starttls"])
@pytest.mark.parametrize("flaw", ["expired", "other name", "unknown root"])
def test_faults_A3_A7_malformed_TL_a_certificate_that_is_refused(tls: Tls, flaw: str, authority: TestAuthority) -> None:
    """Permanent, and nothing of the mail in clear."""
    issuer = TestAuthority() if flaw == "unknown root" else authority
    issued = issuer.issue(["other.test" if flaw == "other name" else "localhost"], expired=flaw == "expired")
    with (
        CELLS.run("A3" if tls == "implicit" else "A7", "malformed"),
        nothing_left(),
        LoopbackServer(tls=tls, ca=authority, certificate=issued) as server,
        pool_for(server) as pool,
    ):
        error = _sent(pool, PATIENCE, None)
        assert type(error) is CertificateError
        assert (error.stage, error.permanent, error.retry_safe) == ("tls", True, True)
        assert pool.stats().backoffs == 1
        assert "MAIL" not in server.sessions[0].commands


# --- C1: RSET behind a mail that failed on this side ---

REPLY_FAULTS = ["RST", "EOF", "silence", "drip", "421", "4yz", "5yz", "wrong-class", "malformed", "oversize", "surplus",
                "cut-reply"]  # fmt: skip
# BP3: what the mail behind RSET meets; None: it goes again on a fresh connection (BR6), or RSET's refusal is swallowed
BEHIND_RSET: dict[str, type[SmtpError] | None] = {
    **dict.fromkeys(("RST", "EOF", "421", "4yz", "5yz"), None),
    **dict.fromkeys(("silence", "drip"), SmtpTimeoutError),
    **dict.fromkeys(("wrong-class", "malformed", "oversize", "surplus"), ProtocolError),
    "cut-reply": ConnectionLostError,
}


class BodyError(Exception):
    """What the caller's own body raises."""


@pytest.mark.parametrize("tls", [None, "implicit"])
@pytest.mark.parametrize("fault", REPLY_FAULTS)
def test_faults_C1_a_fault_at_RSET_changes_nothing_of_the_mail_before_it(
    fault: str, tls: Tls | None, authority: TestAuthority
) -> None:
    """MK: the outcome of the failed BDAT mail passes unchanged. RSET goes in front of the next mail (BR21), as BP3."""

    def body() -> Iterator[bytes]:
        yield b"x" * 100 + b"\r\n"
        raise BodyError

    with (
        CELLS.run("C1", fault),
        nothing_left(),
        LoopbackServer(tls=tls, ca=authority) as server,
        pool_for(server) as pool,
    ):
        assert pool.send(SENDER, ["w@x.test"], b"warm\r\n").all_delivered
        rule = server.fault("RSET", fault, 1)
        with pytest.raises(BodyError) as caught:
            pool.send_bdat(SENDER, RECIPIENTS, body())
        assert caught.value.__context__ is None
        attempt = attempt_of(caught.value)
        assert attempt is not None
        assert [entry.delivery for entry in attempt.recipients] == [ND, ND]
        deadline = 0.2 if fault in ("silence", "drip") else PATIENCE
        error = _sent(pool, deadline, None)
        assert rule.applied == 1
        expected = BEHIND_RSET[fault]
        assert type(error) is (expected or type(None)), repr(error)
        assert server.ledger.count("one", "a@x.test") == int(error is None)
        server.clear_rules()
        assert pool.send(SENDER, RECIPIENTS, b"again\r\n").all_delivered
        assert pool.stats().leased == 0


@pytest.mark.parametrize("fault", ["write-fail", "async-exc"])
def test_faults_C1_writing_and_waiting_at_RSET(fault: str) -> None:
    failure: BaseException = BrokenPipeError(32, "gone") if fault == "write-fail" else KeyboardInterrupt()
    plan = Plan(3, failure, False)
    with (
        CELLS.run("C1", fault),
        nothing_left(),
        LoopbackServer() as server,
        pool_for(server, tampered_pool(plan)) as pool,
    ):
        server.reply("end of data", "550 no", 1)
        with pytest.raises(PermanentReplyError) as caught:
            pool.send(SENDER, RECIPIENTS, BODY)
        assert caught.value.retry_safe
        plan.armed = True
        error = _sent(pool, PATIENCE, None)
        assert plan.struck
        if fault == "write-fail":
            assert error is None, "as BP3 of a mail that was never begun: once more, on a fresh connection"
            assert pool.stats().stale_retries == 1
        else:
            assert error is failure
        assert pool.send(SENDER, RECIPIENTS, BODY).all_delivered


# --- C2: the probe ---


@pytest.mark.parametrize("tls", [None, "implicit"])
@pytest.mark.parametrize("fault", [*REPLY_FAULTS, "write-fail"])
def test_faults_C2_a_probe_that_fails_is_invisible(fault: str, tls: Tls | None, authority: TestAuthority) -> None:
    """PD: the connection is dropped, another one opened, the mail delivered once."""
    plan = Plan(2, BrokenPipeError(32, "gone"), False)
    kind = tampered_pool(plan) if fault == "write-fail" else ConnectionPool
    limit = 0.06
    with (
        CELLS.run("C2", fault),
        nothing_left(),
        LoopbackServer(tls=tls, ca=authority) as server,
        pool_for(server, kind, probe_after=0.001, timeout=Timeouts(total=PATIENCE, probe=limit)) as pool,
    ):
        assert pool.send(SENDER, ["w@x.test"], b"warm\r\n").all_delivered
        time.sleep(0.005)  # idle for longer than probe_after
        rule = None if fault == "write-fail" else server.fault("NOOP", fault, 1)
        plan.armed = True
        assert pool.send(SENDER, RECIPIENTS, BODY).all_delivered
        assert plan.struck if rule is None else rule.applied == 1
        stats = pool.stats()
        if fault == "surplus":  # 250, and one more: not seen by the probe is seen by the mail, which goes again
            assert stats.opened == 2
        else:
            assert (stats.probes, stats.probe_failures, stats.opened, stats.retired["probe"]) == (1, 1, 2, 1)
        assert server.ledger.count("one", "a@x.test") == 1
        assert (stats.leased, stats.idle) == (0, 1)


def test_faults_C2_async_exc_KI(server: LoopbackServer) -> None:
    with CELLS.run("C2", "async-exc"), pool_for(server, probe_after=0.001) as pool:
        assert pool.send(SENDER, ["w@x.test"], b"warm\r\n").all_delivered
        time.sleep(0.005)  # idle for longer than probe_after
        rule = server.fault("NOOP", "silence", 1)
        error = _sent(pool, PATIENCE, lambda: rule.applied > 0)
        assert type(error) is KeyboardInterrupt
        stats = pool.stats()
        assert (stats.leased, stats.idle, stats.interrupted) == (0, 0, 1)
        assert pool.send(SENDER, RECIPIENTS, BODY).all_delivered


# --- C3 and D3: QUIT ---


@pytest.mark.parametrize("tls", [None, "implicit"])
@pytest.mark.parametrize("fault", REPLY_FAULTS)
@pytest.mark.parametrize("stage", ["C3", "D3"])
def test_faults_C3_D3_a_fault_at_QUIT_is_silent_and_bounded(
    stage: str, fault: str, tls: Tls | None, authority: TestAuthority
) -> None:
    """Q. C3: a connection that has carried its messages is left with QUIT; D3: `close()` of the pool says it."""
    limit = 0.06
    options: dict[str, Any] = {"timeout": Timeouts(total=PATIENCE, quit=limit)}
    if stage == "C3":
        options["max_messages"] = 1
    with CELLS.run(stage, fault), nothing_left(), LoopbackServer(tls=tls, ca=authority) as server:
        pool = pool_for(server, **options)
        rule = server.fault("QUIT", fault, 1)
        began = time.perf_counter()
        assert pool.send(SENDER, RECIPIENTS, BODY).all_delivered
        if stage == "C3":
            assert rule.applied == 1
            assert pool.stats().retired["messages"] == 1
            assert pool.stats().delivered == 2
        pool.close()
        assert time.perf_counter() - began < 1.0
        assert rule.applied == 1
        end = pool.stats()
        assert (end.idle, end.leased, end.opened, sum(end.retired.values())) == (0, 0, 1, 1)
        with pytest.raises(PoolClosedError):
            pool.send(SENDER, RECIPIENTS, BODY)
        assert server.ledger.count("one", "a@x.test") == 1


@pytest.mark.parametrize("stage", ["C3", "D3"])
@pytest.mark.parametrize("fault", ["write-fail", "async-exc"])
def test_faults_C3_D3_writing_and_waiting_at_QUIT(stage: str, fault: str, server: LoopbackServer) -> None:
    """write-fail: silent. async-exc: passes, and nothing stays open; the mail's verdict is not touched (BR7)."""
    plan = Plan(2, BrokenPipeError(32, "gone"), False)
    kind = tampered_pool(plan) if fault == "write-fail" else ConnectionPool
    rule = server.fault("QUIT", "silence", 1) if fault == "async-exc" else None
    with CELLS.run(stage, fault):
        pool = pool_for(server, kind, **({"max_messages": 2} if stage == "C3" else {}))
        assert pool.send(SENDER, RECIPIENTS, BODY).all_delivered
        error: BaseException | None = None

        def leave() -> None:
            if stage == "D3":
                pool.close()
            else:
                with pool.connection(timeout=1) as lease:
                    assert lease.send(SENDER, RECIPIENTS, b"second\r\n").all_delivered
                    plan.armed = True

        plan.armed = stage == "D3"
        if rule is None:
            leave()
            assert plan.struck
        else:
            with interrupted_when(lambda: rule.applied > 0):
                try:
                    leave()
                except KeyboardInterrupt as interrupt:
                    error = interrupt
            assert error is not None
        pool.close()
        end = pool.stats()
        assert (end.idle, end.leased, end.opened, sum(end.retired.values())) == (0, 0, 1, 1)
        server.wait_for_connections(0, 5)


# --- C4: the verbs that are no mail ---

VERB_ERRORS: dict[str, type[SmtpError]] = {
    "DX": ConnectionLostError,
    "TX": SmtpTimeoutError,
    "SX": ServiceUnavailableError,
    "PX": ProtocolError,
    "V4": TransientReplyError,
    "V5": PermanentReplyError,
}
C4_FAULTS = [fault for stage, fault in CODES if stage == "C4"]
C4_CELLS = [(verb, fault) for verb in ("VRFY", "EXPN", "HELP", "NOOP") for fault in C4_FAULTS if fault != "async-exc"]
C4_SETTINGS = list(itertools.product((None, "implicit"), (False, True)))
C4_PLAYED = [(*cell, *setting) for place, cell in enumerate(C4_CELLS) for setting in share(C4_SETTINGS, 4, place)]


@pytest.mark.parametrize(("verb", "fault", "tls", "reused"), C4_PLAYED)
def test_faults_C4_a_verb_that_is_no_mail(
    verb: str, fault: str, tls: Tls | None, reused: bool, authority: TestAuthority
) -> None:
    """On a reused connection a verb that was not answered goes again on a fresh one, as a mail does (BR6)."""
    code = CODES["C4", fault]
    plan = Plan(2, BrokenPipeError(32, "gone"), False)
    kind = tampered_pool(plan) if fault == "write-fail" else ConnectionPool
    with (
        CELLS.run("C4", fault),
        nothing_left(),
        LoopbackServer(tls=tls, ca=authority) as server,
        pool_for(server, kind, min_size=1) as pool,
    ):
        pool.maintain()
        if reused:
            assert pool.send(SENDER, ["w@x.test"], b"warm\r\n").all_delivered
        plan.armed = True
        retried = reused and code in ("DX", "SX") and fault != "cut-reply"
        rule = None if fault == "write-fail" else server.fault(verb, fault, 1)
        call: dict[str, Callable[[float], Any]] = {
            "VRFY": lambda limit: pool.vrfy("a", timeout=limit),
            "EXPN": lambda limit: pool.expn("a", timeout=limit),
            "HELP": lambda limit: pool.help(timeout=limit),
            "NOOP": lambda limit: pool.noop(timeout=limit),
        }
        deadline = 0.2 if fault in ("silence", "drip") else PATIENCE
        began = time.perf_counter()
        if retried or fault == "surplus" or (code in ("V4", "V5") and verb != "NOOP"):
            assert call[verb](deadline) is not None  # an answer; a surplus is found in front of the next command
        else:
            with pytest.raises(VERB_ERRORS[code]) as caught:
                call[verb](deadline)
            assert type(caught.value) is VERB_ERRORS[code]
            assert caught.value.stage == verb
            assert caught.value.retry_safe
        assert time.perf_counter() - began <= deadline + SLACK
        assert plan.struck if rule is None else rule.applied == 1
        plan.armed = False
        stats = pool.stats()
        assert (stats.stale_retries, stats.leased) == (int(retried), 0)
        assert stats.idle == (code in ("V4", "V5") or fault == "surplus" or retried)
        server.clear_rules()
        assert pool.send(SENDER, RECIPIENTS, BODY).all_delivered
        assert pool.stats().opened == (1 if code in ("V4", "V5") else 2)


def test_faults_C4_async_exc_KI(server: LoopbackServer) -> None:
    with CELLS.run("C4", "async-exc"), pool_for(server) as pool:
        rule = server.fault("VRFY", "silence", 1)
        with interrupted_when(lambda: rule.applied > 0), pytest.raises(KeyboardInterrupt):
            pool.vrfy("a")
        assert (pool.stats().idle, pool.stats().leased) == (0, 0)
        assert pool.send(SENDER, RECIPIENTS, BODY).all_delivered


def test_KU_a_mail_of_a_lease_that_an_interrupt_cuts_off_is_counted(server: LoopbackServer) -> None:
    """faults:B5/async-exc: `PoolStats` has the verdicts that the exception carries."""
    with pool_for(server) as pool:
        rule = server.fault("end of data", "silence", 1)
        with (
            pytest.raises(KeyboardInterrupt) as caught,
            pool.connection(timeout=PATIENCE) as lease,
            interrupted_when(lambda: rule.applied > 0),
        ):
            lease.send(SENDER, RECIPIENTS, BODY)
        attempt = attempt_of(caught.value)
        assert attempt is not None
        assert attempt.delivery is Delivery.UNKNOWN
        assert pool.stats().unknown == 2
        assert pool.stats().leased == 0


# --- D1: while a connection is idle ---

IDLE_OCTETS: dict[str, bytes | None] = {
    "RST": None,
    "EOF": b"",
    "421": b"421 4.3.2 going down\r\n",
    "4yz": b"451 4.3.0 later\r\n",
    "5yz": b"554 5.3.0 no\r\n",
    "wrong-class": b"354 go on\r\n",
    "malformed": b"HTTP/1.1 400 Bad Request\r\n",
    "oversize": b"250-" + b"x" * 100_000 + b"\r\n",
    "surplus": b"250 ok\r\n250 ok\r\n",
    "cut-reply": b"421 4.3.2 goi",
}


@pytest.mark.parametrize("tls", [None, "implicit"])
@pytest.mark.parametrize("protocol", ["smtp", "lmtp"])
@pytest.mark.parametrize("fault", IDLE_OCTETS)
def test_faults_D1_what_happens_to_an_idle_connection_is_invisible(
    fault: str, protocol: Literal["smtp", "lmtp"], tls: Tls | None, authority: TestAuthority
) -> None:
    """PD, and not an octet is written to it."""
    octets = IDLE_OCTETS[fault]
    with (
        CELLS.run("D1", fault),
        nothing_left(),
        LoopbackServer(protocol=protocol, tls=tls, ca=authority) as server,
        pool_for(server) as pool,
    ):
        assert pool.send(SENDER, ["w@x.test"], b"warm\r\n").all_delivered
        seen = server.sessions[0].octets
        if octets is None:
            server.restart(reset=True)
        else:
            _wait_until(lambda: server.close_idle(octets) == 1)
        assert pool.send(SENDER, RECIPIENTS, BODY).all_delivered
        stats = pool.stats()
        assert (stats.opened, stats.idle, stats.leased, stats.stale_retries) == (2, 1, 0, 0)
        assert stats.checks_failed == 1
        assert (stats.retired["closing" if fault == "421" else "stale"], stats.closing_signals) == (1, 1)
        assert server.sessions[0].octets == seen
        assert server.ledger.count("one", "a@x.test") == 1


def _wait_until(true: Callable[[], bool]) -> None:
    until = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < until
        time.sleep(0.001)


# --- D2: waiting for the pool, and D3 interrupted above ---


@pytest.mark.parametrize("tls", [None, "implicit"])
@pytest.mark.parametrize("protocol", ["smtp", "lmtp"])
def test_faults_D2_silence_WT(protocol: Literal["smtp", "lmtp"], tls: Tls | None, authority: TestAuthority) -> None:
    with CELLS.run("D2", "silence"), nothing_left(), LoopbackServer(protocol=protocol, tls=tls, ca=authority) as server:
        with pool_for(server) as pool, pool.connection(timeout=PATIENCE) as lease:
            began = time.perf_counter()
            error = _sent(pool, DEADLINE, None)
            assert time.perf_counter() - began <= DEADLINE + SLACK
            assert type(error) is PoolTimeoutError
            assert (error.stage, error.retry_safe) == ("pool", True)
            assert not isinstance(error, SmtpTimeoutError)
            assert "1 at most" in str(error)
            stats = pool.stats()
            assert (stats.timeouts, stats.waiting, stats.leased, stats.not_delivered) == (1, 0, 1, 2)
            assert lease.send(SENDER, RECIPIENTS, BODY).all_delivered
        assert server.connections_total == 1


def test_faults_D2_refused_W1_the_error_goes_to_the_one_that_opened() -> None:
    """The one that waits goes on waiting, and opens the next connection itself."""
    outcome: dict[str, Any] = {}
    dialled, go_on = threading.Event(), threading.Event()

    def dial(host: str, port: int, timeout: float | None) -> socket.socket:
        if not go_on.is_set():
            dialled.set()
            go_on.wait(PATIENCE)
            raise ConnectionRefusedError(111, "refused")
        return socket.create_connection((host, port), timeout)

    def send(name: str) -> None:
        try:
            outcome[name] = pool.send(SENDER, RECIPIENTS, BODY)
        except SmtpError as error:
            outcome[name] = error

    with (
        CELLS.run("D2", "refused"),
        nothing_left(),
        LoopbackServer() as server,
        pool_for(server, dial=dial) as pool,
    ):
        opener = threading.Thread(target=send, args=("opener",))
        opener.start()
        assert dialled.wait(PATIENCE)
        waiter = threading.Thread(target=send, args=("waiter",))
        waiter.start()
        _wait_until(lambda: pool.stats().waiting == 1)
        go_on.set()
        opener.join(PATIENCE)
        assert type(outcome["opener"]) is ConnectError
        assert outcome["opener"].retry_safe
        waiter.join(PATIENCE)
        assert not waiter.is_alive()
        assert outcome["waiter"].all_delivered
        stats = pool.stats()
        assert (stats.waiting, stats.leased, stats.opening, stats.idle, stats.open_errors) == (0, 0, 0, 1, 1)
        assert server.ledger.count("one", "a@x.test") == 1


def test_faults_D2_async_exc_WI() -> None:
    with CELLS.run("D2", "async-exc"), nothing_left(), LoopbackServer() as server, pool_for(server) as pool:
        with pool.connection(timeout=PATIENCE):
            error = _sent(pool, PATIENCE, lambda: pool.stats().waiting == 1)
            assert type(error) is KeyboardInterrupt
            assert (pool.stats().waiting, pool.stats().interrupted) == (0, 1)
        assert pool.send(SENDER, RECIPIENTS, BODY).all_delivered


def planned(*, whole: bool = False) -> Iterator[tuple[str, str]]:
    """(stage, fault) of every run of the tests above; `whole`: of those that other Pythons play, too."""
    yield from ((each.stage, each.fault) for each in (ALL if whole else PLAYED))
    yield from [("A1", row[0]) for row in RESOLVED] + [("A1", "async-exc")]
    yield from [("A2", fault) for fault in ("refused", "RST", "silence", "async-exc")]
    yield from [("A3", "malformed"), ("A7", "malformed")] * 3
    for fault in REPLY_FAULTS:
        yield from [(stage, fault) for stage in ("C1", "C2", "C3", "D3")] * 2
    yield from [("C2", "write-fail")] * 2 + [("C2", "async-exc"), ("C4", "async-exc")]
    yield from [(stage, fault) for stage in ("C1", "C3", "D3") for fault in ("write-fail", "async-exc")]
    every = [(*cell, *setting) for cell in C4_CELLS for setting in C4_SETTINGS]
    yield from (("C4", fault) for _, fault, _, _ in (every if whole else C4_PLAYED))
    yield from [("D1", fault) for fault in IDLE_OCTETS] * 4
    yield from [("D2", "silence")] * 4 + [("D2", "refused"), ("D2", "async-exc")]


def test_every_cell_of_these_stages_has_a_test() -> None:
    assert set(planned()) == {cell for cell in CODES if cell[0][0] in "ACD"}
