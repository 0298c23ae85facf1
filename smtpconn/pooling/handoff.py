# ruff: noqa: E701
# A critical section is one line, `with lock: transition`. Real interrupts strike inside a transition, never between it
# and the release of the lock; on one line the same holds for exceptions out of a trace function, which strike at the
# start of a line. The transition is a call, never a comprehension: its jumps would start the line again.
"""Transitions of slots: how what is freed reaches the first live waiter, and how a cut transition is mended.

Knows slots, the stack of idle connections and the queue of tickets. The caller of every function whose name begins
with an underscore holds the lock. Its laws: `Slot.state` is the truth, and one statement writes it; stack, vacancies,
tickets and claims follow from it. So an exception in the middle of a transition leaves nothing half-done: whoever
comes next finds it unsettled and derives the rest anew (`_mend`). What is free goes to who is first under the same
lock (`_serve`): nobody can slip between.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from smtpconn.pooling.claims import (
    CLOSING,
    EMPTY,
    HANDED,
    IDLE,
    LEASED,
    OPENING,
    Claim,
    Clock,
    Gate,
    Sleep,
    Slot,
    Ticket,
    TicketState,
    Watch,
    last_return,
    sleep_on,
)

LEAK_CHECK = 1.0  # seconds; whoever waits looks for leaked claims at least this often (LE4)

P = ParamSpec("P")
T = TypeVar("T")


class Handoff:
    """Slots, stack and queue. `clock` and `sleep` are injected in tests."""

    def __init__(
        self,
        size: int,
        gate: Gate,
        *,
        max_waiting: int | None = None,
        clock: Clock = time.monotonic,
        sleep: Sleep = sleep_on,
    ) -> None:
        self.lock = threading.Lock()
        self.size = size
        self.generation = 0
        self.closed = False
        self.counters: dict[str, float] = {}
        self.retired: dict[str, int] = {}
        self._gate = gate
        self._max_waiting = max_waiting
        self._clock = clock
        self._sleep = sleep
        self._slots = [Slot() for _ in range(size)]
        self._idle: list[Slot] = []  # the newest on top
        self._vacant = list(self._slots)
        self._queue: OrderedDict[int, Ticket] = OrderedDict()  # by number, which is the order of arrival
        self._number = 0
        self._timed: Ticket | None = None  # the head of the queue that knows when to wake by itself (AQ7)
        self._leaked: deque[Watch] = deque()
        self.forget: Callable[[Watch], None] = self._leaked.append
        self.acquired = 0  # claims that have ended as leases
        self.reused = 0  # of them on a connection that had served before
        self.waited = 0  # of them after queueing; the seconds of that, and the longest
        self.wait_seconds = self.longest_wait = 0.0
        self.overdue = False
        self._unsettled = False
        self._drained: list[threading.Lock] = []  # who waits for the last lease of a closed pool

    def locked(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call it under the lock: a decision that needs a steady picture. It must not block, and not call back."""
        with self.lock: return function(*args, **kwargs)

    def each(self) -> list[Slot]:
        """All slots. Caller holds the lock."""
        return self._slots

    def count(self, name: str, by: float = 1) -> None:
        """Add to a counter. Caller holds the lock."""
        self.counters[name] = self.counters.get(name, 0) + by

    @property
    def waiting(self) -> int:
        """How many wait; without the lock, for a look that may be stale."""
        return len(self._queue)

    @property
    def has_leaks(self) -> bool:
        """Claims were dropped; without the lock."""
        return bool(self._leaked)

    def _settled(self, now: float, transition: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        if self._unsettled:
            self._mend(now)
        self._unsettled = True
        result = transition(*args, **kwargs)
        self._unsettled = False
        return result

    def _owned(self, claim: Claim) -> Slot | None:
        slot = claim.slot
        return slot if slot is not None and claim.watch is not None and slot.watch is claim.watch else None

    def _unfit(self, slot: Slot, now: float) -> str | None:
        if self.closed:
            return "closed"
        if slot.generation != self.generation:
            return "generation"
        if slot.ends <= now:
            return "age"
        if len(self._slots) > self.size or (self._gate.limited and self._gate.surplus(slot, now, self._slots)):
            return "surplus"  # more slots than the size: after `resize`, until the surplus has come back
        return None

    def _lease(self, slot: Slot, claim: Claim, now: float) -> None:
        slot.since = now
        slot.watch = claim.watch
        claim.slot = slot
        slot.state = LEASED
        self._idle.pop()

    def _reserve(self, slot: Slot, watch: Watch | None, now: float) -> None:
        slot.clear()
        slot.since = now
        slot.generation = self.generation
        self._gate.reserve(slot, now, self._slots)
        slot.watch = watch
        slot.state = OPENING

    def _reopen(self, slot: Slot, now: float) -> None:
        self._retire(slot, now)
        slot.clear()
        slot.since = now
        slot.generation = self.generation
        slot.replacing = True
        self._gate.reserve(slot, now, self._slots)
        slot.state = OPENING

    def _shelve(self, slot: Slot) -> None:
        """Back onto the stack as if it had never been off it."""
        slot.state = IDLE
        slot.watch = None
        self._idle.append(slot)
        self._idle.sort(key=last_return)

    def _retire(self, slot: Slot, now: float) -> None:
        if slot.opened:
            self._gate.left(slot, now)
            reason = slot.reason or "broken"
            retired, mails = self.retired.get(reason, 0) + 1, self.counters.get("messages", 0) + slot.mails
            # I36: one statement, so that no exception can come between the mark and its counter
            slot.opened, self.retired[reason], self.counters["messages"] = False, retired, mails
        slot.connection = None

    def _vacate(self, slot: Slot, now: float) -> None:
        self._retire(slot, now)
        slot.state = EMPTY
        slot.watch = None
        if len(self._slots) > self.size:
            self._slots.remove(slot)
        else:
            self._vacant.append(slot)
        self._timed = None
        self._serve(now)
        self._wake_drained()

    def _settle(self, claim: Claim) -> None:
        if claim.granted and claim.waited is not None:
            self.waited += 1
            self.wait_seconds += claim.waited
            if claim.waited > self.longest_wait:
                self.longest_wait = claim.waited
        claim.waited = None
        if claim.verdicts is not None:
            for name, number in zip(("delivered", "not_delivered", "unknown"), claim.verdicts, strict=True):
                self.count(name, number)
            claim.verdicts = None

    def _enqueue(self, claim: Claim, now: float, until: float) -> None:
        ticket = Ticket(claim.number, until, now, claim.watch, claim.party)
        claim.ticket = ticket
        if not self._vacant and not self._idle:
            ticket.nap = max(0.0, min(until - now, LEAK_CHECK))  # nothing that it could time itself by
        queue = self._queue
        if queue and ticket.number < next(reversed(queue)):  # it drew its number before others who wait by now
            self._queue = OrderedDict(sorted([*queue.items(), (ticket.number, ticket)]))
        else:
            queue[ticket.number] = ticket

    def _abandon(self, ticket: Ticket, now: float) -> None:
        ticket.state = TicketState.ABANDONED
        self._queue.pop(ticket.number, None)
        self._serve(now)

    def _head(self, now: float) -> Ticket | None:
        """The first live waiter; each dead ticket is dropped once."""
        queue = self._queue
        while queue:
            ticket = next(iter(queue.values()))
            alive = ticket.watch is not None and ticket.watch() is not None
            if now < ticket.until and alive:
                return ticket
            ticket.state = TicketState.ABANDONED
            self._poke(ticket)
            queue.pop(ticket.number, None)
        return None

    def _waiting(self, now: float) -> int:
        return sum(1 for ticket in self._queue.values() if now < ticket.until)

    def _serve(self, now: float) -> None:
        """AQ4: hand what is there to who is first, until one of both runs out; the head times itself (AQ7)."""
        while (self._idle or self._vacant) and (ticket := self._head(now)) is not None:
            if self._idle:
                slot = self._idle[-1]
                slot.since = now
                slot.watch = ticket.watch
                slot.state = HANDED
                self._idle.pop()
            elif self._may_open(now):
                slot = self._vacant[-1]
                self._reserve(slot, ticket.watch, now)
                self._vacant.pop()
            else:
                if self._vacant and ticket is not self._timed:
                    self._poke(ticket)  # without an empty slot there is no open for whose moment it would wake
                return
            claim = slot.watch() if slot.watch is not None else None
            if claim is not None:
                claim.slot = slot
            ticket.state = TicketState.GRANTED
            self._queue.pop(ticket.number, None)
            if ticket.wake.locked():
                ticket.wake.release()

    @staticmethod
    def _poke(ticket: Ticket) -> None:
        if ticket.wake.locked():
            ticket.wake.release()

    def _fits(self) -> bool:
        return len(self._slots) - len(self._vacant) <= self.size

    def _may_open(self, now: float) -> bool:
        return (
            bool(self._vacant)
            and len(self._slots) - len(self._vacant) < self.size
            and self._gate.opens_at(now, self._slots) <= now
        )

    def _hopeless(self, now: float, until: float) -> bool:
        if len(self._vacant) < len(self._slots):
            return False
        return self._gate.refuses(now) or self._gate.opens_at(now, self._slots) > until

    def _condemn(self, claim: Claim, now: float, expired: bool = True) -> bool:
        """Leaked and expired connections are the claim's to close (LE4, AQ1)."""
        found = False
        while self._leaked:
            watch = self._leaked[0]
            for slot in list(self._slots):
                if slot.watch is not watch:
                    continue
                if slot.state is OPENING and slot.connection is None:
                    self._vacate(slot, now)
                    continue
                if slot.state is LEASED:
                    self.acquired, self.reused = self.acquired + 1, self.reused + (slot.uses > 0)
                slot.reason = "leaked"
                slot.culprit = watch
                slot.state = CLOSING
                slot.watch = claim.watch
                found = True
                self.count("leaks")
            self._leaked.popleft()
        self.overdue = False
        stale = [slot for slot in self._idle if slot.expires <= now] if expired else []
        for slot in stale:
            slot.reason = "age" if slot.ends <= now else "idle"
            slot.watch = claim.watch
            slot.state = CLOSING
        if stale:
            self._idle = [slot for slot in self._idle if slot.state is IDLE]
        return found or bool(stale)

    def _recheck(self, now: float) -> None:
        self._timed = None
        self._serve(now)

    def _wake_drained(self) -> None:
        for wake in self._drained:
            if wake.locked():
                wake.release()

    def _mend(self, now: float) -> None:
        """A transition was cut short by an exception: derive all from the states, which are the truth, then serve."""
        for slot in self._slots:
            if slot.state in (IDLE, EMPTY):
                slot.watch = None
            elif slot.watch is not None and (claim := slot.watch()) is not None and claim.watch is slot.watch:
                if slot.state is not CLOSING:
                    claim.slot = slot
                ticket = claim.ticket
                if ticket is not None and ticket.state is TicketState.WAITING and slot.state in (HANDED, OPENING):
                    ticket.state = TicketState.GRANTED
                if ticket is not None:
                    self._poke(ticket)
        for slot in [slot for slot in self._slots if slot.state is EMPTY][: max(0, len(self._slots) - self.size)]:
            self._slots.remove(slot)
        while len(self._slots) < self.size:
            self._slots.append(Slot())
        self._idle = sorted((slot for slot in self._slots if slot.state is IDLE), key=last_return)
        self._vacant = [slot for slot in self._slots if slot.state is EMPTY]
        for number, ticket in list(self._queue.items()):
            if self.closed and ticket.state is TicketState.WAITING:
                ticket.state = TicketState.CLOSED
            if ticket.state is not TicketState.WAITING:
                del self._queue[number]
                self._poke(ticket)
        self._recheck(now)
        self._wake_drained()
        self._unsettled = False
