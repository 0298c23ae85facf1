"""The fault cells of one transaction over real sockets: pool, TCP or TLS, and a loopback server that fails on demand.

A `WireCase` is a case of `single_faults` in one more setting: plain or TLS, a fresh connection or one that has carried
a mail, and at the end of data whether the server had booked the message when it failed. `run` plays it and collects
what the caller, the pool and the server's ledger say; nothing is judged here.

What a server cannot do is done at the transport: writes that fail after so many octets, and interrupts. There the end
of the stream, which the server sends at the stage of the cell, becomes a KeyboardInterrupt, so that it comes neither
too early nor too late.
"""

from __future__ import annotations

import contextlib
import itertools
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from smtpconn import (
    ConnectionPool,
    Delivery,
    Pipelining,
    PoolStats,
    ProtocolError,
    SendResult,
    SmtpError,
    TlsConfig,
    TlsMode,
)
from smtpconn.attempts import attempt_of
from smtpconn.protocol.result import RecipientResult
from smtpconn.testing import LoopbackServer, TestAuthority

from .single_faults import ADDRESSES, Case, cases
from .tampering import Plan, tampered_pool

PATIENCE = 10.0  # seconds of a call in which no time-out is due
DEADLINE = 0.08  # seconds of a call that is to time out
SLACK = 0.05  # seconds that it may take more (faults 14)
_TRIES = 4  # of a run that proves nothing, because the machine paused: see `run`
_CHUNKS, _PIECE = 12, 16_384
_TLS = {"implicit": TlsMode.IMPLICIT, None: TlsMode.NONE}
_SURPLUS = {"": b"250 extra\r\n", "421": b"421 bye\r\n", "221": b"221 bye\r\n", "4yz": b"451 extra\r\n"}
_STAGES = {"B1": "MAIL", "B2": "RCPT", "B3": "DATA", "B4": "body", "B7": "BDAT"}
_ENDS = ("B5", "B6", "B8")
_SENDER = "s@client.test"
_ids = itertools.count(1)


@dataclass(frozen=True)
class WireCase:
    """A case in one setting more. `booked`: the server had taken the message when the fault came."""

    case: Case
    tls: Literal["implicit"] | None
    reused: bool
    booked: bool = True

    @property
    def id(self) -> str:
        parts = [self.case.id, "TLS" if self.tls else "plain", "reused" if self.reused else "fresh"]
        return "-".join(parts if self.booked else [*parts, "unbooked"])

    @property
    def waits(self) -> bool:
        """Whether a time-out is due."""
        case = self.case
        return case.fault in ("silence", "drip") or (case.fault == "write-fail" and case.kind == "stall")

    @property
    def may_jam(self) -> bool:
        """A server that floods in mid-body and does not read: both sides may be stuck in writing until the deadline."""
        return self.case.stage == "B4" and self.case.fault == "oversize"

    @property
    def nobody_can_tell(self) -> bool:
        """A chunk is answered twice while the next is under way: the surplus stands where its reply would."""
        case = self.case
        in_flight = case.stage == "B7" and case.level is Pipelining.GROUPED
        return in_flight and case.fault == "surplus" and case.kind in ("", "4yz")

    @property
    def stage(self) -> str:
        """The server's name of it."""
        return _STAGES.get(self.case.stage, "end of data")


def wire_cases() -> Iterator[WireCase]:
    """The whole product."""
    settings: list[tuple[Literal["implicit"] | None, bool]] = [
        (tls, reused) for tls in (None, "implicit") for reused in (False, True)
    ]
    for case in cases():
        twice = case.code in ("UX", "UR") or (case.code == "KU" and case.kind != "write")
        for (tls, reused), booked in itertools.product(settings, (True, False) if twice else (True,)):
            yield WireCase(case, tls, reused, booked)


# --- one run ---


def narrow(host: str, port: int, timeout: float | None) -> socket.socket:
    """A `dial` whose socket holds little, so that a large body cannot be handed to the kernel as a whole."""
    sock = socket.socket()
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8_192)
        sock.settimeout(timeout)
        sock.connect((host, port))
    except BaseException:
        sock.close()
        raise
    return sock


@dataclass
class Run:
    """What came of it."""

    wire: WireCase
    message_id: str = ""
    result: SendResult | None = None
    error: BaseException | None = None
    seconds: float = 0.0
    deadline: float = PATIENCE
    met: bool = False  # the fault happened
    before: PoolStats | None = None
    after: PoolStats | None = None
    end: PoolStats | None = None
    taken: dict[str, int] = field(default_factory=dict)  # the ledger: recipient -> how often
    next_result: SendResult | None = None  # of the mail behind
    behind: list[str] = field(default_factory=list)  # the commands of that mail on the same connection
    violations: list[str] = field(default_factory=list)

    @property
    def recipients(self) -> tuple[RecipientResult, ...]:
        if self.result is not None:
            return self.result.recipients
        if isinstance(self.error, SmtpError):
            return self.error.recipients
        assert self.error is not None
        verdict = attempt_of(self.error)
        assert verdict is not None
        return verdict.recipients


class Stand:
    """The servers of one series of runs, as a context manager; it also sees that nothing is left behind."""

    def __init__(self, authority: TestAuthority) -> None:
        self._authority = authority
        self.tls = TlsConfig(trust=authority.pem, server_name="localhost")
        self._servers: dict[tuple[str, bool, bool], LoopbackServer] = {}

    def __enter__(self) -> Stand:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for server in self._servers.values():
            server.stop()

    def server(
        self, protocol: Literal["smtp", "lmtp"], tls: Literal["implicit"] | None, *, narrow: bool
    ) -> LoopbackServer:
        key = protocol, tls is not None, narrow
        if key not in self._servers:
            buffer = 8_192 if narrow else None
            server = LoopbackServer(protocol=protocol, tls=tls, ca=self._authority, socket_buffer=buffer, keep=0)
            self._servers[key] = server.start()
        return self._servers[key]

    def run(self, wire: WireCase) -> Run:
        """Play it once.

        A time-out that comes before the fault, because the machine paused, proves nothing about the cell: the run is
        repeated with a longer deadline. So is, at most three times, one that was late.
        """
        deadline = DEADLINE if wire.waits else PATIENCE
        if wire.may_jam:
            deadline = 0.5
        for number in range(1, _TRIES + 1):
            run = Play(self, wire, deadline).run()
            if run.met and run.seconds <= deadline + SLACK:
                return run
            if not run.met and wire.waits:
                deadline *= 2
            elif not run.met or number == _TRIES:
                return run
        return run


class Play:
    """One run of a case against one server."""

    def __init__(self, stand: Stand, wire: WireCase, deadline: float) -> None:
        case = self.case = wire.case
        self.wire = wire
        self.run_ = Run(wire, f"m{next(_ids)}", deadline=deadline)
        self.large = case.stage == "B4"
        self.server = stand.server(case.protocol, wire.tls, narrow=self.large)
        self.tls = stand.tls if wire.tls else None
        self.head = f"X-Id: {self.run_.message_id}\r\n\r\n".encode()
        self.plan = self._plan()

    @property
    def body(self) -> bytes:
        if self.case.stage == "B7":
            return self.head + b"z" * (_PIECE * _CHUNKS - len(self.head) - 2) + b"\r\n"
        if self.large:
            return self.head + (b"x" * 998 + b"\r\n") * 300
        return self.head + b"y" * 20 + b"\r\n"

    @property
    def message(self) -> Any:
        body = self.body
        if self.case.stage == "B7":
            return [body[at : at + _PIECE] for at in range(0, len(body), _PIECE)]
        return body

    def run(self) -> Run:
        kind = ConnectionPool if self.plan is None else tampered_pool(self.plan)
        pool = kind(
            self.server.host,
            self.server.port,
            _TLS[self.wire.tls],
            protocol=self.case.protocol,
            tls_config=self.tls,
            timeout=PATIENCE,
            min_size=1,
            max_size=1,
            pipelining=self.case.level,
            ehlo_domain="client.test",
            dial=narrow if self.large else None,
        )
        try:
            with pool:
                pool.maintain()
                if self.wire.reused:
                    assert pool.send(_SENDER, ["w@x.test"], b"warm\r\n").all_delivered
                self._fault(pool)
                self._another(pool)
            if not self.large:  # in mid-body there is nothing to book, and a server that stalls there never looks up
                # Not before the server is done with what it was sent: it may book a mail behind the client's back.
                self.server.wait_for_connections(0, PATIENCE)
            for recipient in self.run_.taken:
                self.run_.taken[recipient] = self.server.ledger.count(self.run_.message_id, recipient)
        finally:
            self.server.clear_rules()
            self.server.clear()
        self.run_.end = pool.stats()
        return self.run_

    def _fault(self, pool: ConnectionPool) -> None:
        run, case = self.run_, self.case
        run.before = pool.stats()
        rule = self._rule()
        mail: dict[str, Any] = {"timeout": run.deadline}
        send = pool.send_bdat if case.chunking else pool.send
        if self.plan is not None:
            self.plan.armed = True
        message, recipients = self.message, ADDRESSES[: case.count]
        began = time.perf_counter()
        try:
            run.result = send(_SENDER, recipients, message, **mail)
        except (SmtpError, KeyboardInterrupt) as error:
            run.error = error
        run.seconds = time.perf_counter() - began
        if self.plan is not None:
            self.plan.armed = False
        run.after = pool.stats()
        run.met = self.plan.struck if self.plan is not None else rule is not None and rule.applied > 0
        self.server.clear_rules()
        if self.wire.waits and case.stage == "B6":  # the replies in front of the fault were read
            run.met = run.met and all(each.delivery is not Delivery.UNKNOWN for each in run.recipients[: case.place])
        run.taken = dict.fromkeys(recipients, 0)
        run.violations = self.server.violations

    def _another(self, pool: ConnectionPool) -> None:
        """The slot is there, and the next mail goes through: on the same connection or on another one."""
        session = self.server.sessions[-1]
        seen = len(session.commands)
        if self.wire.nobody_can_tell:
            with contextlib.suppress(ProtocolError):  # found at the 354 of this mail: nothing else may be raised
                pool.send("t@client.test", ["d@x.test"], b"again\r\n")
        self.run_.next_result = pool.send("t@client.test", ["d@x.test"], b"again\r\n")
        self.run_.behind = session.commands[seen:]

    # --- how it fails ---

    def _plan(self) -> Plan | None:
        case = self.case
        if case.fault not in ("write-fail", "async-exc"):
            return None
        if case.fault == "async-exc" and case.kind != "write" and case.stage != "B4":
            return Plan(None, KeyboardInterrupt(), False)
        lines = [f"MAIL FROM:<{_SENDER}>\r\n"] + ["RCPT TO:<a@x.test>\r\n"] * case.count
        mail, envelope = len(lines[0]) + self._parameters, len("".join(lines)) + self._parameters
        envelope += 0 if case.chunking else len("DATA\r\n")
        content = len(self.body) + (len(f"BDAT {len(self.body)} LAST\r\n") if case.chunking else len(".\r\n"))
        limit = {
            "B1": 10,
            "B2": mail + 20 * case.place + 10,
            "B3": mail + 20 * case.count + 3,
            "B4": envelope + 20_000,
            "B7": envelope + 1_000,
        }.get(case.stage, envelope + content - 1)
        if case.fault == "async-exc":
            return Plan(envelope if case.stage != "B4" else limit, KeyboardInterrupt(), False)
        gone: Any = "stall" if case.kind == "stall" else BrokenPipeError(32, "gone")
        speaks = case.kind in ("421", "451")
        return Plan(limit - speaks, gone, speaks)

    @property
    def _parameters(self) -> int:
        """Octets behind the path of MAIL: this server offers SIZE."""
        return 0 if self.case.stage == "B7" else len(f" SIZE={len(self.body)}")

    def _rule(self) -> Any:
        case, server, stage = self.case, self.server, self.wire.stage
        recipient = ADDRESSES[case.place] if case.stage in ("B2", "B6") else None
        nth = case.place + 1 if case.stage == "B7" else 1
        if case.fault == "write-fail":
            if case.kind in ("421", "451"):
                server.fault("body", {"421": "421", "451": "4yz"}[case.kind], nth=1,
                             after=len(self.body) + (-2 if case.chunking else 1))
            return None
        if case.fault == "async-exc":
            if self.plan is not None and self.plan.limit is None:
                server.fault(stage, self._kind("EOF"), nth, recipient)
            return None
        if case.stage == "B4":
            after = 0 if case.fault == "drip" else 17_000
            return server.fault("body", self._kind(self._said), 1, after=after)
        if case.fault == "surplus":
            return server.reply(stage, self._surplus(), nth, self._last_recipient(), close=case.kind in ("421", "221"))
        if case.kind == "221":
            # LMTP: the replies behind it are read all the same (L1)
            return server.reply(stage, "221 bye", nth, recipient, close=case.stage != "B6")
        return server.fault(stage, self._kind(self._said), nth, recipient)

    @property
    def _said(self) -> str:
        """The server's name of the fault."""
        case = self.case
        if case.fault == "421":
            return case.kind or "421"
        return f"{case.fault}-{case.kind}" if case.kind else case.fault

    def _kind(self, fault: str) -> str:
        if fault == "EOF" and self.wire.tls and self.wire.reused:
            fault = "EOF-ragged"
        if fault in ("cut-reply-RST", "RST") and self.large:
            return fault
        return fault if self.wire.booked or self.large else f"{fault}-unbooked"

    def _last_recipient(self) -> str | None:
        case = self.case
        if case.stage == "B6":
            return ADDRESSES[case.count - 1]
        return ADDRESSES[case.place] if case.stage == "B2" else None

    def _surplus(self) -> bytes:
        if self.case.kind == "refused":
            return b"451 later\r\n250 ok\r\n"
        return (b"354 go\r\n" if self.case.stage == "B3" else b"250 ok\r\n") + _SURPLUS[self.case.kind]


# --- what is left behind ---


def descriptors() -> Counter[str]:
    """What the descriptors of this process are open for."""
    found: Counter[str] = Counter()
    for entry in Path("/proc/self/fd").glob("*"):
        with contextlib.suppress(OSError):  # the one that lists them
            found[str(entry.readlink())] += 1
    return found


@contextlib.contextmanager
def nothing_left() -> Iterator[None]:
    """No thread and no descriptor more than before.

    A server that outlives the block notices the end of a connection a moment later; what is leaked stays.
    """
    threads, open_ = set(threading.enumerate()), descriptors()
    yield
    until = time.monotonic() + PATIENCE
    while (set(threading.enumerate()) - threads or descriptors() - open_) and time.monotonic() < until:
        time.sleep(0.001)
    left = [thread.name for thread in threading.enumerate() if thread not in threads], dict(descriptors() - open_)
    assert left == ([], {}), f"left behind: {left}"
