"""The verbs that smtplib's callers want and `SmtpConnection` does not have: one command, one reply.

Knows how to open a session by steps (greeting, EHLO, STARTTLS apart) and how to send one mail by `mail`, `rcpt` and
`data`; refuses to know smtplib's shapes (`compat`). Its laws: every line comes from `protocol.commands`; every command
has its reply read before anything else happens (D5); a mail sent step by step is an `Attempt` like any other, so its
commit point and its verdicts are the same (D2).
"""

from __future__ import annotations

from collections.abc import Callable

from smtpconn import handshake
from smtpconn.connection import SmtpConnection
from smtpconn.deadline import Budget
from smtpconn.protocol import audit, commands
from smtpconn.protocol.address import ReversePath
from smtpconn.protocol.body import canonical
from smtpconn.protocol.envelope import Outgoing, fails_closed
from smtpconn.protocol.errors import UsageError
from smtpconn.protocol.extensions import NO_CAPABILITIES, ServerCapabilities
from smtpconn.protocol.flow import Flow, Pipelining, Step
from smtpconn.protocol.gate import check
from smtpconn.protocol.ledger import DATA, EHLO, HELO, HELP, LHLO, NOOP, RCPT, RSET, VRFY, Entry, Kind
from smtpconn.protocol.mail import Recipient
from smtpconn.protocol.mechanisms import Mechanism
from smtpconn.protocol.params import MailParams
from smtpconn.protocol.reply import Reply
from smtpconn.protocol.result import SendResult
from smtpconn.protocol.sasl import Binding, Credentials, Secret
from smtpconn.protocol.session import Session, SessionState
from smtpconn.protocol.transaction import Attempt
from smtpconn.tls import TlsConfig

_OTHER = Kind("command", "command", classes=(2, 3, 4, 5))  # of the caller's own: what it may be answered is his to know

Talk = Callable[[SmtpConnection, Budget], Reply]


class Greeted(SmtpConnection):
    """A connection that has been greeted, and no more: EHLO, STARTTLS and AUTH are its owner's to ask for."""

    greeting: Reply

    def _establish(self, budget: Budget) -> None:
        try:
            self._publish(audit.Connected)
            self._driver.journal.connected(self._driver.transport.tls)
            self.greeting = self._driver.run(self._session.greet(), budget)
        except BaseException:
            self.close()
            raise


# --- commands ---


def hello(domain: str, kind: Kind) -> Talk:
    """EHLO, LHLO or HELO: the reply, whatever its code; what was learnt is replaced (RFC 5321 section 4.1.1.1)."""
    line = {EHLO: commands.ehlo, LHLO: commands.lhlo, HELO: commands.helo}[kind](domain)

    def talk(connection: SmtpConnection, budget: Budget) -> Reply:
        session, driver = connection._session, connection._driver
        reply = driver.run(session.ask(line, kind), budget)
        if reply.is_positive:
            session.domain = domain
            session.learn(ServerCapabilities.helo(reply) if kind is HELO else ServerCapabilities.parse(reply))
            connection._publish(audit.EhloCompleted)
            driver.journal.greeted()
        elif kind is not HELO:
            session.capabilities = NO_CAPABILITIES
        return reply

    return talk


def command(line: bytes, kind: Kind = _OTHER) -> Talk:
    """One command: its reply, whatever its code."""
    return lambda connection, budget: connection._driver.run(connection._session.ask(line, kind), budget)


def noop() -> Talk:
    """NOOP."""
    return command(commands.noop(), NOOP)


def rset() -> Talk:
    """RSET; what was begun by `mail` is over."""

    def talk(connection: SmtpConnection, budget: Budget) -> Reply:
        session = connection._session
        reply = connection._driver.run(session.ask(commands.rset(), RSET), budget)
        if reply.is_positive:
            session.rset_owed = False
            if session.state is SessionState.RCPT_TO:
                session.state = SessionState.MAIL_FROM
        return reply

    return talk


def inquiry(kind: Kind, argument: str | None) -> Talk:
    """VRFY, EXPN or HELP."""

    def talk(connection: SmtpConnection, budget: Budget) -> Reply:
        offered = connection.capabilities
        if kind is HELP:
            line = commands.help_(argument, offered)
        else:
            line = (commands.vrfy if kind is VRFY else commands.expn)(argument or "", offered)
        return connection._driver.run(connection._session.ask(line, kind), budget)

    return talk


def starttls(config: TlsConfig) -> Talk:
    """STARTTLS and the handshake: the 220. EHLO is the caller's to repeat."""
    return lambda connection, budget: handshake.secure(connection._driver, config, budget, connection._publish)


def auth(credentials: Credentials) -> Talk:
    """One AUTH: the 235."""
    return lambda connection, budget: handshake.authenticate(
        connection._driver, connection._opening, credentials, budget, connection._publish
    )


def farewell(connection: SmtpConnection, budget: Budget) -> Reply | None:
    """QUIT, and close in every case: what it was answered, or None if nothing was."""
    ledger = connection._session.ledger
    before = ledger.last
    connection._closed_by_owner = True
    connection._end(budget)
    return ledger.last if ledger.last is not before else None


# --- AUTH by the caller's own callable ---


class CallersAuth(Credentials):
    """A mechanism whose responses a callable gives, as smtplib's `auth` takes it."""

    def __init__(self, mechanism: str, respond: Callable[..., str], *, initial: bool) -> None:
        self.names = (mechanism.upper(),)
        self._secret = Secret("", "password")  # it is the callable's
        self._respond = respond
        self._initial = initial

    def revealed(self) -> Secret:
        """Nothing: the callable is asked in mid-exchange."""
        return self._secret

    def mechanism(self, name: str, secret: Secret, binding: Binding) -> Mechanism:
        """The exchange."""
        return _CallersMechanism(name, self._respond, initial=self._initial)


class _CallersMechanism(Mechanism):
    def __init__(self, name: str, respond: Callable[..., str], *, initial: bool) -> None:
        super().__init__(name)
        self._respond = respond
        self._initial = initial

    def start(self) -> bytes | None:
        """See `Mechanism.start`; None too where the callable has nothing to say at once."""
        response = self._respond() if self._initial else None
        return None if response is None else self._private_octets(response)

    def respond(self, challenge: bytes) -> bytes:
        """See `Mechanism.respond`."""
        return self._private_octets(self._respond(challenge))

    def _private_octets(self, response: str) -> bytes:
        octets = response.encode("utf-8")
        return self._sends(octets, octets)


# --- one mail, step by step ---


class StepwiseEnvelope(Outgoing):
    """The envelope of a mail whose recipients and content come later."""

    def __init__(self, sender: ReversePath, params: MailParams, size: int | None, connection: SmtpConnection) -> None:
        session = connection._session
        capabilities = session.capabilities
        international = check(params, (), capabilities, secure=session.secure, sender=sender)
        self.sender, self.params, self.policy = sender, params, connection._opening.policy
        self.recipients = ()
        self.given, self.wire, self.rcpt_lines = [], [], []
        self.content: bytes | None = None
        self.chunking = self.is_binary = self.eight_bit_refused = False
        self.mail_line = commands.mail(
            sender, size=size, body=params.body, smtputf8=international, params=params, capabilities=capabilities
        )
        if self.policy is not None:
            with fails_closed():
                self.policy.check_sender(sender)

    def add(self, recipient: Recipient, session: Session) -> bytes:
        """One more recipient: its line."""
        recipients = (*self.recipients, recipient)
        check(self.params, recipients, session.capabilities, secure=session.secure, sender=self.sender)
        line = commands.rcpt(recipient, session.capabilities)
        if self.policy is not None:
            with fails_closed():
                self.policy.check_recipients(recipients)
        self.recipients = recipients
        self.given.append(len(self.wire))
        self.wire.append(recipient)
        self.rcpt_lines.append(line)
        return line

    def fill(self, message: bytes, session: Session) -> None:
        """The content, with CRLF line ends; refused where the server cannot take it (F64, F64a)."""
        content = canonical(message, "crlf")
        if not content.isascii():
            session.capabilities.require("8BITMIME")
        if self.policy is not None:
            with fails_closed():
                self.policy.check_message_size(len(message))
        self.content = content


class Stepwise(Attempt):
    """One mail by `begin`, `rcpt` and its `flow`, which is the rest: DATA and the content."""

    def __init__(self, outgoing: StepwiseEnvelope, session: Session) -> None:
        super().__init__(outgoing, session)
        self.stepwise = outgoing

    def begin(self) -> Flow[Reply]:
        """MAIL; behind RSET where the transaction before did not end in success (D8)."""
        session = self.session
        session.require_between_mails("MAIL")
        if session.mails and session.rset_owed:
            yield from session.reset()
        session.mails += 1
        session.rset_owed = True
        (reply,) = yield Step(self.outgoing.mail_line, (self.mail,), self.mail.kind.stage)
        self._follow((self.mail,))
        return reply

    def rcpt(self, recipient: Recipient) -> Flow[Reply]:
        """RCPT."""
        line = self.stepwise.add(recipient, self.session)
        entry = Entry(RCPT)
        self.rcpts.append(entry)
        (reply,) = yield Step(line, (entry,), RCPT.stage)
        self._follow((entry,))
        return reply

    def flow(self, level: Pipelining, following: Attempt | None = None) -> Flow[SendResult]:
        """DATA, the content, and the final reply."""
        session = self.session
        self.data = Entry(DATA)
        (reply,) = yield Step(commands.data(), (self.data,), DATA.stage)
        self._follow((self.data,))
        if not any(entry.reply is not None and entry.reply.is_positive for entry in self.rcpts):
            session.state = SessionState.MAIL_FROM
            if reply.code >= 400:
                raise session.refusal(DATA, reply)
            yield from self._leave_data(None)
            raise UsageError("data() needs a recipient that was accepted: nothing was sent")
        self._wants_content(None)
        session.state = SessionState.DATA
        yield from self._data(None)
        return self._concluded(None)


def begin(sender: ReversePath, params: MailParams, size: int | None) -> Callable[[SmtpConnection, Budget], Stepwise]:
    """MAIL: the mail that it begins, whose `mail.reply` says whether it did."""

    def talk(connection: SmtpConnection, budget: Budget) -> Stepwise:
        attempt = Stepwise(StepwiseEnvelope(sender, params, size, connection), connection._session)
        connection._driver.run(attempt.begin(), budget)
        return attempt

    return talk


def rcpt(attempt: Stepwise, recipient: Recipient) -> Talk:
    """RCPT."""
    return lambda connection, budget: connection._driver.run(attempt.rcpt(recipient), budget)


def data(attempt: Stepwise, message: bytes) -> Callable[[SmtpConnection, Budget], SendResult]:
    """DATA, the message and its final reply. Raises as `SmtpConnection.send`."""

    def talk(connection: SmtpConnection, budget: Budget) -> SendResult:
        attempt.stepwise.fill(message, connection._session)
        return connection._conclude(attempt, budget)

    return talk


def leave_transaction(connection: SmtpConnection, budget: Budget) -> None:
    """What was begun by MAIL is given up: the RSET that is owed goes in front of the next one."""
    if connection._session.state is SessionState.RCPT_TO:
        connection._session.state = SessionState.MAIL_FROM
