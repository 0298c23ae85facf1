"""One call on a pool: acquire, the verb, at most one safe retry, return; in this order, in one deadline.

Knows what a `timeout` argument means to a pool (TM1-TM4) and when a mail may go again (BR6, D7). Refuses to know the
public verbs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from smtpconn import attempts
from smtpconn.chain import Chain, Peek
from smtpconn.deadline import Budget, Deadline, Timeouts
from smtpconn.pooling.checking import beyond_domains
from smtpconn.pooling.claims import EMPTY, Claim
from smtpconn.pooling.pooled import PooledConnection
from smtpconn.pooling.supply import Supply
from smtpconn.protocol.errors import Delivery, SmtpError
from smtpconn.protocol.flow import Pipelining
from smtpconn.protocol.mail import Mail
from smtpconn.protocol.result import RecipientResult, SendResult

_TOO_MANY = 432
Result = TypeVar("Result")
Verb = Callable[[PooledConnection, Budget], Result]


class Calls:
    """The calls on one pool in one process."""

    def __init__(self, supply: Supply) -> None:
        self.around: Callable[[Callable[[], Any]], Any] = _alone  # what is done around each mail: a bridge's span
        self.supply = supply
        self.clock = supply.clock
        self.name = supply.settings.name

    @property
    def max_size(self) -> int:
        """The current maximum of connections."""
        return self.supply.slots.size

    @property
    def limit(self) -> int:
        """How many connections the endpoints are believed to take now (BO8)."""
        return self.supply.endpoints.most(self.supply.slots.size)

    @property
    def has_live(self) -> bool:
        """True if some connection is there, or on its way; a look that may be stale."""
        return any(slot.state is not EMPTY for slot in list(self.supply.slots.each()))

    @property
    def level(self) -> Pipelining:
        """The level that the pool was asked for."""
        return self.supply.level

    def budget(self, timeout: float | Timeouts | None, mail: Mail | None = None) -> Budget:
        """What the call may spend. Raises TypeError or `InvalidInputError`."""
        try:
            return Budget.of(self.supply.settings.timeout if timeout is None else timeout, self.clock)
        except SmtpError as error:
            _explain(error, mail, without_connection=False)
            raise

    def acquire_until(self, budget: Budget, now: float) -> float:
        """Until when the call may acquire (TM1 to TM3)."""
        total = budget.total.at
        if budget.phases is None:
            assert total is not None
            return total
        until = now + self.supply.settings.acquire_timeout
        return until if total is None else min(until, total)

    def perform(self, timeout: float | Timeouts | None, verb: Verb[Result], mail: Mail | None = None) -> Result:
        """Acquire, the verb, at most one safe retry (BR6), return: in this order, in one deadline."""
        if mail is None:
            return self._perform(timeout, verb, None)
        result: Result = self.around(lambda: self._perform(timeout, verb, mail))
        return result

    def _perform(self, timeout: float | Timeouts | None, verb: Verb[Result], mail: Mail | None) -> Result:
        budget = self.budget(timeout, mail)
        stay = Stay(self)
        try:
            stay.begin(budget, mail)
            result = stay.perform(verb, budget)
            stay.end(budget.total)
            return result
        except BaseException as error:
            stay.failed(error, mail)
            stay.end(budget.total, error)
            raise


def _alone(work: Callable[[], Any]) -> Any:
    return work()


class Stay:
    """One claim from its acquiring to its return, and the verbs in between.

    For each `begin` there is an `end`, whatever was raised; afterwards it may begin again.
    """

    def __init__(self, calls: Calls, party: object = None) -> None:
        self._calls = calls
        self._supply = calls.supply
        self._party = party
        self._served = 0  # verbs that this claim's connection has carried
        self._mails = 0  # MAILs on the connection before the verb
        self._settled: Sequence[RecipientResult] | None = None  # the verdicts of a verb that has ended well
        self.claim: Claim | None = None
        self.connection: PooledConnection | None = None
        self._chain: Chain | None = None  # of `_chained`; kept until every outcome that it knows was asked for
        self._chained: PooledConnection | None = None

    def begin(self, budget: Budget, mail: Mail | None = None) -> None:
        """Acquire a connection (section 4)."""
        supply = self._supply
        self._served = 0
        self._settled = None
        claim = self.claim = supply.claim()
        claim.party = self._party
        if mail is not None and mail.recipients is not None:
            claim.recipients = mail.recipients
        now = self._calls.clock()
        self.connection = supply.acquire(claim, now, self._calls.acquire_until(budget, now), budget.phases)

    def perform(self, verb: Verb[Result], budget: Budget) -> Result:
        """The verb, over a fresh connection once more where BR6 allows it; its verdicts are noted."""
        connection = self.connection
        assert connection is not None
        self._settled = None
        self._mails = connection.mails
        try:
            result = verb(connection, budget)
        except SmtpError as error:
            result = self._again(error, verb, budget)
        return self._noted(result)

    def carry(self, mail: Mail, budget: Budget, timeout: float | Timeouts | None, peek: Peek) -> SendResult:
        """Send a mail of a batch as `perform` does, in one flight with those that `peek` shows where that may be.

        `budget` counts unless the mail is under way already: then its time runs since it is (EN12).
        """
        chain = self._chain_for(mail, timeout)
        self._settled = None
        if self.connection is not None:
            self._mails = self.connection.mails
        try:
            result = chain.in_turn(mail, peek, budget)
        except SmtpError as error:
            result = self._again(error, lambda connection, rest: connection.send_mail(mail, rest), chain.budget)
        return self._noted(result)

    def _chain_for(self, mail: Mail, timeout: float | Timeouts | None) -> Chain:
        chain, connection = self._chain, self.connection
        if chain is None or (self._chained is not connection and not chain.awaits(mail)):
            assert connection is not None
            limit = self._supply.settings.timeout if timeout is None else timeout
            chain = self._chain = connection.chain(limit, self._calls.clock)
            self._chained = connection
        slot = self.claim.slot if self.claim is not None else None
        if slot is not None and self._chained is connection:
            chain.most_mails = min(slot.most_mails, slot.endpoint.most(self._calls.clock()))
        return chain

    def awaits(self, mail: Mail | None) -> bool:
        """True if this mail, which is next, is under way on this connection, or its outcome is there."""
        chain = self._chain
        return mail is not None and chain is not None and not chain.releases(mail) and chain.awaits(mail)

    def has_outcome(self, mail: Mail) -> bool:
        """True if the outcome of this mail, which is next, is there."""
        return self._chain is not None and self._chain.knows(mail)

    def leads_on(self) -> bool:
        """LV6: True while nothing on the pool's side forbids to announce a mail on the claim's connection (SM4)."""
        return self.claim is not None and self._supply.slots.keeps(self.claim)

    def _again(self, error: SmtpError, verb: Verb[Result], budget: Budget) -> Result:
        """The verb over a fresh connection, where BR6 or FB5 allows it; else raises the error."""
        fresh = self._retry(error, budget)
        if fresh is None:
            raise error
        self.connection = fresh
        self._mails = fresh.mails
        fresh.held_back = True  # FB8
        try:
            return verb(fresh, budget)
        finally:
            fresh.held_back = False

    def _noted(self, result: Result) -> Result:
        self._settled = getattr(result, "recipients", ())
        self._served += 1
        if self.claim is not None:
            self._supply.note_verdicts(self.claim, self._settled)
        return result

    @property
    def has_slot(self) -> bool:
        """True from the moment that a slot was handed to it: it has a connection, checks one or opens one."""
        claim = self.claim
        return claim is not None and claim.slot is not None

    def keeps(self) -> bool:
        """SM4: True if the next mail may go over the same connection."""
        return self.claim is not None and self.connection is not None and self._supply.keeps(self.claim)

    def suits(self, mail: Mail) -> bool:
        """LI4: False if the mail would take the connection beyond its RCPTDOMAINMAX."""
        slot = self.claim.slot if self.claim is not None else None
        if slot is None or not slot.counts_domains:
            return True
        return not beyond_domains(slot.connection, mail.recipients or ())

    def failed(self, error: BaseException, mail: Mail | None) -> None:
        """Complete what the exception says of the mail, and note its verdicts."""
        connection = self.connection
        if isinstance(error, SmtpError):
            _explain(error, mail, without_connection=connection is None)
        elif mail is not None and attempts.attempt_of(error) is None:
            begun = connection is not None and connection.mails != self._mails
            verdict = Delivery.UNKNOWN if begun else Delivery.NOT_DELIVERED
            cut_off = tuple(RecipientResult(given, verdict) for given in mail.recipients or ())
            # A mail that was settled stays so, whatever interrupts the return of its connection (D5, I24).
            attempts.attach(error, "pool", tuple(self._settled) if self._settled else cut_off)
        if self.claim is not None and self._settled is None:
            self._supply.note_verdicts(self.claim, attempts.recipients_of(error))

    def end(self, rest: Deadline | None = None, error: BaseException | None = None) -> None:
        """Return the connection, if there is one; idempotent. `rest`: what a QUIT may use at most."""
        claim = self.claim
        if claim is not None:
            try:
                if self._chain is not None:
                    self._chain.close()  # PF9
            finally:
                self._supply.leave(claim, rest, error)
                self.claim = self.connection = None

    def _retry(self, error: SmtpError, budget: Budget) -> PooledConnection | None:
        """A fresh connection if the one retry is allowed: the connection was reused, and nothing was answered (BR6).

        A mail that was only announced is sent again on whatever connection it was (FB5).
        """
        claim = self.claim
        slot = claim.slot if claim is not None else None
        if error._rset_alone and slot is not None:
            slot.endpoint.rset_alone = True
        if claim is None or slot is None or not error._unanswered:
            return None
        if not (error._announced or slot.uses or self._served or self._mails):
            return None
        current = self.connection
        if self._chain is not None and current is not self._chained and current is not None and current.usable:
            return current  # another mail of the same flight was sent again: it is fresh
        if error.reply is not None and error.reply.code == _TOO_MANY:
            return None  # CS15: one more connection is what the server does not want
        self._served = 0
        until = self._calls.acquire_until(budget, self._calls.clock())
        return self._supply.replace(claim, error, until, budget.phases)


def _explain(error: SmtpError, mail: Mail | None, *, without_connection: bool) -> None:
    """A mail that no connection was found for is not delivered to anybody, and the exception says so."""
    if without_connection:
        error.__dict__["_without_connection"] = True
    if mail is not None and mail.recipients is not None and not error.recipients:
        error.recipients = tuple(RecipientResult(given, Delivery.NOT_DELIVERED) for given in mail.recipients)
