from __future__ import annotations

import linecache
import math
import pickle
import warnings
from dataclasses import FrozenInstanceError, fields
from decimal import Decimal
from typing import Any

import pytest

from smtpconn.deadline import Budget, Deadline, Timeouts, seconds
from smtpconn.protocol.errors import InvalidInputError


class Clock:
    """A monotonic clock that moves when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


# --- seconds: IN20 ---


@pytest.mark.parametrize("value", [0.001, 1, 30, 86_400, 86_400.0])
def test_a_finite_number_above_zero_is_taken_as_a_float(value: float) -> None:
    taken = seconds("timeout", value)
    assert taken == value
    assert type(taken) is float


@pytest.mark.parametrize(
    "value", [0, 0.0, -0.0, -1, math.nan, math.inf, -math.inf, 1e10, 10**400], ids=lambda value: str(value)[:8]
)
def test_IN20_zero_negative_nan_infinite_and_what_the_clock_cannot_take_are_refused(value: float) -> None:
    with pytest.raises(InvalidInputError, match="timeout must be a finite number of seconds above 0") as caught:
        seconds("timeout", value)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("value", [None, "5", b"5", True, False, [5], Decimal(5), 5j], ids=repr)
def test_IN20_other_types_are_type_errors_bool_and_decimal_included(value: Any) -> None:
    with pytest.raises(TypeError, match="timeout must be a number of seconds"):
        seconds("timeout", value)


def test_zero_is_a_try_where_it_is_allowed_and_negative_still_is_not() -> None:
    assert seconds("acquire_timeout", 0, zero=True) == 0.0
    with pytest.raises(InvalidInputError):
        seconds("acquire_timeout", -1, zero=True)


@pytest.mark.parametrize("value", [86_400.001, 300_000, 1e9])
def test_IN20_more_than_a_day_is_accepted_with_a_warning_that_doubts_the_unit(value: float) -> None:
    with pytest.warns(UserWarning, match="more than one day: is the unit right"):
        assert seconds("timeout", value) == value


# --- Timeouts ---

_DEFAULTS = {
    "total": None, "connect": 30, "tls": 30, "greeting": 300, "ehlo": 300, "auth": 300, "command": 300, "mail": 300,
    "rcpt": 300, "data": 120, "body": 180, "final_reply": None, "rset": 20, "noop": 300, "probe": 2, "quit": 2,
}  # fmt: skip


def test_the_defaults_are_the_table_of_faults_section_12() -> None:
    """features:F92a."""
    assert Timeouts().to_dict() == _DEFAULTS


def test_timeouts_are_frozen_keyword_only_hashable_and_picklable() -> None:
    given = Timeouts(total=10, rcpt=1)
    assert pickle.loads(pickle.dumps(given)) == given  # noqa: S301 - our own octets
    assert hash(given) == hash(Timeouts(total=10.0, rcpt=1.0))
    assert Timeouts.from_dict(given.to_dict()) == given
    with pytest.raises(FrozenInstanceError):
        given.total = 5  # type: ignore[misc]
    with pytest.raises(TypeError):
        Timeouts(5)  # type: ignore[call-arg]


@pytest.mark.parametrize("name", [each.name for each in fields(Timeouts)])
@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf, 1e10], ids=str)
def test_IN20_every_field_refuses_what_is_no_limit(name: str, value: float) -> None:
    with pytest.raises(InvalidInputError, match=rf"Timeouts\.{name} "):
        Timeouts(**{name: value})


@pytest.mark.parametrize("name", [each.name for each in fields(Timeouts)])
@pytest.mark.parametrize("value", ["5", True, Decimal(1)], ids=repr)
def test_IN20_every_field_refuses_other_types(name: str, value: Any) -> None:
    with pytest.raises(TypeError, match=rf"Timeouts\.{name} "):
        Timeouts(**{name: value})


@pytest.mark.parametrize("name", [each.name for each in fields(Timeouts)])
def test_only_total_and_final_reply_may_be_none(name: str) -> None:
    if name in ("total", "final_reply"):
        assert Timeouts.from_dict({name: None}) == Timeouts()
    else:
        with pytest.raises(TypeError):
            Timeouts.from_dict({name: None})


def test_replace_gives_a_checked_copy() -> None:
    before = Timeouts(total=10)
    after = before.replace(mail=3, total=None)
    assert (after.total, after.mail, before.total) == (None, 3.0, 10.0)
    with pytest.raises(InvalidInputError):
        before.replace(mail=0)
    with pytest.raises(TypeError):
        before.replace(nonsense=1)


# --- Deadline ---


def test_a_deadline_counts_down_to_zero_and_not_below(clock: Clock) -> None:
    deadline = Deadline.after(5.0, clock)
    assert (deadline.remaining(), deadline.expired) == (5.0, False)
    clock.now += 4.5
    assert (deadline.remaining(), deadline.expired) == (0.5, False)
    clock.now += 0.5
    assert (deadline.remaining(), deadline.expired) == (0.0, True)
    clock.now += 100
    assert (deadline.remaining(), deadline.expired) == (0.0, True)


def test_never_is_never(clock: Clock) -> None:
    deadline = Deadline.after(None, clock)
    clock.now += 1e12
    assert (deadline.at, deadline.remaining(), deadline.expired) == (None, None, False)


@pytest.mark.parametrize(
    ("total", "limit", "left"),
    [(None, None, None), (None, 3.0, 3.0), (5.0, None, 5.0), (5.0, 3.0, 3.0), (5.0, 5.0, 5.0), (3.0, 5.0, 3.0)],
)
def test_within_is_the_earlier_of_the_two(
    clock: Clock, total: float | None, limit: float | None, left: float | None
) -> None:
    outer = Deadline.after(total, clock)
    inner = outer.within(limit)
    assert inner.remaining() == left
    assert outer.remaining() == total
    assert inner.clock is clock


def test_the_default_clock_is_the_monotonic_one() -> None:
    deadline = Deadline.after(60)
    left = deadline.remaining()
    assert left is not None
    assert 59 < left <= 60


# --- Budget ---


def test_none_is_no_timeout_of_a_verb() -> None:
    with pytest.raises(TypeError, match="timeout is required"):
        Budget.of(None)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="acquire_timeout"):
        Budget.of("5", name="acquire_timeout")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", [each.name for each in fields(Timeouts) if each.name != "total"])
def test_a_float_is_the_total_alone_but_probe_and_quit_keep_their_limits(clock: Clock, name: str) -> None:
    assert Budget.of(1000.0, clock).phase(name).remaining() == (2.0 if name in ("probe", "quit") else 1000.0)
    assert Budget.of(1.0, clock).phase(name).remaining() == 1.0


@pytest.mark.parametrize("name", [each.name for each in fields(Timeouts) if each.name not in ("total", "final_reply")])
def test_timeouts_limit_each_phase_from_its_own_start(clock: Clock, name: str) -> None:
    budget = Budget.of(Timeouts(**{name: 7.0}), clock)
    clock.now += 500
    assert budget.phase(name).remaining() == 7.0
    assert budget.total.remaining() is None


def test_the_smaller_of_phase_limit_and_rest_of_the_total_counts(clock: Clock) -> None:
    budget = Budget.of(Timeouts(total=10.0, mail=7.0), clock)
    assert budget.phase("mail").remaining() == 7.0
    clock.now += 6
    assert budget.phase("mail").remaining() == 4.0
    clock.now += 6
    assert budget.phase("mail").expired


@pytest.mark.parametrize(
    ("total", "final_reply", "left"),
    [(None, None, 600.0), (None, 5.0, 5.0), (1000.0, None, 1000.0), (1000.0, 5.0, 5.0), (4.0, 5.0, 4.0)],
)
def test_the_final_reply_has_600_s_only_where_neither_it_nor_a_total_was_given(
    clock: Clock, total: float | None, final_reply: float | None, left: float
) -> None:
    budget = Budget.of(Timeouts(total=total, final_reply=final_reply), clock)
    assert budget.phase("final_reply").remaining() == left


@pytest.mark.parametrize(
    ("timeout", "reserve"),
    [
        (100.0, 25.0),  # a quarter of the total
        (1000.0, 60.0),  # at most a minute
        (0.4, 0.1),
        (Timeouts(total=100.0), 25.0),
        (Timeouts(total=100.0, final_reply=80.0), 80.0),  # asked for
        (Timeouts(total=100.0, final_reply=100.0), 25.0),  # not smaller than the total
        (Timeouts(total=100.0, final_reply=600.0), 25.0),
        (Timeouts(final_reply=80.0), 0.0),  # no total, no guard
        (Timeouts(), 0.0),
    ],
    ids=lambda value: str(value) if isinstance(value, float) else f"{value.total}/{value.final_reply}",
)
def test_D4_BR15_the_reserve_for_the_final_reply(clock: Clock, timeout: float | Timeouts, reserve: float) -> None:
    budget = Budget.of(timeout, clock)
    assert budget.reserve == pytest.approx(reserve)
    if reserve:
        left = budget.total.remaining()
        assert left is not None
        clock.now += left - reserve - 0.001
        assert budget.leaves_reserve()
        clock.now += 0.002
        assert not budget.leaves_reserve()
    else:
        clock.now += 1e6
        assert budget.leaves_reserve()


def test_an_expired_budget_leaves_no_reserve(clock: Clock) -> None:
    budget = Budget.of(1.0, clock)
    clock.now += 2
    assert budget.total.expired
    assert not budget.leaves_reserve()


@pytest.mark.parametrize("through", ["the verb", "its Timeouts"])
def test_IN20_days_warn_of_the_unit_in_the_line_that_wrote_them(clock: Clock, through: str) -> None:
    def verb(timeout: float) -> Budget:
        return Budget.of(timeout, clock)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        budget = verb(200_000) if through == "the verb" else Budget.of(Timeouts(total=200_000), clock)
    assert budget.total.remaining() == 200_000
    assert [warning.filename for warning in caught] == [__file__]
    assert "200_000" in linecache.getline(__file__, caught[0].lineno)
