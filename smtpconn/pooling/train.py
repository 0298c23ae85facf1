"""The mails of one thread of a batch, on their way over one connection after the other.

Knows which mails were taken ahead and when the next one may be (pipelining LV6); refuses to know threads and outcomes.
Its law: a mail that was taken ahead has its turn in this thread, whatever becomes of the flight.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from typing import Protocol

from smtpconn.deadline import Budget, Timeouts
from smtpconn.outcomes import MailOutcome
from smtpconn.pooling.calls import Calls, Stay
from smtpconn.pooling.endpoints import without_traceback
from smtpconn.protocol.errors import Delivery, SmtpError
from smtpconn.protocol.flow import Pipelining
from smtpconn.protocol.mail import Mail
from smtpconn.protocol.result import RecipientResult, SendResult


class Course(Protocol):
    """The batch, as far as it matters here."""

    level: Pipelining

    @property
    def is_over(self) -> bool:
        """Nobody wants outcomes any more."""
        ...

    @property
    def fault(self) -> BaseException | None:
        """Why nothing more is begun."""
        ...

    def judge(self, outcome: MailOutcome) -> None:
        """Is the service gone, rather than this mail refused?"""
        ...


class Train:
    """The mails of one thread, some of them taken ahead, and its stays. `pull` gives a mail that is ready, or None."""

    def __init__(
        self, batch: Course, calls: Calls, timeout: float | Timeouts | None, pull: Callable[[], tuple[int, Mail] | None]
    ) -> None:
        self._batch = batch
        self._calls = calls
        self._timeout = timeout
        self._pull = pull
        self._ahead: deque[tuple[int, Mail]] = deque()
        self.stay = Stay(calls, batch)

    @property
    def has_more(self) -> bool:
        """True if mails were taken ahead."""
        return bool(self._ahead)

    def next(self) -> tuple[int, Mail] | None:
        """The first mail that was taken ahead."""
        return self._ahead.popleft() if self._ahead else None

    def next_under_way(self) -> tuple[int, Mail] | None:
        """The first mail that was taken ahead, if it is under way on this connection, or its outcome is there."""
        return self._ahead.popleft() if self._ahead and self.stay.awaits(self._ahead[0][1]) else None

    def goes_on(self) -> bool:
        """True if the next mail is under way, or may be sent over the same connection."""
        return (bool(self._ahead) and self.stay.awaits(self._ahead[0][1])) or self.stay.keeps()

    def carry(self, mail: Mail, budget: Budget) -> SendResult:
        """Send a mail over the connection of the stay."""
        if self._batch.level <= Pipelining.GROUPED:
            return self.stay.perform(lambda connection, budget: connection.send_mail(mail, budget), budget)
        return self.stay.carry(mail, budget, self._timeout, self._peek)

    def _peek(self, place: int) -> Mail | None:
        """The mail so many places behind the one in hand, if it is ready and may be announced (LV6)."""
        batch, stay = self._batch, self.stay
        if batch.is_over or batch.fault is not None or not stay.leads_on():
            return None
        while len(self._ahead) <= place:
            job = self._pull()
            if job is None:
                return None
            self._ahead.append(job)
        mail = self._ahead[place][1]
        return mail if stay.suits(mail) else None

    # ---- in the consumer's thread

    def outcomes(self) -> Generator[MailOutcome, None, None]:
        """All mails, flight by flight: the connection is back before the first outcome of a flight is there."""
        while (job := self.next() or self._pull()) is not None:
            fault = self._batch.fault
            if fault is not None:
                yield not_begun(*job, fault)
            else:
                yield from self._flight(job)

    def _flight(self, job: tuple[int, Mail]) -> list[MailOutcome]:
        """The outcomes of this mail and of those that share its flight."""
        outcomes: list[MailOutcome] = []
        stay, budget = self.stay, self._calls.budget(self._timeout)

        def carry(mail: Mail) -> SendResult:
            if stay.connection is None:
                stay.begin(budget, mail)
            return self.carry(mail, budget)

        def send(mail: Mail) -> SendResult:
            result: SendResult = self._calls.around(lambda: carry(mail))
            return result

        try:
            while True:
                outcome = MailOutcome.of(*job, send)
                if outcome.error is not None:
                    stay.failed(outcome.error, job[1])
                self._batch.judge(outcome)
                outcomes.append(outcome)
                following = self.next_under_way()
                if following is None:
                    stay.end(budget.total, outcome.error)
                    return outcomes
                job = following
        except BaseException as error:
            stay.failed(error, job[1])
            stay.end(budget.total, error)
            raise


def not_begun(index: int, mail: Mail, fault: BaseException) -> MailOutcome:
    """The fault of the batch as the outcome of a mail of which nothing was written."""
    return refused(index, mail, without_traceback(fault))


def refused(index: int, mail: Mail, error: BaseException) -> MailOutcome:
    """The outcome of a mail that no connection was found for."""
    if isinstance(error, SmtpError):
        error.recipients = tuple(RecipientResult(given, Delivery.NOT_DELIVERED) for given in mail.recipients or ())
    return MailOutcome(index=index, mail=mail, error=error)
