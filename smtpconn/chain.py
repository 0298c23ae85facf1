"""Mails one after the other on one connection, as many in a flight as the level allows (PREFETCH, BURST).

Knows when a mail may be announced or burst (pipelining LV6, LV7, LV9), whose budget runs when (EN12), and what becomes
of an announced mail when the connection ends (PF7, PF8); refuses to know octets and replies. Its laws: a chain has the
connection's lock from its first mail to its end (LV8); no mail is announced twice; a 354 that will not be used is left
by closing, never by a dot (PF9).
"""

from __future__ import annotations

import copy
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence

from smtpconn.deadline import Budget, Clock, Timeouts
from smtpconn.protocol.burst import Burst, Outcome
from smtpconn.protocol.errors import ConnectionLostError, ProtocolError, ServiceUnavailableError, SmtpError
from smtpconn.protocol.flow import Pipelining
from smtpconn.protocol.ledger import END, MAIL
from smtpconn.protocol.mail import Mail
from smtpconn.protocol.result import SendResult
from smtpconn.protocol.session import used_up
from smtpconn.protocol.transaction import Attempt
from smtpconn.sending import Sending

PAUSE = 5.0  # seconds with an open envelope: servers exist that drop after 10 (CN7)
SLOW = 0.05  # seconds after which an input is slow, and a burst leaves without waiting for more (LV9)

Peek = Callable[[int], "Mail | None"]


def nothing(place: int) -> None:
    """No mail follows."""


def check_mails(mails: object) -> None:
    """Raise `TypeError` for what cannot be a batch: it is asked when the batch is made, not when it is begun."""
    if isinstance(mails, (str, bytes, Mail)) or not isinstance(mails, Iterable):
        raise TypeError(f"send_many takes an iterable of Mail objects, not {type(mails).__name__}")


def check_mail(mail: object) -> None:
    """Raise `TypeError` for what is no `Mail`."""
    if not isinstance(mail, Mail):
        raise TypeError(f"send_many takes Mail objects, not {type(mail).__name__}")


class Pulled:
    """The mails of a batch, some of them pulled ahead. What the input raises comes after what was pulled (SM9)."""

    def __init__(self, mails: Iterable[Mail]) -> None:
        self._source = enumerate(mails)
        self._waiting: deque[tuple[int, Mail]] = deque()
        self._failure: BaseException | None = None
        self._over = False

    def take(self) -> tuple[int, Mail] | None:
        """The next mail with its index, or None at the end."""
        if self._waiting or self._pull():
            return self._waiting.popleft()
        if self._failure is not None:
            raise self._failure
        return None

    def peek(self, place: int) -> Mail | None:
        """The mail so many places behind the one that is next, or None."""
        while len(self._waiting) <= place:
            if not self._pull():
                return None
        return self._waiting[place][1]

    def _pull(self) -> bool:
        if self._over:
            return False
        try:
            index, mail = next(self._source)
            check_mail(mail)
        except StopIteration:
            self._over = True
        except BaseException as error:
            self._over, self._failure = True, error
        else:
            self._waiting.append((index, mail))
        return not self._over


class Chain:
    """The mails of one `send_many` on one connection; the caller holds the connection's turn.

    `timeout` is per mail. Not for threads.
    """

    def __init__(self, conversation: Sending, timeout: float | Timeouts, clock: Clock = time.monotonic) -> None:
        self._conversation = conversation
        self._session = conversation._session
        self._timeout = timeout
        self._clock = clock
        self._announced: tuple[Mail, Attempt, Budget] | None = None
        self._made: tuple[Mail, Attempt | Exception] | None = None  # of the mail behind it, not yet under way
        self._known: deque[tuple[Mail, Outcome, Budget]] = deque()  # of mails whose turn has not come
        self._parked = clock()  # when the last verdict was handed out
        self._hasty = True  # the last pause was short enough for an open envelope
        self.most_mails = math.inf  # MAILs that the connection may carry, by its owner
        self.budget = self._budget()  # of the mail that was sent last

    def send(self, mail: Mail, peek: Peek = nothing, budget: Budget | None = None) -> SendResult:
        """Send a mail, and perhaps those behind it, which `peek` shows: then their outcome is there in their turn.

        `budget`: of this mail, unless it is under way already; by default its time begins now. Raises as
        `SmtpConnection.send`.
        """
        while self._known:
            known, outcome, rest = self._known.popleft()
            if known is mail:
                self.budget = rest.shifted(self._clock() - self._parked)
                if isinstance(outcome, SmtpError):
                    raise outcome
                return outcome
        try:
            if self._announced is not None and self._announced[0] is mail:
                return self._go_on(mail, peek)
            self.close()  # an announced mail whose turn was lost to an interrupt is left like one that is not wanted
            self.budget = self._budget() if budget is None else budget
            self._conversation._require_alive()
            self._session.require_between_mails("a mail")
            if self._conversation._may_burst:
                return self._burst(mail, peek)
            return self._send(mail, self._attempt(mail), peek)
        finally:
            self._parked = self._clock()

    def in_turn(self, mail: Mail, peek: Peek, budget: Budget) -> SendResult:
        """`send`, by a caller who has leased the connection and not its turn."""
        if self.knows(mail):
            return self.send(mail)
        return self._conversation._in_turn(budget, lambda: self.send(mail, peek, budget))

    def knows(self, mail: Mail) -> bool:
        """True if the outcome of this mail, whose turn it is, is there: nothing is written for it any more."""
        return bool(self._known) and self._known[0][0] is mail

    def awaits(self, mail: Mail) -> bool:
        """True if this mail, whose turn it is, is under way: announced, or its outcome is there."""
        return self.knows(mail) or (self._announced is not None and self._announced[0] is mail)

    def releases(self, mail: Mail) -> bool:
        """True if nothing was written for this mail, whose turn it is, in the flight that broke: it may be sent as new.

        Then the chain does not know it any more.
        """
        if not self.knows(mail):
            return False
        outcome = self._known[0][1]
        if not isinstance(outcome, SmtpError) or not outcome._untouched:
            return False
        self._known.popleft()
        return True

    def _budget(self) -> Budget:
        return Budget.of(self._timeout, self._clock)

    # --- PREFETCH ---

    def _go_on(self, mail: Mail, peek: Peek) -> SendResult:
        """Send what was announced. Its time stood still while its envelope was parked (EN12)."""
        assert self._announced is not None
        _, attempt, budget = self._announced
        self._announced = None
        pause = self._clock() - self._parked
        self._hasty = pause <= PAUSE
        self.budget = budget.shifted(pause)
        taken = self._session.ledger.taken
        try:
            self._conversation._require_alive()
            return self._send(mail, attempt, peek)
        except SmtpError as error:
            if self._session.ledger.taken == taken:
                error._announced = True
                # LV7: it was parked when the connection ended, and no octet of its message was written. A stream may
                # have been asked already: what it has given is gone.
                ended = isinstance(error, (ConnectionLostError, ServiceUnavailableError))
                error._unanswered |= ended and attempt.outgoing.content is not None
            raise

    def _send(self, mail: Mail, attempt: Attempt, peek: Peek) -> SendResult:
        follower = self._follower(attempt, peek)
        self._conversation._driver.ahead = self._budget
        try:
            return self._conversation._conclude(attempt, self.budget, follower[1] if follower else None)
        finally:
            if follower is not None:
                self._take_over(attempt, *follower)

    def _follower(self, attempt: Attempt, peek: Peek) -> tuple[Mail, Attempt] | None:
        """LV6: the mail whose envelope may stand behind this one's end of data."""
        session = self._session
        hasty, self._hasty = self._hasty, True
        if self._conversation._level is not Pipelining.PREFETCH or session.retiring or session.closing or not hasty:
            return None
        if not self._leaves_room(not attempt.announced):
            return None
        mail = peek(0)
        if mail is None:
            return None
        following = self._ready(mail)
        if following is None or not following.fits_one_group or not self._conversation._may_run_ahead():
            return None
        return mail, following

    def _ready(self, mail: Mail, *, chunking: bool | None = None) -> Attempt | None:
        """A mail behind the one in hand made ready; None where it is refused on this side (PF10).

        Kept until its turn: policies are asked once (F98), and a refusal is told then.
        """
        try:
            attempt = self._conversation._attempt(mail, chunking=chunking)
        except Exception as error:
            self._made = mail, error
            return None
        self._made = mail, attempt
        return attempt

    def _attempt(self, mail: Mail, *, chunking: bool | None = None) -> Attempt:
        made, self._made = self._made, None
        if made is None or made[0] is not mail:
            return self._conversation._attempt(mail, chunking=chunking)
        if isinstance(made[1], Exception):
            raise made[1]
        return made[1]

    def _leaves_room(self, under_way: int) -> bool:
        """LI2: True if the server takes one more MAIL than those written and those under way."""
        most = min(self.most_mails, self._session.capabilities.limits.get("MAILMAX", math.inf))
        return self._session.mails + under_way < most

    def _take_over(self, attempt: Attempt, mail: Mail, following: Attempt) -> None:
        """The flight is over: the announced mail goes on from there, or gets the reason why it does not."""
        conversation, session = self._conversation, self._session
        budget = conversation._driver.budget_ahead()
        if not following.begun:
            return
        fault, conversation.fallen = conversation.fallen, None
        if fault is None and session.condemned is None and session.closing is None:
            self._announced = mail, following, budget or self._budget()
            return
        error = following.explained(self._fault(fault, following))
        error._announced = True
        error._untouched = bool(attempt.ends) and session.ledger.handed <= (attempt.ends[0].end or 0)
        if not following.announced and not error._untouched:
            session.mails += 1  # its MAIL was written, though the flight did not come to its end
        self._known.append((mail, error, budget or self._budget()))
        conversation._settled(error.recipients, None, error=error)

    def _fault(self, fault: SmtpError | None, following: Attempt) -> SmtpError:
        """PF7: what the mail that was announced gets: the class of the fault, nothing of it committed."""
        session = self._session
        if fault is not None and (session.closing is None or isinstance(fault, ServiceUnavailableError)):
            error = copy.copy(fault)
        elif session.closing is not None:
            text = f"the server closes the connection: {session.closing}"
            error = ServiceUnavailableError(text, stage="MAIL", reply=session.closing)
        elif session.flightless is not None:
            error = ProtocolError(session.flightless, stage="MAIL")
        else:
            error = ConnectionLostError(f"the connection was closed: {session.condemned}", stage="MAIL")
        reply = following.mail.reply  # a farewell in its place is none (D7)
        unanswered = reply is None or reply.code in (421, 221) or used_up(MAIL, reply)
        error._unanswered = unanswered and not isinstance(error, ProtocolError)
        return error

    # --- BURST ---

    def _burst(self, mail: Mail, peek: Peek) -> SendResult:
        """LV9: as many mails as fit and are at hand; one that may not go in a burst goes alone."""
        conversation = self._conversation
        first = self._attempt(mail, chunking=True)
        burst = Burst(self._session)
        if not burst.add(first) or not conversation._may_run_ahead():
            return conversation._conclude(first, self.budget)
        mails = [mail]
        began = self._clock()
        while self._leaves_room(len(mails)) and self._clock() - began <= SLOW:
            following = peek(len(mails) - 1)
            attempt = None if following is None else self._ready(following, chunking=True)
            if following is None or attempt is None or not burst.add(attempt):
                break
            mails.append(following)
        try:
            outcomes = conversation._conclude_burst(burst, self.budget)
        except BaseException:  # what it has left of the others must not be sent again as if it were new
            cut_off = ConnectionLostError("the flight was cut off", stage=END.stage)
            self._keep(mails[1:], burst.outcomes(cut_off)[1:])
            raise
        self._keep(mails, outcomes)
        return self.send(mail)

    def _keep(self, mails: Sequence[Mail], outcomes: Sequence[Outcome]) -> None:
        self._parked = self._clock()
        self._known.extend((mail, outcome, self.budget) for mail, outcome in zip(mails, outcomes, strict=True))

    def close(self) -> None:
        """End the chain. An envelope that is open is left by closing the connection (PF9)."""
        announced, self._announced = self._announced, None
        if announced is not None:
            self._conversation._driver.poison("an announced mail was not wanted any more")
            self._conversation._settled(announced[1].results(), None)
