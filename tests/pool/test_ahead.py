"""PREFETCH and BURST in a pool: flights, servers that cannot take them, and the marks of endpoints (pipelining 9).

Real connections to a loopback server. What each mail gets is always compared with the server's own ledger: nothing is
lost, and nothing is there twice.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import logging
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from smtpconn import (
    ConnectionLostError,
    ConnectionPool,
    Delivery,
    DeliveryUnknownError,
    Mail,
    MailOutcome,
    MailOutcomes,
    Pipelining,
    PoolClosedError,
    ProtocolError,
    SmtpError,
    Timeouts,
    TlsMode,
    TransientReplyError,
    UsageError,
)
from smtpconn.pooling.marks import HOLD
from smtpconn.testing import FakeClock, LoopbackServer, Relay

from .test_interrupts import Interrupt, interrupted_at

DL, ND, UN = Delivery.DELIVERED, Delivery.NOT_DELIVERED, Delivery.UNKNOWN
OFF, GROUPED, PREFETCH, BURST = Pipelining.OFF, Pipelining.GROUPED, Pipelining.PREFETCH, Pipelining.BURST
LIMIT = 20.0


def pool_of(place: Any, level: Pipelining, **options: Any) -> ConnectionPool:
    """A pool of two connections; `alone`: one worker at a time. `clock`: in place of the system's."""
    clock, alone = options.pop("clock", None), options.pop("alone", False)
    attributes = {} if clock is None else {"_system": ConnectionPool._system._replace(clock=clock)}
    kind: Any = type("Pool", (ConnectionPool,), attributes)
    protocol = getattr(place, "protocol", "smtp")
    options = {"timeout": LIMIT, "max_size": 2, "pipelining": level, "protocol": protocol, **options}
    pool: ConnectionPool = kind(place.host, place.port, TlsMode.NONE, **options)
    if alone:
        shrink(pool)
    return pool


def mail(number: int, recipient: str = "u@b.test", **options: Any) -> Mail:
    """A mail of its own Message-ID."""
    tag = f"<m{number}@a.test>"
    options.setdefault("message", f"Message-ID: {tag}\r\n\r\nx\r\n".encode())
    return Mail(f"s{number}@a.test", [recipient], tag=tag, **options)


def mails(count: int) -> list[Mail]:
    return [mail(number) for number in range(count)]


def sound(server: LoopbackServer, outcomes: Sequence[MailOutcome]) -> None:
    """G-T-1: what was said agrees with what the server has, and every mail has its own sender and recipients."""
    for outcome in outcomes:
        for entry in outcome.recipients:
            copies = server.ledger.count(str(outcome.mail.tag), str(entry.address))
            assert copies <= 1, outcome.mail.tag
            if entry.delivery is not UN:
                assert copies == (entry.delivery is DL), (outcome.mail.tag, outcome.error)
    for captured in server.mails:
        number = captured.content.split(b"<m")[1].split(b"@")[0].decode()
        assert captured.sender == f"s{number}@a.test"


def at_hand(pool: ConnectionPool, batch: Sequence[Mail], at_once: int = 7) -> Iterator[Mail]:
    """The input of a batch, which has no connection to begin with before so many mails are at hand."""
    with contextlib.ExitStack() as held:
        for _ in range(pool.stats().limit):
            held.enter_context(pool.connection())
        for number, one in enumerate(batch):
            if number == at_once:
                held.close()
            yield one
        held.close()


def sent(pool: ConnectionPool, server: LoopbackServer, batch: Sequence[Mail], **options: Any) -> list[MailOutcome]:
    outcomes = list(pool.send_many(at_hand(pool, batch), **options))
    assert [outcome.index for outcome in outcomes] == list(range(len(batch)))
    sound(server, outcomes)
    assert at_rest(pool)
    return outcomes


def at_rest(pool: ConnectionPool) -> bool:
    stats = pool.stats()
    workers = [thread for thread in threading.enumerate() if "-send_many-" in thread.name]
    return (stats.leased, stats.opening, stats.closing, stats.waiting, workers) == (0, 0, 0, 0, [])


def verdicts(outcomes: Sequence[MailOutcome]) -> list[Delivery]:
    return [outcome.delivery for outcome in outcomes]


def endpoint(pool: ConnectionPool, place: int = 0) -> tuple[Pipelining, str | None]:
    stats = pool.stats().endpoints[place]
    return stats.pipelining, stats.mark


def mails_of(server: LoopbackServer) -> list[int]:
    """How many MAILs each session saw."""
    return [sum(line.startswith("MAIL") for line in session.commands) for session in server.sessions]


@pytest.fixture(params=["smtp", "lmtp"])
def server(request: pytest.FixtureRequest) -> Iterator[LoopbackServer]:
    with LoopbackServer(protocol=request.param) as server:
        yield server


@pytest.fixture
def smtp() -> Iterator[LoopbackServer]:
    with LoopbackServer() as server:
        yield server


def shrink(pool: ConnectionPool) -> None:
    """The pool believes for a minute that its server takes one connection: one worker does the whole batch."""
    supply = pool._supply
    supply.slots.locked(supply.endpoints.shrink, supply.endpoints.healths[0], 1, supply.clock())


# ---- flights


def test_RT11_LV6_a_worker_announces_each_mail_behind_the_one_before(server: LoopbackServer) -> None:
    """features:BS8: one flight a mail from the second on, on each connection.

    Where the machine lets the consumer wait for longer than a flight takes, no mail is at hand, and one more is needed:
    then the batch is sent again.
    """
    spare = -1
    for _ in range(5):
        server.wait_for_connections(0, 20)
        server.clear()
        with Relay(server, delay=0.02) as relay:
            with pool_of(relay, PREFETCH, protocol=server.protocol) as pool:
                outcomes = sent(pool, server, mails(24), concurrency=2)
                assert verdicts(outcomes) == [DL] * 24
                assert max(mails_of(server)) < 24
                assert endpoint(pool) == (PREFETCH, None)
            flights = relay.flights
        assert server.violations == []
        set_up_and_quit = 2 * len(server.sessions)
        spare = flights - set_up_and_quit - (24 + len(server.sessions))
        assert spare >= 0
        if not spare:
            break
    assert spare == 0


def test_RT12_LV9_a_worker_bursts_what_is_ready(server: LoopbackServer) -> None:
    """features:BS8: ceil(N/W) flights over one connection."""
    with Relay(server, delay=0.02) as relay:
        with pool_of(relay, BURST, protocol=server.protocol, alone=True) as pool:
            outcomes = list(pool.send_many(at_hand(pool, mails(70), 99), concurrency=2))
            assert verdicts(outcomes) == [DL] * 70
        assert relay.flights - 2 == 3
    sound(server, outcomes)
    assert server.violations == []


def test_RT12_a_burst_with_concurrency_1_is_over_before_the_consumer_has_its_first_outcome(
    server: LoopbackServer,
) -> None:
    """SM2: the connection is back in the pool while the consumer has the turn."""
    with Relay(server, delay=0.01) as relay, pool_of(relay, BURST, protocol=server.protocol, max_size=1) as pool:
        for outcome in pool.send_many(mails(40), concurrency=1):
            assert outcome.delivery is DL
            with pool.connection(timeout=0) as lease:
                assert lease.capabilities.supports_chunking
        assert relay.flights == 1 + 2
    sound(server, [])
    assert len(server.mails) == 40


def test_LV8_with_concurrency_1_no_envelope_is_open_while_the_consumer_has_the_turn(smtp: LoopbackServer) -> None:
    """The consumer may use the pool between two outcomes, also where it has one connection."""
    with pool_of(smtp, PREFETCH, max_size=1) as pool:
        for outcome in pool.send_many(mails(4)):
            assert outcome.delivery is DL
            assert pool.send("s9@a.test", ["u@b.test"], b"Message-ID: <m9@a.test>\r\n", timeout=5).all_delivered
    assert len(smtp.sessions) == 1


def test_LV5_send_bdat_send_message_and_a_lease_are_bursts_of_one(smtp: LoopbackServer) -> None:
    content = b"Message-ID: <m1@a.test>\r\n\r\nx\r\n"
    with Relay(smtp, delay=0.01) as relay, pool_of(relay, BURST) as pool:
        pool.noop()
        before = relay.flights
        assert pool.send_bdat("s1@a.test", ["u@b.test"], content).all_delivered
        assert relay.flights - before == 1
        with pool.connection() as lease:
            assert lease.send_bdat("s1@a.test", ["v@b.test"], content).all_delivered
            assert relay.flights - before == 2
        assert pool.send("s1@a.test", ["w@b.test"], content).all_delivered
        assert relay.flights - before == 4


# ---- where the pool forbids it


@pytest.mark.parametrize(("level", "flights"), [(GROUPED, 48), (PREFETCH, 25), (BURST, 1)])
def test_LE1_RT11_RT12_send_many_of_a_lease_runs_ahead_as_that_of_a_connection_does(
    server: LoopbackServer, level: Pipelining, flights: int
) -> None:
    """The verdicts count, and the connection is good for the next."""
    with Relay(server, delay=0.01) as relay, pool_of(relay, level, protocol=server.protocol) as pool:
        pool.send("s30@a.test", ["u@b.test"], b"Message-ID: <m30@a.test>\r\n\r\nx\r\n")
        before = relay.flights
        with pool.connection() as lease:
            outcomes = list(lease.send_many(mails(24)))
            assert relay.flights - before == flights
            assert lease.capabilities.supports_chunking
        assert [outcome.index for outcome in outcomes] == list(range(24))
        assert verdicts(outcomes) == [DL] * 24
        assert pool.send("s31@a.test", ["u@b.test"], b"Message-ID: <m31@a.test>\r\n\r\nx\r\n").all_delivered
        stats = pool.stats()
        assert (stats.opened, stats.idle, stats.messages, stats.delivered) == (1, 1, 26, 26)
    sound(server, outcomes)
    assert server.violations == []


def test_LE1_FB1_a_flight_of_a_lease_that_is_out_of_step_marks_the_endpoint(smtp: LoopbackServer) -> None:
    smtp.fault("RSET", "surplus", nth=1)
    with pool_of(smtp, PREFETCH) as pool:
        with pool.connection() as lease:
            outcomes = list(lease.send_many(mails(4)))
        assert [outcome.delivery for outcome in outcomes] == [DL, ND, ND, ND]
        sound(smtp, outcomes)
        assert endpoint(pool)[0] is GROUPED
        assert at_rest(pool)


def test_LE1_LV6_a_lease_announces_nothing_beyond_max_messages(smtp: LoopbackServer) -> None:
    """What goes beyond it goes alone: the lease has its connection to its end."""
    with Relay(smtp, delay=0.01) as relay, pool_of(relay, PREFETCH, max_messages=3) as pool, pool.connection() as lease:
        before = relay.flights
        assert verdicts(list(lease.send_many(mails(6)))) == [DL] * 6
        assert relay.flights - before == (2 + 1 + 1) + 3 * 2


@pytest.mark.parametrize("how", ["closed", "dropped", "the lease ends first"])
def test_LE1_LV8_PF9_I16_a_batch_of_a_lease_that_ends_early_leaves_nothing_open(smtp: LoopbackServer, how: str) -> None:
    """An announced envelope is left by closing; once the lease has ended, its batch writes nothing any more."""
    with pool_of(smtp, PREFETCH, max_size=1) as pool:
        with pool.connection() as lease:
            outcomes: MailOutcomes | None = lease.send_many(mails(6))
            assert outcomes is not None
            assert [next(outcomes).delivery for _ in range(2)] == [DL, DL]
            with pytest.raises(UsageError):
                lease.noop()
            if how == "closed":
                outcomes.close()
            elif how == "dropped":
                outcomes = None
        assert pool.send("s9@a.test", ["u@b.test"], b"Message-ID: <m9@a.test>\r\n\r\nx\r\n").all_delivered
        if outcomes is not None and how == "the lease ends first":
            late = list(outcomes)
            assert verdicts(late) == [ND] * 4
            assert all(isinstance(outcome.error, UsageError) for outcome in late)
        assert [mail.sender for mail in smtp.mails] == ["s0@a.test", "s1@a.test", "s9@a.test"]
        assert at_rest(pool)
        assert pool.stats().opened == 2


def test_LE1_a_batch_that_is_begun_when_its_lease_has_ended_is_refused_mail_by_mail(smtp: LoopbackServer) -> None:
    with pool_of(smtp, PREFETCH) as pool:
        with pool.connection() as lease:
            outcomes = lease.send_many(mails(2))
        assert [type(outcome.error) for outcome in outcomes] == [UsageError] * 2
        assert smtp.mails == []


@pytest.mark.parametrize("level", [GROUPED, PREFETCH, BURST])
def test_PL32_LI2_no_mail_is_announced_beyond_MAILMAX(level: Pipelining) -> None:
    with LoopbackServer(limits={"MAILMAX": 3}) as server, pool_of(server, level, alone=True) as pool:
        assert verdicts(sent(pool, server, mails(10), concurrency=2)) == [DL] * 10
        assert mails_of(server) == [3, 3, 3, 1]
        assert server.violations == []
        assert pool.stats().retired["messages"] == 3


@pytest.mark.parametrize("level", [PREFETCH, BURST])
def test_PL32_LV6_no_mail_is_announced_beyond_max_messages(smtp: LoopbackServer, level: Pipelining) -> None:
    with pool_of(smtp, level, max_messages=4, alone=True) as pool:
        assert verdicts(sent(pool, smtp, mails(10), concurrency=2)) == [DL] * 10
    assert mails_of(smtp) == [4, 4, 2]


@pytest.mark.parametrize("level", [PREFETCH, BURST])
def test_LI4_no_mail_is_announced_beyond_RCPTDOMAINMAX(level: Pipelining) -> None:
    with LoopbackServer(limits={"RCPTDOMAINMAX": 2}) as server, pool_of(server, level, alone=True) as pool:
        batch = [mail(number, f"u@d{number}.test") for number in range(6)]
        assert verdicts(sent(pool, server, batch, concurrency=2)) == [DL] * 6
        assert mails_of(server) == [2, 2, 2]
        assert server.violations == []


@pytest.mark.parametrize("level", [PREFETCH, BURST])
def test_SM4_PO44_nothing_is_announced_while_an_outside_caller_waits(smtp: LoopbackServer, level: Pipelining) -> None:
    """The first body waits for the outside caller's queueing; he has the connection behind that mail."""

    def body() -> Iterator[bytes]:
        outside.start()
        end = time.monotonic() + LIMIT
        while not pool.stats().waiting and time.monotonic() < end:
            time.sleep(0.001)
        yield b"Message-ID: <m0@a.test>\r\n\r\nx\r\n"

    def call() -> None:
        assert pool.send("s99@a.test", ["u@b.test"], b"Message-ID: <m99@a.test>\r\n\r\n").all_delivered

    with pool_of(smtp, level, max_size=1, timeout=Timeouts()) as pool:
        # Two workers for one connection: the pool has shrunk since the batch began.
        pool.resize(max_size=2)
        outside = threading.Thread(target=call, daemon=True)
        batch = pool.send_many([mail(0, message=body()), *mails(12)[1:]], concurrency=2)
        pool.resize(max_size=1)
        shrink(pool)
        outcomes = list(batch)
        outside.join(LIMIT)
    assert verdicts(outcomes) == [DL] * 12
    senders = [captured.sender for captured in smtp.mails]
    assert senders.index("s99@a.test") <= 2


# ---- servers that cannot take it


def test_PL24_like_Courier_each_mail_is_delivered_once_and_the_endpoint_is_marked(smtp: LoopbackServer) -> None:
    """FB5 (i), FB1 (b): silence costs `Timeouts.rset`, and the announced mail goes once more, with GROUPED."""
    smtp.quirks = ("swallow-behind-end-of-data",)
    with pool_of(smtp, PREFETCH, timeout=Timeouts(total=LIMIT, rset=0.3), alone=True) as pool:
        assert verdicts(sent(pool, smtp, mails(8), concurrency=2)) == [DL] * 8
        level, reason = endpoint(pool)
        assert level is GROUPED
        assert reason == "2 flights running were lost: SmtpTimeoutError at RSET"
        assert pool.stats().stale_retries == 2
        opened = pool.stats().opened
        assert opened == 3
        assert verdicts(sent(pool, smtp, mails(20)[8:], concurrency=2)) == [DL] * 12
        assert pool.stats().opened == opened


def test_PL25_like_Haraka_each_mail_is_delivered_once_and_the_endpoint_is_marked(
    smtp: LoopbackServer, caplog: pytest.LogCaptureFixture
) -> None:
    """FB4, FB1 (c), FB3: no error says `permanent=True`; one WARNING."""
    smtp.quirks = ("503-behind-end-of-data",)
    with caplog.at_level(logging.WARNING, "smtpconn.pool"), pool_of(smtp, PREFETCH, alone=True) as pool:
        caplog.clear()
        assert verdicts(sent(pool, smtp, mails(8), concurrency=2)) == [DL] * 8
        assert endpoint(pool) == (GROUPED, "503 to MAIL behind an end of data")
        assert (pool.stats().stale_retries, pool.stats().opened) == (1, 2)
        assert mails_of(smtp) == [1, 7]  # the server counts no MAIL that it answers with 503
        warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
        assert len(warnings) == 1
        assert "GROUPED" in warnings[0].getMessage()


def test_PL26_like_the_submission_service_of_Dovecot(smtp: LoopbackServer) -> None:
    """FB1 (b): what is in doubt is never sent again, what was announced is; then nothing is in doubt any more."""
    smtp.quirks = ("die-behind-end-of-data",)
    with pool_of(smtp, PREFETCH, alone=True) as pool:
        outcomes = sent(pool, smtp, mails(8), concurrency=2)
        doubtful = [outcome for outcome in outcomes if outcome.delivery is UN]
        assert [outcome.index for outcome in doubtful] == [0, 2]
        assert all(isinstance(outcome.error, DeliveryUnknownError) for outcome in doubtful)
        assert [outcome.delivery for outcome in outcomes if outcome not in doubtful] == [DL] * 6
        assert endpoint(pool) == (GROUPED, "2 flights running were lost: ConnectionLostError at end of data")
        assert verdicts(sent(pool, smtp, mails(20)[8:], concurrency=2)) == [DL] * 12


def test_PL27_like_OpenSMTPD_every_command_goes_alone() -> None:
    with LoopbackServer(extensions=("8BITMIME",), quirks=("close-on-pipelining",)) as server:
        with pool_of(server, PREFETCH) as pool:
            assert endpoint(pool) == (PREFETCH, None)
            assert verdicts(sent(pool, server, mails(6), concurrency=2)) == [DL] * 6
            assert endpoint(pool) == (OFF, None)
        assert server.violations == []


def test_PL28_like_go_smtp_at_burst(smtp: LoopbackServer) -> None:
    """FB7: the harm is done, but it is never taken for a delivery, and the endpoint is marked."""
    smtp.quirks = ("run-refused-chunks",)
    smtp.refuse("nobody@b.test", "550 nobody")
    inner = b"RSET\r\nMAIL FROM:<evil@a.test>\r\nRCPT TO:<u@b.test>\r\nDATA\r\nMessage-ID: <evil@a.test>\r\n.\r\n"
    bad = mail(0, "nobody@b.test", message=b"Message-ID: <m0@a.test>\r\n\r\n" + inner, chunking=True)
    with pool_of(smtp, BURST, alone=True) as pool:
        outcomes = list(pool.send_many([bad, *mails(4)[1:]], concurrency=2))
        assert outcomes[0].delivery is not DL
        level, reason = endpoint(pool)
        assert level is GROUPED
        assert reason is not None
        again = list(pool.send_many([dataclasses.replace(bad), *mails(8)[4:]], concurrency=2))
        assert verdicts(again) == [ND] + [DL] * 4
    for outcome in (*outcomes[1:], *again[1:]):
        copies = smtp.ledger.count(str(outcome.mail.tag), "u@b.test")
        assert copies <= 1
        if outcome.delivery is not UN:
            assert copies == (outcome.delivery is DL)


def test_PL30_FB6_503_to_MAIL_behind_RSET_is_no_fault_of_the_mail(smtp: LoopbackServer) -> None:
    smtp.quirks = ("503-mail-behind-rset",)
    smtp.refuse("nobody@b.test", "550 nobody")
    with pool_of(smtp, GROUPED, alone=True) as pool:
        batch = [mail(number, "nobody@b.test" if number % 3 == 0 else "u@b.test") for number in range(9)]
        outcomes = sent(pool, smtp, batch, concurrency=2)
        assert verdicts(outcomes) == [ND, DL, DL] * 3
        assert pool.stats().stale_retries == 1


# ---- what is sent again


@pytest.mark.parametrize(
    ("stage", "kind", "error"),
    [("RSET", "EOF", None), ("MAIL", "EOF", None), ("RCPT", "EOF", ConnectionLostError), ("DATA", "RST", SmtpError)],
)
def test_FB5_an_announced_mail_goes_again_unless_its_MAIL_was_answered(
    smtp: LoopbackServer, stage: str, kind: str, error: type[SmtpError] | None
) -> None:
    """LO3: and the mails behind it use up no retry."""
    smtp.fault(stage, kind, nth=1 if stage == "RSET" else 2)
    with pool_of(smtp, PREFETCH, alone=True) as pool:
        outcomes = sent(pool, smtp, mails(6), concurrency=2)
        assert [outcome.index for outcome in outcomes if outcome.error is not None] == ([] if error is None else [1])
        if error is not None:
            assert isinstance(outcomes[1].error, error)
            assert outcomes[1].retry_safe
        assert pool.stats().stale_retries == (error is None)
        assert endpoint(pool) == (PREFETCH, None)


def test_FB5_PX_is_never_sent_again_and_marks(smtp: LoopbackServer) -> None:
    """FB1 (a), LO3: a flight out of step. The mail in front of it is delivered: every candidate says so."""
    smtp.fault("RSET", "surplus", nth=1)
    with pool_of(smtp, PREFETCH, alone=True) as pool:
        outcomes = sent(pool, smtp, mails(6), concurrency=2)
        assert [outcome.index for outcome in outcomes if outcome.error is not None] == [1]
        assert isinstance(outcomes[1].error, ProtocolError)
        assert outcomes[1].retry_safe
        assert endpoint(pool)[0] is GROUPED
        assert pool.stats().stale_retries == 0


@pytest.mark.parametrize("reply", ["421 4.3.2 bye", "452 4.4.5 too many"])
def test_FB1_DT1_a_server_that_closes_marks_nothing(smtp: LoopbackServer, reply: str) -> None:
    """CS2, CS14 in a run-ahead flight: the announced mail goes again on a fresh connection."""
    smtp.reply("MAIL", reply, nth=[3, 6], close=True)
    with pool_of(smtp, PREFETCH, alone=True) as pool:
        assert verdicts(sent(pool, smtp, mails(10), concurrency=2)) == [DL] * 10
        assert endpoint(pool) == (PREFETCH, None)
        assert pool.stats().stale_retries == 2


def test_FB5_a_refused_mail_is_refused_once_and_the_chain_goes_on(smtp: LoopbackServer) -> None:
    smtp.refuse("nobody@b.test", "550 nobody")
    smtp.refuse("later@b.test", "451 later", when="data")
    with pool_of(smtp, PREFETCH, alone=True) as pool:
        names = {2: "nobody@b.test", 4: "later@b.test"}
        outcomes = sent(pool, smtp, [mail(n, names.get(n, "u@b.test")) for n in range(8)], concurrency=2)
        assert [outcome.index for outcome in outcomes if outcome.error is not None] == [2, 4]
        assert isinstance(outcomes[4].error, TransientReplyError)
        assert (pool.stats().opened, pool.stats().stale_retries) == (1, 0)


def test_FB8_a_burst_that_is_sent_again_goes_as_grouped(smtp: LoopbackServer) -> None:
    """SN2: the retry of `send_bdat` on a reused connection."""
    content = b"Message-ID: <m1@a.test>\r\n\r\nx\r\n"
    smtp.reply("MAIL", "421 4.3.2 bye", nth=2)
    with Relay(smtp, delay=0.01) as relay, pool_of(relay, BURST) as pool:
        assert pool.send_bdat("s1@a.test", ["v@b.test"], content).all_delivered
        before = relay.flights
        assert pool.send_bdat("s1@a.test", ["u@b.test"], content).all_delivered
        assert pool.stats().stale_retries == 1
        assert relay.flights - before == 1 + 1 + 2  # the burst, EHLO, and two flights of GROUPED


def test_SN2_CS14_what_was_refused_of_one_burst_goes_again_over_one_fresh_connection(
    smtp: LoopbackServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The session is used up in the midst of a burst: each MAIL behind that point is answered, and none is taken."""
    monkeypatch.setattr("smtpconn.chain.SLOW", 60.0)  # one burst, however slow this machine is
    smtp.reply("MAIL", "452 4.4.5 too many", nth=[3, 4, 5])
    with pool_of(smtp, BURST, alone=True) as pool:
        assert verdicts(sent(pool, smtp, mails(5), concurrency=2)) == [DL] * 5
        assert pool.stats().opened == 2


def test_LO3_FB5_what_a_broken_burst_leaves_in_doubt_is_never_sent_again(smtp: LoopbackServer) -> None:
    """The connection is reset where the second MAIL was to be answered, with all of the burst handed over."""
    smtp.fault("MAIL", "RST", nth=2)
    with pool_of(smtp, BURST, alone=True) as pool:
        outcomes = list(pool.send_many(at_hand(pool, mails(10), 99), concurrency=2))
        sound(smtp, outcomes)
        assert verdicts(outcomes) == [DL] + [UN] * 9
        assert (pool.stats().stale_retries, pool.stats().opened) == (0, 1)
        assert endpoint(pool) == (BURST, None)
        assert verdicts(sent(pool, smtp, mails(14)[10:], concurrency=2)) == [DL] * 4


def test_EN12_no_mail_gets_more_than_its_timeout_and_time_parked_does_not_count(smtp: LoopbackServer) -> None:
    """A body that takes its time keeps the next envelope parked for longer than the next mail may take."""

    def slow() -> Iterator[bytes]:
        yield b"Message-ID: <m1@a.test>\r\n\r\n"
        time.sleep(0.6)
        yield b"x\r\n"

    with pool_of(smtp, PREFETCH, alone=True) as pool:
        batch = [mail(0), mail(1, message=slow()), mail(2), mail(3)]
        assert verdicts(sent(pool, smtp, batch, concurrency=2, timeout=1.0)) == [DL] * 4
        smtp.quirks = ("swallow-behind-end-of-data",)
        pool.invalidate()
        shrink(pool)
        begun = time.monotonic()
        outcomes = sent(pool, smtp, [mail(5), mail(6)], concurrency=2, timeout=1.0)
        assert outcomes[0].delivery is DL
        assert outcomes[1].delivery is ND  # its own second is over, so there is no time to send it again
        assert time.monotonic() - begun < 3.0


# ---- marks


def test_PL29_FB2_FB3_a_mark_is_the_endpoints_and_goes_with_invalidate(smtp: LoopbackServer) -> None:
    smtp.quirks = ("503-behind-end-of-data",)
    with LoopbackServer() as other:
        hosts = [(smtp.host, smtp.port), (other.host, other.port)]
        pool = ConnectionPool(hosts, None, TlsMode.NONE, timeout=LIMIT, max_size=2, pipelining=BURST)
        with pool:
            assert [endpoint(pool, place) for place in (0, 1)] == [(BURST, None)] * 2
            smtp.extensions = ("PIPELINING", "8BITMIME")
            assert verdicts(sent(pool, smtp, mails(4), concurrency=2)) == [DL] * 4
            assert endpoint(pool, 0) == (GROUPED, "503 to MAIL behind an end of data")
            assert endpoint(pool, 1) == (BURST, None)
            pool.resize(max_size=3)
            assert endpoint(pool, 0)[0] is GROUPED
            pool.invalidate()
            assert endpoint(pool, 0) == (PREFETCH, None)  # without CHUNKING there is no BURST
            smtp.quirks = ()
            before = sum(mails_of(smtp))
            assert verdicts(sent(pool, smtp, mails(12)[4:], concurrency=2)) == [DL] * 8
            assert sum(mails_of(smtp)) - before == 8
            assert endpoint(pool, 0) == (PREFETCH, None)


def test_FB3_loss_marks_after_two_running_for_ten_minutes_then_one_is_tried(smtp: LoopbackServer) -> None:
    """On an injected clock. A trial that fails marks for another ten minutes; one that succeeds ends the mark."""
    clock = FakeClock()
    smtp.quirks = ("die-behind-end-of-data",)
    numbers = iter(range(1_000))

    def batch(count: int) -> list[Delivery]:
        shrink(pool)
        return verdicts(sent(pool, smtp, [mail(next(numbers)) for _ in range(count)], concurrency=2))

    with pool_of(smtp, PREFETCH, clock=clock, max_age=None, max_idle=None, probe_after=None, alone=True) as pool:
        assert batch(2) == [UN, DL]
        assert endpoint(pool) == (PREFETCH, None)
        assert batch(6) == [UN] + [DL] * 5
        assert endpoint(pool)[0] is GROUPED
        clock.advance(HOLD - 1)
        assert batch(4) == [DL] * 4
        clock.advance(2)
        assert endpoint(pool)[0] is PREFETCH
        assert batch(4) == [UN] + [DL] * 3  # the one that is tried
        assert endpoint(pool)[0] is GROUPED
        smtp.quirks = ()
        pool._supply.withdraw("idle")
        clock.advance(HOLD - 1)
        assert endpoint(pool)[0] is GROUPED
        clock.advance(2)
        assert batch(4) == [DL] * 4
        assert endpoint(pool) == (PREFETCH, None)
        clock.advance(1)
        smtp.quirks = ("die-behind-end-of-data",)
        pool._supply.withdraw("idle")
        assert batch(2) == [UN, DL]
        assert endpoint(pool) == (PREFETCH, None)  # the first of a new series


def test_FB1_BP7_LV7_a_loss_while_parked_marks_nothing_and_the_mail_goes_once_more(smtp: LoopbackServer) -> None:
    """The server ends every connection while the verdict of a mail is handed out, the next one's envelope open.

    The source of a stream may have been asked, so that mail is the caller's to repeat (SN3).
    """
    settled = 0

    class Sink:
        def on_event(self, event: Any) -> None:
            nonlocal settled
            settled += type(event).__name__ == "MailSettled"
            if type(event).__name__ == "MailSettled" and settled in (1, 4, 8):
                smtp.restart()

    stream = mail(4, message=iter([b"Message-ID: <m4@a.test>\r\n\r\n", b"x\r\n"]))
    with pool_of(smtp, PREFETCH, audit=Sink(), alone=True) as pool:
        outcomes = sent(pool, smtp, [*mails(4), stream, *mails(10)[5:]], concurrency=2)
        assert endpoint(pool) == (PREFETCH, None)
        stats = pool.stats()
    parked = [outcome.index for outcome in outcomes if outcome.delivery is not DL]
    assert parked in ([], [4])
    assert stats.stale_retries == 3 - len(parked)
    assert all(outcome.retry_safe for outcome in outcomes if outcome.delivery is not DL)


# ---- the end


@pytest.mark.parametrize("how", ["iterator", "pool", "dropped"])
def test_SM8_PF9_PO45_an_announced_envelope_is_left_by_closing_without_a_dot(smtp: LoopbackServer, how: str) -> None:
    """Whatever ends the batch: no thread, lease or slot is left, and what was said is what the server has."""
    go_on = threading.Event()

    def body() -> Iterator[bytes]:
        assert go_on.wait(LIMIT)
        yield b"Message-ID: <m1@a.test>\r\n\r\nx\r\n"

    audited: list[Any] = []

    class Audit:
        def on_event(self, event: Any) -> None:
            audited.append(event)

    pool = pool_of(smtp, PREFETCH, audit=Audit(), alone=True)
    batch = pool.send_many(at_hand(pool, [mail(0), mail(1, message=body()), *mails(8)[2:]]), concurrency=2)
    outcomes = [next(batch)]
    threading.Timer(0.2, go_on.set).start()
    if how == "iterator":
        batch.close()
    elif how == "pool":
        pool.close()
        with pytest.raises(PoolClosedError):
            collect(batch, outcomes)
    else:
        del batch
        gc.collect()
    end = time.monotonic() + LIMIT
    while not at_rest(pool) and time.monotonic() < end:
        time.sleep(0.01)
    assert at_rest(pool)
    sound(smtp, outcomes)
    settled = [event for event in audited if type(event).__name__ == "MailSettled"]
    assert sum(event.delivered for event in settled) == len(smtp.mails)
    assert not any(captured.content.strip() == b"" for captured in smtp.mails)
    pool.close()
    smtp.wait_for_connections(0, LIMIT)


def collect(batch: MailOutcomes, into: list[MailOutcome]) -> None:
    """Take outcomes until there are no more, or the iterator raises."""
    for outcome in batch:
        into.append(outcome)  # noqa: PERF402  # what came before an exception is kept


class Interrupting:
    """A sink that is interrupted at its `nth` event while it is `armed`."""

    def __init__(self, nth: int) -> None:
        self.left = nth
        self.armed = False

    def on_event(self, event: object) -> None:
        self.left -= self.armed
        if self.armed and self.left == 0:
            raise Interrupt


@pytest.mark.parametrize("level", [PREFETCH, BURST])
def test_SM9_KU_an_interrupt_of_a_body_or_a_sink_ends_the_batch_and_nothing_is_sent_twice(
    smtp: LoopbackServer, level: Pipelining
) -> None:
    """PF13, BR26: the sink is interrupted at each of the first events in turn."""
    for nth in range(1, 26):
        smtp.clear()
        sink, outcomes = Interrupting(nth), list[MailOutcome]()
        with pool_of(smtp, level, audit=sink, alone=True) as pool:
            batch = pool.send_many(at_hand(pool, mails(5)), concurrency=2)
            sink.armed = True
            with contextlib.suppress(Interrupt), batch:
                collect(batch, outcomes)
            sink.armed = False
            assert at_rest(pool)
        sound(smtp, outcomes)
        assert all(smtp.ledger.count(str(one.tag), "u@b.test") <= 1 for one in mails(5))
    assert sink.left <= 5  # the last ones were interrupted, too, or nearly


@pytest.mark.slow
@pytest.mark.parametrize(("level", "concurrency"), [(PREFETCH, 2), (BURST, 2), (BURST, 1)])
def test_SM8_I24_a_consumer_who_is_interrupted_at_any_line_leaves_nothing_open_and_nothing_twice(
    smtp: LoopbackServer, level: Pipelining, concurrency: int
) -> None:
    """PO45: every line of the consumer's thread, while envelopes are announced and bursts are under way."""
    line, fired = 0, True
    while fired:
        line += 1
        smtp.clear()
        outcomes: list[MailOutcome] = []
        pool = pool_of(smtp, level, max_size=2)

        def consume(pool: ConnectionPool = pool, outcomes: list[MailOutcome] = outcomes) -> None:
            with pool.send_many(mails(7), concurrency=concurrency) as batch:
                collect(batch, outcomes)

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # an iterator that was made and never begun
            fired = interrupted_at(line, consume)
            gc.collect(0)
        for worker in [thread for thread in threading.enumerate() if "-send_many-" in thread.name]:
            worker.join(5)
            assert not worker.is_alive(), f"a worker is left, interrupted at line {line}"
        assert at_rest(pool), f"interrupted at line {line}"
        pool.close()
        sound(smtp, outcomes)
        assert max((smtp.ledger.count(str(one.tag), "u@b.test") for one in mails(7)), default=0) <= 1
    assert line > 50
