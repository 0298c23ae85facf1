"""The pool against a model that is simple enough to be believed.

faults:P9, pool:PO1; I1-I9, I11, I12, I14-I18, I22, I23, I36.

`SlotsMachine` drives the slots, where claims wait and are handed things; `PoolMachine` drives a `ConnectionPool` over
connections that do what they are told. Both have a clock that is moved by hand. After each step the model says what is
idle, in which order, who waits, in which order, and who has what; pool.md 3 says what must never be.
"""

from __future__ import annotations

import dataclasses
import gc
import itertools
import math
import os
import random
import warnings
from unittest import mock

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from smtpconn.pool import ConnectionPool
from smtpconn.pooling import endpoints
from smtpconn.pooling.claims import CLOSING, EMPTY, HANDED, IDLE, LEASED, OPENING, Claim, Outcome, TicketState
from smtpconn.pooling.lease import Lease
from smtpconn.protocol.errors import ConnectError, PoolClosedError, PoolTimeoutError, SmtpError
from smtpconn.slots import Slots

# The tests meet the package as it is installed: the directory above `tests` is not on sys.path.
from ..pool.fakes import (  # noqa: TID252  # there is no absolute name
    ENVELOPE,
    Clock,
    FakeConnection,
    FakeServer,
    OpenGate,
    lost,
    pool_of,
    rejected,
    unavailable,
)

# The same examples every time: a failure in CI is a failure here. With SMTPCONN_EXPLORE=1 others are looked for.
MODEL = settings(
    max_examples=80, stateful_step_count=60, deadline=None, derandomize="SMTPCONN_EXPLORE" not in os.environ
)

RARELY = 5  # what ends many connections at once may happen at every fifth step only: else there is never much to end

MAX_IDLE = 20.0
AGE = 70.0
PICK = st.integers(0, 5)


@dataclasses.dataclass(eq=False)
class Connection:
    """What the model knows of a connection."""

    number: int
    ends: float
    generation: int
    returned: float = 0.0
    expires: float = math.inf


@dataclasses.dataclass(eq=False)
class Caller:
    """What the model knows of a claim: where it is, and what it has."""

    claim: Claim
    number: int
    until: float
    patient: bool
    state: str  # queued, handed, granted (an empty slot), checking, held, opening, replacing
    connection: Connection | None = None
    generation: int = 0
    queued_at: int = 0

    def is_counted(self) -> bool:
        return self.state in ("handed", "granted", "checking", "held", "opening", "replacing")


class SlotsMachine(RuleBasedStateMachine):
    """Slots and claims; every rule is one call, or one call and what its answer asks for."""

    @initialize(
        size=st.integers(1, 3),
        connecting=st.sampled_from([1, 2, 99]),
        waiting=st.sampled_from([None, None, None, 0, 2]),
    )
    def begin(self, size: int, connecting: int, waiting: int | None) -> None:
        self.clock = Clock()
        gate = OpenGate(size, max_connecting=connecting)
        self.slots = Slots(size, gate, max_waiting=waiting, clock=self.clock, sleep=self.clock.sleep)
        self.size, self.connecting, self.max_waiting = size, connecting, waiting
        self.idle: list[Connection] = []
        self.callers: list[Caller] = []
        self.queue: list[Caller] = []
        self.leaked: list[Connection] = []
        self.generation = 0
        self.closed = False
        self.numbers, self.tickets = itertools.count(1), itertools.count(1)
        self.opened = self.gone = 0
        self.counted_before = 0

    # ---- the model

    @property
    def counted(self) -> int:
        return len(self.idle) + sum(caller.is_counted() for caller in self.callers) + len(self.leaked)

    @property
    def opening(self) -> int:
        return sum(caller.state in ("granted", "opening") for caller in self.callers)

    def may_open(self) -> bool:
        return self.counted < self.size and self.opening < self.connecting

    def head(self) -> Caller | None:
        """The first live waiter (I5, I6)."""
        self.queue = [caller for caller in self.queue if self.clock.now < caller.until or caller is not self.queue[0]]
        while self.queue and self.clock.now >= self.queue[0].until:
            self.queue.pop(0)
        return self.queue[0] if self.queue else None

    def serve(self) -> None:
        """What is free goes to who is first: the newest connection, or else an empty slot (I3, I7, I9)."""
        while (head := self.head()) is not None:
            if self.idle:
                head.state, head.connection = "handed", self.idle.pop()
            elif self.may_open():
                head.state, head.generation = "granted", self.generation
            else:
                return
            self.queue.remove(head)

    def unfit(self, connection: Connection) -> str | None:
        if self.closed:
            return "closed"
        if connection.generation != self.generation:
            return "generation"
        if connection.ends <= self.clock.now:
            return "age"
        return "surplus" if self.counted > self.size else None

    def arrival(self, caller: Caller) -> Outcome:
        """AQ2: what a caller gets who owns nothing."""
        if self.head() is None:
            if self.idle:
                caller.state, caller.connection = "checking", self.idle.pop()
                return Outcome.CHECK
            if caller.patient and self.may_open():
                caller.state, caller.generation = "opening", self.generation
                return Outcome.OPEN
        if not caller.patient:
            return Outcome.BUSY
        if self.max_waiting is not None and sum(w.until > self.clock.now for w in self.queue) >= self.max_waiting:
            return Outcome.OVERLOADED
        caller.state = "queued"
        self.queue.append(caller)
        self.queue.sort(key=lambda waiting: waiting.number)  # AQ10: with the number drawn on entry
        return Outcome.QUEUED

    def drop_idle(self, chosen: list[Connection]) -> None:
        self.idle = [connection for connection in self.idle if connection not in chosen]
        self.gone += len(chosen)

    # ---- the callers' side of the slots

    def dispose(self, claim: Claim) -> int:
        found = self.slots.doomed(claim)
        for slot in found:
            self.slots.vacate(slot, claim)
        return len(found)

    def enter(self, caller: Caller) -> None:
        """AQ1: what is leaked or expired is closed first; then the model's answer must be that of the slots."""
        outcome = self.slots.take(caller.claim, caller.until, patient=caller.patient)
        now = self.clock.now
        stale = [connection for connection in self.idle if connection.expires <= now]
        ends_stale = bool(self.idle) and (self.idle[0] in stale or self.idle[-1] in stale)
        if not self.closed and (self.leaked or ends_stale):
            assert outcome is Outcome.DOOMED
            assert self.dispose(caller.claim) == len(stale) + len(self.leaked)
            self.gone += len(self.leaked)
            self.leaked.clear()
            self.drop_idle(stale)
            self.serve()
            outcome = self.slots.take(caller.claim, caller.until, patient=caller.patient)
        if not caller.number and not self.closed:
            caller.number = next(self.tickets)
        expected = Outcome.CLOSED if self.closed else self.arrival(caller)
        assert outcome is expected, (outcome, expected)
        if outcome in (Outcome.CLOSED, Outcome.BUSY, Outcome.OVERLOADED):
            self.end(caller)

    def end(self, caller: Caller) -> None:
        self.slots.end(caller.claim)
        if caller in self.callers:
            self.callers.remove(caller)

    def one(self, pick: int, *states: str) -> Caller:
        found = [caller for caller in self.callers if caller.state in states]
        return found[pick % len(found)]

    def has(self, *states: str) -> bool:
        return any(caller.state in states for caller in self.callers)

    # ---- what happens

    @precondition(lambda self: not self.queue and not self.closed)
    @rule(number=st.integers(2, 3))
    def some_come_and_go(self, number: int) -> None:
        """The shortest way to several idle connections."""
        before = list(self.callers)
        for _ in range(number):
            self.somebody_comes(30.0)
        came = [caller for caller in self.callers if caller not in before]
        for caller in came:
            if caller.state == "opening":
                self.an_open_succeeds(self.place(caller, "opening", "replacing"))
        for caller in came:
            if caller.state == "checking":
                self.a_check_is_passed(self.place(caller, "checking"))
            if caller.state == "held":
                self.a_connection_comes_back(self.place(caller, "held"), again=False)

    def place(self, caller: Caller, *states: str) -> int:
        return [other for other in self.callers if other.state in states].index(caller)

    @rule()
    def somebody_comes_who_has_time(self) -> None:
        self.somebody_comes(1e6)

    @rule()
    def somebody_comes_who_has_little_time(self) -> None:
        self.somebody_comes(3.0)

    @rule(patience=st.sampled_from([0.0, 3.0, 30.0, 1e6]))
    def somebody_comes(self, patience: float) -> None:
        caller = Caller(Claim(self.slots), 0, self.clock.now + (patience or 1.0), patience > 0, "new")
        self.callers.append(caller)
        self.enter(caller)

    @precondition(lambda self: self.has("queued", "handed", "granted"))
    @rule(pick=PICK)
    def a_waiter_wakes(self, pick: int) -> None:
        """For whatever reason, also for none (I14)."""
        caller = self.one(pick, "queued", "handed", "granted")
        ticket = caller.claim.ticket
        assert ticket is not None
        outcome, seconds = self.slots._look(caller.claim, ticket, self.clock.now, caller.until)
        if caller.state == "queued" and caller in self.queue and self.leaked:
            assert outcome in (Outcome.DOOMED, Outcome.EXPIRED)
            count = self.dispose(caller.claim)
            assert count == len(self.leaked)
            self.gone += count
            self.leaked.clear()
            self.serve()
            if outcome is Outcome.DOOMED:
                return
        late = self.clock.now >= caller.until
        if caller.state == "handed":
            assert outcome is Outcome.CHECK
            caller.state = "checking"
        elif caller.state == "granted":
            assert outcome is (Outcome.EXPIRED if late else Outcome.OPEN)
            if late:  # AQ5: passed on
                self.callers.remove(caller)
                self.slots.end(caller.claim)
                self.serve()
            else:
                caller.state = "opening"
        elif self.closed:
            assert outcome is Outcome.CLOSED
            self.end(caller)
        elif late:
            assert outcome is Outcome.EXPIRED
            if caller in self.queue:
                self.queue.remove(caller)
            self.end(caller)
            self.serve()
        else:
            assert outcome is Outcome.QUEUED
            assert 0 < seconds <= caller.until - self.clock.now

    @precondition(lambda self: self.has("checking"))
    @rule(pick=PICK)
    def a_check_is_passed(self, pick: int) -> None:
        caller = self.one(pick, "checking")
        caller.claim.checked = caller.claim.granted = True
        caller.state = "held"

    @precondition(lambda self: self.has("checking"))
    @rule(pick=PICK)
    def a_check_finds_death(self, pick: int) -> None:
        """AQ9."""
        caller = self.one(pick, "checking")
        self.slots.condemn(caller.claim, "stale")
        outcome = self.slots.exchange(caller.claim, caller.until, lambda slot: True, patient=caller.patient)
        self.gone += 1
        caller.connection = None
        if self.closed:
            expected = Outcome.CLOSED
        elif self.idle and self.head() is None and self.idle[-1].expires > self.clock.now:
            expected = Outcome.CHECK
            caller.connection = self.idle.pop()
        elif caller.patient and self.counted <= self.size:
            expected = Outcome.OPEN
            caller.state, caller.generation = "replacing", self.generation
        else:
            caller.state = "gone"
            self.serve()
            expected = self.arrival(caller)
        assert outcome is expected, (outcome, expected)
        if outcome in (Outcome.CLOSED, Outcome.BUSY, Outcome.OVERLOADED):
            self.end(caller)
        self.serve()

    @precondition(lambda self: self.has("held"))
    @rule(pick=PICK)
    def a_connection_is_replaced(self, pick: int) -> None:
        """SN2."""
        caller = self.one(pick, "held")
        self.slots.condemn(caller.claim, "stale")
        replaced = self.slots.replace(caller.claim)
        assert replaced == (not self.closed and self.counted <= self.size)
        self.gone += 1
        caller.connection = None
        if replaced:
            caller.state, caller.generation = "replacing", self.generation
            caller.claim.checked = False
        else:
            self.dispose(caller.claim)
            self.end(caller)
            self.serve()

    @precondition(lambda self: self.has("opening", "replacing"))
    @rule(pick=PICK)
    def an_open_succeeds(self, pick: int) -> None:
        caller = self.one(pick, "opening", "replacing")
        connection = Connection(next(self.numbers), self.clock.now + AGE, caller.generation)
        slot = caller.claim.slot
        assert slot is not None
        slot.connection = connection.number
        outcome = self.slots.install(caller.claim, self.clock.now, connection.ends)
        self.opened += 1
        reason = self.unfit(connection)
        caller.connection = connection
        caller.state = "held"
        if reason is None:
            assert outcome is Outcome.LEASED
            self.serve()
            return
        assert outcome is (Outcome.CLOSED if reason == "closed" else Outcome.OUTDATED)
        self.serve()  # what was opening opens no more
        assert self.dispose(caller.claim) == 1
        self.gone += 1
        caller.state, caller.connection = "gone", None
        self.serve()
        if reason == "closed":
            self.end(caller)
        else:
            caller.claim.granted = caller.claim.checked = False
            self.enter(caller)

    @precondition(lambda self: self.has("opening", "replacing"))
    @rule(pick=PICK)
    def an_open_fails(self, pick: int) -> None:
        """I2, I3."""
        caller = self.one(pick, "opening", "replacing")
        slot = self.slots.condemn(caller.claim, "broken")
        assert slot is not None
        self.slots.vacate(slot, caller.claim)
        self.end(caller)
        self.serve()

    @precondition(lambda self: self.has("held"))
    @rule(pick=PICK, again=st.booleans())
    def a_connection_comes_back(self, pick: int, again: bool) -> None:
        """RN2, RN3; and I17: a second return changes nothing."""
        caller = self.one(pick, "held")
        connection, slot = caller.connection, caller.claim.slot
        assert connection is not None
        assert slot is not None
        reason = self.slots.give_back(caller.claim, MAX_IDLE)
        assert reason == self.unfit(connection)
        if reason is None:
            self.callers.remove(caller)
            connection.returned = self.clock.now
            connection.expires = min(self.clock.now + MAX_IDLE, connection.ends)
            self.idle.append(connection)
        else:
            self.slots.vacate(slot, caller.claim)
            self.gone += 1
            self.end(caller)
        self.serve()
        if again:
            assert self.slots.give_back(caller.claim, MAX_IDLE) is None
            self.slots.vacate(slot, caller.claim)
            self.slots.end(caller.claim)

    @precondition(lambda self: self.has("held"))
    @rule(pick=PICK)
    def a_connection_is_discarded(self, pick: int) -> None:
        caller = self.one(pick, "held")
        slot = self.slots.condemn(caller.claim, "broken")
        assert slot is not None
        self.slots.vacate(slot, caller.claim)
        self.gone += 1
        self.end(caller)
        self.serve()

    @precondition(lambda self: self.has("queued", "handed", "granted", "checking", "held", "opening", "replacing"))
    @rule(pick=PICK)
    def somebody_is_interrupted(self, pick: int) -> None:
        """AQ6."""
        caller = self.one(pick, "queued", "handed", "granted", "checking", "held", "opening", "replacing")
        self.slots.forfeit(caller.claim)
        connection = caller.connection
        if caller in self.queue:
            self.queue.remove(caller)
        if connection is not None and caller.state in ("handed", "checking") and self.unfit(connection) is None:
            self.idle.append(connection)
            self.idle.sort(key=lambda each: each.returned)
        elif connection is not None:
            self.serve()
            self.gone += 1
        self.dispose(caller.claim)
        self.end(caller)
        self.serve()

    @precondition(lambda self: self.has("held"))
    @rule(pick=PICK)
    def a_lease_is_dropped(self, pick: int) -> None:
        """I26: found by the next who looks."""
        caller = self.one(pick, "held")
        assert caller.connection is not None
        self.leaked.append(caller.connection)
        self.callers.remove(caller)
        del caller.claim
        gc.collect(0)

    @precondition(lambda self: self.has("queued"))
    @rule(pick=PICK)
    def a_waiter_is_called_off(self, pick: int) -> None:
        caller = self.one(pick, "queued")
        self.slots.cancel(caller.claim)
        if caller in self.queue:
            self.queue.remove(caller)
        caller.until = -math.inf
        self.serve()

    @rule(seconds=st.sampled_from([0.1, 1.0, 2.0, 4.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.now += seconds

    @precondition(lambda self: self.steps % RARELY == 0)
    @rule(seconds=st.sampled_from([25.0, 80.0]))
    def much_time_passes(self, seconds: float) -> None:
        self.clock.now += seconds

    @precondition(lambda self: self.steps % RARELY == 0 and not self.closed)
    @rule()
    def invalidate(self) -> None:
        """GN1."""
        self.generation += 1
        assert self.slots.renew() == self.generation
        self.serve()
        claim = Claim(self.slots)
        self.slots.withdraw(claim, "generation")
        assert self.dispose(claim) == len(self.idle)
        self.slots.end(claim)
        self.drop_idle(self.idle)
        self.serve()

    @precondition(lambda self: not self.closed)
    @rule(size=st.integers(1, 4))
    def resize(self, size: int) -> None:
        """GN2: the oldest idle ones go first; waiters are served in order."""
        claim = Claim(self.slots)
        self.slots.resize(size, claim)
        self.size = size
        surplus = self.idle[: max(0, self.counted - size)]
        kept = [connection for connection in self.idle if connection not in surplus]
        self.idle = kept
        self.gone += len(surplus)
        assert self.dispose(claim) == len(surplus)
        self.slots.end(claim)
        self.serve()

    @precondition(lambda self: self.steps % RARELY == 0)
    @rule()
    def sweep(self) -> None:
        """RN6, LE4."""
        claim = Claim(self.slots)
        stale = [connection for connection in self.idle if connection.expires <= self.clock.now]
        self.slots.sweep(claim)
        assert self.dispose(claim) == len(stale) + len(self.leaked)
        self.slots.end(claim)
        self.gone += len(self.leaked)
        self.leaked.clear()
        self.drop_idle(stale)
        self.serve()

    @precondition(lambda self: self.steps % RARELY == 0 and not self.closed and self.opened > 6)
    @rule()
    def close(self) -> None:
        """CL1, I22."""
        claim = Claim(self.slots)
        self.slots.close(claim)
        self.closed = True
        self.queue.clear()
        for caller in self.callers:
            ticket = caller.claim.ticket
            if caller.state == "queued" and ticket is not None:
                assert not ticket.wake.locked()
        assert self.dispose(claim) == len(self.idle)
        self.slots.end(claim)
        self.drop_idle(self.idle)

    # ---- what must hold after each step

    steps = 0

    @invariant()
    def count(self) -> None:
        self.steps += 1

    @invariant()
    def I1_I2_no_slot_is_lost_and_none_is_too_many(self) -> None:
        states = [slot.state for slot in self.slots.each()]
        assert states.count(CLOSING) == 0
        assert states.count(IDLE) == len(self.idle)
        assert states.count(HANDED) == sum(caller.state == "handed" for caller in self.callers)
        assert states.count(LEASED) == sum(c.state in ("checking", "held") for c in self.callers) + len(self.leaked)
        assert states.count(OPENING) == sum(c.state in ("granted", "opening", "replacing") for c in self.callers)
        assert len(states) - states.count(EMPTY) == self.counted
        assert len(states) == max(self.size, self.counted)
        assert self.counted <= max(self.size, self.counted_before)  # above the size only what was there before it
        self.counted_before = self.counted

    @invariant()
    def I6_the_stack_and_the_queue_are_in_order(self) -> None:
        assert [slot.connection for slot in self.slots._idle] == [connection.number for connection in self.idle]
        tickets = [ticket for ticket in self.slots._queue.values() if self.clock.now < ticket.until]
        live = [caller for caller in self.queue if self.clock.now < caller.until]
        assert [ticket.number for ticket in tickets] == [caller.number for caller in live]
        assert all(ticket.state is TicketState.WAITING for ticket in tickets)

    @invariant()
    def I7_nobody_waits_for_what_is_there(self) -> None:
        if any(self.clock.now < caller.until for caller in self.queue):
            assert not self.idle
            assert self.head() is None or not self.may_open()

    @invariant()
    def I16_each_connection_has_one_holder_and_who_was_granted_is_awake(self) -> None:
        seen: set[int] = set()
        for caller in self.callers:
            slot = caller.claim.slot
            if caller.connection is not None:
                assert slot is not None
                assert slot.connection == caller.connection.number
                assert slot.watch is caller.claim.watch
            if slot is not None and caller.is_counted():
                assert id(slot) not in seen
                seen.add(id(slot))
            ticket = caller.claim.ticket
            if caller.state in ("handed", "granted"):
                assert ticket is not None
                assert not ticket.wake.locked()

    @invariant()
    def I36_what_was_opened_lives_or_was_retired(self) -> None:
        assert int(self.slots.counters.get("opened", 0)) == self.opened
        assert sum(self.slots.retired.values()) == self.gone
        live = len(self.idle) + len(self.leaked) + sum(caller.connection is not None for caller in self.callers)
        assert self.opened == live + self.gone

    def teardown(self) -> None:
        """Whatever was left: everybody lets go, and everything is there again."""
        if not hasattr(self, "slots"):
            return
        for caller in list(self.callers):
            self.slots.forfeit(caller.claim)
            self.dispose(caller.claim)
            self.slots.end(caller.claim)
        self.callers.clear()
        claim = Claim(self.slots)
        self.slots.sweep(claim, expired=False)
        self.dispose(claim)
        self.slots.end(claim)
        states = {slot.state for slot in self.slots.each()}
        assert states <= {IDLE, EMPTY}
        assert len(self.slots.each()) == self.size
        assert self.slots.waiting == 0


TestSlots = SlotsMachine.TestCase
TestSlots.settings = MODEL


class PoolMachine(RuleBasedStateMachine):
    """One thread and a pool: which connection it gets, what becomes of it, and what the statistics say."""

    @initialize(size=st.integers(1, 4))
    def begin(self, size: int) -> None:
        self.jitter = mock.patch.object(endpoints, "_random", random.Random(7))  # noqa: S311  # repeatable on purpose
        self.jitter.start()
        self.clock, self.server = Clock(), FakeServer()
        self.pool: ConnectionPool = pool_of(
            self.server, self.clock, max_size=size, max_idle=MAX_IDLE, max_age=None, max_messages=6, acquire_timeout=2.0
        )
        self.size = size
        self.held: list[tuple[Lease, FakeConnection]] = []
        self.idle: list[tuple[FakeConnection, float]] = []  # and when it came back; the newest is the last
        self.closed = False

    # ---- the model

    def is_good(self, connection: FakeConnection, returned: float) -> bool:
        """Nobody has a reason not to take it, whatever the pool suspects."""
        return (
            connection.quiet
            and connection.alive
            and self.clock.now - returned < MAX_IDLE
            and connection.mails < 6
            and connection.noops < 5
            and connection.nonmail < 8
        )

    def got(self, connection: FakeConnection) -> None:
        """LIFO among what can be used (AQ2); nothing that is dead, closed, held or expired is ever given (I15, I16)."""
        assert not connection.closed
        assert connection.quiet
        assert connection not in [other for _, other in self.held]
        good = [place for place, (other, returned) in enumerate(self.idle) if self.is_good(other, returned)]
        place = next((place for place, (other, _) in enumerate(self.idle) if other is connection), None)
        if place is None:
            assert not good, "a connection was opened though one was there"
        else:
            assert not good or place >= good[-1], "not the newest one"
            assert self.clock.now - self.idle[place][1] < MAX_IDLE
        self.settle()

    def settle(self) -> None:
        """What the pool has closed is idle no more."""
        held = [connection for _, connection in self.held]
        self.idle = [(each, when) for each, when in self.idle if not each.closed and each not in held]

    def back(self, connection: FakeConnection) -> None:
        self.idle = [(each, when) for each, when in self.idle if each is not connection]
        if not connection.closed:
            self.idle.append((connection, self.clock.now))
        self.settle()

    def used(self) -> FakeConnection:
        """The connection whose last act is the latest."""
        (found,) = [each for each in self.server.connections if each.mails != self.mails_before.get(id(each), 0)][-1:]
        return found

    def send(self) -> SmtpError | None:
        self.mails_before = {id(each): each.mails for each in self.server.connections}
        try:
            self.pool.send(*ENVELOPE)
        except SmtpError as error:
            return error
        return None

    def end_of_backoff(self) -> None:
        left = max(each.backoff for each in self.pool.stats().endpoints)
        self.clock.now += left + 0.001 if left else 0.0  # the sum alone may be a rounding short of it

    @property
    def is_full(self) -> bool:
        return len(self.held) >= self.size

    # ---- what happens

    @precondition(lambda self: not self.closed)
    @rule(patient=st.booleans())
    def a_lease_begins(self, patient: bool) -> None:
        lease = self.pool.connection() if patient else self.pool.connection(timeout=0)
        begun, there = self.clock.now, len(self.server.connections)
        try:
            lease.__enter__()
        except PoolTimeoutError:
            good = [each for each in self.idle if self.is_good(*each)]
            assert self.is_full or not patient
            assert self.is_full or not good
            # I11, I12; the sum of begin and limit is rounded, as the pool's deadline is
            assert self.clock.now <= begun + (2.0 if patient else 0.0)
            assert patient or len(self.server.connections) == there
            self.settle()
            return
        assert not self.is_full
        connection = lease._connection
        self.got(connection)
        self.held.append((lease, connection))
        self.settle()

    @precondition(lambda self: self.held)
    @rule(
        pick=PICK,
        act=st.sampled_from(["nothing", "mail", "mail", "refused", "421", "lost", "body", "close", "interrupt"]),
    )
    def a_lease_ends(self, pick: int, act: str) -> None:
        lease, connection = self.held.pop(pick % len(self.held))
        failures: dict[str, BaseException] = {
            "refused": rejected(550, "RCPT"), "421": unavailable("DATA"), "lost": lost("DATA"),
            "body": ZeroDivisionError("the body raised"), "interrupt": KeyboardInterrupt(),
        }  # fmt: skip
        if act == "close":
            lease.close()
        elif act != "nothing":
            connection.script = [failures[act]] if act in failures else []
            try:
                lease.send(*ENVELOPE)
            except (SmtpError, ZeroDivisionError, KeyboardInterrupt) as error:
                assert error is failures.get(act)  # noqa: PT017  # any of three classes
        lease.__exit__(None, None, None)
        assert connection.closed == (
            act not in ("nothing", "mail", "refused")
            or connection.mails >= 6
            or len(self.held) >= self.size
            or self.closed
            or connection in self.outdated
        )
        self.back(connection)

    outdated: list[FakeConnection]

    @initialize()
    def nothing_is_outdated(self) -> None:
        self.outdated = []

    @precondition(lambda self: not self.closed and not self.is_full)
    @rule(act=st.sampled_from(["well", "refused", "stale", "stale, then down", "unknown"]))
    def a_mail_is_sent(self, act: str) -> None:
        """I30: at most once more, and only if a reused connection died before it said a word."""
        failures = {
            "refused": rejected(550, "RCPT"), "stale": lost(unanswered=True),
            "stale, then down": lost(unanswered=True), "unknown": lost("end of data"),
        }  # fmt: skip
        self.server.acts = [failures[act]] if act in failures else []
        reused = any(self.is_good(*each) for each in self.idle)
        there = len(self.server.connections)
        if act == "stale, then down":
            self.server.script = [ConnectError("down")]
        error = self.send()
        self.server.script, self.server.acts = [], []  # what was not used
        opened = len(self.server.connections) - there
        if act == "well" or (act == "stale" and reused):
            assert error is None
            self.back(self.used())
        elif act == "stale":
            assert error is None or opened  # a connection that the model is not sure of may have been reused
            if error is None:
                self.back(self.used())
        elif act == "refused":
            assert error is not None
            assert error.stage == "RCPT"
            self.back(self.used())
        else:
            assert error is not None
        self.settle()
        self.end_of_backoff()

    @precondition(lambda self: self.steps % RARELY == 0 and not self.closed and not self.is_full)
    @rule()
    def an_open_fails(self) -> None:
        """I2, BO1: the error is the caller's; nothing is lost but the attempt."""
        for connection, _ in self.idle:
            connection.quiet = False
        self.server.script = [ConnectError("down")]
        error = self.send()
        assert type(error) is ConnectError
        self.settle()
        assert self.pool.stats().endpoints[0].backoff > 0
        self.end_of_backoff()

    @precondition(lambda self: self.idle)
    @rule(pick=PICK)
    def an_idle_connection_dies(self, pick: int) -> None:
        self.idle[pick % len(self.idle)][0].quiet = False

    @precondition(lambda self: self.idle)
    @rule(pick=PICK)
    def an_idle_connection_answers_no_more(self, pick: int) -> None:
        self.idle[pick % len(self.idle)][0].alive = False

    @rule(seconds=st.sampled_from([0.5, 2.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.now += seconds

    @precondition(lambda self: self.steps % RARELY == 0)
    @rule(seconds=st.sampled_from([16.0, 40.0]))
    def much_time_passes(self, seconds: float) -> None:
        self.clock.now += seconds

    @precondition(lambda self: self.steps % RARELY == 0 and not self.closed)
    @rule()
    def invalidate(self) -> None:
        """I34: nothing older is ever given again."""
        self.pool.invalidate()
        assert all(connection.closed for connection, _ in self.idle)
        self.outdated = [connection for _, connection in self.held]
        self.settle()

    @precondition(lambda self: not self.closed)
    @rule(size=st.integers(1, 5))
    def resize(self, size: int) -> None:
        self.pool.resize(max_size=size)
        before, self.size = self.idle, size
        self.settle()
        assert self.idle == before[len(before) - len(self.idle) :]  # GN2: the oldest go
        assert len(self.idle) == min(len(before), max(0, size - len(self.held)))

    @precondition(lambda self: self.steps % RARELY == 0 and not self.closed)
    @rule()
    def maintain(self) -> None:
        self.pool.maintain()
        assert not any(not each.quiet and not each.closed for each, _ in self.idle)
        self.settle()
        assert all(self.clock.now - returned < MAX_IDLE for _, returned in self.idle)

    @precondition(lambda self: self.held)
    @rule(pick=PICK)
    def a_lease_is_dropped(self, pick: int) -> None:
        self.held.pop(pick % len(self.held))
        gc.collect(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            self.pool.stats()

    @precondition(lambda self: self.steps % RARELY == 0 and not self.closed and len(self.server.connections) > 8)
    @rule()
    def close(self) -> None:
        """CL3, CL4: what is held is cut off, and closed when it comes back."""
        self.pool.close(timeout=0)
        self.closed = True
        assert all(connection.aborted.is_set() for _, connection in self.held)
        self.settle()
        assert self.idle == []
        for verb in (lambda: self.pool.send(*ENVELOPE), self.pool.invalidate, self.pool.maintain):
            try:
                verb()
            except PoolClosedError:
                continue
            raise AssertionError("a closed pool did something")

    # ---- what must hold after each step

    steps = 0

    @invariant()
    def count(self) -> None:
        self.steps += 1

    @invariant()
    def I1_I36_the_statistics_and_the_sockets_agree_with_the_model(self) -> None:
        if not hasattr(self, "pool"):
            return
        stats = self.pool.stats()
        assert (stats.idle, stats.leased) == (len(self.idle), len(self.held))
        assert (stats.opening, stats.closing, stats.waiting) == (0, 0, 0)
        assert len(stats.holders) == stats.leased
        assert stats.opened == len(self.server.connections) == stats.idle + stats.leased + sum(stats.retired.values())
        assert self.server.live <= max(self.size, len(self.held))
        assert stats.messages == sum(connection.mails for connection in self.server.connections)
        assert all(connection.noops <= 5 for connection in self.server.connections)
        assert all(connection.mails <= 6 for connection in self.server.connections)

    def teardown(self) -> None:
        if not hasattr(self, "pool"):
            return
        self.jitter.stop()
        for lease, _ in self.held:
            lease.__exit__(None, None, None)
        self.pool.close(timeout=0)
        stats = self.pool.stats()
        assert self.server.live == 0
        assert stats.opened == sum(stats.retired.values())


TestPool = PoolMachine.TestCase
TestPool.settings = MODEL


def test_the_model_of_the_pool_allows_for_a_clock_whose_sums_are_rounded() -> None:
    """pool:I11: a deadline may lie a rounding behind begin and limit."""
    machine = PoolMachine()
    machine.begin(size=1)
    machine.nothing_is_outdated()
    try:
        machine.clock.now = begun = 1_022.15
        assert begun + 2.0 - begun > 2.0
        machine.a_lease_begins(patient=True)
        machine.a_lease_begins(patient=True)
        assert machine.clock.now == begun + 2.0
    finally:
        machine.teardown()
