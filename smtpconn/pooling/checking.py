"""Whether a connection may be used, and what its end says about its siblings (pool.md 6 and 7).

Knows the free check, the budget of NOOPs and the closing signals. Opens and closes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from smtpconn.deadline import Budget, Deadline
from smtpconn.pooling import events
from smtpconn.pooling.claims import Claim, Slot
from smtpconn.pooling.endpoints import Health, alarms_siblings, ends_the_series
from smtpconn.pooling.pooled import PooledConnection
from smtpconn.pooling.settings import NONMAIL_BUDGET, NOOP_BUDGET
from smtpconn.pooling.stock import Stock
from smtpconn.protocol.errors import SmtpError
from smtpconn.protocol.mail import Recipient, domains_of
from smtpconn.protocol.reply import MalformedReplyError, Reply

_FAREWELLS = (b"\r\n421", b"\r\n221", b"\n421", b"\n221")
_NO_NOOP = frozenset({500, 502, 504})
_NOOPS_REFUSED = 2  # VA5: a server without NOOP is not asked for ever (msmtp's users met one)


class Checks:
    """The checks of one pool."""

    def __init__(self, stock: Stock) -> None:
        self._stock = stock
        self._slots = stock.slots
        self._probe_after = math.inf if stock.settings.probe_after is None else stock.settings.probe_after

    def examine(self, claim: Claim, slot: Slot, now: float, until: float, patient: bool) -> str | None:
        """None if the connection may be used; else the reason to retire it."""
        connection: PooledConnection = slot.connection
        if slot.expires <= now:
            return "age" if slot.ends <= now else "idle"
        if slot.generation != self._slots.generation:
            return "generation"
        if not connection.is_quiet():
            return self.found_dead(slot, connection)
        mails = slot.mails
        if mails >= slot.endpoint.most_mails and mails >= slot.endpoint.most(now):
            return "messages"  # learnt since its return, which has looked at the rest
        if slot.counts_domains and beyond_domains(connection, claim.recipients):
            return "messages"
        if not slot.suspect and now - slot.returned <= self._probe_after:
            return None
        if not patient or now >= until:
            return None  # I12: a try makes no NOOP; AQ5: neither does who is late
        if connection.noops >= NOOP_BUDGET or connection.nonmail >= NONMAIL_BUDGET or self._probe_after == math.inf:
            return "nonmail"
        if slot.endpoint.noops_refused >= _NOOPS_REFUSED:
            return "nonmail"  # VA5
        if claim.probed:
            return "stale"  # one NOOP per acquire
        return self._probe(claim, slot, connection, until)

    def found_dead(self, slot: Slot, connection: PooledConnection) -> str:
        """VA1: the free check has failed; the reason to retire it. A 421 that waits is kept for the event."""
        self._stock.count("checks_failed")
        connection.hear_goodbye()
        self.signalled(slot, connection)
        return "stale" if connection.closing_reply is None else "closing"

    def _probe(self, claim: Claim, slot: Slot, connection: PooledConnection, until: float) -> str | None:
        claim.touched = claim.probed = True
        self._stock.count("probes")
        code = connection.probe(Budget(Deadline(until, self._stock.clock), self._stock.settings.phases, 0.0))
        if code == 250:
            slot.suspect = False
            slot.heard = self._stock.clock()
            return None
        self._stock.count("probe_failures")
        # VA7: what has been idle as long is as dead, and the rest is suspect
        asleep_since = slot.returned
        health = slot.endpoint
        slots = self._stock.slots
        if code in _NO_NOOP:
            slots.locked(health.refuse_noop)
        slots.withdraw(claim, "probe", lambda other: other.endpoint is health and other.returned <= asleep_since)
        slots.locked(self._suspect_siblings, slot)
        return "probe"

    def fate(self, slot: Slot, connection: PooledConnection) -> str | None:
        """RN2, as far as the connection itself decides; no I/O."""
        wear = connection.wear
        if wear is None:
            return "closing" if connection.is_shutting_down else "broken"
        mails, nonmail = wear
        if mails != slot.mails:
            slot.mails = mails
            slot.suspect = False  # VA6: a transaction has passed
            self._stock.note_limits(slot, connection)  # it may have said EHLO again
        learnt = slot.endpoint
        if mails >= slot.most_mails or (mails >= learnt.most_mails and mails >= learnt.most(self._stock.clock())):
            return "messages"
        return "nonmail" if nonmail >= NONMAIL_BUDGET else None

    def signalled(self, slot: Slot, connection: PooledConnection, error: BaseException | None = None) -> None:
        """The server has ended a connection (section 7): its siblings are looked at, and something may be learnt."""
        reply = connection.closing_reply
        health: Health = slot.endpoint
        limit = self._stock.slots.locked(self._note_signal, slot, connection, reply, error)
        code = None if reply is None else reply.code
        if self._stock.voice.hook is not None:
            self._stock.voice.post(events.ClosingSeen, of=connection, endpoint=health.name, code=code)
        if limit is not None:
            self._stock.voice.limited(health.name, limit, code)

    def _note_signal(
        self, slot: Slot, connection: PooledConnection, reply: Reply | None, error: BaseException | None
    ) -> int | None:
        """Returns the endpoint's new limit, if there is one. Caller holds the lock."""
        health: Health = slot.endpoint
        self._stock.slots.count("closing_signals")
        if alarms_siblings(reply):
            self._suspect_siblings(slot)
        if ends_the_series(reply) and isinstance(error, SmtpError) and error.stage in ("MAIL", "DATA"):
            health.learn(connection.mails - 1, self._stock.clock())
        if reply is None or reply.code != 432:
            return None
        self._stock.slots.count("shrinks")
        endpoints = self._stock.endpoints
        others = endpoints.live(health, self._stock.slots.each(), apart_from=slot)
        return endpoints.shrink(health, others, self._stock.clock())

    def _suspect_siblings(self, slot: Slot) -> None:
        """VA6. Caller holds the lock."""
        for other in self._stock.slots.each():
            if other is not slot and other.endpoint is slot.endpoint:
                other.suspect = True


def is_garbled_farewell(error: BaseException | None) -> bool:
    """CS11: a blank line and then a 421 or 221 where a reply was awaited, as some servers say on idle time-out."""
    cause = error
    while isinstance(cause, SmtpError):
        cause = cause.__cause__
    return isinstance(cause, MalformedReplyError) and cause.octets.startswith(_FAREWELLS)


def beyond_domains(connection: PooledConnection, recipients: Iterable[Recipient]) -> bool:
    """LI4: a mail to these recipients would take the connection beyond RCPTDOMAINMAX. A fresh one it does not spare."""
    most = connection.capabilities.limits.get("RCPTDOMAINMAX")
    return most is not None and bool(connection.domains) and len(connection.domains | domains_of(recipients)) > most
