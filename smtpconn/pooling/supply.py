# ruff: noqa: E701  # critical sections are one line each, as in `slots`
"""Connections for claims: checked, opened, replaced, returned, closed.

Knows what a connection may still be used for, and when an open may fail over. Refuses to know mails, results and
public verbs. Its laws: decide under the lock of the slots, act outside it; one deadline bounds everything that an
acquire does; `leave` is the only way out of a claim, and idempotent; nothing that goes wrong on return replaces the
caller's result.
"""

from __future__ import annotations

import math
import traceback
from collections.abc import Callable, Sequence
from functools import partial

from smtpconn.deadline import Budget, Deadline, Timeouts
from smtpconn.pooling import events
from smtpconn.pooling.checking import Checks, is_garbled_farewell
from smtpconn.pooling.claims import CLOSING, LEASED, Claim, Outcome, Slot
from smtpconn.pooling.opener import Opener
from smtpconn.pooling.pooled import PooledConnection
from smtpconn.pooling.refusing import Refusals
from smtpconn.pooling.stock import Stock
from smtpconn.protocol.errors import (
    ConnectionLostError,
    Delivery,
    PoolOverloadedError,
    PoolTimeoutError,
    ProtocolError,
    SmtpError,
)
from smtpconn.protocol.result import RecipientResult
from smtpconn.protocol.sasl import Credentials
from smtpconn.slots import Slots

CHECK = Outcome.CHECK
_QUIT_WAIT = 1.0  # seconds (DF15)
_POLITE = frozenset({"age", "idle", "messages", "generation", "surplus", "nonmail", "closed"})  # RN5: QUIT is written
_VERDICTS = {Delivery.DELIVERED: 0, Delivery.NOT_DELIVERED: 1, Delivery.UNKNOWN: 2}


class Supply:
    """The connections of one pool in one process."""

    def __init__(self, stock: Stock) -> None:
        self.pid = stock.pid
        self.settings = stock.settings
        self.level = stock.opening.pipelining
        self.patience = Deadline(None, stock.clock)  # of a lease, for the answer to a QUIT
        self.clock = stock.clock
        self.voice = stock.voice
        self.endpoints = stock.endpoints
        self.slots = stock.slots
        self.lock = stock.slots.lock
        self.count = stock.count
        kind = _tracked if stock.settings.track_leases else Claim
        self.claim: Callable[[], Claim] = partial(kind, self.slots)  # to nothing yet
        self._checks = Checks(stock)
        self._opener = Opener(stock)
        self._refusals = Refusals(stock)
        self.phases = stock.settings.phases
        self._max_idle = math.inf if stock.settings.max_idle is None else stock.settings.max_idle

    def note_verdicts(self, claim: Claim, recipients: Sequence[RecipientResult]) -> None:
        """Remember the verdicts of a mail for the statistics; they are added when the claim ends."""
        counts = claim.verdicts if claim.verdicts is not None else [0, 0, 0]
        for entry in recipients:
            counts[_VERDICTS[entry.delivery]] += 1
        claim.verdicts = counts

    # ---- acquire (section 4)

    def acquire(
        self, claim: Claim, now: float, until: float, phases: Timeouts | None, patient: bool = True
    ) -> PooledConnection:
        """A connection that is the claim's until `leave`, by the moment `until`. Whatever it raises, call `leave`.

        `now`: the clock's reading, just taken.
        """
        slots, hook = self.slots, self.voice.hook
        if hook is not None:
            self.voice.post(events.AcquireStarted)
        try:
            with self.lock: outcome = slots.take_locked(claim, now, until, patient)
            slot = claim.slot
            if outcome is not CHECK or slot is None:
                self._pursue(claim, outcome, now, until, phases, patient)
            elif (reason := self._checks.examine(claim, slot, now, until, patient)) is None:
                claim.reused = slot.uses > 0
                claim.checked = claim.granted = True
            else:
                outcome = self._discard(claim, slot, reason, until, patient)
                self._pursue(claim, outcome, self.clock(), until, phases, patient)
        except BaseException as error:
            self._acquire_failed(error)
            raise
        slot = claim.slot
        assert slot is not None
        if hook is not None:
            self._announce_acquired(claim, slot)
        connection: PooledConnection = slot.connection
        return connection

    def _pursue(
        self, claim: Claim, outcome: Outcome, now: float, until: float, phases: Timeouts | None, patient: bool
    ) -> None:
        """From this outcome on, until the claim has a connection. Raises what the caller is to have instead."""
        slots = self.slots
        given: Credentials | None = None
        while outcome is not Outcome.LEASED:
            if outcome is CHECK:
                slot = claim.slot
                assert slot is not None
                reason = self._checks.examine(claim, slot, now, until, patient)
                if reason is None:
                    claim.reused = slot.uses > 0
                    claim.checked = claim.granted = True
                    return
                outcome = self._discard(claim, slot, reason, until, patient)
            elif outcome is Outcome.OPEN:
                outcome = self._opener.open(claim, until, phases, given)
                given = None
            elif outcome is Outcome.QUEUED:
                outcome = slots.wait(claim, until)
            elif outcome is Outcome.DOOMED:
                self.dispose(claim)
                outcome = slots.take(claim, until, patient=patient) if claim.ticket is None else Outcome.QUEUED
            elif outcome is Outcome.OUTDATED:
                self.dispose(claim)
                outcome = slots.take(claim, until, patient=patient)
            else:
                given = self._refusals.may_try_again(outcome, until)
                outcome = slots.take(claim, until, patient=patient)
            now = self.clock()

    def _announce_acquired(self, claim: Claim, slot: Slot) -> None:
        waited, reused = claim.waited or 0.0, slot.uses > 0
        self.voice.post(
            events.Acquired, of=slot.connection, endpoint=slot.endpoint.name, waited=waited, reused=reused
        )

    def _acquire_failed(self, error: BaseException) -> None:
        if isinstance(error, PoolTimeoutError):
            self.count("timeouts")
        elif isinstance(error, PoolOverloadedError):
            self.count("overloads")
        elif not isinstance(error, Exception):
            self.count("interrupted")
        if self.voice.hook is not None:
            self.voice.post(events.AcquireFailed, error=type(error).__name__)

    def _discard(self, claim: Claim, slot: Slot, reason: str, until: float, patient: bool) -> Outcome:
        """AQ9: close it, then the next idle one, an open in the same slot, or the queue."""
        self.slots.condemn(claim, reason)
        self._close(slot)
        for other in self.slots.doomed(claim):
            if other is not slot:
                self._close(other)
                self.slots.vacate(other, claim)
        probe_after = self.settings.probe_after

        def acceptable(other: Slot) -> bool:
            if not claim.probed:
                return True
            return not other.suspect and (probe_after is None or self.clock() - other.returned <= probe_after)

        return self.slots.exchange(claim, until, acceptable, patient=patient)

    # ---- returning (section 5)

    def keeps(self, claim: Claim) -> bool:
        """SM4: True if the claim's connection may carry the next mail of its batch, too."""
        slot = claim.slot
        if slot is None or slot.connection is None or self._checks.fate(slot, slot.connection) is not None:
            return False
        return bool(slot.connection.is_quiet()) and self.slots.keeps(claim)

    def replace(self, claim: Claim, error: SmtpError, until: float, phases: Timeouts | None) -> PooledConnection | None:
        """SN2: a fresh connection in the claim's slot instead of the stale one, or None if there is no way now.

        Only where the server takes no more connections (BO7) may it be one that another caller has returned.
        """
        slot = claim.slot
        if slot is None or self.clock() >= until:
            return None
        stale, uses, health, endpoint = slot.connection, slot.uses, slot.endpoint, slot.endpoint.name
        if stale.is_shutting_down or isinstance(error, ConnectionLostError):
            self._checks.signalled(slot, stale, error)
        self.slots.condemn(claim, "closing" if stale.closing_reply is not None else "stale")
        self._close(slot)
        claim.checked = False
        replaced = self.slots.replace(claim)
        if not replaced and not self.slots.locked(self.endpoints.is_crowded, health, self.clock()):
            return None
        self.count("stale_retries")
        self.voice.retried(stale, endpoint, error, uses)
        if replaced:
            outcome = self._opener.open(claim, until, phases)
        else:
            self.slots.vacate(slot, claim)
            outcome = self.slots.take(claim, until)
        if outcome in (Outcome.CLOSED, Outcome.OUTDATED):
            self.dispose(claim)
            return None
        try:
            # BO7: where the server takes no more connections for now, this caller waits in the queue as others do.
            self._pursue(claim, outcome, self.clock(), until, phases, True)
        except SmtpError:
            return None
        assert claim.slot is not None
        connection: PooledConnection = claim.slot.connection
        return connection

    def leave(self, claim: Claim, rest: Deadline | None = None, error: BaseException | None = None) -> None:
        """The end of the claim: by RN2 if it is a lease, else by AQ6. `rest`: what a QUIT may use at most."""
        if claim.watch is not None:
            try:
                self._return(claim, rest, error)
            except Exception:
                self.voice.suppressed("a return")
                self.forfeit(claim)
            except BaseException:
                self.forfeit(claim)
                raise
        if self.slots.overdue:
            try:
                self.sweep()
            except Exception:
                self.voice.suppressed("a sweep")

    def _return(self, claim: Claim, rest: Deadline | None, error: BaseException | None) -> None:
        slot = claim.slot
        if not claim.checked or slot is None or slot.state not in (LEASED, CLOSING):
            self.forfeit(claim)
            return
        connection: PooledConnection = slot.connection
        reason: str | None = slot.reason  # decided already, by `take_back`
        if slot.state is LEASED:
            if self.voice.hook is not None:
                held = self.clock() - slot.since
                self.voice.post(events.Returned, of=connection, endpoint=slot.endpoint.name, seconds=held)
            reason = self._checks.fate(slot, connection)
            if reason is None:
                reason = self.slots.give_back(claim, self._max_idle)
            else:
                if reason != "closing" and isinstance(error, ProtocolError):
                    self.count("protocol_errors")
                if reason == "closing" or is_garbled_farewell(error):
                    self._checks.signalled(slot, connection, error)
                self.slots.condemn(claim, reason)
        if reason is not None:
            self._close(slot, rest)
            self.slots.vacate(slot, claim)
            self.slots.end(claim)

    def take_back(self, claim: Claim, now: float) -> None:
        """What `leave` does with a connection that is fit, in the caller's own turn with the lock.

        Does nothing, or no more than to decide why it is to be closed, where there is more to do: that is for `leave`.
        """
        slot = claim.slot
        if (
            slot is not None
            and slot.state is LEASED
            and self.voice.hook is None
            and self._checks.fate(slot, slot.connection) is None
        ):
            self.slots.give_back_locked(claim, now, self._max_idle)

    def forfeit(self, claim: Claim) -> None:
        """AQ6: whatever the claim has goes back or on, or is closed."""
        self.slots.forfeit(claim)
        self.dispose(claim)
        self.slots.end(claim)

    def dispose(self, claim: Claim) -> None:
        """Close and vacate every slot that the claim was given to close."""
        for slot in self.slots.doomed(claim):
            self._close(slot)
            self.slots.vacate(slot, claim)

    # ---- the whole pool (sections 9 and 11)

    def withdraw(self, reason: str, *, wait: float | None = None) -> None:
        """Close every idle connection, for that reason; the replies to QUIT are awaited for `wait` seconds in all."""
        self._with_claim(lambda claim: self.slots.withdraw(claim, reason), wait)

    def resize(self, size: int) -> None:
        """GN2."""
        self.endpoints.size = size
        self._with_claim(lambda claim: self.slots.resize(size, claim), _QUIT_WAIT)

    def close(self) -> None:
        """CL1, CL2: no more claims, no more waiters; the idle connections are closed."""
        self._with_claim(self.slots.close, _QUIT_WAIT)

    def _with_claim(self, decide: Callable[[Claim], object], wait: float | None) -> None:
        """Decide what is to be closed, then close it."""
        claim = self.claim()
        try:
            decide(claim)
            rest = None if wait is None else Deadline.after(wait, self.clock)
            doomed = self.slots.doomed(claim)
            if rest is not None and len(doomed) > 1:
                for slot in doomed:
                    self._part(slot)  # CL2: all say QUIT before the first answer is awaited
            for slot in doomed:
                self._close(slot, rest if rest is not None and not rest.expired else None)
                self.slots.vacate(slot, claim)
            self.slots.end(claim)
        except BaseException:
            self.forfeit(claim)
            raise

    def inspect(self) -> None:
        """GN3: the free check on every idle connection; no NOOP."""
        seen: set[Slot] = set()
        claim = self.claim()
        try:
            while (slot := self.slots.borrow(claim, lambda slot: slot not in seen)) is not None:
                seen.add(slot)
                if slot.connection.is_quiet():
                    self.slots.forfeit(claim)  # back where it was
                    continue
                self.slots.condemn(claim, self._checks.found_dead(slot, slot.connection))
                self.dispose(claim)
            self.slots.end(claim)
        except BaseException:
            self.forfeit(claim)
            raise

    def fill(self, least: int, until: float) -> None:
        """GN3: open until `least` connections live or an open fails. Raises what the open raises."""
        while True:
            claim = self.claim()
            try:
                if not self.slots.take_vacant(claim, least):
                    self.slots.end(claim)
                    return
                if self._opener.open(claim, until, self.settings.phases) is Outcome.LEASED:
                    self.slots.shelve(claim, self._max_idle)
                self.forfeit(claim)
            except BaseException:
                self.forfeit(claim)
                raise

    def sweep(self) -> None:
        """Close what was leaked or has expired. Raises nothing but what interrupts it."""
        self._with_claim(self.slots.sweep, None)

    def sweep_leaks(self) -> None:
        """Close what was leaked, if anything was."""
        if self.slots.has_leaks:
            self._with_claim(lambda claim: self.slots.sweep(claim, expired=False), None)

    def _close(self, slot: Slot, rest: Deadline | None = None) -> None:
        """Close the connection of a slot that is CLOSING and the caller's; with QUIT where that is due (RN5)."""
        connection: PooledConnection | None = slot.connection
        assert slot.state is CLOSING
        if connection is None:
            return
        reason = slot.reason
        slot.mails = connection.mails
        try:
            if reason == "leaked":
                watch = slot.culprit
                thread = watch.thread.name if watch is not None else "?"
                endpoint = slot.endpoint.name if slot.endpoint is not None else ""
                self.voice.leaked(connection, endpoint, thread, getattr(watch, "stack", None))
                connection.abort()
            if reason in _POLITE and connection.usable:
                connection.leave(None if rest is None or self.slots.waiting else self._quit_budget(rest))
        except Exception:
            self.voice.suppressed("closing a connection")
        finally:
            connection.close()
            slot.connection = None  # closed and told of once, however often this is called
        if slot.opened:
            self.voice.closed(connection, slot.endpoint.name, reason, slot.uses, self.clock() - slot.born)

    def _part(self, slot: Slot) -> None:
        connection: PooledConnection | None = slot.connection
        try:
            if connection is not None and slot.reason in _POLITE and connection.usable:
                connection.part()
        except Exception:
            self.voice.suppressed("closing a connection")

    def _quit_budget(self, rest: Deadline) -> Budget:
        limit = min(_QUIT_WAIT, self.settings.phases.quit) if self.settings.phases is not None else _QUIT_WAIT
        return Budget(rest.within(limit), None, 0.0)


def _tracked(slots: Slots) -> Claim:
    """A claim that knows who made it (DF17)."""
    claim = Claim(slots)
    if claim.watch is not None:
        claim.watch.stack = "".join(traceback.format_stack())
    return claim
