"""Which TLSA records are usable, as a table: RFC 7671 section 9, RFC 7672 sections 2.2 and 3.1."""

from __future__ import annotations

from typing import Any

import pytest

from smtpconn.finding.records import TlsaRecord
from smtpconn.finding.tlsa import TlsaDemand, TlsaState, judged, usable
from smtpconn.protocol.errors import InvalidInputError

A32, B32, A64 = b"a" * 32, b"b" * 32, b"a" * 64


def record(usage: int, selector: int = 1, matching_type: int = 1, data: bytes = A32) -> TlsaRecord:
    return TlsaRecord(usage, selector, matching_type, data)


CASES: list[Any] = [
    pytest.param([], [], id="none"),
    pytest.param([record(3)], [0], id="7672 3.1.1: DANE-EE"),
    pytest.param([record(2)], [0], id="7672 3.1.2: DANE-TA"),
    pytest.param([record(0), record(1)], [], id="7672 3.1.3: PKIX-TA and PKIX-EE"),
    pytest.param([record(4), record(255)], [], id="6698 2.1.1: unknown usages"),
    pytest.param([record(3, 0)], [0], id="6698 2.1.2: the whole certificate"),
    pytest.param([record(3, 2), record(3, 255)], [], id="6698 2.1.2: unknown selectors"),
    pytest.param([record(3, 1, 3, A32), record(3, 1, 255, A32)], [], id="6698 2.1.3: unknown matching types"),
    pytest.param([record(3, 1, 1, A32[:31]), record(3, 1, 1, A64)], [], id="SHA-256 of another length"),
    pytest.param([record(3, 1, 2, A32), record(3, 1, 1, b"")], [], id="SHA-512 of another length, and no digest"),
    pytest.param([record(3, 1, 0, b"")], [], id="nothing is the whole of nothing"),
    pytest.param([record(3, 1, 0, b"x")], [0], id="6698 2.1.3: the exact match"),
    pytest.param([record(3, 1, 1, A32), record(3, 1, 1, B32)], [0, 1], id="7671 8.1: roll-over"),
    pytest.param([record(3), record(3)], [0], id="the same record twice"),
    pytest.param([record(3, 1, 1, A32), record(3, 1, 2, A64)], [1], id="7671 9: the strongest digest alone counts"),
    pytest.param([record(3, 1, 1, A32), record(3, 1, 2, A32)], [0], id="7671 9: a broken one is not the strongest"),
    pytest.param([record(3, 1, 0, b"x"), record(3, 1, 2, A64), record(3, 1, 1, A32)], [0, 1],
                 id="7671 9: the whole counts beside the strongest"),
    pytest.param([record(3, 0, 1, A32), record(3, 1, 2, A64), record(2, 1, 1, A32)], [0, 1, 2],
                 id="7671 9: for each usage and selector by itself"),
    pytest.param([record(1), record(3), record(9)], [1], id="7672 3.1.3: one usable among others"),
]  # fmt: skip


@pytest.mark.parametrize(("given", "left"), CASES)
def test_BS21_a_record_that_means_nothing_to_SMTP_is_left_out(given: list[TlsaRecord], left: list[int]) -> None:
    assert usable(given) == tuple(given[place] for place in left)


STATES: list[Any] = [
    pytest.param((), False, TlsaState.INSECURE, id="7672 2.2: an insecure denial"),
    pytest.param((record(3),), False, TlsaState.INSECURE, id="7672 2.2: insecure records are no records"),
    pytest.param((), True, TlsaState.NONE, id="7672 2.2: a secure denial"),
    pytest.param((record(1),), True, TlsaState.UNUSABLE, id="7672 2.2: secure, all unusable"),
    pytest.param((record(1), record(3)), True, TlsaState.USABLE, id="7672 2.2: secure, one usable"),
]


@pytest.mark.parametrize(("given", "authenticated", "state"), STATES)
def test_BS21_what_an_answer_means(given: tuple[TlsaRecord, ...], authenticated: bool, state: TlsaState) -> None:
    answer = judged("mx.test", given, authenticated=authenticated)
    assert answer.state is state
    assert (record(1) in answer.records) is (state is TlsaState.UNUSABLE)


def test_a_demand_that_nothing_could_meet_is_refused_at_birth() -> None:
    for records in ((), (record(0), record(1))):
        with pytest.raises(InvalidInputError, match="usable"):
            TlsaDemand(records, ("mx.test",))
    with pytest.raises(InvalidInputError, match="names"):
        TlsaDemand((record(3),), ("a b",))
    for wrong in ({"records": ("3 1 1",)}, {"names": "mx.test"}, {"alone": 1}):
        arguments: Any = {"records": (record(3),), "names": ("mx.test",), **wrong}
        with pytest.raises(TypeError, match=next(iter(wrong))):
            TlsaDemand(**arguments)


def test_a_record_shows_itself_as_in_a_zone_file() -> None:
    assert str(record(3)) == "3 1 1 " + "61" * 32
