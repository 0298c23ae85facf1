"""Runs flows for an owner of the stream that does not block: JavaScript, the host of a component, an event loop.

The owner writes what `to_write` gives and says with `wrote` what was taken; what comes in goes to `received`, the end
of the stream to `ended`, the end of the owner's patience to `timed_out`. Once `finished`, `result` gives what the flow
returned or raises what failed. Knows octets and replies; refuses to know sockets, TLS, events and time. Its laws are
those of the blocking driver: what is not exactly the replies owed ends the connection for ever (D5); octets count as
sent from the moment the owner has them, because that is what separates NOT_DELIVERED from UNKNOWN.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from smtpconn.protocol import judging
from smtpconn.protocol.body import SLICE
from smtpconn.protocol.envelope import Outgoing
from smtpconn.protocol.errors import (
    ConnectionLostError,
    ServiceUnavailableError,
    SmtpError,
    SmtpTimeoutError,
    StartTlsInjectionError,
    UsageError,
)
from smtpconn.protocol.flow import Flow, Pipelining, Step
from smtpconn.protocol.judging import Observer
from smtpconn.protocol.ledger import BODY, Kind
from smtpconn.protocol.mail import Mail
from smtpconn.protocol.policy import SendPolicy
from smtpconn.protocol.reply import MalformedReplyError, Reply
from smtpconn.protocol.sasl import Binding, Credentials, choose
from smtpconn.protocol.session import Session, SessionState
from smtpconn.protocol.transaction import Attempt

_CLOSED = "the server closed the connection"


class Pump:
    """One session, driven by the owner of its stream; one flow at a time.

    `observe` is told of each entry of the ledger as it is settled. Nothing here is safe to share between threads.
    """

    __slots__ = (
        "_attempt", "_count", "_ended", "_error", "_flow", "_observe", "_offered", "_opened", "_replies", "_room",
        "_sent", "_step", "_value", "session",
    )  # fmt: skip

    def __init__(self, session: Session, observe: Observer | None = None) -> None:
        self.session = session
        self._observe = observe
        self._flow: Flow[Any] | None = None
        self._attempt: Attempt | None = None
        self._step = Step(b"", (), BODY.stage)
        self._opened = False  # the entries of the step are in the ledger
        self._sent = 0  # octets of the step that were taken
        self._offered = 0  # octets behind them that the owner holds
        self._replies: list[Reply] = []
        self._count = 0
        self._room = 0
        self._ended: str | None = None  # how the stream ended
        self._value: Any = None
        self._error: BaseException | None = None

    # --- what the session can do ---

    def start(self, flow: Flow[Any]) -> None:
        """Begin a flow of the session (`greet`, `hello`, `starttls`, `noop`, `quit` ...).

        What the flow refuses at once is an outcome, too: `result` raises it.

        Raises:
            UsageError: another flow is under way.
            ServiceUnavailableError: the server has closed this connection.
            ConnectionLostError: the connection is dead.
        """
        self._require_idle()
        self._begin(flow, None)

    def start_auth(
        self, credentials: Credentials, *, allow_plaintext_auth: bool = False, channel_binding: bytes | None = None
    ) -> None:
        """Begin AUTH by the best mechanism offered (D12).

        `channel_binding`: the tls-server-end-point octets of RFC 5929, for credentials that ask for them.

        Raises:
            ExtensionUnavailableError: the server offers none that the credentials can use, or none that is safe
                without TLS (`session.secure`).
            InvalidInputError: the mechanism cannot carry the user or the password.
            UsageError, ServiceUnavailableError, ConnectionLostError: as `start` does.
        """
        self._require_idle()
        session = self.session
        offered = session.capabilities.auth_mechanisms
        binding = Binding(channel_binding, plus_offered="SCRAM-SHA-256-PLUS" in offered)
        clear = not session.secure and not allow_plaintext_auth
        name = choose(credentials, offered, clear=clear, binding=binding)
        self._begin(session.auth(credentials.mechanism(name, credentials.revealed(), binding)), None)

    def start_mail(
        self, mail: Mail, *, pipelining: Pipelining = Pipelining.GROUPED, policy: SendPolicy | None = None
    ) -> Attempt:
        """Begin one mail; the attempt knows its verdicts at any moment, and an error carries them in `recipients`.

        Raises:
            InvalidInputError, ExtensionUnavailableError, PolicyError: it cannot be sent here; nothing was begun.
            UsageError, ServiceUnavailableError, ConnectionLostError: as `start` does.
        """
        self._require_idle()
        session = self.session
        session.require_between_mails("a mail")
        attempt = Attempt(Outgoing(mail, session, policy), session)
        self._begin(attempt.flow(min(pipelining, Pipelining.GROUPED)), attempt)
        return attempt

    def upgraded(self) -> None:
        """The owner has done the TLS handshake, and the name and the chain of the certificate are verified.

        Raises:
            UsageError: no 220 to STARTTLS was read, or it was used up.
            StartTlsInjectionError: octets came behind the 220 in the clear (RFC 3207 section 6). The connection is
                dead.
        """
        self._require_idle()
        if self.session.state is not SessionState.STARTTLS:
            raise UsageError("no 220 to STARTTLS stands open")
        injected = _injected(self.session)
        if injected is not None:
            self._poison(str(injected))
            raise injected
        self.session.upgraded()

    # --- what the owner writes ---

    def to_write(self, limit: int = SLICE) -> bytes:
        """The octets to write next, at most `limit`; empty if a reply is awaited or nothing is under way.

        From this moment they may be with the server. They are given again until `wrote` has accounted for them.
        """
        if self._flow is None or not self._opens():
            return b""
        part = bytes(self._step.octets[self._sent : self._sent + limit])
        ledger = self.session.ledger
        self._offered = len(part)
        ledger.handed = ledger.taken + len(part)
        return part

    def wrote(self, count: int) -> None:
        """The transport took the first `count` of the octets that `to_write` gave. To be called before `received`.

        Raises:
            UsageError: so many were not given.
        """
        if self._flow is None:
            return  # it has failed since
        if not 0 <= count <= self._offered:
            raise UsageError(f"{count} octets cannot have been taken: {self._offered} were given")
        ledger = self.session.ledger
        ledger.taken += count
        ledger.handed = ledger.taken
        self._sent += count
        self._offered = 0
        self._advance()

    @property
    def commits(self) -> bool:
        """True if what is to be written holds an end of data.

        An owner with a deadline looks here first: `timed_out` before `to_write` is NOT_DELIVERED, behind it UNKNOWN.
        """
        if self._flow is None or self._sent == len(self._step.octets):
            return False
        entries = self.session.ledger.owed if self._opened else self._step.expects
        return bool(entries) and entries[-1].offset is not None

    # --- what comes in ---

    def received(self, octets: bytes) -> None:
        """Octets from the server, in pieces of any size; what no flow awaits ends the connection."""
        if self.session.condemned is not None:
            return
        parser = self.session.parser
        if self._flow is None and parser.pending > judging.room_for(0):
            return  # the connection is dead already, and its rest may be without end
        parser.feed(octets)
        self._advance()

    def ended(self, reason: str | None = None) -> None:
        """The stream has ended: by the server, or for this reason (reset, TLS alert, failed write, closed by us)."""
        self._ended = self._ended or (f"connection lost: {reason}" if reason else _CLOSED)
        if self._flow is None:
            return
        session, step = self.session, self._step
        if not self._opens():
            return
        kind = _awaited(session)
        if self._sent == len(step.octets):
            self._fail(judging.lost(session, kind, self._ended), exchanging=True)
            return
        try:
            reply = session.parser.next_reply()
        except MalformedReplyError:
            reply = None  # nothing more is to be learnt: the failed write is the error
        error = judging.lost_in_writing(session, kind, step.doing, reason or _CLOSED, reply)
        self._fail(error, exchanging=True)

    def timed_out(self) -> None:
        """The owner waits no longer: the flow under way ends with `SmtpTimeoutError`, and with it the connection."""
        if self._flow is not None:
            stage = _awaited(self.session).stage if self._sent == len(self._step.octets) else self._step.doing
            self._fail(SmtpTimeoutError(f"{stage}: the deadline has passed", stage=stage), exchanging=True)

    # --- what became of it ---

    @property
    def finished(self) -> bool:
        """True if no flow is under way: `result` has the outcome of the last one."""
        return self._flow is None

    @property
    def usable(self) -> bool:
        """True if another flow may be started. Where not, close the stream and write nothing more."""
        session = self.session
        silent = self._ended is None and (self._flow is not None or not session.parser.pending)
        return silent and session.condemned is None and session.closing is None

    @property
    def error(self) -> BaseException | None:
        """What `result` would raise, for an owner who does not catch Python's exceptions; None while under way."""
        return self._error

    def result(self) -> Any:
        """What the last flow returned, or what it or an exchange of it raised.

        An error of a mail has its verdicts in `recipients`; it is a `DeliveryUnknownError` where one is UNKNOWN.
        """
        if self._flow is not None:
            raise UsageError("the flow is under way")
        if self._error is not None:
            raise self._error
        return self._value

    # --- inside ---

    def _require_idle(self) -> None:
        session = self.session
        if self._flow is not None:
            raise UsageError("another flow is under way")
        if session.closing is not None:
            raise ServiceUnavailableError(
                f"the server has closed this connection: {session.closing}", reply=session.closing
            )
        if session.condemned is not None:
            raise ConnectionLostError(f"this connection is dead: {session.condemned}", stage="input")

    def _begin(self, flow: Flow[Any], attempt: Attempt | None) -> None:
        self._flow, self._attempt = flow, attempt
        self._value = self._error = None
        self._resume(None)
        self._advance()

    def _resume(self, replies: Sequence[Reply] | None) -> None:
        """Give the flow its replies, and take its next step or its end."""
        flow = self._flow
        assert flow is not None
        try:
            step = next(flow) if replies is None else flow.send(replies)
        except StopIteration as stop:
            self._conclude(stop.value)
        except BaseException as error:
            self._fail(error, exchanging=False)
            if not isinstance(error, Exception):
                raise
        else:
            self._step, self._opened, self._sent, self._offered = step, False, 0, 0
            self._replies = []
            if not step.octets:
                self._opens()

    def _opens(self) -> bool:
        """Open the step: the look, then its entries; as the driver does before the first octet. False if it failed."""
        if self._opened:
            return True
        session, step = self.session, self._step
        if step.octets and not judging.awaits_reply(session):
            error = _unasked(session, self._ended, judging.writing_kind(step))
            if error is not None:
                self._fail(error, exchanging=True)
                return False
        session.ledger.enter(*step.expects)
        self._opened = True
        self._count = judging.owed_to(session, step)
        self._room = judging.room_for(self._count)
        return True

    def _advance(self) -> None:
        """All that can be done without the owner. Errors are caught here, so that no frame of theirs holds octets."""
        while self._flow is not None:
            try:
                if not self._performed():
                    return
            except BaseException as error:
                self._fail(error, exchanging=True)
                if not isinstance(error, Exception):
                    raise
                return
            self._resume(self._replies)

    def _performed(self) -> bool:
        """True if the step is written and all of its replies are in."""
        session = self.session
        if self._sent < len(self._step.octets):
            if self._sent and not judging.awaits_reply(session):
                error = _unasked(session, self._ended, BODY)
                if error is not None:
                    raise error
            if session.parser.pending > (self._room if self._opened else judging.room_for(0)):
                raise judging.too_much(_awaited(session))
            return False
        while len(self._replies) < self._count:
            kind = _awaited(session)
            reply = _parsed(session, kind)
            if reply is None:
                if self._ended is not None:
                    raise judging.lost(session, kind, self._ended)
                return False
            entry = session.ledger.head()
            judging.settle(session, entry, reply, self._room if self._count > 1 else None, self._observe)
            self._room -= len(reply.raw)
            self._replies.append(reply)
        return True

    def _conclude(self, value: Any) -> None:
        self._flow = self._attempt = None
        self._value = value
        session = self.session
        if session.state is SessionState.STARTTLS:
            self._error = _injected(self.session)
            if self._error is not None:
                self._poison(str(self._error))
        self._close_if_due()

    def _fail(self, error: BaseException, *, exchanging: bool) -> None:
        flow, attempt = self._flow, self._attempt
        self._flow = self._attempt = None
        assert flow is not None
        flow.close()
        reason = judging.fatal(self.session, error, exchanging=exchanging)
        self._error = attempt.explained(error) if attempt is not None and isinstance(error, SmtpError) else error
        if reason is not None:
            self._poison(reason)
        self._close_if_due()

    def _close_if_due(self) -> None:
        session = self.session
        if session.condemned or session.closing:
            self._poison(session.condemned or "the server is closing the connection")

    def _poison(self, reason: str) -> None:
        self.session.condemn(reason)
        self.session.state = SessionState.CLOSED


def _awaited(session: Session) -> Kind:
    owed = session.ledger.owed
    return owed[0].kind if owed else BODY


def _parsed(session: Session, kind: Kind) -> Reply | None:
    try:
        return session.parser.next_reply()
    except MalformedReplyError as error:
        raise judging.malformed(kind, error) from error


def _unasked(session: Session, ended: str | None, kind: Kind) -> SmtpError | None:
    """BR1: what is there while nothing is owed answers no command."""
    if not session.parser.pending and ended is None:
        return None
    try:
        reply = _parsed(session, kind)
    except SmtpError as error:
        return error
    return judging.unasked(session, kind, reply, ended)


def _injected(session: Session) -> StartTlsInjectionError | None:
    """RFC 3207 section 6: octets behind the 220 were put there in the clear by an attacker (CVE-2011-0411)."""
    seen = session.parser.pending
    if not seen:
        return None
    return StartTlsInjectionError(
        f"{seen} octets followed the 220 to STARTTLS in the clear: an attack, or a broken server", octets=seen
    )
