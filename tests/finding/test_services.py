"""The servers of a service, as a table: RFC 2782, RFC 6186 section 3.4."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from smtpconn.finding.records import RecordSet, SrvRecord
from smtpconn.finding.services import services

NAME = "_submissions._tcp.example.test"


def records(*each: tuple[int, int, int, str]) -> RecordSet[SrvRecord]:
    return RecordSet(NAME, tuple(SrvRecord(host, port, priority, weight) for priority, weight, port, host in each))


WEIGHTS = ((0, 10, 465, "ten"), (0, 30, 465, "thirty"), (0, 0, 465, "zero"))

ORDERS: list[Any] = [
    pytest.param((), [], [], id="6186 3.1: no record"),
    pytest.param(((0, 1, 465, "a"),), [0], ["a"], id="2782: one record"),
    pytest.param(((0, 0, 0, ""),), [], [], id="6186 3.4: the root is no service"),
    pytest.param(((20, 0, 465, "b"), (10, 0, 465, "a")), [0, 0], ["a", "b"], id="2782: the lowest priority first"),
    pytest.param(((10, 1, 465, "a"), (20, 65535, 465, "b")), [1, 65535], ["a", "b"],
                 id="2782: weight counts within a priority only"),
    pytest.param(WEIGHTS, [0, 10, 30], ["zero", "ten", "thirty"], id="2782: 0 is the small chance of weight 0"),
    pytest.param(WEIGHTS, [1, 0, 0], ["ten", "zero", "thirty"], id="2782: the running sum reaches 1"),
    pytest.param(WEIGHTS, [10, 1, 0], ["ten", "thirty", "zero"], id="2782: the running sum reaches 10"),
    pytest.param(WEIGHTS, [11, 1, 0], ["thirty", "ten", "zero"], id="2782: the running sum passes 10"),
    pytest.param(WEIGHTS, [40, 10, 0], ["thirty", "ten", "zero"], id="2782: the sum itself is drawn, too"),
    pytest.param(((0, 0, 0, "a"), (0, 0, 465, "b")), [0], ["b"], id="port 0 is none"),
    pytest.param(((0, 0, 465, "192.0.2.1"), (0, 0, 465, "b")), [0], ["b"], id="2782: a target is a name"),
]  # fmt: skip


@pytest.mark.parametrize(("given", "drawn", "expected"), ORDERS)
def test_BS21_servers_come_by_priority_and_by_the_weight_that_is_drawn(
    given: tuple[tuple[int, int, int, str], ...], drawn: list[int], expected: list[str]
) -> None:
    numbers = iter(drawn)
    assert [each.host for each in services(records(*given), draw=lambda most: next(numbers))] == expected
    assert not list(numbers), "a number was drawn too many"


def test_BS21_the_heavier_server_is_first_as_often_as_its_weight_says() -> None:
    firsts = Counter(services(records((0, 1, 465, "light"), (0, 99, 465, "heavy")))[0].host for _ in range(400))
    assert firsts["heavy"] > 340  # 396 are expected
