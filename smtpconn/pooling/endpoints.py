"""When an open may begin, and where: back-off, connection limit, credential breaker, what an endpoint has taught.

Knows the failures of opens and the clock's readings that it is given. Refuses to know threads and I/O: every method
is called under the lock of the slots, so none blocks, and none calls what belongs to the user. Its law: only a failed
*open* starts a back-off; a stale connection, a refused mail and a lost lease never do.
"""

from __future__ import annotations

import copy
import errno
import math
import random
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from smtpconn.pooling.claims import EMPTY, OPENING, Slot
from smtpconn.pooling.marks import Mark
from smtpconn.protocol.errors import (
    AuthenticationError,
    ConnectError,
    ConnectionLostError,
    InvalidInputError,
    SmtpError,
    SmtpTimeoutError,
    UsageError,
)
from smtpconn.protocol.flow import Pipelining
from smtpconn.protocol.reply import EnhancedStatus, Reply

_BACKOFF, _BACKOFF_MOST = 0.5, 30.0  # DF12
_LOGIN_BACKOFF = 5.0  # CS16
_JITTER = 0.2
_BREAKER, _BREAKER_MOST = 60.0, 3_600.0  # DF13
_HOLD = 60.0  # DF14
_RECENT = 30.0  # BO7
LEARNT_FOR = 600.0  # VA9: as long as a lost flight is held against an endpoint (pipelining FB3)
_LINGER, _PAUSE = 2.0, 0.25  # a server may count a connection a moment longer than it lives
_CUT_SHORT = 5.0  # BO1
_LOCAL = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_SYSTEM_BUSY = EnhancedStatus(4, 3, 2)
_random = random.SystemRandom()


class Named(Protocol):
    """An endpoint, as far as it matters here."""

    @property
    def name(self) -> str:
        """`host:port`, or the path of a Unix socket."""


class Consequence(NamedTuple):
    """What a failed open leads to. `requeue`: the caller waits for a connection instead of having the error (BO7)."""

    requeue: bool = False
    backoff: float | None = None
    limit: int | None = None
    breaker: float | None = None


class Health:
    """What is known of one endpoint."""

    def __init__(self, endpoint: Any) -> None:
        self.endpoint = endpoint
        self.name: str = endpoint.name
        self.mark = Mark()
        self.offers: Pipelining | None = None  # the level that its last EHLO allows, of what was asked for
        self.clear()

    def clear(self) -> None:
        """Forget everything (GN1)."""
        self.failures = 0
        self.backoff_since = self.not_before = -math.inf
        self.error: SmtpError | None = None  # of the last open, if none has succeeded since
        self.limit: int | None = None
        self.limited_at = 0.0
        self.crowded_at = -math.inf  # when it last took no more connections (BO7)
        self.left_at = -math.inf  # when the last connection to it was closed
        self.most_mails = math.inf  # MAILs that a connection may carry, learnt (VA9)
        self._learnt_until = -math.inf
        self._ended_after = 0
        self.noops_refused = 0  # VA5
        self.rset_alone = False  # it answers 503 to MAIL behind RSET in one flight (pipelining FB6)
        self.mark.clear()

    def refuse_noop(self) -> None:
        """It answered 500, 502 or 504 to NOOP (VA5)."""
        self.noops_refused += 1

    def learn(self, mails: int, now: float) -> None:
        """A connection was ended by the server after so many mails: twice running is a rule, for a time (VA9).

        When that is over, the first connection that ends after as many as the last one is enough.
        """
        if mails >= 1 and mails == self._ended_after:
            self.most_mails = min(mails, self.most(now))
            self._learnt_until = now + LEARNT_FOR
        self._ended_after = mails

    def most(self, now: float) -> float:
        """MAILs that a connection may carry now by what was learnt; inf where nothing was, or too long ago."""
        return self.most_mails if now < self._learnt_until else math.inf

    def back_off(self, now: float, begun: float, least: float) -> float | None:
        """BO1: the delay that starts now, or None if this open began before the last one started."""
        if begun < self.backoff_since:
            return None
        self.failures += 1
        delay = min(_BACKOFF * 2.0 ** min(self.failures - 1, 16), _BACKOFF_MOST)
        delay = max(delay * _random.uniform(1 - _JITTER, 1 + _JITTER), least)
        self.backoff_since, self.not_before = now, now + delay
        return delay

    def succeeded(self) -> None:
        """An open succeeded."""
        self.failures = 0
        self.backoff_since = self.not_before = -math.inf
        self.error = None

    def grow(self, now: float, heard: float, size: int) -> None:
        """BO8: one connection more for each 60 s in which something succeeded."""
        while self.limit is not None and now - self.limited_at >= _HOLD and heard > self.limited_at:
            self.limit += 1
            self.limited_at += _HOLD
            if self.limit >= size:
                self.limit = None

    def __repr__(self) -> str:
        return f"<Health {self.name}, {self.failures} failures>"


class Endpoints:
    """The endpoints of a pool, in order of preference, and its credential breaker. It is the `Gate` of the slots."""

    def __init__(self, endpoints: Sequence[Named], *, size: int, max_connecting: int) -> None:
        self.healths = [Health(endpoint) for endpoint in endpoints]
        self.size = size
        self.limited = False
        self.refusal: AuthenticationError | None = None
        self.refused_until = -math.inf
        self._trips = 0
        self._max_connecting = max_connecting

    def clear(self) -> None:
        """Forget back-offs, limits, the breaker and what was learnt."""
        for health in self.healths:
            health.clear()
        self.limited = False
        self._close_breaker()

    # ---- the gate

    def opens_at(self, now: float, slots: Sequence[Slot]) -> float:
        """AQ3: the moment from which an open is allowed; inf if an event must come first."""
        opening = [slot for slot in slots if slot.state is OPENING and not slot.replacing]
        if len(opening) >= self._max_connecting or (self.refusal is not None and opening):
            return math.inf
        best = min(self._health_opens_at(health, now, slots, opening) for health in self.healths)
        return max(best, self.refused_until)

    def refuses(self, now: float) -> bool:
        """BO6: the breaker is open, and not due for its trial."""
        return self.refusal is not None and now < self.refused_until

    def reserve(self, slot: Slot, now: float, slots: Sequence[Slot]) -> None:
        """EP2: the first endpoint that may be opened, or the one that is due first."""
        opening = [other for other in slots if other.state is OPENING and other is not slot and not other.replacing]
        slot.endpoint = min(self.healths, key=lambda health: self._health_opens_at(health, now, slots, opening))

    def left(self, slot: Slot, now: float) -> None:
        """The connection of this slot is closed; the server may count it a moment longer."""
        slot.endpoint.left_at = now

    def may_replace(self, slot: Slot, now: float, slots: Sequence[Slot]) -> bool:
        """SN2, AQ9: neither the breaker nor a back-off forbids it; `max_connecting` does not hold it up."""
        opening = [other for other in slots if other.state is OPENING and other is not slot]
        if self.refusal is not None and (now < self.refused_until or opening):
            return False
        return any(
            health.not_before <= now and not (health.failures and any(other.endpoint is health for other in opening))
            for health in self.healths
        )

    def surplus(self, slot: Slot, now: float, slots: Sequence[Slot]) -> bool:
        """BO8: the endpoint has more connections than its limit."""
        health: Health = slot.endpoint
        limit = self._limit(health, now, slots)
        return limit is not None and self.live(health, slots) > limit

    def _health_opens_at(self, health: Health, now: float, slots: Sequence[Slot], opening: Sequence[Slot]) -> float:
        if health.failures and any(slot.endpoint is health for slot in opening):
            return math.inf  # one trial at a time (BO2)
        limit = self._limit(health, now, slots)
        if limit is not None and self.live(health, slots) >= limit:
            growth = health.limited_at + _HOLD
            return growth if growth > now else math.inf
        return max(now, health.not_before)

    def _limit(self, health: Health, now: float, slots: Sequence[Slot]) -> int | None:
        if health.limit is not None:
            heard = max((slot.heard for slot in slots if slot.endpoint is health), default=-math.inf)
            health.grow(now, heard, self.size)
            self.limited = any(each.limit is not None for each in self.healths)
        return health.limit

    @staticmethod
    def live(health: Health, slots: Sequence[Slot], apart_from: Slot | None = None) -> int:
        """Counted slots of an endpoint."""
        return sum(
            1 for slot in slots if slot.endpoint is health and slot.state is not EMPTY and slot is not apart_from
        )

    def most(self, size: int) -> int:
        """How many connections all of them together are believed to take (BO8)."""
        limits = [health.limit for health in self.healths if health.limit is not None]
        return size if len(limits) < len(self.healths) else min(size, sum(limits))

    @staticmethod
    def is_crowded(health: Health, now: float) -> bool:
        """It took no more connections a moment ago: to wait is better than to give up."""
        return now - health.crowded_at <= _LINGER

    # ---- what happened

    def opened(self, slot: Slot) -> bool:
        """An open succeeded; True if that closed the breaker."""
        slot.endpoint.succeeded()
        return self._close_breaker()

    def failed(
        self, slot: Slot, error: Exception, now: float, slots: Sequence[Slot], *, begun: float, out_of_time: bool
    ) -> Consequence:
        """Section 8: what the failure of an open that was begun then leads to."""
        health: Health = slot.endpoint
        if not isinstance(error, SmtpError) or isinstance(error, (InvalidInputError, UsageError)):
            return Consequence()  # BO4: the caller's own
        if isinstance(error, AuthenticationError) and error.permanent:
            return Consequence(breaker=self._trip(error, now, begun))
        health.error = without_traceback(error)
        if isinstance(error.__cause__, OSError) and error.__cause__.errno in _LOCAL:
            health.not_before = max(health.not_before, now + _BACKOFF)
            return Consequence(backoff=_BACKOFF)
        if isinstance(error, SmtpTimeoutError) and out_of_time and now - begun < _CUT_SHORT:
            return Consequence()
        others = [other for other in slots if other.endpoint is health and other is not slot and other.opened]
        lingers = now - health.left_at <= _LINGER
        if _too_many(error) and any(now - other.heard <= _RECENT for other in others):
            health.crowded_at = now
            if lingers:
                health.not_before = max(health.not_before, now + _PAUSE)
            return Consequence(requeue=True, limit=self.shrink(health, len(others) + lingers, now))
        if lingers and error.reply is not None and not isinstance(error, AuthenticationError) and _too_many(error):
            health.crowded_at = now
            # What it counts may be our own connection that we have just closed: no error of this caller's.
            return Consequence(requeue=True, backoff=health.back_off(now, begun, 0.0))
        least = _LOGIN_BACKOFF if isinstance(error, AuthenticationError) else 0.0
        return Consequence(backoff=health.back_off(now, begun, least))

    def move_on(self, slot: Slot, tried: Sequence[Health], now: float, slots: Sequence[Slot]) -> int:
        """EP2, EP3: put the open on the next endpoint that may be tried; how many are left with it, 0 if none."""
        opening = [other for other in slots if other.state is OPENING and other is not slot]
        left = [
            health
            for health in self.healths
            if health not in tried and self._health_opens_at(health, now, slots, opening) <= now
        ]
        if left:
            slot.endpoint = left[0]
        return len(left)

    def shrink(self, health: Health, live: int, now: float) -> int:
        """BO8: the endpoint takes no more than this."""
        health.limit = max(1, live)
        health.limited_at = now
        self.limited = True
        return health.limit

    def admit_trial(self, now: float) -> None:
        """BO6: there is another secret: the trial is due."""
        self.refused_until = min(self.refused_until, now)

    def _trip(self, error: AuthenticationError, now: float, begun: float) -> float | None:
        if self.refusal is not None and begun < self.refused_until and now < self.refused_until:
            return None  # it began before the breaker opened
        delay = min(_BREAKER * 2.0 ** min(self._trips, 16), _BREAKER_MOST)
        self._trips += 1
        self.refusal = without_traceback(error)
        self.refused_until = now + delay
        return delay

    def _close_breaker(self) -> bool:
        was_open = self.refusal is not None
        self.refusal, self.refused_until, self._trips = None, -math.inf, 0
        return was_open

    @property
    def last_error(self) -> SmtpError | None:
        """The last open error of an endpoint that has not opened since."""
        return next((health.error for health in self.healths if health.error is not None), None)


Error = Any


def without_traceback(error: Error) -> Error:
    """A new instance with the same attributes, which keeps no frame alive (AQ12)."""
    fresh = copy.copy(error)
    fresh.__cause__ = error.__cause__
    return fresh


def ends_the_series(reply: Reply | None) -> bool:
    """True for a reply that says how many mails a connection may carry: 421, or 452 4.4.5 (VA9)."""
    return reply is not None and (reply.code == 421 or (reply.code == 452 and reply.enhanced == (4, 4, 5)))


def alarms_siblings(reply: Reply | None) -> bool:
    """True unless the closing reply speaks of its own connection only (451 4.4.1, 451 4.4.2, 452 4.4.5, 432)."""
    if reply is None or reply.code in (421, 221):
        return True
    return reply.code == 451 and reply.enhanced == _SYSTEM_BUSY


def _too_many(error: SmtpError) -> bool:
    """BO7: may mean that the server takes no more connections."""
    if isinstance(error, AuthenticationError):
        return error.permanent is not True
    if error.reply is not None:
        return error.reply.code == 421 or (error.reply.code == 432 and error.reply.enhanced == _SYSTEM_BUSY)
    if isinstance(error, ConnectionLostError):
        return error.stage == "greeting"
    return isinstance(error, ConnectError) and isinstance(error.__cause__, ConnectionRefusedError)


