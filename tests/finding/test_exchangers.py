"""The hosts that take a domain's mail, as a table: RFC 5321 section 5.1, RFC 7505, RFC 2181 section 10.3."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from smtpconn.finding.exchangers import exchangers
from smtpconn.finding.records import MxRecord, RecordSet
from smtpconn.protocol.errors import ResolveError

DOMAIN = "example.test"


def records(*each: tuple[int, str]) -> RecordSet[MxRecord]:
    return RecordSet(DOMAIN, tuple(MxRecord(host, preference) for preference, host in each))


ORDERS: list[Any] = [
    pytest.param((), {}, [DOMAIN], id="5321 5.1: no MX is the domain itself"),
    pytest.param(((10, "a.test"),), {}, ["a.test"], id="5321 5.1: one MX"),
    pytest.param(((30, "c.test"), (10, "a.test"), (20, "b.test")), {}, ["a.test", "b.test", "c.test"],
                 id="5321 5.1: the lowest number first"),
    pytest.param(((0, "z.test"), (65535, "a.test")), {}, ["z.test", "a.test"], id="1035 3.3.9: 16 bits of preference"),
    pytest.param(((10, DOMAIN),), {}, [DOMAIN], id="5321 5.1: a domain may be its own MX"),
    pytest.param(((0, ""), (10, "a.test")), {}, ["a.test"], id="7505 3: the root beside others is no host"),
    pytest.param(((10, "192.0.2.1"), (20, "a.test")), {}, ["a.test"], id="5321 5.1: an address is no host name"),
    pytest.param(((10, "a\\032b.test"), (20, "a.test")), {}, ["a.test"], id="1123 2.1: a blank is in no host name"),
    pytest.param(((10, "a" * 64 + ".test"), (20, "a.test")), {}, ["a.test"], id="1035 2.3.4: a label of 64 octets"),
    pytest.param(((10, "a.test"), (20, "us.test"), (30, "c.test")), {"own_names": ["us.test"]}, ["a.test"],
                 id="5321 5.1: what is not nearer than we are is left out"),
    pytest.param(((10, "a.test"), (20, "US.test"), (20, "b.test")), {"own_names": ["us.TEST."]}, ["a.test"],
                 id="5321 5.1: equally near is not nearer, and case means nothing"),
    pytest.param(((10, "a.test"), (20, "b.test")), {"own_names": ["us.test"]}, ["a.test", "b.test"],
                 id="5321 5.1: we are not among them"),
]  # fmt: skip


@pytest.mark.parametrize(("given", "options", "expected"), ORDERS)
def test_BS21_the_hosts_come_in_the_order_of_their_preference(
    given: tuple[tuple[int, str], ...], options: dict[str, Any], expected: list[str]
) -> None:
    assert [each.host for each in exchangers(DOMAIN, records(*given), **options)] == expected


REFUSALS: list[Any] = [
    pytest.param(((0, ""),), {}, "null MX", id="7505 3: null MX"),
    pytest.param(((10, ""), (20, "")), {}, "null MX", id="7505 3: null MX in another dress"),
    pytest.param(((10, "192.0.2.1"),), {}, "names a host", id="5321 5.1: none usable is an error, not the domain"),
    pytest.param(((10, "us.test"),), {"own_names": ["us.test"]}, "loop", id="5321 5.1: the best is ourselves"),
    pytest.param(((10, "x.us.test"), (10, "b.test")), {"own_names": ["*.us.test"]}, "loop",
                 id="5321 5.1: ourselves by pattern, and as near"),
]  # fmt: skip


@pytest.mark.parametrize(("given", "options", "words"), REFUSALS)
def test_A1_a_domain_that_takes_no_mail_is_a_permanent_error(
    given: tuple[tuple[int, str], ...], options: dict[str, Any], words: str
) -> None:
    with pytest.raises(ResolveError, match=words) as caught:
        exchangers(DOMAIN, records(*given), **options)
    assert caught.value.permanent is True


def test_BS21_equal_preferences_are_mixed_and_stay_among_themselves() -> None:
    """RFC 5321 section 5.1: the sender MUST randomize them."""
    given = records((20, "z.test"), (10, "a.test"), (10, "b.test"), (10, "c.test"))
    seen = set()
    for numbers in itertools.permutations((0.1, 0.5, 0.9)):
        chance = iter((0.0, *numbers)).__next__
        seen.add("".join(each.host[0] for each in exchangers(DOMAIN, given, chance=chance)))
    assert seen == {"".join(order) + "z" for order in itertools.permutations("abc")}
    assert {exchangers(DOMAIN, given)[0].host for _ in range(200)} == {"a.test", "b.test", "c.test"}
