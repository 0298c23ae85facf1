"""Why a caller gets no connection, and what may still be done about it (pool.md AQ8, AQ12, BO6)."""

from __future__ import annotations

import math

from smtpconn.pooling.claims import IDLE, OPENING, Outcome
from smtpconn.pooling.endpoints import without_traceback
from smtpconn.pooling.stats import Holder, holders
from smtpconn.pooling.stock import Stock
from smtpconn.protocol.errors import (
    AuthenticationError,
    PoolClosedError,
    PoolOverloadedError,
    PoolTimeoutError,
    SmtpError,
)
from smtpconn.protocol.sasl import Credentials


class Refusals:
    """The refusals of one pool."""

    def __init__(self, stock: Stock) -> None:
        self._stock = stock

    def may_try_again(self, outcome: Outcome, until: float) -> Credentials | None:
        """BO6: whoever is about to get the breaker's error asks first whether there is another secret, and presents it.

        Raises what the caller is to have if there is none.
        """
        stock = self._stock
        if outcome is Outcome.HOPELESS and stock.logins.renewable and stock.endpoints.refuses(stock.clock()):
            changed, given = stock.logins.changed(until - stock.clock())
            if given is not None:
                stock.slots.locked(stock.endpoints.admit_trial, stock.clock())
            if changed:
                return given
        raise self._error(outcome)

    def _error(self, outcome: Outcome) -> Exception:
        stock = self._stock
        name = stock.voice.name
        if outcome is Outcome.CLOSED:
            return PoolClosedError(f"the pool {name} is closed")
        if outcome is Outcome.OVERLOADED:
            return PoolOverloadedError(f"{stock.settings.max_waiting} callers wait already for a connection of {name}")
        now = stock.clock()
        held, idle, opening, refusal, cause, opens_at = stock.slots.locked(self._situation, now)
        retry_after = opens_at - now if now < opens_at < math.inf else None
        if outcome is Outcome.HOPELESS and refusal is not None:
            refused: AuthenticationError = without_traceback(refusal)
            refused.retry_after = retry_after
            return refused
        text = (
            f"no connection of {name} came free: {stock.slots.size} at most, {idle} idle, {len(held)} leased, "
            f"{opening} opening, {stock.slots.waiting} others waiting"
        )
        if held:
            text += "; held by " + ", ".join(f"{holder.thread} for {holder.seconds:.1f} s" for holder in held)
        if cause is not None:
            text += f"; the last open failed: {cause}"
        pairs = [(holder.thread, holder.seconds) for holder in held]
        error = PoolTimeoutError(text, holders=pairs, retry_after=retry_after)
        error.__cause__ = without_traceback(cause) if cause is not None else None
        return error

    def _situation(
        self, now: float
    ) -> tuple[tuple[Holder, ...], int, int, AuthenticationError | None, SmtpError | None, float]:
        """What a refusal tells (AQ12). Caller holds the lock."""
        rooms = self._stock.slots.each()
        return (
            holders(rooms, now),
            sum(1 for slot in rooms if slot.state is IDLE),
            sum(1 for slot in rooms if slot.state is OPENING),
            self._stock.endpoints.refusal if self._stock.endpoints.refuses(now) else None,
            self._stock.endpoints.last_error,
            self._stock.endpoints.opens_at(now, rooms),
        )
