# ruff: noqa: E701
# A critical section is one line, `with lock: transition`. Real interrupts strike inside a transition, never between it
# and the release of the lock; on one line the same holds for exceptions out of a trace function, which strike at the
# start of a line. The transition is a call, never a comprehension: its jumps would start the line again.
"""N slots, a stack of idle connections and a queue of waiters: a claim takes, waits, exchanges, gives back.

Knows a lock, a clock that it is given and the order of arrival. Refuses to know SMTP, to do I/O, to log and to raise
for a reason of policy: it answers with an `Outcome`. Connections are opaque to it; when an open may begin it asks a
`Gate`.

Its laws: every transition is made under the lock by a function that is given the claim; it finds out whether the
claim still owns the slot, and does nothing if not. Nothing grows with the number of slots or waiters but what is done
once for each of them. A claim that is dropped puts its watch into a deque; nothing else happens inside the collector.
"""

from __future__ import annotations

from collections.abc import Callable

from smtpconn.pooling.claims import CLOSING, HANDED, IDLE, LEASED, OPENING, Claim, Outcome, Slot, Ticket, TicketState
from smtpconn.pooling.handoff import LEAK_CHECK
from smtpconn.pooling.upkeep import Upkeep

CHECK = Outcome.CHECK


class Slots(Upkeep):
    """The slots of one pool."""

    def take(self, claim: Claim, until: float, *, patient: bool = True) -> Outcome:
        """AQ1 to AQ3: CHECK, OPEN, QUEUED, DOOMED, BUSY (only if not patient), OVERLOADED, HOPELESS or CLOSED."""
        now = self._clock()
        with self.lock: return self.take_locked(claim, now, until, patient)

    def take_locked(self, claim: Claim, now: float, until: float, patient: bool) -> Outcome:
        """`take` by a caller who holds the lock, and has just looked at the clock."""
        if self._unsettled:
            self._mend(now)
        self._unsettled = True
        idle = self._idle
        if self.closed:
            outcome = Outcome.CLOSED
        elif (
            self._leaked or (idle and (idle[0].expires <= now or idle[-1].expires <= now))
        ) and self._condemn(claim, now):
            outcome = Outcome.DOOMED
        else:
            if not claim.number:
                self._number += 1
                claim.number = self._number
            if idle and not self._queue:
                slot = idle[-1]
                slot.since = now
                slot.watch = claim.watch
                claim.slot = slot
                slot.state = LEASED  # the commit
                idle.pop()
                outcome = CHECK
            elif patient and not idle and not self._vacant and self._max_waiting is None:
                self._enqueue(claim, now, until)  # what `_take_or_queue` would find, too
                outcome = Outcome.QUEUED
            else:
                outcome = self._take_or_queue(claim, now, until, patient)
        self._unsettled = False
        return outcome

    def _take_or_queue(self, claim: Claim, now: float, until: float, patient: bool) -> Outcome:
        if self._head(now) is None:
            if self._idle:
                self._lease(self._idle[-1], claim, now)
                return Outcome.CHECK
            if patient and self._may_open(now):
                self._reserve(self._vacant[-1], claim.watch, now)
                claim.slot = self._vacant.pop()
                return Outcome.OPEN
        if not patient:
            return Outcome.BUSY
        if self._hopeless(now, until):
            return Outcome.HOPELESS
        if self._max_waiting is not None and self._waiting(now) >= self._max_waiting:
            return Outcome.OVERLOADED
        self._enqueue(claim, now, until)
        return Outcome.QUEUED

    def wait(self, claim: Claim, until: float) -> Outcome:
        """AQ5, AQ7: sleep until the claim's ticket is granted, late, hopeless or closed, or a leak is to be closed."""
        ticket = claim.ticket
        assert ticket is not None
        seconds, ticket.nap = ticket.nap, 0.0
        while True:
            if seconds:
                self._sleep(ticket.wake, seconds)
            now = self._clock()
            with self.lock: outcome, seconds = self._look(claim, ticket, now, until)
            if outcome is not Outcome.QUEUED:
                return outcome

    def _look(self, claim: Claim, ticket: Ticket, now: float, until: float) -> tuple[Outcome, float]:
        if self._unsettled:
            self._mend(now)
        self._unsettled = True
        outcome = Outcome.QUEUED
        if ticket.state is TicketState.WAITING:
            if self._leaked and self._condemn(claim, now, expired=False):
                outcome = Outcome.DOOMED
            elif (self._vacant or self._idle) and self._head(now) is ticket:
                self._timed = ticket
                self._serve(now)
        if ticket.state is TicketState.GRANTED:
            outcome = self._accept(claim, ticket, now, until)
        elif ticket.state is TicketState.CLOSED:
            outcome = Outcome.CLOSED
        elif ticket.state is TicketState.ABANDONED or now >= until:
            outcome = Outcome.EXPIRED
        elif outcome is Outcome.QUEUED and self._timed is ticket and self._hopeless(now, until):
            outcome = Outcome.HOPELESS
        if outcome in (Outcome.EXPIRED, Outcome.HOPELESS):
            self._abandon(ticket, now)
        seconds = 0.0
        if outcome is Outcome.QUEUED:
            seconds = self._nap(ticket, now, until)
        self._unsettled = False
        return outcome, seconds

    def _nap(self, ticket: Ticket, now: float, until: float) -> float:
        """How long to sleep: to the deadline; the head to the moment of an open; briefly while leases exist (LE4)."""
        wakes = until
        if self._timed is ticket and self._vacant:
            wakes = min(wakes, self._gate.opens_at(now, self._slots))
        if len(self._vacant) < len(self._slots):
            wakes = min(wakes, now + LEAK_CHECK)
        return max(0.0, wakes - now)

    def _accept(self, claim: Claim, ticket: Ticket, now: float, until: float) -> Outcome:
        slot = claim.slot
        claim.waited = (claim.waited or 0.0) + now - ticket.queued
        claim.ticket = None
        assert slot is not None
        if slot.state is OPENING:
            if now < until:
                return Outcome.OPEN
            self._vacate(slot, now)  # AQ5: late, and an empty slot is passed on
            claim.slot = None
            return Outcome.EXPIRED
        slot.since = now
        slot.state = LEASED
        return Outcome.CHECK

    def exchange(
        self, claim: Claim, until: float, acceptable: Callable[[Slot], bool], *, patient: bool = True
    ) -> Outcome:
        """AQ9: the connection failed its check and is closed: the next idle one, an open in its slot, or the queue."""
        now = self._clock()
        with self.lock: return self._exchange(claim, now, until, acceptable, patient)

    def _exchange(
        self, claim: Claim, now: float, until: float, acceptable: Callable[[Slot], bool], patient: bool
    ) -> Outcome:
        if self._unsettled:
            self._mend(now)
        self._unsettled = True
        slot = self._owned(claim)
        assert slot is not None
        if self.closed:
            self._vacate(slot, now)
            claim.slot = None
            outcome = Outcome.CLOSED
        elif self._idle and self._head(now) is None and self._idle[-1].expires > now and acceptable(self._idle[-1]):
            self._lease(self._idle[-1], claim, now)
            claim.touched = False
            self._vacate(slot, now)
            outcome = Outcome.CHECK
        elif patient and self._fits() and self._gate.may_replace(slot, now, self._slots):
            self._reopen(slot, now)
            outcome = Outcome.OPEN
        else:
            self._vacate(slot, now)
            claim.slot = None
            outcome = self._take_or_queue(claim, now, until, patient)
        self._unsettled = False
        return outcome

    def replace(self, claim: Claim) -> bool:
        """SN2: the claim's connection died and is closed; True if a new one may be opened in its slot now."""
        now = self._clock()
        with self.lock: return self._replace(claim, now)

    def _replace(self, claim: Claim, now: float) -> bool:
        if self._unsettled:
            self._mend(now)
        slot = self._owned(claim)
        assert slot is not None
        if self.closed or not self._fits() or not self._gate.may_replace(slot, now, self._slots):
            return False
        self._unsettled = True
        self._reopen(slot, now)
        self._unsettled = False
        return True

    def install(self, claim: Claim, born: float, ends: float) -> Outcome:
        """AQ10: the connection in the claim's slot is there: LEASED, or (to be closed) CLOSED or OUTDATED."""
        now = self._clock()
        with self.lock: return self._install(claim, now, born, ends)

    def _install(self, claim: Claim, now: float, born: float, ends: float) -> Outcome:
        if self._unsettled:
            self._mend(now)
        self._unsettled = True
        slot = self._owned(claim)
        assert slot is not None
        slot.born = slot.heard = slot.since = now
        slot.ends = ends
        if not slot.opened:
            opened, spent = self.counters.get("opened", 0) + 1, self.counters.get("open_seconds", 0) + now - born
            slot.opened, self.counters["opened"], self.counters["open_seconds"] = True, opened, spent
        if self.closed:
            outcome, slot.reason, slot.state = Outcome.CLOSED, "closed", CLOSING
        elif slot.generation != self.generation:
            outcome, slot.reason, slot.state = Outcome.OUTDATED, "generation", CLOSING
        elif not self._fits():
            outcome, slot.reason, slot.state = Outcome.OUTDATED, "surplus", CLOSING
        else:
            slot.state = LEASED
            claim.checked = claim.granted = True
            outcome = Outcome.LEASED
        self._timed = None  # what was opening opens no more: others may begin
        self._serve(now)
        self._unsettled = False
        return outcome

    def give_back(self, claim: Claim, max_idle: float) -> str | None:
        """RN2, RN3: the claim ends, its connection serves the next. Or the reason why the caller has to close it."""
        now = self._clock()
        with self.lock: return self.give_back_locked(claim, now, max_idle)

    def give_back_locked(self, claim: Claim, now: float, max_idle: float) -> str | None:
        """`give_back` by a caller who holds the lock, and has just looked at the clock."""
        if self._unsettled:
            self._mend(now)
        slot = claim.slot
        if slot is None or slot.watch is not claim.watch:
            return None
        self._unsettled = True
        ends = slot.ends
        reason = None
        if (
            ends <= now
            or self.closed
            or slot.generation != self.generation
            or len(self._slots) > self.size
            or self._gate.limited
        ):
            reason = self._unfit(slot, now)
        if reason is None:
            expires = now + max_idle
            slot.expires = expires if expires < ends else ends
            slot.returned = slot.heard = now
            self.acquired += 1
            if claim.reused:
                self.reused += 1
            slot.uses += 1
            if claim.waited is not None or claim.verdicts is not None:
                self._settle(claim)
            slot.state = IDLE
            slot.watch = None
            claim.slot = claim.watch = None
            idle = self._idle
            idle.append(slot)
            if self._queue:
                self._serve(now)
            elif idle[0].expires <= now:
                self.overdue = True  # somebody should sweep (RN6)
        else:
            slot.reason = reason
            slot.state = CLOSING
        self._unsettled = False
        return reason

    def keeps(self, claim: Claim) -> bool:
        """SM4: True if the claim may use its connection again: it is fit, and nobody but its own party waits."""
        now = self._clock()
        with self.lock: return self._keeps(claim, now)

    def _keeps(self, claim: Claim, now: float) -> bool:
        if self._unsettled:
            self._mend(now)
        slot = self._owned(claim)
        if slot is None or slot.state is not LEASED or self._unfit(slot, now) is not None:
            return False
        return not any(ticket.party is not claim.party and now < ticket.until for ticket in self._queue.values())

    def condemn(self, claim: Claim, reason: str) -> Slot | None:
        """The claim's connection is to be closed by the caller, for that reason; None if the claim owns none."""
        with self.lock: return self._condemn_own(claim, reason)

    def _condemn_own(self, claim: Claim, reason: str) -> Slot | None:
        if self._unsettled:
            self._mend(self._clock())
        slot = self._owned(claim)
        if slot is not None and slot.state is not CLOSING:
            slot.reason = reason
            slot.state = CLOSING
        return slot

    def vacate(self, slot: Slot, claim: Claim) -> None:
        """The socket is closed: the slot is empty, and the first waiter may open in it (I3)."""
        now = self._clock()
        with self.lock: self._vacate_owned(slot, claim, now)

    def _vacate_owned(self, slot: Slot, claim: Claim, now: float) -> None:
        if self._unsettled:
            self._mend(now)
        if claim.watch is None or slot.watch is not claim.watch:
            return
        self._unsettled = True
        if claim.slot is slot:
            claim.slot = None
        if claim.granted and claim.slot is None:
            self._conclude(claim)  # not later: between here and `end` it would be in no count
        self._vacate(slot, now)
        self._unsettled = False

    def forfeit(self, claim: Claim) -> None:
        """AQ6: whatever the claim has goes back or on; what must be closed first stays CLOSING, in `doomed`."""
        now = self._clock()
        with self.lock: self._forfeit(claim, now)

    def _forfeit(self, claim: Claim, now: float) -> None:
        if self._unsettled:
            self._mend(now)
        if claim.watch is None:
            return
        self._unsettled = True
        ticket, claim.ticket = claim.ticket, None
        for slot in list(self._slots):
            if slot.watch is not claim.watch:
                continue
            untouched = slot.state is HANDED or (slot.state is LEASED and not claim.checked and not claim.touched)
            if untouched and self._unfit(slot, now) is None:
                self._shelve(slot)
            elif slot.state is OPENING and slot.connection is None:
                self._vacate(slot, now)
            elif slot.state is not CLOSING:
                slot.reason = self._unfit(slot, now) or "broken" if untouched else "broken"
                slot.state = CLOSING
        claim.slot = None
        if ticket is not None and ticket.state is TicketState.WAITING:
            self._abandon(ticket, now)
        self._serve(now)
        self._unsettled = False

    def cancel(self, claim: Claim) -> None:
        """From another thread: if the claim waits, its wait ends as if its deadline had passed."""
        now = self._clock()
        with self.lock: self._settled(now, self._cancel, claim, now)

    def _cancel(self, claim: Claim, now: float) -> None:
        ticket = claim.ticket
        if ticket is not None and ticket.state is TicketState.WAITING:
            self._abandon(ticket, now)
            self._poke(ticket)

    def end(self, claim: Claim) -> None:
        """The claim owns nothing any more: detach its finaliser (I25). Idempotent."""
        with self.lock: self._end(claim)

    def _end(self, claim: Claim) -> None:
        if claim.watch is not None:
            self._conclude(claim)
            claim.watch = None

    def _conclude(self, claim: Claim) -> None:
        self._settle(claim)
        if claim.granted:
            claim.granted, self.acquired, self.reused = False, self.acquired + 1, self.reused + claim.reused

    def doomed(self, claim: Claim) -> list[Slot]:
        """The slots that the claim has to close: close their connections, then `vacate` them."""
        if claim.watch is None:
            return []
        with self.lock: return self._doomed(claim)

    def _doomed(self, claim: Claim) -> list[Slot]:
        return [slot for slot in self._slots if slot.state is CLOSING and slot.watch is claim.watch]
