"""Which servers take submissions for a domain, and in which order: SRV (RFC 2782, RFC 6186, RFC 8314).

Pure: chance is an argument.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from itertools import groupby

from smtpconn.finding.records import RecordSet, SrvRecord, is_server

_CHANCE = random.SystemRandom()


def _draw(most: int) -> int:
    return _CHANCE.randint(0, most)


def services(found: RecordSet[SrvRecord], *, draw: Callable[[int], int] = _draw) -> tuple[SrvRecord, ...]:
    """The servers to try, in order; empty where the domain has no such service, or says so with the root.

    `draw`: a number from 0 to the one given, both included.
    """
    usable = [record for record in found.records if is_server(record.host, record.port)]
    usable.sort(key=lambda record: record.priority)
    order: list[SrvRecord] = []
    for _, equals in groupby(usable, key=lambda record: record.priority):
        order += _by_weight(equals, draw)
    return tuple(order)


def _by_weight(records: Iterable[SrvRecord], draw: Callable[[int], int]) -> list[SrvRecord]:
    """RFC 2782: those of weight 0 stand first, a number up to the sum is drawn, and the running sum reaches it."""
    left = sorted(records, key=lambda record: record.weight > 0)
    order: list[SrvRecord] = []
    while left:
        mark, running = draw(sum(record.weight for record in left)), 0
        for place, record in enumerate(left):
            running += record.weight
            if running >= mark:
                order.append(left.pop(place))
                break
    return order
