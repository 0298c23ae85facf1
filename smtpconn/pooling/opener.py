"""Opening a connection in a slot: fail-over, back-off, and who is told when it fails (pool.md AQ10, AQ11, 8, 12)."""

from __future__ import annotations

import itertools
import math
import random
from dataclasses import replace

from smtpconn.deadline import Budget, Deadline, Timeouts
from smtpconn.pooling import events
from smtpconn.pooling.claims import Claim, Outcome, Slot
from smtpconn.pooling.endpoints import Consequence, Health
from smtpconn.pooling.flights import EndpointFlights
from smtpconn.pooling.logins import Login
from smtpconn.pooling.stock import Stock
from smtpconn.protocol.errors import (
    AuthenticationError,
    InvalidInputError,
    ProtocolError,
    SmtpError,
    StartTlsInjectionError,
    UsageError,
)
from smtpconn.protocol.flow import Pipelining
from smtpconn.protocol.sasl import Credentials
from smtpconn.sending import level_of

_AGE_JITTER = 0.1  # DF7
_random = random.SystemRandom()


class Opener:
    """Opens the connections of one pool, in the threads of its callers."""

    def __init__(self, stock: Stock) -> None:
        self._stock = stock

    def open(
        self, claim: Claim, until: float, phases: Timeouts | None, given: Credentials | None = None
    ) -> Outcome:
        """Open in the claim's slot, at the first endpoint that can be had. Frees the slot before it raises (BR24).

        `given`: the credentials to present, where they were asked for already.
        """
        slot = claim.slot
        assert slot is not None
        tried: list[Health] = []
        errors: list[Exception] = []
        left = len(self._stock.endpoints.healths)
        asked_again = False
        while True:
            begun = self._stock.clock()
            health: Health = slot.endpoint
            share = until if left <= 1 else begun + max(0.0, until - begun) / left
            login = self._stock.logins.login(given)
            opening = self._stock.opening if login is None else replace(self._stock.opening, credentials=login)
            try:
                slot.connection = self._stock.connector(
                    opening, health.endpoint, Budget(Deadline(share, self._stock.clock), phases, 0.0)
                )
                break
            except Exception as error:
                if not asked_again and _is_refusal(error) and self._stock.clock() < until:
                    asked_again = True
                    given = self._another(slot, error, begun, until, login)
                    if given is not None:
                        continue
                if _is_refusal(error):
                    self._stock.logins.refuse(login)
                errors.append(error)
                tried.append(health)
                consequence, left = self._open_failed(slot, error, begun, until, tried)
            if left:
                self._stock.voice.warning(slot.endpoint.name, "%s failed, trying %s", health.name, slot.endpoint.name)
                continue
            if consequence.requeue:
                self._stock.slots.condemn(claim, "broken")
                self._stock.slots.vacate(slot, claim)
                return self._stock.slots.take(claim, until)
            # BR24: the slot is free and a waiter awake before the caller sees the error
            self._stock.slots.condemn(claim, "broken")
            self._stock.slots.vacate(slot, claim)
            raise _chained(errors)
        return self._opened(claim, slot, begun)

    def _another(
        self, slot: Slot, error: Exception, begun: float, until: float, login: Login | None
    ) -> Credentials | None:
        """EP6: another secret than the refused one, if asking again gives one."""
        try:
            return self._stock.logins.another(login)
        except BaseException:  # the callable's own passes, and the refusal counts all the same
            self._stock.logins.refuse(login)
            self._open_failed(slot, error, begun, until, [slot.endpoint])
            raise

    def _opened(self, claim: Claim, slot: Slot, begun: float) -> Outcome:
        now = self._stock.clock()
        self._stock.note_limits(slot, slot.connection)
        health: Health = slot.endpoint
        if health.rset_alone:
            slot.connection.rset_alone = True
        asked = self._stock.opening.pipelining
        health.offers = level_of(asked, slot.connection.capabilities)
        if asked > Pipelining.GROUPED:
            slot.connection.flights = EndpointFlights(self._stock, health)
        max_age = self._stock.settings.max_age
        ends = math.inf if max_age is None else now + max_age * (1 - _random.uniform(0, _AGE_JITTER))
        closed_breaker = self._stock.slots.locked(self._stock.endpoints.opened, slot)
        outcome = self._stock.slots.install(claim, begun, ends)
        self._stock.voice.opened(slot.connection, slot.endpoint.name, now - begun)
        if closed_breaker and self._stock.voice.hook is not None:
            self._stock.voice.post(events.BreakerClosed)
        return outcome

    def _open_failed(
        self, slot: Slot, error: Exception, begun: float, until: float, tried: list[Health]
    ) -> tuple[Consequence, int]:
        """What follows, and how many endpoints are left to be tried (the slot stands on the next one)."""
        health: Health = slot.endpoint
        consequence, left = self._stock.slots.locked(self._note_failure, slot, error, begun, until, tried)
        self._announce_failure(health, error, consequence)
        return consequence, left

    def _note_failure(
        self, slot: Slot, error: Exception, begun: float, until: float, tried: list[Health]
    ) -> tuple[Consequence, int]:
        """Caller holds the lock."""
        now = self._stock.clock()
        rooms, count = self._stock.slots.each(), self._stock.slots.count
        consequence = self._stock.endpoints.failed(slot, error, now, rooms, begun=begun, out_of_time=now >= until)
        left = self._stock.endpoints.move_on(slot, tried, now, rooms) if _may_fail_over(error) and now < until else 0
        if not consequence.requeue:
            count("open_errors")
        for name, happened in (
            ("backoffs", consequence.backoff),
            ("breaker_trips", consequence.breaker),
            ("shrinks", consequence.limit),
        ):
            if happened is not None:
                count(name)
        if isinstance(error, StartTlsInjectionError):
            count("starttls_injections")
        elif isinstance(error, ProtocolError):
            count("protocol_errors")
        return consequence, left

    def _announce_failure(self, health: Health, error: Exception, consequence: Consequence) -> None:
        voice, kind = self._stock.voice, type(error).__name__
        reply = getattr(error, "reply", None)
        code = None if reply is None else reply.code
        if voice.hook is not None:
            voice.post(events.ConnectionFailed, endpoint=health.name, error=kind, code=code)
            if consequence.backoff is not None:
                voice.post(events.BackedOff, endpoint=health.name, delay=consequence.backoff, error=kind)
            if consequence.breaker is not None:
                voice.post(events.BreakerOpened, endpoint=health.name, delay=consequence.breaker)
        if consequence.limit is not None:
            voice.limited(health.name, consequence.limit, code)
        if consequence.breaker is not None:
            voice.warning(health.name, "credentials refused: no login for %.0f s", consequence.breaker)


def _is_refusal(error: Exception) -> bool:
    return isinstance(error, AuthenticationError) and error.permanent is True


def _may_fail_over(error: Exception) -> bool:
    """EP3: to the next endpoint for all but a refused login and what the caller did."""
    if isinstance(error, AuthenticationError):
        return error.permanent is not True
    return isinstance(error, SmtpError) and not isinstance(error, (InvalidInputError, UsageError))


def _chained(errors: list[Exception]) -> Exception:
    """EP4: the last error, the earlier ones as its context; permanent only if all are."""
    for earlier, later in itertools.pairwise(errors):
        later.__context__ = earlier
    last = errors[-1]
    if isinstance(last, SmtpError) and len(errors) > 1 and last.permanent:
        last.permanent = True if all(getattr(error, "permanent", None) for error in errors) else None
    return last
