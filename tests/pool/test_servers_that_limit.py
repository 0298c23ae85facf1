"""Servers that limit connections, or mails per connection: a thousand mails, each delivered once, no error seen.

The servers have an interpreter of their own. Real ones are in `tests/interop`.
"""

from __future__ import annotations

import threading
from typing import Any

import pytest

from smtpconn import ConnectionPool, Delivery, Mail, TlsMode
from smtpconn.testing import ServerProcess

SENDER, RECIPIENT = "a@example.com", "b@example.com"
MAILS, THREADS = 1_000, 8


def body(number: int) -> bytes:
    return f"X-Id: {number}\r\n\r\nx\r\n".encode()


def from_threads(pool: ConnectionPool) -> list[BaseException]:
    failures: list[BaseException] = []

    def work(who: int) -> None:
        for number in range(who, MAILS, THREADS):
            try:
                result = pool.send(SENDER, [RECIPIENT], body(number))
                assert result.delivery is Delivery.DELIVERED
            except BaseException as error:  # noqa: PERF203  # what a caller sees is what is counted
                failures.append(error)

    threads = [threading.Thread(target=work, args=(who,)) for who in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(50)
        assert not thread.is_alive()
    return failures


def from_a_batch(pool: ConnectionPool) -> list[BaseException]:
    mails = (Mail(SENDER, [RECIPIENT], body(number)) for number in range(MAILS))
    outcomes = list(pool.send_many(mails, ordered=False))
    assert len(outcomes) == MAILS
    return [outcome.error for outcome in outcomes if outcome.error is not None]


@pytest.mark.slow
@pytest.mark.parametrize("send", [from_threads, from_a_batch])
@pytest.mark.parametrize(
    "limits",
    [
        pytest.param({"max_messages": 3}, id="CS2 421 behind every third mail"),
        pytest.param({"max_connections": 2}, id="CS5 two connections at most"),
        pytest.param({"max_connections": 2, "max_messages": 3}, id="CS2 CS5 both"),
        pytest.param({"limits": {"MAILMAX": 10}}, id="LI2 ten mails, announced"),
    ],
)
def test_VA9_BO7_a_thousand_mails_through_a_server_that_limits(limits: dict[str, Any], send: Any) -> None:
    """Issue acceptance 5."""
    with ServerProcess(**limits) as server:
        with ConnectionPool(server.host, server.port, TlsMode.NONE, timeout=30) as pool:
            failures = send(pool)
            stats = pool.stats()
        report = server.report()
    assert failures == []
    assert report["violations"] == []
    assert {tuple(entry) for entry in report["ledger"]} == {(str(number), RECIPIENT, 1) for number in range(MAILS)}
    assert stats.delivered == MAILS
    assert stats.opened == sum(stats.retired.values()) + stats.idle
