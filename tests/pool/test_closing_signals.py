"""Section 7 of the pool's specification, row by row: what the server says, what becomes of mail, siblings and limit.

Two connections are idle when it begins. Afterwards both slots are leased at once: a suspect sibling gets one NOOP.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest

from smtpconn import (
    AuthenticationError,
    ConnectionLostError,
    ConnectionPool,
    Delivery,
    DeliveryUnknownError,
    PermanentReplyError,
    ProtocolError,
    ServiceUnavailableError,
    SmtpError,
    TlsMode,
    TransientReplyError,
)
from smtpconn.testing import LoopbackServer

ENVELOPE = ("a@example.com", ["b@example.com"], b"Subject: x\r\n\r\nx\r\n")


class Row(NamedTuple):
    """`error`: None where the retry makes it invisible. `opened`: connections in all, with the two at the beginning."""

    id: str
    stage: str
    said: str  # a reply, or a kind of fault
    error: type[SmtpError] | None
    suspect: bool
    signals: int
    opened: int
    limit: int = 4
    close: bool = False


ROWS = [
    Row("CS2 421 at MAIL", "MAIL", "421 4.3.2 bye", None, True, 1, 3),
    Row("CS3 421 at RCPT", "RCPT", "421 4.3.2 bye", ServiceUnavailableError, True, 1, 3),
    Row("CS3 421 at DATA", "DATA", "421 4.3.2 bye", ServiceUnavailableError, True, 1, 3),
    Row("CS4 421 at the end of data", "end of data", "421 4.3.2 bye", ServiceUnavailableError, True, 1, 3),
    Row("CS7 221 at MAIL", "MAIL", "221 2.0.0 idle timeout", None, True, 1, 3),
    Row("CS7 221 at RCPT", "RCPT", "221 2.0.0 idle timeout", ServiceUnavailableError, True, 1, 3),
    Row("CS9 EOF at MAIL", "MAIL", "EOF", None, True, 1, 3),
    Row("CS9 EOF at RCPT", "RCPT", "EOF", ConnectionLostError, True, 1, 3),
    Row("CS9 RST at DATA", "DATA", "RST", ConnectionLostError, True, 1, 3),
    Row("CS12 451 4.4.2 at MAIL", "MAIL", "451 4.4.2 idle", None, False, 1, 3),
    Row("CS12 451 4.4.1 at MAIL", "MAIL", "451 4.4.1 session", None, False, 1, 3),
    Row("CS13 451 4.3.2 at MAIL", "MAIL", "451 4.3.2 shutting down", None, True, 1, 3),
    Row("CS13 451 4.3.2 at RCPT is greylisting", "RCPT", "451 4.3.2 later", SmtpError, False, 0, 2),
    Row("CS14 452 4.4.5 at MAIL", "MAIL", "452 4.4.5 enough", None, False, 1, 3),
    Row("CS14 452 4.4.5 at DATA", "DATA", "452 4.4.5 enough", TransientReplyError, False, 1, 3),
    Row("CS15 432 4.3.2 at MAIL", "MAIL", "432 4.3.2 concurrent", TransientReplyError, False, 1, 2, 1),
    Row("CS18 521 at MAIL", "MAIL", "521 5.5.2 no", PermanentReplyError, False, 0, 2),
    Row("CS19 503 at MAIL", "MAIL", "503 5.5.1 nested", PermanentReplyError, False, 0, 3),
    Row("CS20 surplus at MAIL", "MAIL", "surplus", ProtocolError, False, 0, 3),
    Row("CS20 malformed at RCPT", "RCPT", "malformed", ProtocolError, False, 0, 3),
    Row("CS21 450, then EOF", "end of data", "450 4.2.0 no", TransientReplyError, True, 1, 3, close=True),
    Row("CS22 500, then EOF", "RCPT", "500 5.5.1 too many", SmtpError, True, 1, 3, close=True),
    Row("450 4.7.1 closes nothing", "MAIL", "450 4.7.1 slow down", TransientReplyError, False, 0, 2),
    Row("451 4.7.1 closes nothing", "MAIL", "451 4.7.1 greylisted", TransientReplyError, False, 0, 2),
    Row("452 4.3.1 closes nothing", "MAIL", "452 4.3.1 disk", TransientReplyError, False, 0, 2),
    Row("452 4.5.3 closes nothing", "RCPT", "452 4.5.3 too many", SmtpError, False, 0, 2),
    Row("554 at the end of data closes nothing", "end of data", "554 5.6.0 no", PermanentReplyError, False, 0, 2),
]


def two_idle(pool: ConnectionPool) -> None:
    with pool.connection(timeout=20), pool.connection(timeout=20):
        pass


@pytest.mark.parametrize("row", [pytest.param(row, id=row.id) for row in ROWS])
def test_PO20_what_the_server_says_to_a_mail(row: Row, server: LoopbackServer) -> None:
    """CS2-CS9, CS12-CS22, VA6, I32: verdict, siblings' mark, limit; never a back-off, because no open failed."""
    with ConnectionPool("127.0.0.1", server.port, TlsMode.NONE, timeout=20) as pool:
        two_idle(pool)
        if row.said[0].isdigit():
            server.reply(row.stage, row.said, nth=1, close=row.close)
        else:
            server.fault(row.stage, row.said, nth=1)
        error: SmtpError | None = None
        try:
            assert pool.send(*ENVELOPE).delivery is Delivery.DELIVERED
        except SmtpError as caught:
            error = caught
        if row.close:
            server.wait_for_connections(1, 20)  # the pool looks when the connection is wanted next
        limit = pool.stats().limit
        if limit > 1:
            two_idle(pool)
        stats = pool.stats()
    if row.error is None:
        assert error is None
        assert stats.stale_retries == 1
    else:
        assert isinstance(error, row.error)
        assert error.delivery is Delivery.NOT_DELIVERED
        assert error.retry_safe
        assert stats.stale_retries == 0
    assert (stats.closing_signals, stats.probes, stats.backoffs) == (row.signals, int(row.suspect), 0)
    assert (stats.opened, limit) == (row.opened, row.limit)


@pytest.mark.parametrize(
    ("said", "probed"),
    [
        ("250 2.0.0 ok", True),
        ("221 2.0.0 Idle timeout", False),
        ("252 2.0.0 well", False),
        ("451 4.3.0 no", False),
        ("500 5.5.1 no", False),
        ("502 5.5.1 no", False),
        ("554 5.5.0 too many nonmail commands", False),
        ("surplus", False),
        ("EOF", False),
        ("silence", False),
    ],
)
def test_VA3_PO18_CS17_only_exactly_250_to_noop_keeps_a_connection(
    said: str, probed: bool, server: LoopbackServer
) -> None:
    """VA8, I19: whatever else is said, the caller sees nothing of it."""
    with ConnectionPool("127.0.0.1", server.port, TlsMode.NONE, timeout=20, probe_after=0) as pool:
        assert pool.send(*ENVELOPE).all_delivered
        if said[0].isdigit():
            server.reply("NOOP", said, nth=1)
        else:
            server.fault("NOOP", said, nth=1)
        assert pool.send(*ENVELOPE).all_delivered
        stats = pool.stats()
    assert (stats.probes, stats.probe_failures) == (1, int(not probed))
    assert stats.opened == (1 if probed else 2)


@pytest.mark.parametrize("code", [421, 221])
def test_CS1_CS8_CS10_PO21_what_ends_an_idle_connection_is_found_without_a_round_trip(
    code: int, server: LoopbackServer
) -> None:
    with ConnectionPool("127.0.0.1", server.port, TlsMode.NONE, timeout=20) as pool:
        two_idle(pool)
        assert server.close_idle(f"{code} 4.4.2 idle") == 2
        assert pool.send(*ENVELOPE).all_delivered
        stats = pool.stats()
    assert (stats.retired["closing"], stats.stale_retries, stats.probes) == (2, 0, 0)


def test_CS10_PO21_a_blank_line_in_front_of_the_421_makes_no_difference(server: LoopbackServer) -> None:
    with ConnectionPool("127.0.0.1", server.port, TlsMode.NONE, timeout=20) as pool:
        two_idle(pool)
        assert server.close_idle("\r\n421 4.4.2 idle") == 2
        assert pool.send(*ENVELOPE).all_delivered
        stats = pool.stats()
    assert (stats.retired["stale"] + stats.retired["closing"], stats.stale_retries, stats.probes) == (2, 0, 0)


@pytest.mark.parametrize("stage", ["MAIL", "RCPT", "end of data"])
@pytest.mark.parametrize("said", ["\r\n421 4.4.2 idle", "\r\n221 2.0.0 bye", "\r\n250 2.0.0 ok"])
def test_CS11_PO20_a_blank_line_and_421_in_place_of_a_reply_is_malformed_and_alarms_the_siblings(
    stage: str, said: str, server: LoopbackServer
) -> None:
    farewell = "250" not in said
    with ConnectionPool("127.0.0.1", server.port, TlsMode.NONE, timeout=20) as pool:
        two_idle(pool)
        server.reply(stage, said, nth=1, close=farewell)
        with pytest.raises(ProtocolError if stage != "end of data" else DeliveryUnknownError) as caught:
            pool.send(*ENVELOPE)
        two_idle(pool)
        stats = pool.stats()
    assert caught.value.retry_safe == (stage != "end of data")
    assert (stats.closing_signals, stats.probes) == (farewell, farewell)
    assert (stats.stale_retries, stats.backoffs, stats.opened) == (0, 0, 3)


@pytest.mark.parametrize(("stage", "identity"), [("greeting", "CS5"), ("EHLO", "CS6")])
@pytest.mark.parametrize("alone", [True, False])
def test_CS5_CS6_BO7_a_421_while_opening(stage: str, identity: str, alone: bool, server: LoopbackServer) -> None:
    """With another connection alive it is a wait and a limit; without one it is a failed open and a back-off."""
    with ConnectionPool("127.0.0.1", server.port, TlsMode.NONE, timeout=20) as pool:
        if alone:
            server.reply(stage, "421 4.7.0 too many", nth=1, close=True)
            with pytest.raises(ServiceUnavailableError):
                pool.send(*ENVELOPE)
            stats = pool.stats()
            assert (stats.backoffs, stats.open_errors, stats.limit) == (1, 1, 4), identity
            return
        with pool.connection(timeout=20) as lease:
            server.reply(stage, "421 4.7.0 too many", nth=1, close=True)
            with pytest.raises(SmtpError) as caught:
                pool.send(*ENVELOPE, timeout=0.3)
            assert caught.value.delivery is Delivery.NOT_DELIVERED
            lease.noop()
        stats = pool.stats()
        assert (stats.backoffs, stats.open_errors, stats.limit) == (0, 0, 1)
        assert pool.send(*ENVELOPE).all_delivered


def test_CS16_a_login_that_is_put_off_is_a_backoff_of_five_seconds_and_no_breaker() -> None:
    login: dict[str, Any] = {"credentials": ("user", "secret"), "allow_plaintext_auth": True, "timeout": 20}
    with LoopbackServer(auth={"user": "secret"}) as server:
        server.reply("AUTH", "454 4.7.0 too many logins", nth=1)
        with ConnectionPool("127.0.0.1", server.port, TlsMode.NONE, **login) as pool:
            with pytest.raises(AuthenticationError) as caught:
                pool.send(*ENVELOPE)
            stats = pool.stats()
    assert caught.value.permanent is not True
    assert stats.breaker is None
    assert 4.0 <= stats.endpoints[0].backoff <= 6.5
