# ruff: noqa: E701
# A critical section is one line, `with lock: transition`. Real interrupts strike inside a transition, never between it
# and the release of the lock; on one line the same holds for exceptions out of a trace function, which strike at the
# start of a line. The transition is a call, never a comprehension: its jumps would start the line again.
"""What concerns all slots: expiry, withdrawal, another size, another generation, the end.

Knows no single caller: what is to be closed is given to a claim, whose owner closes it outside the lock.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from smtpconn.pooling.claims import CLOSING, HANDED, IDLE, LEASED, Claim, Slot, TicketState
from smtpconn.pooling.handoff import LEAK_CHECK, Handoff


class Upkeep(Handoff):
    """The acts on all slots."""

    def sweep(self, claim: Claim, *, expired: bool = True) -> None:
        """Give the claim to close what was leaked and, unless told otherwise, what has expired."""
        now = self._clock()
        with self.lock: self._settled(now, self._condemn, claim, now, expired)

    def withdraw(self, claim: Claim, reason: str, chosen: Callable[[Slot], bool] = bool) -> None:
        """Give the claim to close every idle connection that is chosen."""
        now = self._clock()
        with self.lock: self._settled(now, self._withdraw, claim, reason, chosen)

    def borrow(self, claim: Claim, chosen: Callable[[Slot], bool]) -> Slot | None:
        """Take one idle connection off the stack that is chosen, wherever it lies, to look at it."""
        now = self._clock()
        with self.lock: return self._settled(now, self._borrow, claim, chosen)

    def take_vacant(self, claim: Claim, least: int) -> bool:
        """GN3: an empty slot to open in, if fewer than `least` are in use, nobody waits and an open is allowed."""
        now = self._clock()
        with self.lock: return self._settled(now, self._take_vacant, claim, least, now)

    def shelve(self, claim: Claim, max_idle: float) -> None:
        """GN3: what the claim has opened goes to the idle ones, unused, or to the first waiter."""
        now = self._clock()
        with self.lock: self._settled(now, self._shelve_new, claim, now, max_idle)

    def renew(self) -> int:
        """GN1: a new generation; returns its number."""
        now = self._clock()
        with self.lock: return self._settled(now, self._renew, now)

    def resize(self, size: int, claim: Claim) -> None:
        """GN2: another size. Surplus idle connections, the oldest first, are given to the claim to close."""
        now = self._clock()
        with self.lock: self._settled(now, self._resize, size, claim, now)

    def close(self, claim: Claim) -> None:
        """CL1: no more claims; every waiter is woken; the idle connections are given to the claim to close."""
        now = self._clock()
        with self.lock: self._settled(now, self._close, claim)

    def drained(self, until: float) -> bool:
        """CL3: wait until nothing is leased or handed any more; False if the moment came first."""
        wake = threading.Lock()
        wake.acquire()
        while True:
            with self.lock: quiet = self._await_drain(wake)
            left = until - self._clock()
            if quiet or left <= 0:
                break
            self._sleep(wake, min(left, LEAK_CHECK))
        with self.lock: self._drained.remove(wake)
        return quiet

    def leased(self) -> list[Slot]:
        """The slots that somebody holds a connection of."""
        with self.lock: return self._leased()

    def _leased(self) -> list[Slot]:
        return [slot for slot in self._slots if slot.state in (LEASED, HANDED)]

    def _withdraw(self, claim: Claim, reason: str, chosen: Callable[[Slot], bool]) -> None:
        for slot in self._idle:
            if chosen(slot):
                slot.reason = reason
                slot.watch = claim.watch
                slot.state = CLOSING
        self._idle = [slot for slot in self._idle if slot.state is IDLE]

    def _borrow(self, claim: Claim, chosen: Callable[[Slot], bool]) -> Slot | None:
        for slot in self._idle:
            if chosen(slot):
                slot.watch = claim.watch
                claim.slot = slot
                slot.state = LEASED
                self._idle.remove(slot)
                return slot
        return None

    def _take_vacant(self, claim: Claim, least: int, now: float) -> bool:
        if self.closed or self._queue or len(self._slots) - len(self._vacant) >= least or not self._may_open(now):
            return False
        self._reserve(self._vacant[-1], claim.watch, now)
        claim.slot = self._vacant.pop()
        return True

    def _shelve_new(self, claim: Claim, now: float, max_idle: float) -> None:
        slot = self._owned(claim)
        if slot is None or slot.state is not LEASED or self._unfit(slot, now) is not None:
            return
        slot.returned = now
        slot.expires = min(now + max_idle, slot.ends)
        claim.checked = claim.granted = False
        claim.slot = None
        self._shelve(slot)
        self._serve(now)

    def _renew(self, now: float) -> int:
        self.generation += 1
        self._recheck(now)
        return self.generation

    def _resize(self, size: int, claim: Claim, now: float) -> None:
        self.size = size
        while len(self._slots) < size:
            slot = Slot()
            self._slots.append(slot)
            self._vacant.append(slot)
        while len(self._slots) > size and self._vacant:
            self._slots.remove(self._vacant.pop())
        surplus = len(self._slots) - size
        for slot in self._idle[:surplus]:
            slot.reason = "surplus"
            slot.watch = claim.watch
            slot.state = CLOSING
        self._idle = [slot for slot in self._idle if slot.state is IDLE]
        self._recheck(now)

    def _close(self, claim: Claim) -> None:
        self.closed = True
        for ticket in self._queue.values():
            ticket.state = TicketState.CLOSED
            self._poke(ticket)
        self._queue.clear()
        self._withdraw(claim, "closed", lambda slot: True)

    def _await_drain(self, wake: threading.Lock) -> bool:
        if wake not in self._drained:
            self._drained.append(wake)
        return not any(slot.state in (LEASED, HANDED) for slot in self._slots)
