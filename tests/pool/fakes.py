"""A connection that does what its script says, a clock that is moved by hand, and pools made of both."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from typing import Any

from smtpconn import attempts
from smtpconn.deadline import Budget
from smtpconn.opening import Endpoint, Opening
from smtpconn.pool import ConnectionPool
from smtpconn.pooling.claims import Claim, Outcome
from smtpconn.pooling.endpoints import Endpoints
from smtpconn.pooling.pooled import System
from smtpconn.protocol.errors import (
    AuthenticationError,
    ConnectionLostError,
    Delivery,
    DeliveryUnknownError,
    PermanentReplyError,
    ServiceUnavailableError,
    SmtpError,
    SmtpTimeoutError,
    TransientReplyError,
)
from smtpconn.protocol.extensions import ServerCapabilities
from smtpconn.protocol.mail import Mail, domains_of
from smtpconn.protocol.reply import Reply
from smtpconn.protocol.result import RecipientResult, SendResult
from smtpconn.slots import Slots
from smtpconn.tls import TlsMode

ENVELOPE = ("from@example.com", ["to@example.net"], b"Subject: x\r\n\r\nx\r\n")


class Clock:
    """A clock that is moved by hand. Whoever would sleep on it moves it instead, so one thread is enough."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self.slept: list[float] = []
        self.while_asleep: Callable[[], object] | None = None

    def __call__(self) -> float:
        return self.now

    def sleep(self, lock: threading.Lock, timeout: float) -> bool:
        self.slept.append(timeout)
        if self.while_asleep is not None:
            self.while_asleep()
        if lock.acquire(blocking=False):
            return True
        self.now += timeout
        return False


def reply(code: int, text: str = "x") -> Reply:
    return Reply(code, f"{code} {text}\r\n".encode(), wants_enhanced=True)


def capabilities(*extensions: str) -> ServerCapabilities:
    lines = ["fake.example", *extensions]
    raw = "".join(f"250{'-' if i < len(lines) - 1 else ' '}{line}\r\n" for i, line in enumerate(lines))
    return ServerCapabilities.parse(Reply(250, raw.encode()))


_ids = itertools.count(1)


class FakeConnection:
    """Sends successfully unless its `script` has something else in store: an exception, or a callable of the mail."""

    def __init__(self, server: FakeServer, endpoint: Endpoint) -> None:
        self.connection_id = next(_ids)
        self.server = server
        self.endpoint = endpoint
        self.script: list[Any] = []
        self.log: list[str] = []
        self.poisoned = False
        self.closed = False
        self.is_shutting_down = False
        self.closing_reply: Reply | None = None
        self.mails = self.nonmail = self.noops = 0
        self.capabilities = server.capabilities
        self.quiet = True
        self.unread: Reply | None = None  # what makes it not quiet
        self.alive = True
        self.noop_code = 0  # the answer to NOOP where it is not alive
        self.domains: set[bytes] = set()
        self.aborted = threading.Event()
        self.is_authenticated = False

    @property
    def usable(self) -> bool:
        return not (self.poisoned or self.closed or self.is_shutting_down)

    @property
    def wear(self) -> tuple[int, int] | None:
        return (self.mails, self.nonmail) if self.usable else None

    def is_quiet(self) -> bool:
        self.log.append("check")
        return self.quiet and not self.closed

    def hear_goodbye(self) -> None:
        if self.unread is not None:
            self.is_shutting_down, self.closing_reply = True, self.unread

    def probe(self, budget: Budget) -> int:
        self.log.append("NOOP")
        self.noops += 1
        self.nonmail += 1
        if not self.alive:
            self.close()
        return 250 if self.alive else self.noop_code

    def send_mail(self, mail: Mail, budget: Budget) -> SendResult:
        assert not self.closed, "a closed connection was used"
        self.mails += 1
        self.domains |= domains_of(mail.recipients or ())
        self.log.append("MAIL")
        act = self.script.pop(0) if self.script else self.server.next_act()
        if isinstance(act, BaseException):
            self._fail(self._with_verdicts(act, mail))
        if callable(act):
            act(self)
        assert mail.recipients is not None
        verdicts = tuple(RecipientResult(given, Delivery.DELIVERED, reply(250)) for given in mail.recipients)
        return SendResult(verdicts, reply(250))

    def _fail(self, error: BaseException) -> None:
        if isinstance(error, (ServiceUnavailableError, ConnectionLostError)):
            self.is_shutting_down = True
            self.closing_reply = getattr(error, "reply", None)
            self.close()
        elif not isinstance(error, SmtpError) or isinstance(error, (SmtpTimeoutError, DeliveryUnknownError)):
            self.poisoned = True
        raise error

    @staticmethod
    def _with_verdicts(error: BaseException, mail: Mail) -> BaseException:
        """As the real one: what the mail's own body raised carries its verdicts."""
        if not isinstance(error, SmtpError):
            nobody = [RecipientResult(given, Delivery.NOT_DELIVERED) for given in mail.recipients or ()]
            attempts.attach(error, "body", nobody)
        return error

    def command(self, verb: str, argument: str | None, budget: Budget) -> Reply:
        assert not self.closed
        self.log.append(verb)
        self.nonmail += 1
        act = self.script.pop(0) if self.script else None
        if isinstance(act, BaseException):
            self._fail(act)
        return reply(250)

    def send(self, sender: str, recipients: list[str], message: bytes, *, timeout: Any, **options: Any) -> SendResult:
        return self.send_mail(Mail(sender, recipients, message), Budget.of(5.0))

    def _send(self, mail: Mail, *, timeout: Any) -> SendResult:
        return self.send_mail(mail, Budget.of(5.0))

    def noop(self, *, timeout: Any) -> None:
        self.command("NOOP", None, Budget.of(5.0))

    def auth(self, credentials: object, *, timeout: Any) -> None:
        self.log.append("AUTH")

    def quit(self, *, timeout: Any) -> bool:
        self.log.append("QUIT")
        self.close()
        return True

    def part(self) -> None:
        self.log.append("part")

    def leave(self, budget: Budget | None) -> None:
        self.log.append("QUIT" if budget is None else "QUIT and wait")
        self.close()

    def close(self) -> None:
        if not self.closed:
            self.server.gone(self)
        self.closed = True

    def abort(self) -> None:
        """As the real one: the call under way ends; until then the connection looks as fit as before."""
        self.log.append("abort")
        self.aborted.set()

    def abandon(self) -> None:
        self.log.append("abandon")


class FakeServer:
    """Opens connections, or does what its `script` says: exceptions are raised, callables called with the endpoint."""

    def __init__(self) -> None:
        self.script: list[Any] = []
        self.acts: list[Any] = []  # for the next mails, on whatever connection
        self.connections: list[FakeConnection] = []
        self.opened_to: list[str] = []
        self.capabilities = capabilities("PIPELINING")
        self.logins: list[str] = []  # secrets that were presented
        self.accepts: Callable[[str], bool] | None = None  # None: nobody is asked to log in
        self.most = 0
        self._live: set[int] = set()
        self._lock = threading.Lock()

    def connect(self, opening: Opening, endpoint: Endpoint, budget: Budget) -> FakeConnection:
        with self._lock:
            self.opened_to.append(endpoint.name)
            act = self.script.pop(0) if self.script else None
        if isinstance(act, BaseException):
            raise act
        if act is not None:
            act(endpoint, budget)
        if self.accepts is not None:
            self._log_in(opening)
        connection = FakeConnection(self, endpoint)
        with self._lock:
            self.connections.append(connection)
            self._live.add(connection.connection_id)
            self.most = max(self.most, len(self._live))
        return connection

    def _log_in(self, opening: Opening) -> None:
        assert self.accepts is not None
        assert callable(opening.credentials)
        secret = opening.credentials().revealed().reveal()
        with self._lock:
            self.logins.append(secret)
        if not self.accepts(secret):
            raise AuthenticationError("535 no", permanent=True, reply=reply(535))

    def next_act(self) -> Any:
        with self._lock:
            return self.acts.pop(0) if self.acts else None

    def gone(self, connection: FakeConnection) -> None:
        with self._lock:
            self._live.discard(connection.connection_id)

    @property
    def live(self) -> int:
        with self._lock:
            return len(self._live)


def pool_of(server: FakeServer, clock: Clock | None = None, **options: Any) -> ConnectionPool:
    """A pool over the fake server; with a clock, one that sleeps by moving it."""
    connector: Any = server.connect
    system = ConnectionPool._system._replace(connector=connector)
    if clock is not None:
        system = System(system.connector, clock, clock.sleep)
    kind = type("FakePool", (ConnectionPool,), {"_system": system})
    host = options.pop("host", "mx.example.com")
    made: ConnectionPool = kind(host, options.pop("port", 25), TlsMode.NONE, **options)
    return made


def rejected(code: int, stage: str, text: str = "no") -> SmtpError:
    kind = TransientReplyError if code < 500 else PermanentReplyError
    return kind(f"{code} {text}", stage=stage, reply=reply(code, text))


def unavailable(stage: str = "MAIL", *, unanswered: bool = False, code: int = 421) -> ServiceUnavailableError:
    error = ServiceUnavailableError("421 bye", stage=stage, reply=reply(code, "bye"))
    error._unanswered = unanswered
    return error


def lost(stage: str = "MAIL", *, unanswered: bool = False) -> ConnectionLostError:
    error = ConnectionLostError("the connection was closed by the peer", stage=stage)
    error._unanswered = unanswered
    return error


class OpenGate(Endpoints):
    """The endpoints of the table tests: one, always ready."""

    def __init__(self, size: int = 4, max_connecting: int = 99) -> None:
        super().__init__([Endpoint("mx.example.com", 25)], size=size, max_connecting=max_connecting)


def slots_of(size: int, clock: Clock, *, idle: int = 0, max_waiting: int | None = None) -> Slots:
    """Slots with so many idle connections, the numbers 1 to `idle`; the last is the most recently used."""
    slots = Slots(size, OpenGate(size), max_waiting=max_waiting, clock=clock, sleep=clock.sleep)
    claims = [Claim(slots) for _ in range(idle)]
    for number, claim in enumerate(claims, 1):
        assert slots.take(claim, clock.now + 10) is Outcome.OPEN
        assert claim.slot is not None
        claim.slot.connection = number
        assert slots.install(claim, clock.now, clock.now + 1e6) is Outcome.LEASED
    for claim in claims:
        slots.give_back(claim, 1e6)
    return slots
