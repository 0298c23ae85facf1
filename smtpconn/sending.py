"""Mails over one connection: each is made ready, sent in the flights that the level allows, and settled once.

Knows which level is in effect (pipelining LV1), when verdicts are final and in which order they are published (BR26,
PF4); refuses to know turns, sockets and the verbs. Its law: every attempt at a mail ends with its verdicts published
once, whatever ended it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from smtpconn import attempts, message
from smtpconn.conversation import Conversation
from smtpconn.deadline import Budget
from smtpconn.protocol import audit, ledger
from smtpconn.protocol.burst import Burst, Outcome
from smtpconn.protocol.envelope import Outgoing, refuse_local_recipients
from smtpconn.protocol.errors import ConnectionLostError, Delivery, ProtocolError, SmtpError, SmtpTimeoutError
from smtpconn.protocol.extensions import ServerCapabilities
from smtpconn.protocol.flow import Pipelining
from smtpconn.protocol.ledger import END
from smtpconn.protocol.mail import Mail, domains_of
from smtpconn.protocol.reply import Reply
from smtpconn.protocol.result import RecipientResult, SendResult, nobody_has_it
from smtpconn.protocol.session import used_up
from smtpconn.protocol.transaction import Attempt

_IDLE = 1.0  # seconds after which nothing is burst into a connection (LV9)


class Flights(Protocol):
    """Who remembers, for all connections to an endpoint, whether it can take flights that run ahead (FB1-FB3)."""

    def allows(self) -> bool:
        """True unless the endpoint is marked; a look."""
        ...

    def admit(self) -> bool:
        """Asked once for each such flight, just before it is begun. Of a mark that is over it lets one through."""
        ...

    def aligned(self) -> None:
        """One was answered in step."""
        ...

    def lost(self, error: str) -> None:
        """One was lost, or met silence; `error`: in no words of the server's."""
        ...

    def misbehaved(self, reason: str) -> None:
        """One was out of step, or refused for being one."""
        ...


def level_of(asked: Pipelining, capabilities: ServerCapabilities) -> Pipelining:
    """LV1: as far as the last EHLO allows."""
    if not capabilities.supports_pipelining:
        return Pipelining.OFF
    return asked if capabilities.supports_chunking else min(asked, Pipelining.PREFETCH)


class Sending(Conversation):
    """A conversation that carries mails: what the pool and `SmtpConnection` build on."""

    flights: Flights | None = None  # a pool's memory; a bare connection remembers for its own life
    held_back = False  # what is sent now was sent before, and does not run ahead (FB8)
    _told: str | None = None  # what `flights` was told of this session's `flightless`

    def send_mail(self, mail: Mail, budget: Budget) -> SendResult:
        """Send one mail by the connection's protocol."""

        def call() -> SendResult:
            self._require_alive()
            return self._transact(mail, budget)

        try:
            if not self._session.is_lmtp:
                refuse_local_recipients(mail.recipients or ())
            return self._in_turn(budget, call)
        except SmtpError as error:
            given = mail.recipients
            # A policy may raise one object again and again: what it says of an earlier mail is not said of this one.
            if given is not None and tuple(entry.recipient for entry in error.recipients) != given:
                error.recipients = nobody_has_it(given)
            raise

    def _transact(self, mail: Mail, budget: Budget) -> SendResult:
        """The transaction; the caller holds the lock."""
        self._session.require_between_mails("a mail")
        if self._may_burst and (mail.chunking or mail.email_message is not None):
            attempt = self._attempt(mail, chunking=True)
            burst = Burst(self._session)
            if burst.add(attempt) and self._may_run_ahead():
                (outcome,) = self._conclude_burst(burst, budget)
                if isinstance(outcome, SmtpError):
                    raise outcome
                return outcome
        else:
            attempt = self._attempt(mail)
        return self._conclude(attempt, budget)

    def _attempt(self, mail: Mail, *, chunking: bool | None = None) -> Attempt:
        """The mail made ready for this session; whatever can be refused on this side of the line is (F50)."""
        session = self._session
        if mail.email_message is not None:
            mail = message.serialised(mail, session.capabilities)
        attempt = Attempt(Outgoing(mail, session, self._opening.policy, chunking=chunking), session)
        if "RCPTDOMAINMAX" in session.capabilities.limits:
            session.domains |= domains_of(attempt.outgoing.recipients)
        return attempt

    @property
    def _may_burst(self) -> bool:
        """LV9: had an idle connection died unseen, the whole burst would be UNKNOWN."""
        is_asked = self._opening.pipelining is Pipelining.BURST
        return is_asked and self._level is Pipelining.BURST and self.clock() - self._active <= _IDLE

    def _conclude_burst(self, burst: Burst, budget: Budget) -> list[Outcome]:
        """Send the mails of a burst in one flight, and publish their verdicts once all are final (BU4)."""
        began, driver = self._journal.clock(), self._driver
        observe, driver.observe = driver.observe, None  # PF4
        fault: SmtpError | None = None
        try:
            driver.run(burst.flow(), budget)
        except SmtpError as error:
            fault = error
        except BaseException as error:
            self._settle_burst(burst, [error] * len(burst.attempts), began)
            attempts.attach(error, END.stage, burst.results(), cut_off=True)
            raise
        finally:
            driver.observe = observe
        outcomes = burst.outcomes(fault)
        self._judge_flight(burst.attempts, fault)
        self._settle_burst(burst, outcomes, began)
        driver.close_if_due()
        if self._session.retiring:
            self._end(budget)
        return outcomes

    def _settle_burst(self, burst: Burst, outcomes: Sequence[Outcome | BaseException], began: float | None) -> None:
        """BR26 for each mail of a burst, whatever one of the sinks does."""
        if self._opening.audit is None and began is None:
            return  # nobody listens: the verdicts need not be put together again
        interrupted: BaseException | None = None
        for attempt, outcome in zip(burst.attempts, outcomes, strict=True):
            error = outcome if isinstance(outcome, BaseException) else None
            reply = outcome.reply if isinstance(outcome, SendResult) else None
            try:
                self._settled(attempt.results(), began, attempt.entries, reply=reply, error=error)
            except BaseException as interrupt:
                interrupted = interrupt
        if interrupted is not None:
            attempts.attach(interrupted, END.stage, burst.results(), cut_off=True)
            raise interrupted

    def _conclude(self, attempt: Attempt, budget: Budget, following: Attempt | None = None) -> SendResult:
        """Send the mail, with the envelope of `following` behind it, and publish its verdicts once they are final.

        What ends a flight behind this mail's final replies is kept in `fallen`, for the mail that was announced.
        """
        session, observe = self._session, self._driver.observe
        began = self._journal.clock()
        seen: list[ledger.Entry] = []
        if following is not None and observe is not None:
            self._driver.observe = seen.append  # PF4: no event before the flight is aligned, cut or misaligned
        try:
            level = self._level
            result = self._driver.run(attempt.flow(level, following), budget)
        except SmtpError as error:
            try:
                result = self._cut_off(attempt, following, error, seen, began)
            except SmtpError:
                self._judge_flight([attempt], error, following)
                raise
        except BaseException as error:
            recipients = attempt.results()
            owed = session.ledger.owed
            stage = owed[0].kind.stage if owed else "body"
            attempts.attach(error, stage, recipients, cut_off=not attempt.source_failed)
            self._settled(recipients, began, seen, error=error)
            raise
        finally:
            self._driver.observe = observe
        self._settled(result.recipients, began, seen, reply=result.reply)
        self._judge_flight([attempt], self.fallen, following)
        if session.retiring and (following is None or not following.announced):
            self._end(budget)
        return result

    def _cut_off(
        self,
        attempt: Attempt,
        following: Attempt | None,
        error: SmtpError,
        seen: list[ledger.Entry],
        began: float | None,
    ) -> SendResult:
        """The flow raised: the verdicts of this mail, which may stand all the same (PF5, PF6)."""
        cause = error
        if following is not None and following.begun and not following.announced:
            self.fallen = error
            if attempt.answered:
                try:
                    return attempt.cut_off(following)
                except SmtpError as refusal:
                    error = refusal
                    if attempt.misaligned:
                        error.__cause__ = cause
        explained = attempt.explained(error)
        self._settled(explained.recipients, began, seen, error=explained)
        if explained is error:
            raise error
        raise explained from error

    @property
    def _level(self) -> Pipelining:
        """LV1: the level in effect."""
        level = level_of(self._opening.pipelining, self._session.capabilities)
        if level <= Pipelining.GROUPED:
            return level
        marked = self._session.flightless is not None or (self.flights is not None and not self.flights.allows())
        return Pipelining.GROUPED if marked or self.held_back else level

    def _may_run_ahead(self) -> bool:
        """The last question before a run-ahead flight is begun."""
        return self.flights is None or self.flights.admit()

    def _judge_flight(
        self, mails: Sequence[Attempt], fault: SmtpError | None, following: Attempt | None = None
    ) -> None:
        """FB1: tell the memory of the endpoint how a flight ended. `fault`: what the flow raised.

        Loss and silence count once something stood behind an end of data; what we cut off ourselves does not, and
        neither does a connection whose end the server has said.
        """
        session, flights, attempt = self._session, self.flights, mails[0]
        if flights is None:
            return
        if session.flightless is not None:
            if self._told is None:
                self._told = session.flightless
                flights.misbehaved(session.flightless)
            return
        if not attempt.in_burst and (following is None or not following.begun):
            return
        if attempt.ends and attempt.ends[0].reply is None and not session.ledger.committed(attempt.ends[0]):
            return
        entries = [entry for mail in (*mails, following) if mail is not None for entry in mail.entries]
        spent = any(entry.reply and used_up(entry.kind, entry.reply) for entry in entries)
        leaves = spent or session.closing is not None
        if isinstance(fault, ProtocolError):
            flights.misbehaved(f"a flight out of step at {fault.stage}")
        elif isinstance(fault, (ConnectionLostError, SmtpTimeoutError)):
            if not leaves and not self._cut_short:
                flights.lost(f"{type(fault).__name__} at {fault.stage}")
        elif session.condemned is None and not leaves:
            flights.aligned()

    def _settled(
        self,
        recipients: tuple[RecipientResult, ...],
        began: float | None,
        seen: Sequence[ledger.Entry] = (),
        *,
        reply: Reply | None = None,
        error: BaseException | None = None,
    ) -> None:
        """BR26: exactly one event per attempt, with counts; before the SessionAborted of the same fault."""
        if self._opening.audit is None and began is None:
            return
        verdicts = [entry.delivery for entry in recipients]
        try:
            for entry in seen:
                if not entry.announced:
                    self._observe(entry)
            self._publish(
                audit.MailSettled,
                delivered=verdicts.count(Delivery.DELIVERED),
                not_delivered=verdicts.count(Delivery.NOT_DELIVERED),
                unknown=verdicts.count(Delivery.UNKNOWN),
            )
            if began is not None:
                self._journal.settled(verdicts, began, reply, error)
            for entry in seen:
                if entry.announced:
                    self._observe(entry)
        except BaseException as interrupt:  # it takes the place of the result, so it carries the verdicts
            attempts.attach(interrupt, "end of data", recipients, cut_off=True)
            raise
