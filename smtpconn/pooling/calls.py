"""One call on a pool: acquire, the verb, at most one safe retry, return; in this order, in one deadline.

Knows what a `timeout` argument means to a pool (TM1-TM4) and when a mail may go again (BR6, D7). Refuses to know the
public verbs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from smtpconn import attempts
from smtpconn.deadline import Budget, Timeouts
from smtpconn.pooling.claims import EMPTY, Claim
from smtpconn.pooling.pooled import PooledConnection
from smtpconn.pooling.supply import Supply
from smtpconn.protocol.errors import Delivery, SmtpError
from smtpconn.protocol.mail import Mail
from smtpconn.protocol.result import RecipientResult

Result = TypeVar("Result")
Verb = Callable[[PooledConnection, Budget], Result]


class Calls:
    """The calls on one pool in one process."""

    def __init__(self, supply: Supply) -> None:
        self.supply = supply
        self.clock = supply.clock
        self.name = supply.settings.name

    @property
    def max_size(self) -> int:
        """The current maximum of connections."""
        return self.supply.slots.size

    @property
    def has_live(self) -> bool:
        """True if some connection is there, or on its way; a look that may be stale."""
        return any(slot.state is not EMPTY for slot in list(self.supply.slots.each()))

    def budget(self, timeout: float | Timeouts | None) -> Budget:
        """What the call may spend. Raises TypeError or `InvalidInputError`."""
        return Budget.of(self.supply.settings.timeout if timeout is None else timeout, self.clock)

    def acquire_until(self, budget: Budget, now: float) -> float:
        """Until when the call may acquire (TM1 to TM3)."""
        total = budget.total.at
        if budget.phases is None:
            assert total is not None
            return total
        until = now + self.supply.settings.acquire_timeout
        return until if total is None else min(until, total)

    def perform(
        self,
        timeout: float | Timeouts | None,
        verb: Verb[Result],
        mail: Mail | None = None,
        claim: Claim | None = None,
    ) -> Result:
        """Acquire, the verb, at most one safe retry (BR6), return: in this order, in one deadline."""
        supply = self.supply
        budget = self.budget(timeout)
        if claim is None:
            claim = supply.claim()
        if mail is not None and mail.recipients is not None:
            claim.recipients = mail.recipients
        connection = None
        try:
            now = self.clock()
            connection = supply.acquire(claim, now, self.acquire_until(budget, now), budget.phases)
            try:
                result = verb(connection, budget)
            except SmtpError as error:
                fresh = self._retry(supply, claim, error, budget)
                if fresh is None:
                    raise
                result = verb(fresh, budget)
            supply.note_verdicts(claim, getattr(result, "recipients", ()))
            supply.leave(claim, budget.total)
            return result
        except BaseException as error:
            _explain(error, mail, without_connection=connection is None)
            supply.note_verdicts(claim, getattr(error, "recipients", ()))
            supply.leave(claim, budget.total, error)
            raise

    def _retry(self, supply: Supply, claim: Claim, error: SmtpError, budget: Budget) -> PooledConnection | None:
        """A fresh connection if BR6 allows the one retry: the connection was reused, and nothing was answered."""
        slot = claim.slot
        if error._rset_alone and slot is not None:
            slot.endpoint.rset_alone = True
        if not error._unanswered or slot is None or not slot.uses:
            return None
        return supply.replace(claim, error, self.acquire_until(budget, self.clock()), budget.phases)


def _explain(error: BaseException, mail: Mail | None, *, without_connection: bool) -> None:
    """A mail that no connection was found for is not delivered to anybody, and the exception says so."""
    if without_connection and isinstance(error, SmtpError):
        error.__dict__["_without_connection"] = True
    if mail is None or mail.recipients is None:
        return
    nobody = tuple(RecipientResult(given, Delivery.NOT_DELIVERED) for given in mail.recipients)
    if isinstance(error, SmtpError):
        if not error.recipients:
            error.recipients = nobody
    elif attempts.attempt_of(error) is None:
        attempts.attach(error, "pool", nobody)
