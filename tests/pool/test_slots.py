"""Slots alone: one thread, a clock moved by hand, numbers instead of connections (pool.md 2 to 5)."""

from __future__ import annotations

import gc
import statistics
import threading
import time
import timeit
from collections.abc import Callable

import pytest

from smtpconn.pooling.claims import EMPTY, HANDED, IDLE, LEASED, OPENING, Claim, Outcome, SlotState, TicketState
from smtpconn.slots import Slots

from .fakes import Clock, OpenGate, slots_of

FAR = 1e9


def states(slots: Slots) -> list[SlotState]:
    return [slot.state for slot in slots.each()]


def holding(slots: Slots, *, until: float = FAR) -> Claim:
    """A claim that has an idle connection."""
    claim = Claim(slots)
    assert slots.take(claim, until) is Outcome.CHECK
    claim.checked = claim.granted = True
    return claim


def queued(slots: Slots, *, until: float = FAR) -> Claim:
    claim = Claim(slots)
    assert slots.take(claim, until) is Outcome.QUEUED
    return claim


def look(slots: Slots, claim: Claim, *, until: float = FAR) -> Outcome:
    """What a waiter finds when he wakes now."""
    ticket = claim.ticket
    assert ticket is not None
    return slots._look(claim, ticket, slots._clock(), until)[0]


def woken(slots: Slots, claim: Claim) -> Outcome:
    """What a waiter finds who was woken: whoever is served must not have to wake by himself."""
    assert claim.ticket is not None
    assert not claim.ticket.wake.locked()
    return look(slots, claim)


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_AQ2_the_most_recently_used_connection_is_taken_first(clock: Clock) -> None:
    slots = slots_of(4, clock, idle=3)
    claim = holding(slots)
    assert claim.slot is not None
    assert claim.slot.connection == 3
    slots.give_back(claim, FAR)
    assert states(slots).count(IDLE) == 3


def test_AQ2_an_empty_slot_is_opened_when_nothing_is_idle(clock: Clock) -> None:
    slots = slots_of(2, clock)
    claim = Claim(slots)
    assert slots.take(claim, FAR) is Outcome.OPEN
    assert states(slots).count(OPENING) == 1


def test_I1_never_more_slots_are_in_use_than_the_size(clock: Clock) -> None:
    slots = slots_of(2, clock)
    claims = [Claim(slots) for _ in range(3)]
    outcomes = [slots.take(claim, FAR) for claim in claims]
    assert outcomes == [Outcome.OPEN, Outcome.OPEN, Outcome.QUEUED]


def test_I6_I9_AQ4_a_returned_connection_goes_to_the_longest_waiter(clock: Clock) -> None:
    slots = slots_of(1, clock, idle=1)
    holder = holding(slots)
    first, second = queued(slots), queued(slots)
    slots.give_back(holder, FAR)
    assert (first.slot is not None, second.slot) == (True, None)
    assert woken(slots, first) is Outcome.CHECK
    assert look(slots, second) is Outcome.QUEUED


def test_I6_the_releasing_caller_does_not_overtake_the_queue(clock: Clock) -> None:
    slots = slots_of(1, clock, idle=1)
    holder = holding(slots)
    waiter = queued(slots)
    slots.give_back(holder, FAR)
    again = queued(slots)
    assert woken(slots, waiter) is Outcome.CHECK
    assert again.slot is None


def test_I6_a_newcomer_stands_behind_a_waiter_even_if_he_would_only_try(clock: Clock) -> None:
    slots = slots_of(1, clock, idle=1)
    holder = holding(slots)
    waiter = queued(slots)
    slots.give_back(holder, FAR)
    assert slots.take(Claim(slots), FAR, patient=False) is Outcome.BUSY
    assert waiter.slot is not None


def test_I5_a_late_waiter_is_passed_over(clock: Clock) -> None:
    slots = slots_of(1, clock, idle=1)
    holder = holding(slots)
    late, live = queued(slots, until=clock.now + 1), queued(slots)
    clock.now += 2
    slots.give_back(holder, FAR)
    assert live.slot is not None
    assert look(slots, late, until=clock.now - 1) is Outcome.EXPIRED
    assert woken(slots, live) is Outcome.CHECK


def test_I4_a_connection_handed_at_the_last_moment_is_kept_or_passed_on(clock: Clock) -> None:
    slots = slots_of(1, clock, idle=1)
    holder = holding(slots)
    first, second = queued(slots, until=clock.now + 1), queued(slots)
    slots.give_back(holder, FAR)
    clock.now += 1
    assert look(slots, first, until=clock.now) is Outcome.CHECK  # AQ5: late, but it has it
    slots.forfeit(first)  # and passes it on if the check fails or it is interrupted
    assert woken(slots, second) is Outcome.CHECK


def test_AQ5_an_empty_slot_granted_too_late_is_passed_on(clock: Clock) -> None:
    slots = slots_of(1, clock, idle=1)
    holder = holding(slots)
    first, second = queued(slots, until=clock.now + 1), queued(slots)
    slots.condemn(holder, "broken")
    assert holder.slot is not None
    slots.vacate(holder.slot, holder)
    clock.now += 1
    assert look(slots, first, until=clock.now) is Outcome.EXPIRED
    assert woken(slots, second) is Outcome.OPEN


def test_I3_a_slot_freed_without_a_connection_wakes_a_waiter_who_opens(clock: Clock) -> None:
    slots = slots_of(1, clock, idle=1)
    holder, waiter = holding(slots), queued(slots)
    slot = slots.condemn(holder, "broken")
    assert slot is not None
    assert look(slots, waiter) is Outcome.QUEUED
    slots.vacate(slot, holder)
    assert woken(slots, waiter) is Outcome.OPEN


def test_I2_a_failed_open_gives_its_slot_back_once(clock: Clock) -> None:
    slots = slots_of(1, clock)
    claim = Claim(slots)
    assert slots.take(claim, FAR) is Outcome.OPEN
    slot = slots.condemn(claim, "broken")
    assert slot is not None
    for _ in range(3):
        slots.vacate(slot, claim)
        slots.forfeit(claim)
    assert states(slots) == [EMPTY]
    following = Claim(slots)
    assert slots.take(following, FAR) is Outcome.OPEN
    slots.vacate(slot, claim)
    assert slots.take(Claim(slots), FAR) is Outcome.QUEUED
    assert following.slot is slot


def test_I17_a_second_return_changes_nothing(clock: Clock) -> None:
    slots = slots_of(2, clock, idle=1)
    claim = holding(slots)
    slots.give_back(claim, FAR)
    other = holding(slots)
    slots.give_back(claim, FAR)
    slots.forfeit(claim)
    slots.end(claim)
    assert other.slot is not None
    assert other.slot.state is LEASED
    assert slots.acquired == 2


@pytest.mark.parametrize("size", [1, 3])
def test_max_waiting_refuses_whoever_would_be_one_too_many(clock: Clock, size: int) -> None:
    slots = slots_of(size, clock, idle=size, max_waiting=1)
    claims = [holding(slots) for _ in range(size)]
    claims.append(queued(slots, until=clock.now + 5))
    assert slots.take(Claim(slots), FAR) is Outcome.OVERLOADED
    clock.now += 6
    assert slots.take(Claim(slots), FAR) is Outcome.QUEUED  # who is late does not wait any more
    assert len(claims) == size + 1


def test_AQ10_who_starts_over_queues_with_the_number_that_he_drew_first(clock: Clock) -> None:
    slots = slots_of(1, clock)
    opener = Claim(slots)
    assert slots.take(opener, FAR) is Outcome.OPEN
    second, third = queued(slots), queued(slots)
    slot = slots.condemn(opener, "generation")
    assert slot is not None
    slots.vacate(slot, opener)
    assert woken(slots, second) is Outcome.OPEN
    assert slots.take(opener, FAR) is Outcome.QUEUED
    slots.forfeit(second)
    assert woken(slots, opener) is Outcome.OPEN
    assert look(slots, third) is Outcome.QUEUED


def test_AQ1_expired_connections_come_off_the_bottom_for_the_claim_to_close(clock: Clock) -> None:
    slots = slots_of(3, clock, idle=3)
    for slot in slots.each():
        slot.expires = clock.now + slot.connection  # 1 second, 2 seconds ...
    clock.now += 2
    claim = Claim(slots)
    assert slots.take(claim, FAR) is Outcome.DOOMED
    assert sorted(slot.connection for slot in slots.doomed(claim)) == [1, 2]
    for slot in slots.doomed(claim):
        slots.vacate(slot, claim)
    assert slots.take(claim, FAR) is Outcome.CHECK
    assert slots.retired == {"idle": 2}


def test_RN2_return_decides_by_generation_age_and_size(clock: Clock) -> None:
    slots = slots_of(3, clock, idle=3)
    one, two, three = holding(slots), holding(slots), holding(slots)
    assert one.slot is not None
    one.slot.ends = clock.now
    assert slots.give_back(one, FAR) == "age"
    slots.renew()
    assert slots.give_back(two, FAR) == "generation"
    slots.close(Claim(slots))
    assert slots.give_back(three, FAR) == "closed"


def test_GN2_smaller_takes_the_oldest_idle_ones_and_the_rest_on_return(clock: Clock) -> None:
    slots = slots_of(4, clock, idle=4)
    for slot in slots.each():
        slot.returned += slot.connection
    held = holding(slots)
    keeper = Claim(slots)
    slots.resize(1, keeper)
    assert sorted(slot.connection for slot in slots.doomed(keeper)) == [1, 2, 3]
    for slot in slots.doomed(keeper):
        slots.vacate(slot, keeper)
    assert slots.give_back(held, FAR) is None
    assert len(slots.each()) == 1


def test_GN2_larger_wakes_a_waiter_for_each_new_slot_in_order(clock: Clock) -> None:
    slots = slots_of(1, clock, idle=1)
    held = holding(slots)
    waiters = [queued(slots) for _ in range(3)]
    slots.resize(3, Claim(slots))
    assert [look(slots, waiter) for waiter in waiters] == [Outcome.OPEN, Outcome.OPEN, Outcome.QUEUED]
    assert held.slot is not None


def test_I22_close_marks_every_waiter_at_once(clock: Clock) -> None:
    slots = slots_of(1, clock, idle=1)
    holding_one = holding(slots)
    waiters = [queued(slots) for _ in range(3)]
    tickets = [waiter.ticket for waiter in waiters]
    slots.close(Claim(slots))
    assert all(
        ticket is not None and ticket.state is TicketState.CLOSED and not ticket.wake.locked() for ticket in tickets
    )
    assert [look(slots, waiter) for waiter in waiters] == [Outcome.CLOSED] * 3
    assert slots.take(Claim(slots), FAR) is Outcome.CLOSED
    assert holding_one.slot is not None


def test_I14_a_spurious_wake_up_changes_nothing(clock: Clock) -> None:
    slots = slots_of(1, clock, idle=1)
    held = holding(slots)
    waiter = queued(slots, until=clock.now + 3)
    ticket = waiter.ticket
    assert ticket is not None
    begun = clock.now

    def wake_for_nothing() -> None:
        if len(clock.slept) == 2:
            ticket.wake.release()

    clock.while_asleep = wake_for_nothing
    assert slots.wait(waiter, begun + 3) is Outcome.EXPIRED
    assert clock.now == begun + 3
    assert held.slot is not None


def test_AQ7_the_head_wakes_by_itself_when_an_open_becomes_allowed(clock: Clock) -> None:
    gate = OpenGate(1)
    slots = Slots(1, gate, clock=clock, sleep=clock.sleep)
    gate.healths[0].failures = 1
    gate.healths[0].not_before = clock.now + 2.5
    begun = clock.now
    claim = Claim(slots)
    assert slots.take(claim, begun + 10) is Outcome.QUEUED
    assert slots.wait(claim, begun + 10) is Outcome.OPEN
    assert clock.now == begun + 2.5


@pytest.mark.parametrize("leave", [Slots.forfeit, Slots.cancel])
def test_AQ7_when_the_head_leaves_the_queue_the_next_one_times_itself(
    clock: Clock, leave: Callable[[Slots, Claim], None]
) -> None:
    gate = OpenGate(1)
    slots = Slots(1, gate, clock=clock, sleep=clock.sleep)
    gate.healths[0].failures = 1
    gate.healths[0].not_before = clock.now + 2.5
    begun = clock.now
    head, following = queued(slots, until=begun + 9), queued(slots, until=begun + 9)
    assert look(slots, head) is Outcome.QUEUED
    clock.while_asleep = lambda: leave(slots, head)
    assert slots.wait(following, begun + 9) is Outcome.OPEN
    assert clock.now == begun + 2.5


def test_I6_a_newcomer_does_not_open_before_the_head_whose_time_has_come(clock: Clock) -> None:
    """AQ2: between the end of a back-off and the moment that the head wakes by itself."""
    gate = OpenGate(1)
    slots = Slots(1, gate, clock=clock, sleep=clock.sleep)
    gate.healths[0].failures = 1
    gate.healths[0].not_before = clock.now + 2.5
    head = queued(slots)
    clock.now += 3
    assert slots.take(Claim(slots), FAR, patient=False) is Outcome.BUSY
    newcomer = queued(slots)
    assert look(slots, head) is Outcome.OPEN
    assert newcomer.slot is None


def test_AQ8_a_wait_that_cannot_succeed_is_not_made(clock: Clock) -> None:
    gate = OpenGate(1)
    slots = Slots(1, gate, clock=clock, sleep=clock.sleep)
    gate.healths[0].failures = 1
    gate.healths[0].not_before = clock.now + 60
    assert slots.take(Claim(slots), clock.now + 10) is Outcome.HOPELESS


def test_I10_AQ3_opens_into_empty_slots_are_limited_and_a_finished_one_lets_the_next_begin(clock: Clock) -> None:
    slots = Slots(4, OpenGate(4, max_connecting=1), clock=clock, sleep=clock.sleep)
    first, second = Claim(slots), Claim(slots)
    assert slots.take(first, FAR) is Outcome.OPEN
    assert slots.take(second, FAR) is Outcome.QUEUED
    assert first.slot is not None
    first.slot.connection = 1
    slots.install(first, clock.now, FAR)
    assert woken(slots, second) is Outcome.OPEN


@pytest.mark.parametrize(
    ("change", "outcome", "reason"),
    [
        ("close", Outcome.CLOSED, "closed"),
        ("renew", Outcome.OUTDATED, "generation"),
        ("resize", Outcome.OUTDATED, "surplus"),
    ],
)
def test_AQ10_NN20_what_arrives_too_late_is_to_be_closed(
    clock: Clock, change: str, outcome: Outcome, reason: str
) -> None:
    slots = slots_of(2, clock)
    claims = [Claim(slots), Claim(slots)]
    for claim in claims:
        assert slots.take(claim, FAR) is Outcome.OPEN
        assert claim.slot is not None
        claim.slot.connection = "x"
    if change == "close":
        slots.close(Claim(slots))
    elif change == "renew":
        slots.renew()
    else:
        slots.resize(1, Claim(slots))
    assert slots.install(claims[0], clock.now, FAR) is outcome
    assert [slot.reason for slot in slots.doomed(claims[0])] == [reason]


def test_BO2_I10_a_dead_connection_is_not_replaced_while_the_trial_of_its_endpoint_is_under_way(clock: Clock) -> None:
    slots = slots_of(2, clock, idle=1)
    stale, trial = holding(slots), Claim(slots)
    assert stale.slot is not None
    stale.slot.endpoint.failures = 1
    assert slots.take(trial, FAR) is Outcome.OPEN
    slots.condemn(stale, "stale")
    assert slots.replace(stale) is False
    stale.slot.endpoint.succeeded()
    slots.install(trial, clock.now, FAR)
    assert slots.replace(stale) is True


@pytest.mark.parametrize("change", ["close", "resize"])
def test_SN2_I1_I23_a_dead_connection_is_not_replaced_where_there_is_no_room_for_it(clock: Clock, change: str) -> None:
    slots = slots_of(2, clock, idle=2)
    stale, other = holding(slots), holding(slots)
    if change == "close":
        slots.close(Claim(slots))
    else:
        slots.resize(1, Claim(slots))
    slots.condemn(stale, "stale")
    assert slots.replace(stale) is False
    assert other.slot is not None


@pytest.mark.parametrize("change", ["close", "renew", "resize"])
def test_GN3_I23_what_was_opened_ahead_is_not_kept_if_the_pool_has_changed_meanwhile(clock: Clock, change: str) -> None:
    slots = slots_of(2, clock)
    claims = [Claim(slots), Claim(slots)]
    for claim in claims:
        assert slots.take_vacant(claim, 2)
        assert claim.slot is not None
        claim.slot.connection = "x"
        assert slots.install(claim, clock.now, FAR) is Outcome.LEASED
    if change == "close":
        slots.close(Claim(slots))
    elif change == "renew":
        slots.renew()
    else:
        slots.resize(1, Claim(slots))
    slots.shelve(claims[0], FAR)
    assert states(slots) == [LEASED, LEASED]
    slots.forfeit(claims[0])
    assert [slot.connection for slot in slots.doomed(claims[0])] == ["x"]


@pytest.mark.parametrize(
    "act",
    [
        pytest.param(lambda slots, held, opening, waiter: slots.take(Claim(slots), FAR), id="take"),
        pytest.param(lambda slots, held, opening, waiter: look(slots, waiter), id="wait"),
        pytest.param(lambda slots, held, opening, waiter: slots.exchange(held, FAR, bool), id="exchange"),
        pytest.param(lambda slots, held, opening, waiter: slots.replace(held), id="replace"),
        pytest.param(lambda slots, held, opening, waiter: slots.install(opening, 0.0, FAR), id="install"),
        pytest.param(lambda slots, held, opening, waiter: slots.give_back(held, FAR), id="give_back"),
        pytest.param(lambda slots, held, opening, waiter: slots.keeps(held), id="keeps"),
        pytest.param(lambda slots, held, opening, waiter: slots.condemn(held, "broken"), id="condemn"),
        pytest.param(lambda slots, held, opening, waiter: slots.vacate(held.slot, held), id="vacate"),
        pytest.param(lambda slots, held, opening, waiter: slots.forfeit(held), id="forfeit"),
        pytest.param(lambda slots, held, opening, waiter: slots.cancel(waiter), id="cancel"),
    ],
)
@pytest.mark.parametrize("committed", [IDLE, HANDED])
def test_I24_I7_whoever_comes_next_serves_the_waiter_whom_an_interrupt_cut_off(
    clock: Clock, act: Callable[[Slots, Claim, Claim, Claim], object], committed: SlotState
) -> None:
    """A return was cut short behind a commit: the connection is idle, or the waiter's, and nobody has seen it."""
    slots = slots_of(4, clock, idle=3)
    held, cut, other, opening = holding(slots), holding(slots), holding(slots), Claim(slots)
    assert slots.take(opening, FAR) is Outcome.OPEN
    head, waiter = queued(slots), queued(slots)
    lost = cut.slot
    assert lost is not None
    lost.state, lost.watch, slots._unsettled = committed, head.watch if committed is HANDED else None, True
    act(slots, held, opening, waiter)
    assert head.slot is lost
    assert woken(slots, head) is Outcome.CHECK
    assert other.slot is not None
    assert len(slots.each()) == 4


@pytest.mark.parametrize("size", [1, 3, 6])
def test_I24_GN2_I1_a_resize_that_was_cut_off_is_completed_by_whoever_comes_next(clock: Clock, size: int) -> None:
    slots = slots_of(3, clock)
    slots.size, slots._unsettled = size, True
    claims = [Claim(slots) for _ in range(7)]
    outcomes = [slots.take(claim, FAR) for claim in claims]
    assert outcomes.count(Outcome.OPEN) == size
    assert len(slots.each()) == size


def test_I26_LE4_a_dropped_claim_is_found_by_the_next_caller(clock: Clock) -> None:
    slots = slots_of(1, clock, idle=1)
    claim = holding(slots)
    waiter = queued(slots)
    del claim
    gc.collect()
    assert look(slots, waiter) is Outcome.DOOMED
    (slot,) = slots.doomed(waiter)
    assert (slot.reason, slot.culprit is not None) == ("leaked", True)
    slots.vacate(slot, waiter)
    assert woken(slots, waiter) is Outcome.OPEN
    assert slots.counters["leaks"] == 1


def test_I25_an_ended_claim_leaves_nothing_in_the_leak_queue(clock: Clock) -> None:
    slots = slots_of(1, clock, idle=1)
    for _ in range(3):
        claim = holding(slots)
        slots.give_back(claim, FAR)
        del claim
    gc.collect()
    assert not slots.has_leaks


def test_a_waiter_whose_claim_is_gone_is_not_chosen(clock: Clock) -> None:
    slots = slots_of(1, clock, idle=1)
    held = holding(slots)
    gone, live = queued(slots), queued(slots)
    del gone
    gc.collect()
    slots.give_back(held, FAR)
    assert woken(slots, live) is Outcome.CHECK
    assert [slot.state for slot in slots.each()] == [LEASED]


def test_drained_waits_for_the_last_lease_and_not_for_opens(clock: Clock) -> None:
    slots = slots_of(2, clock, idle=1)
    held, opening = holding(slots), Claim(slots)
    assert slots.take(opening, FAR) is Outcome.OPEN
    slots.close(Claim(slots))
    begun = clock.now
    assert slots.drained(begun + 2) is False
    assert clock.now == begun + 2

    def end() -> None:
        slot = slots.condemn(held, "closed")
        assert slot is not None
        slots.vacate(slot, held)

    clock.while_asleep = end
    begun = clock.now
    assert slots.drained(begun + 2) is True
    assert clock.now == begun


def test_a_handed_connection_counts_and_is_nobody_elses(clock: Clock) -> None:
    slots = slots_of(1, clock, idle=1)
    held = holding(slots)
    waiter = queued(slots)
    slots.give_back(held, FAR)
    assert states(slots) == [HANDED]
    assert slots.take(Claim(slots), FAR, patient=False) is Outcome.BUSY
    assert woken(slots, waiter) is Outcome.CHECK


def test_PG1_take_and_give_back_cost_little_more_than_a_lock() -> None:
    """The goal is 15 pairs of a bare lock, measured by tests/bench; this guards against growth by a multiple."""
    slots = slots_of(4, Clock(), idle=1)

    def cycle() -> None:
        claim = Claim(slots)
        slots.take(claim, FAR)
        claim.checked = claim.granted = True
        slots.give_back(claim, FAR)

    def pair(lock: threading.Lock = threading.Lock()) -> None:  # noqa: B008  # one for all calls
        lock.acquire()
        lock.release()

    def cost(work: Callable[[], None]) -> float:
        return timeit.timeit(work, number=2_000, timer=time.thread_time)

    assert statistics.median(cost(cycle) / cost(pair) for _ in range(9)) < 40
