"""The policy of `ConnectionPool`: checks, retries, closing signals, back-off, fail-over (pool.md 6 to 9, 12, 13)."""

from __future__ import annotations

import copy
import errno
import gc
import logging
import pickle
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from smtpconn.deadline import Timeouts
from smtpconn.pool import ConnectionPool
from smtpconn.pooling import events
from smtpconn.pooling.endpoints import LEARNT_FOR
from smtpconn.pooling.lease import Lease
from smtpconn.pooling.logins import Logins
from smtpconn.protocol.errors import (
    AuthenticationError,
    CertificateError,
    ConnectError,
    ConnectionLostError,
    Delivery,
    DeliveryUnknownError,
    InvalidInputError,
    PermanentReplyError,
    PoolClosedError,
    PoolOverloadedError,
    PoolTimeoutError,
    ProtocolError,
    ResolveError,
    ServiceUnavailableError,
    SmtpError,
    SmtpTimeoutError,
    TransientReplyError,
    UsageError,
)
from smtpconn.protocol.sasl import PasswordAuth, XOAuth2Auth
from smtpconn.tls import TlsMode

from .fakes import (
    ENVELOPE,
    Clock,
    FakeConnection,
    FakeServer,
    capabilities,
    lost,
    pool_of,
    rejected,
    reply,
    unavailable,
)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def server() -> FakeServer:
    return FakeServer()


@pytest.fixture
def pool(server: FakeServer, clock: Clock) -> Iterator[ConnectionPool]:
    made = pool_of(server, clock)
    yield made
    made.close(timeout=0)


def give_back(held: list[Lease]) -> None:
    """Return the last of them, if there is one."""
    if held:
        held.pop().__exit__(None, None, None)


def warmed(pool: ConnectionPool, number: int) -> None:
    """So many idle connections; each has served once."""
    leases = [pool.connection() for _ in range(number)]
    for lease in leases:
        lease.__enter__()
    for lease in leases:
        lease.__exit__(None, None, None)


# ---- construction


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"max_size": 0}, InvalidInputError),
        ({"max_size": True}, TypeError),
        ({"max_size": 2, "min_size": 3}, InvalidInputError),
        ({"min_size": -1}, InvalidInputError),
        ({"max_idle": float("nan")}, InvalidInputError),
        ({"max_age": float("inf")}, InvalidInputError),
        ({"max_idle": 0}, InvalidInputError),
        ({"acquire_timeout": None}, TypeError),
        ({"acquire_timeout": 0}, InvalidInputError),
        ({"probe_after": -1}, InvalidInputError),
        ({"probe_after": "15"}, TypeError),
        ({"max_messages": 0}, InvalidInputError),
        ({"max_waiting": -1}, InvalidInputError),
        ({"max_connecting": 0}, InvalidInputError),
        ({"timeout": -5.0}, InvalidInputError),
        ({"timeout": None}, TypeError),
        ({"on_event": "hook"}, TypeError),
        ({"track_leases": 1}, TypeError),
        ({"name": 5}, TypeError),
        ({"host": []}, InvalidInputError),
        ({"host": [("mx", 25, 3)]}, InvalidInputError),
        ({"host": 5}, TypeError),
        ({"port": 0}, InvalidInputError),
    ],
)
def test_DF_wrong_parameters_are_refused_at_construction(
    server: FakeServer, options: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        pool_of(server, **options)
    assert server.connections == []


@pytest.mark.parametrize("field", ["max_idle", "max_age", "max_messages", "max_waiting", "probe_after"])
def test_DF_none_is_no_limit(server: FakeServer, clock: Clock, field: str) -> None:
    pool = pool_of(server, clock, **{field: None})
    pool.send(*ENVELOPE)
    assert pool.stats().idle == 1
    pool.close()


def test_the_constructor_opens_nothing_and_tls_mode_is_required(server: FakeServer) -> None:
    pool_of(server)
    assert server.connections == []
    with pytest.raises(TypeError, match="tls_mode"):
        ConnectionPool("mx.example.com", 25)


def test_LE3_pools_and_leases_cannot_be_copied_and_show_no_secret(pool: ConnectionPool) -> None:
    with pytest.raises(TypeError):
        pickle.dumps(pool)
    with pytest.raises(TypeError):
        copy.copy(pool)
    with pool.connection() as lease:
        with pytest.raises(TypeError):
            copy.deepcopy(lease)
        assert repr(lease) == "<Lease of mx.example.com:25, held>"
        assert repr(pool) == "<ConnectionPool mx.example.com:25: 3 empty, 1 leased of 4, 0 waiting>"


# ---- send


def test_SN1_the_connection_is_back_before_the_result_is_there(pool: ConnectionPool, server: FakeServer) -> None:
    result = pool.send(*ENVELOPE)
    assert result.delivery is Delivery.DELIVERED
    stats = pool.stats()
    assert (stats.idle, stats.leased, stats.acquired, stats.messages, stats.delivered) == (1, 0, 1, 1, 1)
    assert len(server.connections) == 1


def test_arguments_are_checked_before_anything_is_acquired(pool: ConnectionPool, server: FakeServer) -> None:
    for bad in [("no address", ["a@b.example"], b""), ("a@b.example", [], b""), ("a@b.example", "a@b.example", b"")]:
        with pytest.raises((InvalidInputError, TypeError)):
            pool.send(*bad)
    for timeout in (0, -1, float("nan")):
        with pytest.raises(InvalidInputError):
            pool.send(*ENVELOPE, timeout=timeout)
    assert server.connections == []


@pytest.mark.parametrize("stage", ["MAIL", "RCPT", "DATA", "end of data"])
@pytest.mark.parametrize("code", [450, 550])
def test_I31_PO22_a_refused_mail_leaves_the_connection_in_use(
    pool: ConnectionPool, server: FakeServer, stage: str, code: int
) -> None:
    for _ in range(7):
        server.acts = [rejected(code, stage)]
        with pytest.raises((TransientReplyError, PermanentReplyError)) as caught:
            pool.send(*ENVELOPE)
        assert caught.value.retry_safe
    assert len(server.connections) == 1


def test_I33_PO16_return_does_no_io(pool: ConnectionPool, server: FakeServer) -> None:
    pool.send(*ENVELOPE)
    assert server.connections[0].log == ["MAIL"]
    pool.send(*ENVELOPE)
    assert server.connections[0].log == ["MAIL", "check", "MAIL"]


def test_TM1_TM3_a_timeouts_leaves_acquire_timeout_in_force(server: FakeServer, clock: Clock) -> None:
    pool = pool_of(server, clock, max_size=1, acquire_timeout=7.0)
    begun = clock.now
    with pool.connection(), pytest.raises(PoolTimeoutError):
        pool.send(*ENVELOPE, timeout=Timeouts(mail=1.0))
    assert clock.now == begun + 7
    with pool.connection(), pytest.raises(PoolTimeoutError):
        pool.send(*ENVELOPE, timeout=Timeouts(total=3.0))
    assert clock.now == begun + 10
    pool.close()


def test_TM2_a_float_is_the_total_with_the_queue(server: FakeServer, clock: Clock) -> None:
    pool = pool_of(server, clock, max_size=1)
    begun = clock.now
    with pool.connection(), pytest.raises(PoolTimeoutError) as caught:
        pool.send(*ENVELOPE, timeout=2.0)
    assert clock.now == begun + 2
    assert caught.value.delivery is Delivery.NOT_DELIVERED
    assert [entry.address for entry in caught.value.recipients] == ["to@example.net"]
    pool.close()


def test_AQ12_NN4_the_timeout_names_sizes_and_holders(server: FakeServer, clock: Clock) -> None:
    pool = pool_of(server, clock, max_size=1)
    with pool.connection(), pytest.raises(PoolTimeoutError) as caught, pool.connection(timeout=3):
        pass
    assert caught.value.holders == (("MainThread", 3.0),)
    assert "1 at most, 0 idle, 1 leased, 0 opening, 0 others waiting; held by MainThread for 3.0 s" in str(caught.value)
    pool.close()


def test_SN4_commands_are_asked_over_a_pooled_connection(pool: ConnectionPool, server: FakeServer) -> None:
    replies = [pool.noop(), pool.vrfy("a@b.example"), pool.expn("list"), pool.help(), pool.help("MAIL")]
    assert {answer.code for answer in replies} == {250}
    assert [entry for entry in server.connections[0].log if entry != "check"] == [
        "NOOP",
        "VRFY",
        "EXPN",
        "HELP",
        "HELP",
    ]


# ---- timeout=0


def test_I12_PO12_a_try_takes_an_idle_connection_and_does_nothing_else(
    pool: ConnectionPool, server: FakeServer, clock: Clock
) -> None:
    with pytest.raises(PoolTimeoutError), pool.connection(timeout=0):
        pass
    assert server.connections == []
    warmed(pool, 2)
    clock.now += 20  # beyond probe_after
    server.connections[1].quiet = server.connections[0].quiet = True
    with pool.connection(timeout=0):
        pass
    assert "NOOP" not in server.connections[0].log + server.connections[1].log
    server.connections[0].quiet = server.connections[1].quiet = False
    with pytest.raises(PoolTimeoutError), pool.connection(timeout=0):
        pass
    assert len(server.connections) == 2


# ---- validation


def test_VA1_PO11_dead_idle_connections_cost_no_noop_and_one_open(pool: ConnectionPool, server: FakeServer) -> None:
    warmed(pool, 4)
    for connection in server.connections:
        connection.quiet = False
    pool.send(*ENVELOPE)
    assert len(server.connections) == 5
    assert not any("NOOP" in connection.log for connection in server.connections)
    stats = pool.stats()
    assert (stats.checks_failed, stats.retired["stale"], stats.idle) == (4, 4, 1)


def test_VA3_DF9_noop_only_beyond_probe_after(pool: ConnectionPool, server: FakeServer, clock: Clock) -> None:
    pool.send(*ENVELOPE)
    clock.now += 14
    pool.send(*ENVELOPE)
    assert "NOOP" not in server.connections[0].log
    clock.now += 16
    pool.send(*ENVELOPE)
    assert server.connections[0].log.count("NOOP") == 1
    assert pool.stats().probes == 1


def test_I20_VA7_a_failed_noop_drops_those_idle_as_long_and_opens(
    pool: ConnectionPool, server: FakeServer, clock: Clock
) -> None:
    warmed(pool, 4)
    clock.now += 20
    for connection in server.connections:
        connection.alive = False
    pool.send(*ENVELOPE)
    assert sum(connection.log.count("NOOP") for connection in server.connections) == 1
    stats = pool.stats()
    assert (len(server.connections), stats.retired["probe"], stats.probe_failures) == (5, 4, 1)


def test_VA4_PO19_the_budget_of_noops_is_never_exceeded(server: FakeServer, clock: Clock) -> None:
    pool = pool_of(server, clock, max_age=None)
    for _ in range(7):
        pool.send(*ENVELOPE)
        clock.now += 16
    first, second = server.connections
    assert (first.noops, second.noops) == (5, 0)
    assert pool.stats().retired["nonmail"] == 1
    pool.close()


def test_VA4_nonmail_commands_count_on_return(pool: ConnectionPool, server: FakeServer) -> None:
    for _ in range(9):
        pool.vrfy("a@b.example")
    assert [connection.nonmail for connection in server.connections] == [8, 1]
    assert server.connections[0].log[-1].startswith("QUIT")


@pytest.mark.parametrize(
    ("options", "later", "reason"),
    [
        ({"max_idle": 10.0}, 11.0, "idle"),
        ({"max_idle": 400.0, "max_age": 100.0}, 101.0, "age"),
        ({"max_messages": 1}, 0.0, "messages"),
    ],
)
def test_I18_PO15_expired_connections_are_replaced(
    server: FakeServer, clock: Clock, options: dict[str, Any], later: float, reason: str
) -> None:
    pool = pool_of(server, clock, **options)
    pool.send(*ENVELOPE)
    clock.now += later
    pool.send(*ENVELOPE)
    assert len(server.connections) == 2
    assert pool.stats().retired[reason] == (2 if reason == "messages" else 1)
    assert server.connections[0].log[-1].startswith("QUIT")
    pool.close()


def test_DF7_the_age_is_drawn_up_to_a_tenth_below(server: FakeServer, clock: Clock) -> None:
    pool = pool_of(server, clock, max_age=100.0, max_size=8)
    warmed(pool, 8)
    ends = {slot.ends - clock.now for slot in pool._supply.slots.each()}
    assert all(90.0 <= end <= 100.0 for end in ends)
    assert len(ends) > 1
    pool.close()


def test_LI2_mailmax_of_the_server_retires_by_quit(server: FakeServer, clock: Clock) -> None:
    server.capabilities = capabilities("LIMITS MAILMAX=3")
    pool = pool_of(server, clock)
    for _ in range(10):
        pool.send(*ENVELOPE)
    assert [connection.mails for connection in server.connections] == [3, 3, 3, 1]
    pool.close()


@pytest.mark.parametrize("code", [421, 452])
def test_VA9_PO30_a_limit_seen_twice_running_is_learnt_and_invalidate_forgets_it(
    server: FakeServer, clock: Clock, code: int
) -> None:
    pool = pool_of(server, clock)

    def used_up(connection: FakeConnection) -> None:
        error: SmtpError
        if code == 421:
            error = unavailable(unanswered=True)
        else:
            error = TransientReplyError("452 4.4.5", stage="MAIL", reply=reply(452, "4.4.5 enough"))
            error._unanswered = True
        connection.is_shutting_down, connection.closing_reply = True, error.reply
        connection.close()
        raise error

    for _ in range(2):
        for _ in range(3):
            pool.send(*ENVELOPE)
        server.acts = [used_up]
        pool.send(*ENVELOPE)  # again on a fresh connection
        server.connections[-1].mails = 0  # so that the next round counts to the same number
    assert pool.stats().endpoints[0].max_messages == 3
    pool.invalidate()
    assert pool.stats().endpoints[0].max_messages == 100
    pool.close()


def test_VA9_a_421_to_another_command_than_MAIL_or_DATA_teaches_nothing(server: FakeServer, clock: Clock) -> None:
    pool = pool_of(server, clock)
    for _ in range(2):
        for _ in range(3):
            pool.send(*ENVELOPE)
        server.acts = [unavailable("RCPT")]
        with pytest.raises(ServiceUnavailableError):
            pool.send(*ENVELOPE)
    assert [connection.mails for connection in server.connections] == [4, 4]
    assert pool.stats().endpoints[0].max_messages == 100
    pool.close()


def test_VA9_I18_what_was_learnt_meanwhile_retires_an_idle_connection_on_checkout(
    server: FakeServer, clock: Clock
) -> None:
    pool = pool_of(server, clock)
    for _ in range(2):
        pool.send(*ENVELOPE)
    (health,) = pool._supply.endpoints.healths
    for _ in range(2):
        health.learn(2, clock.now)
    pool.send(*ENVELOPE)
    assert [(connection.mails, connection.log[-1]) for connection in server.connections] == [(2, "QUIT"), (1, "MAIL")]
    pool.close()


def test_VA9_what_was_learnt_is_tried_again_after_ten_minutes_by_one_connection(
    server: FakeServer, clock: Clock
) -> None:
    """A server that was restarting, and ended two connections after one mail, is not served by one mail each for ever.

    If it is a rule, the first connection that meets it again is enough.
    """
    pool = pool_of(server, clock, max_idle=None, max_age=None, probe_after=None)

    def limited() -> int | None:
        return pool.stats().endpoints[0].max_messages

    def ends_behind_one(connection: FakeConnection) -> None:
        if connection.mails > 1:
            error = unavailable(unanswered=True)
            connection.is_shutting_down, connection.closing_reply = True, error.reply
            connection.close()
            raise error

    def send(times: int) -> int:
        """Mails that each connection used has carried at most."""
        there = len(server.connections)
        server.acts = [ends_behind_one] * 2 * times
        for _ in range(times):
            assert pool.send(*ENVELOPE).all_delivered
        server.acts = []
        return len(server.connections) - there

    assert send(3) == 3  # two were ended, which taught it
    assert limited() == 1
    retries = pool.stats().stale_retries
    clock.now += LEARNT_FOR - 1
    assert send(3) == 3
    assert (limited(), pool.stats().stale_retries) == (1, retries)
    clock.now += 1
    assert limited() == 100
    assert send(3) == 3
    assert (limited(), pool.stats().stale_retries) == (1, retries + 1)
    clock.now += LEARNT_FOR
    for _ in range(5):  # it was no rule: the server takes more by now
        assert pool.send(*ENVELOPE).all_delivered
    assert server.connections[-1].mails >= 5
    assert limited() == 100
    pool.close()


# ---- the safe retry


@pytest.mark.parametrize("error", [unavailable(unanswered=True), lost(unanswered=True)])
def test_BR6_PO29_a_stale_connection_is_replaced_once_in_its_slot(
    pool: ConnectionPool, server: FakeServer, error: SmtpError
) -> None:
    pool.send(*ENVELOPE)
    server.acts = [error]
    assert pool.send(*ENVELOPE).all_delivered
    stats = pool.stats()
    assert (stats.stale_retries, stats.opened, stats.idle, stats.backoffs) == (1, 2, 1, 0)


def test_BR6_the_retry_takes_no_idle_sibling(pool: ConnectionPool, server: FakeServer) -> None:
    warmed(pool, 2)
    server.acts = [lost(unanswered=True)]
    pool.send(*ENVELOPE)
    assert [connection.log.count("MAIL") for connection in server.connections] in ([0, 1, 1], [1, 0, 1])


def test_BR6_the_second_failure_surfaces(pool: ConnectionPool, server: FakeServer) -> None:
    pool.send(*ENVELOPE)
    second = lost(unanswered=True)
    server.acts = [lost(unanswered=True), second]
    with pytest.raises(ConnectionLostError) as caught:
        pool.send(*ENVELOPE)
    assert caught.value is second
    assert pool.stats().stale_retries == 1


@pytest.mark.parametrize(
    "error",
    [
        lost("RCPT"),
        unavailable("RCPT"),
        SmtpTimeoutError("no reply", stage="MAIL"),
        ProtocolError("what", stage="MAIL"),
        DeliveryUnknownError("lost after the end of data"),
    ],
    ids=lambda error: f"{type(error).__name__} at {error.stage}",
)
def test_BR5_BR6_nothing_else_is_retried(pool: ConnectionPool, server: FakeServer, error: SmtpError) -> None:
    pool.send(*ENVELOPE)
    server.acts = [error]
    with pytest.raises(type(error)):
        pool.send(*ENVELOPE)
    assert (len(server.connections), pool.stats().stale_retries) == (1, 0)


@pytest.mark.parametrize("place", ["an empty slot", "that of a dead one", "that of an expired one"])
def test_BR6_a_fresh_connection_is_not_retried(
    pool: ConnectionPool, server: FakeServer, clock: Clock, place: str
) -> None:
    if place != "an empty slot":
        pool.resize(max_size=1)
        pool.send(*ENVELOPE)
        server.connections[0].quiet = place != "that of a dead one"
        clock.now += 60 if place == "that of an expired one" else 0
    before = len(server.connections)
    server.acts = [lost(unanswered=True)]
    with pytest.raises(ConnectionLostError):
        pool.send(*ENVELOPE)
    assert len(server.connections) == before + 1


def test_SN2_I11_nothing_is_opened_for_a_retry_when_the_deadline_has_passed(
    pool: ConnectionPool, server: FakeServer, clock: Clock
) -> None:
    pool.send(*ENVELOPE)

    def late(connection: FakeConnection) -> None:
        clock.now += 5
        connection._fail(lost(unanswered=True))

    server.acts = [late]
    with pytest.raises(ConnectionLostError):
        pool.send(*ENVELOPE, timeout=5)
    assert len(server.opened_to) == 1


def test_CS15_a_connection_too_many_is_not_followed_by_one_more(pool: ConnectionPool, server: FakeServer) -> None:
    pool.send(*ENVELOPE)
    server.acts = [unavailable(unanswered=True, code=432)]
    with pytest.raises(ServiceUnavailableError):
        pool.send(*ENVELOPE)
    assert len(server.opened_to) == 1


def test_SN2_the_original_error_is_raised_while_the_endpoint_backs_off(
    pool: ConnectionPool, server: FakeServer
) -> None:
    pool.send(*ENVELOPE)
    with pool.connection():
        server.script = [ConnectError("refused")]
        with pytest.raises(ConnectError):
            pool.send(*ENVELOPE)
    original = lost(unanswered=True)
    server.acts = [original]
    with pytest.raises(ConnectionLostError) as caught:
        pool.send(*ENVELOPE)
    assert caught.value is original


def test_SN4_commands_are_retried_in_the_same_way(pool: ConnectionPool, server: FakeServer) -> None:
    pool.send(*ENVELOPE)
    server.connections[0].script = [lost("VRFY", unanswered=True)]
    assert pool.vrfy("a@b.example").code == 250
    assert pool.stats().stale_retries == 1


# ---- closing signals


@pytest.mark.parametrize(
    ("code", "text", "suspects"),
    [
        (421, "4.3.2 bye", True),
        (221, "idle", True),
        (451, "4.3.2 bye", True),
        (451, "4.4.2 bye", False),
        (452, "4.4.5 n", False),
    ],
)
def test_I32_PO23_siblings_of_a_closing_connection_are_probed_not_closed(
    pool: ConnectionPool, server: FakeServer, code: int, text: str, suspects: bool
) -> None:
    warmed(pool, 3)
    dying = max(server.connections, key=lambda connection: connection.connection_id)

    def say(connection: FakeConnection) -> None:
        connection.is_shutting_down, connection.closing_reply = True, reply(code, text)
        connection.close()
        raise TransientReplyError("bye", stage="RCPT", reply=connection.closing_reply)

    dying.script = [say]
    for _ in range(3):
        try:
            pool.send(*ENVELOPE)
        except TransientReplyError:  # noqa: PERF203  # until the turn comes to the one that dies
            break
    with pool.connection(), pool.connection():
        pass
    with pool.connection(), pool.connection():
        pass
    survivors = [connection for connection in server.connections if connection is not dying]
    assert len(survivors) == 2
    assert [connection.noops for connection in survivors] == ([1, 1] if suspects else [0, 0])
    assert pool.stats().closing_signals == 1


@pytest.mark.parametrize("end", ["421", "NOOP"])
def test_VA6_VA7_the_end_of_a_connection_says_nothing_about_those_to_another_endpoint(
    server: FakeServer, clock: Clock, end: str
) -> None:
    pool = pool_of(server, clock, host=["a.example", "b.example"])
    with pool.connection():
        server.script = [ConnectError("refused")]
        with pool.connection():
            clock.now += 1
        clock.now += 1
    one, other = server.connections
    assert (one.endpoint.host, other.endpoint.host) == ("a.example", "b.example")
    if end == "421":
        server.acts = [unavailable("RCPT")]
        with pytest.raises(ServiceUnavailableError):
            pool.send(*ENVELOPE)
        pool.send(*ENVELOPE)
        assert other.log == ["check", "MAIL"]
    else:
        clock.now += 20
        one.alive = False
        pool.send(*ENVELOPE)
    assert (one.closed, other.closed) == (True, False)
    pool.close()


def test_VA6_a_complete_transaction_lifts_the_mark(pool: ConnectionPool, server: FakeServer) -> None:
    with pool.connection() as lease:
        server.acts = [unavailable("RCPT")]
        with pytest.raises(ServiceUnavailableError):
            pool.send(*ENVELOPE)
        lease.send(*ENVELOPE)
    pool.send(*ENVELOPE)
    assert server.connections[0].noops == 0


# ---- failing opens


def test_BO1_BO2_BO3_PO25_DF12_backoff_doubles_and_one_trial_is_made(server: FakeServer, clock: Clock) -> None:
    pool = pool_of(server, clock)
    delays = []
    for _ in range(8):
        failure = ConnectError("refused")
        server.script = [failure]
        with pytest.raises(ConnectError):
            pool.send(*ENVELOPE)
        delays.append(pool.stats().endpoints[0].backoff)
        with pytest.raises(PoolTimeoutError) as caught:
            pool.send(*ENVELOPE, timeout=0.1)  # AQ8: it could not succeed, so it does not wait
        assert isinstance(caught.value.__cause__, ConnectError)
        assert caught.value.retry_after == pytest.approx(delays[-1])
        clock.now += delays[-1]
    expected = [0.5, 1, 2, 4, 8, 16, 30, 30]
    assert all(0.8 * want <= delay <= 1.2 * want for delay, want in zip(delays, expected, strict=True))
    assert len(server.opened_to) == 8
    assert pool.send(*ENVELOPE).all_delivered
    assert pool.stats().endpoints[0].error is None
    pool.close()


def test_BO2_idle_connections_serve_while_the_endpoint_backs_off(pool: ConnectionPool, server: FakeServer) -> None:
    with pool.connection():
        server.script = [ConnectError("refused")]
        with pytest.raises(ConnectError):
            pool.send(*ENVELOPE)
    assert pool.send(*ENVELOPE).all_delivered


def test_AQ7_a_caller_waits_for_the_end_of_the_backoff_and_opens(server: FakeServer, clock: Clock) -> None:
    pool = pool_of(server, clock)
    server.script = [ConnectError("refused")]
    with pytest.raises(ConnectError):
        pool.send(*ENVELOPE)
    begun = clock.now
    assert pool.send(*ENVELOPE, timeout=10.0).all_delivered
    assert 0.4 <= clock.now - begun <= 0.6
    pool.close()


def test_BO1_opens_that_began_before_the_backoff_do_not_double_it(pool: ConnectionPool, clock: Clock) -> None:
    (health,) = pool._supply.endpoints.healths
    assert health.back_off(clock.now, clock.now - 2, 0.0) is not None
    due = health.not_before
    assert health.back_off(clock.now + 0.1, clock.now - 1, 0.0) is None
    assert (health.failures, health.not_before) == (1, due)


def test_BO1_a_caller_who_ran_out_of_time_starts_no_backoff(server: FakeServer, clock: Clock) -> None:
    pool = pool_of(server, clock)

    def slow(endpoint: object, budget: Any) -> None:
        clock.now += 0.5
        raise SmtpTimeoutError("too slow", stage="connect")

    server.script = [slow]
    with pytest.raises(SmtpTimeoutError):
        pool.send(*ENVELOPE, timeout=0.5)
    assert pool.stats().backoffs == 0
    pool.close()


def test_BO4_local_shortage_is_a_flat_backoff(server: FakeServer, clock: Clock) -> None:
    pool = pool_of(server, clock)
    for _ in range(3):
        failure = ConnectError("too many files")
        failure.__cause__ = OSError(errno.EMFILE, "too many files")
        server.script = [failure]
        with pytest.raises(ConnectError):
            pool.send(*ENVELOPE, timeout=5.0)
        assert pool.stats().endpoints[0].backoff == pytest.approx(0.5)
        clock.now += 0.5
    pool.close()


def test_NN18_BO4_an_exception_of_the_credentials_passes_and_starts_no_backoff(
    server: FakeServer, clock: Clock
) -> None:
    pool = pool_of(server, clock)
    server.script = [LookupError("no token")]
    with pytest.raises(LookupError):
        pool.send(*ENVELOPE)
    stats = pool.stats()
    assert (stats.backoffs, stats.leased, stats.opening) == (0, 0, 0)
    pool.close()


def test_BO6_PO27_DF13_the_breaker_refuses_without_a_login_and_lets_one_trial_through(
    server: FakeServer, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    pool = pool_of(server, clock)
    refused = AuthenticationError("535 no", permanent=True, reply=reply(535))
    server.script = [refused]
    errors = []
    for _ in range(3):
        with pytest.raises(AuthenticationError) as caught:
            pool.send(*ENVELOPE)
        errors.append(caught.value)
    assert len(server.opened_to) == 1
    assert len({id(error) for error in errors}) == 3
    assert errors[1].reply == refused.reply
    assert pool.stats().breaker == 60.0
    assert "credentials refused: no login for 60 s" in caplog.text
    clock.now += 60
    assert pool.send(*ENVELOPE).all_delivered
    assert pool.stats().breaker is None
    pool.close()


def test_BO6_live_connections_serve_while_the_breaker_is_open_and_invalidate_closes_it(
    server: FakeServer, clock: Clock
) -> None:
    pool = pool_of(server, clock)
    with pool.connection():
        server.script = [AuthenticationError("535 no", permanent=True, reply=reply(535))]
        with pytest.raises(AuthenticationError):
            pool.send(*ENVELOPE)
    assert pool.send(*ENVELOPE).all_delivered
    pool.invalidate()
    assert pool.send(*ENVELOPE).all_delivered
    assert pool.stats().breaker_trips == 1
    pool.close()


@pytest.mark.parametrize("found", ["on MAIL", "on checkout"])
def test_SN2_AQ9_I35_a_dead_connection_is_not_replaced_while_the_breaker_is_open(
    server: FakeServer, clock: Clock, found: str
) -> None:
    pool = pool_of(server, clock)
    with pool.connection():
        server.script = [AuthenticationError("535 no", permanent=True, reply=reply(535))]
        with pytest.raises(AuthenticationError):
            pool.send(*ENVELOPE)
    server.acts = [unavailable(unanswered=True)]
    server.connections[0].quiet = found == "on MAIL"
    with pytest.raises(ServiceUnavailableError if found == "on MAIL" else AuthenticationError):
        pool.send(*ENVELOPE)
    assert len(server.opened_to) == 2
    pool.close()


@pytest.mark.parametrize(
    "failure",
    [
        unavailable("greeting"),
        AuthenticationError("432", permanent=False, reply=reply(432, "4.3.2 concurrent")),
        lost("greeting"),
    ],
    ids=["CS5", "CS15", "EOF before the greeting"],
)
def test_BO7_BO8_PO24_DF14_too_many_connections_is_a_wait_and_a_limit(
    server: FakeServer, clock: Clock, failure: SmtpError
) -> None:
    pool = pool_of(server, clock)
    held = [pool.connection(), pool.connection()]
    for lease in held:
        lease.__enter__()
    server.script = [failure]
    clock.while_asleep = lambda: give_back(held)
    assert pool.send(*ENVELOPE).all_delivered
    stats = pool.stats()
    assert (stats.limit, stats.opened, stats.open_errors, stats.backoffs) == (2, 2, 0, 0)
    held.pop().__exit__(None, None, None)
    for expected in (3, 4):
        clock.now += 61
        pool.send(*ENVELOPE)
        pool.stats()
        with pool.connection(), pool.connection(), pool.connection(timeout=1):
            pass
        assert pool.stats().limit == expected
    pool.close()


def test_BO7_without_another_connection_it_is_an_ordinary_failure(pool: ConnectionPool, server: FakeServer) -> None:
    server.script = [unavailable("greeting")]
    with pytest.raises(ServiceUnavailableError):
        pool.send(*ENVELOPE)
    assert pool.stats().backoffs == 1


def test_CS15_a_432_on_a_mail_limits_one_below_what_lives(pool: ConnectionPool, server: FakeServer) -> None:
    warmed(pool, 3)

    def say(connection: FakeConnection) -> None:
        connection.is_shutting_down, connection.closing_reply = True, reply(432, "4.3.2 too many")
        connection.close()
        raise TransientReplyError("432", stage="MAIL", reply=connection.closing_reply)

    server.acts = [say]
    with pytest.raises(TransientReplyError):
        pool.send(*ENVELOPE)
    assert pool.stats().limit == 2


# ---- several endpoints


@pytest.mark.parametrize(
    "failure",
    [
        ConnectError("refused"),
        SmtpTimeoutError("silent", stage="greeting"),
        CertificateError("bad"),
        unavailable("greeting"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_EP1_EP3_PO40_the_next_endpoint_serves(server: FakeServer, clock: Clock, failure: SmtpError) -> None:
    pool = pool_of(server, clock, host=["one.example", ("two.example", 2525)])
    server.script = [failure]
    assert pool.send(*ENVELOPE).all_delivered
    assert server.opened_to == ["one.example:25", "two.example:2525"]
    assert [endpoint.live for endpoint in pool.stats().endpoints] == [0, 1]
    pool.close()


def test_EP2_BO2_fail_over_passes_an_endpoint_that_backs_off(
    server: FakeServer, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    pool = pool_of(server, clock, host=["a.example", "b.example", "c.example"])
    pool._supply.endpoints.healths[1].back_off(clock.now, clock.now, 60.0)
    server.script = [ConnectError("refused")]
    assert pool.send(*ENVELOPE).all_delivered
    assert server.opened_to == ["a.example:25", "c.example:25"]
    assert "a.example:25 failed, trying c.example:25" in caplog.text
    pool.close()


def test_EP3_a_refused_login_is_not_tried_elsewhere(server: FakeServer, clock: Clock) -> None:
    pool = pool_of(server, clock, host=["one.example", "two.example"])
    server.script = [AuthenticationError("535", permanent=True, reply=reply(535))]
    with pytest.raises(AuthenticationError):
        pool.send(*ENVELOPE)
    assert server.opened_to == ["one.example:25"]
    pool.close()


def test_EP4_when_all_fail_the_last_error_has_the_earlier_as_context(server: FakeServer, clock: Clock) -> None:
    pool = pool_of(server, clock, host=["one.example", "two.example"])
    first, last = ConnectError("refused"), ResolveError("no such name", permanent=True)
    server.script = [first, last]
    with pytest.raises(ResolveError) as caught:
        pool.send(*ENVELOPE)
    assert caught.value.__context__ is first
    assert caught.value.permanent is None
    pool.close()


@pytest.mark.parametrize(
    ("each", "together"),
    [((False,), False), ((True,), True), ((True, True), True), ((None, True), None), ((True, False), False)],
)
def test_EP4_repeating_is_in_vain_only_where_it_is_at_every_endpoint(
    server: FakeServer, clock: Clock, each: tuple[bool | None, ...], together: bool | None
) -> None:
    pool = pool_of(server, clock, host=["one.example", "two.example"][: len(each)])
    server.script = [ConnectError("no", permanent=permanent) for permanent in each]
    with pytest.raises(ConnectError) as caught:
        pool.send(*ENVELOPE)
    assert caught.value.permanent is together
    pool.close()


def test_EP2_while_others_remain_an_attempt_has_its_share_of_the_deadline(server: FakeServer, clock: Clock) -> None:
    shares = []

    def note(endpoint: object, budget: Any) -> None:
        shares.append(budget.total.remaining())
        raise ConnectError("refused")

    pool = pool_of(server, clock, host=["one.example", "two.example"])
    server.script = [note, note]
    with pytest.raises(ConnectError):
        pool.send(*ENVELOPE, timeout=10.0)
    assert shares == [5.0, 10.0]
    pool.close()


def test_EP4_traffic_returns_to_the_first_endpoint_within_max_age(server: FakeServer, clock: Clock) -> None:
    pool = pool_of(server, clock, host=["one.example", "two.example"], max_idle=None)
    server.script = [ConnectError("refused")]
    pool.send(*ENVELOPE)
    clock.now += 301
    pool.send(*ENVELOPE)
    assert server.opened_to == ["one.example:25", "two.example:25", "one.example:25"]
    pool.close()


# ---- leases


def test_I16_I17_NN3_a_lease_ends_once_and_its_verbs_end_with_it(pool: ConnectionPool, server: FakeServer) -> None:
    lease = pool.connection()
    with pytest.raises(UsageError):
        lease.send(*ENVELOPE)
    with lease:
        lease.send(*ENVELOPE)
    before = pool.stats()
    for misuse in (
        lambda: lease.send(*ENVELOPE),
        lease.noop,
        lambda: lease.capabilities,
        lambda: lease.__exit__(None, None, None),
        lease.__enter__,
        lease.close,
    ):
        with pytest.raises(UsageError):
            misuse()
    with pool.connection() as other:
        with pytest.raises(UsageError):
            lease.send(*ENVELOPE)
        other.send(*ENVELOPE)
    assert server.connections[0].log.count("MAIL") == 2
    assert pool.stats().acquired == before.acquired + 1


def test_LE1_close_and_quit_inside_a_lease_free_the_slot_on_return(pool: ConnectionPool, server: FakeServer) -> None:
    with pool.connection() as lease:
        lease.quit()
    with pool.connection() as lease:
        lease.close()
    assert pool.stats().idle == 0
    assert server.live == 0


def test_RN7_an_exception_of_the_block_says_nothing_about_the_connection(pool: ConnectionPool) -> None:
    with pytest.raises(ZeroDivisionError), pool.connection():
        raise ZeroDivisionError
    assert pool.stats().idle == 1


def test_I34_a_connection_that_logged_in_anew_serves_nobody_else(pool: ConnectionPool, server: FakeServer) -> None:
    with pool.connection() as lease:
        lease.auth(("user", "secret"))
    assert pool.stats().idle == 0
    assert server.live == 0


@pytest.mark.parametrize("cycle", [False, True])
def test_I26_NN1_PO34_a_dropped_lease_gives_its_slot_back(server: FakeServer, clock: Clock, cycle: bool) -> None:
    pool = pool_of(server, clock, max_size=1)
    lease: Any = pool.connection()
    lease.__enter__()
    if cycle:
        box: list[Any] = [lease]
        box.append(box)
        del box
    del lease
    gc.collect()
    with pytest.warns(ResourceWarning, match="MainThread"):
        pool.send(*ENVELOPE, timeout=2.0)
    stats = pool.stats()
    assert (stats.leaks, stats.retired["leaked"]) == (1, 1)
    assert "abort" in server.connections[0].log
    pool.close()


def test_DF17_tracked_leases_name_the_place(server: FakeServer, clock: Clock) -> None:
    pool = pool_of(server, clock, track_leases=True)
    with pool.connection():
        stack = pool.stats().holders[0].stack
    assert stack is not None
    assert "test_DF17_tracked_leases_name_the_place" in stack
    pool.close()


# ---- invalidate, resize, maintain


def test_GN1_PO31_invalidate_retires_idle_now_and_leased_on_return(pool: ConnectionPool, server: FakeServer) -> None:
    warmed(pool, 2)
    with pool.connection() as lease:
        pool.invalidate()
        assert pool.stats().idle == 0
        lease.send(*ENVELOPE)
    stats = pool.stats()
    assert (stats.generation, stats.idle, stats.retired["generation"]) == (1, 0, 2)
    assert all(connection.log[-1].startswith("QUIT") for connection in server.connections)


def test_GN2_PO32_resize_keeps_bounds(pool: ConnectionPool, clock: Clock) -> None:
    warmed(pool, 4)
    pool.resize(max_size=1)
    assert pool.stats().idle == 1
    with pytest.raises(InvalidInputError):
        pool.resize(min_size=2)
    pool.resize(max_size=3, min_size=2)
    stats = pool.stats()
    assert (stats.max_size, stats.min_size) == (3, 2)
    with pool.connection(), pool.connection(), pool.connection(), pytest.raises(PoolTimeoutError), pool.connection(1):
        pass


def test_GN3_PO33_maintain_finds_the_dead_expires_and_fills_without_a_noop(server: FakeServer, clock: Clock) -> None:
    pool = pool_of(server, clock, min_size=2, max_idle=30.0)
    warmed(pool, 2)
    server.connections[0].quiet = False
    pool.maintain()
    assert (pool.stats().idle, len(server.connections)) == (2, 3)
    clock.now += 31
    pool.maintain()
    stats = pool.stats()
    assert (stats.idle, stats.retired["idle"], stats.probes, stats.acquired) == (2, 2, 0, 2)
    server.script = [ConnectError("refused")]
    clock.now += 31
    pool.maintain()
    assert pool.stats().open_errors == 1
    pool.close()


# ---- close


def test_CL1_CL5_I23_after_close_everything_is_refused_and_stats_work(pool: ConnectionPool, server: FakeServer) -> None:
    warmed(pool, 2)
    pool.close()
    pool.close()
    for verb in (
        lambda: pool.send(*ENVELOPE),
        pool.noop,
        pool.maintain,
        pool.invalidate,
        lambda: pool.resize(max_size=2),
    ):
        with pytest.raises(PoolClosedError):
            verb()
    assert pool.stats().retired["closed"] == 2
    assert "closed" in repr(pool)
    assert server.live == 0
    assert all(connection.log[-1] == "QUIT and wait" for connection in server.connections)


def test_LE7_after_the_exit_hook_nobody_is_given_a_connection_that_has_said_quit(
    pool: ConnectionPool, server: FakeServer
) -> None:
    pool.send(*ENVELOPE)
    pool._at_exit()
    with pytest.raises(PoolClosedError):
        pool.send(*ENVELOPE)
    assert [connection.log for connection in server.connections] == [["MAIL", "QUIT"]]


def test_CL5_closing_again_waits_for_nobody(pool: ConnectionPool, clock: Clock) -> None:
    with pool.connection():
        pool.close(timeout=0)
        begun = clock.now
        pool.close(timeout=5)
        assert clock.now == begun


def test_CL3_CL4_CL6_a_lease_that_does_not_return_is_cut_off(server: FakeServer, clock: Clock) -> None:
    pool = pool_of(server, clock)
    begun = clock.now
    with pool.connection():
        pool.close(timeout=3)
        assert clock.now == begun + 3
        assert server.connections[0].log == ["abort"]
    assert server.live == 0


def test_CL3_a_lease_that_returns_in_time_is_closed_with_quit(server: FakeServer, clock: Clock) -> None:
    pool = pool_of(server, clock)
    held = [pool.connection()]
    held[0].__enter__()
    clock.while_asleep = lambda: give_back(held)
    pool.close(timeout=3)
    assert (server.live, "abort" in server.connections[0].log) == (0, False)


def test_I23_an_open_that_arrives_after_close_is_closed(server: FakeServer, clock: Clock) -> None:
    pool = pool_of(server, clock)
    server.script = [lambda endpoint, budget: pool.close(timeout=0)]
    with pytest.raises(PoolClosedError):
        pool.send(*ENVELOPE)
    assert server.live == 0


def test_with_a_pool_closes_it(server: FakeServer) -> None:
    with pool_of(server) as pool:
        pool.send(*ENVELOPE)
    assert server.live == 0


def test_max_waiting_0_means_that_nobody_queues(server: FakeServer, clock: Clock) -> None:
    pool = pool_of(server, clock, max_size=1, max_waiting=0)
    with pool.connection(), pytest.raises(PoolOverloadedError):
        pool.send(*ENVELOPE)
    assert pool.stats().overloads == 1
    pool.close()


# ---- events and records


def test_section_14_events_are_paired_and_carry_no_text(server: FakeServer, clock: Clock) -> None:
    seen: list[events.PoolEvent] = []
    pool = pool_of(server, clock, on_event=seen.append, name="mail")
    pool.send(*ENVELOPE)
    server.acts = [lost(unanswered=True)]
    pool.send(*ENVELOPE)
    server.script = [ConnectError("secret text")]
    with pool.connection(), pytest.raises(ConnectError):
        pool.send(*ENVELOPE)
    pool.resize(max_size=3)
    pool.invalidate()
    pool.close()
    names = [type(event).__name__ for event in seen]
    assert names.count("ConnectionOpened") == names.count("ConnectionClosed") == 2
    assert names.count("AcquireStarted") == names.count("Acquired") + names.count("AcquireFailed") == 4
    for name in (
        "Retried",
        "ConnectionFailed",
        "BackedOff",
        "Resized",
        "Invalidated",
        "PoolClosed",
        "Returned",
        "ClosingSeen",
    ):
        assert name in names
    assert "secret text" not in repr(seen)
    assert {event.pool for event in seen} == {"mail"}


def test_I29_NN16_PO39_a_hook_that_raises_changes_nothing_and_may_call_the_pool(
    server: FakeServer, clock: Clock
) -> None:
    pools: list[ConnectionPool] = []

    def hook(event: events.PoolEvent) -> None:
        pools[0].stats()
        raise RuntimeError("no")

    pool = pool_of(server, clock, on_event=hook)
    pools.append(pool)
    assert pool.send(*ENVELOPE).all_delivered
    pool.close()
    assert pool.stats().hook_errors > 3


def test_LG3_LG6_records_have_id_use_and_endpoint_and_stay_below_warning(
    server: FakeServer, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="smtpconn.pool")
    pool = pool_of(server, clock, name="mail")
    pool.send(*ENVELOPE)
    server.acts = [lost(unanswered=True)]
    pool.send(*ENVELOPE)
    pool.close()
    texts = [record.getMessage() for record in caplog.records if record.name == "smtpconn.pool"]
    assert [text.split(":25 ")[1].split()[0] for text in texts] == ["opened", "closed:", "was", "opened", "closed:"]
    assert {record.levelno for record in caplog.records} == {logging.DEBUG}
    for record in caplog.records:
        assert record.__dict__["smtp_pool"] == "mail"
        assert record.__dict__["smtp_endpoint"] == "mx.example.com:25"
        assert record.__dict__["smtp_connection"] > 0


def test_no_event_object_is_made_without_a_hook(
    server: FakeServer, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise AssertionError("an event was made")

    monkeypatch.setattr(events.PoolEvent, "__init__", fail)
    for kind in events.PoolEvent.__subclasses__():
        monkeypatch.setattr(kind, "__init__", fail)
    pool = pool_of(server, clock)
    pool.send(*ENVELOPE)
    pool.close()
    assert pool.stats().hook_errors == 0


def test_stats_can_be_pickled(pool: ConnectionPool) -> None:
    pool.send(*ENVELOPE)
    stats = pool.stats()
    assert pickle.loads(pickle.dumps(stats)) == stats  # noqa: S301  # our own


def test_warnings_are_not_raised_into_results(server: FakeServer, clock: Clock) -> None:
    """I21: a ResourceWarning that a filter turns into an error does not replace the caller's result."""
    pool = pool_of(server, clock, max_size=2)
    lease: Any = pool.connection()
    lease.__enter__()
    del lease
    gc.collect()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert pool.send(*ENVELOPE).all_delivered
    pool.close()


def test_unix_socket_needs_no_tls_mode(server: FakeServer) -> None:
    pool = pool_of(server)
    kind = type(pool)
    made = kind(unix_socket="/run/lmtp", protocol="lmtp")
    made.send(*ENVELOPE)
    assert server.opened_to == ["/run/lmtp"]
    made.close()
    with pytest.raises(InvalidInputError):
        kind(["a.example"], 25, TlsMode.NONE, unix_socket="/run/lmtp", protocol="lmtp")


# ---- what a connection has said, or is limited to


def test_VA1_a_421_that_waits_is_kept_for_the_event(server: FakeServer, clock: Clock) -> None:
    seen: list[events.PoolEvent] = []
    pool = pool_of(server, clock, on_event=seen.append)
    warmed(pool, 2)
    for connection in server.connections:
        connection.quiet, connection.unread = False, reply(421, "4.3.2 restart")
    assert pool.send(*ENVELOPE).all_delivered
    closed = [event for event in seen if isinstance(event, events.ConnectionClosed)]
    assert [(event.reason, event.code) for event in closed] == [("closing", 421)] * 2
    assert [event.code for event in seen if isinstance(event, events.ClosingSeen)] == [421] * 2
    assert pool.stats().retired["closing"] == 2
    pool.close()


@pytest.mark.parametrize("code", [500, 502, 504])
def test_VA5_an_endpoint_that_refuses_noop_twice_is_not_asked_again_until_invalidate(
    server: FakeServer, clock: Clock, code: int
) -> None:
    pool = pool_of(server, clock, max_size=1)

    def use_after_a_while() -> int:
        """Send behind a pause that calls for a NOOP; how many were written in all."""
        for connection in server.connections:
            connection.alive, connection.noop_code = False, code
        clock.now += 16
        assert pool.send(*ENVELOPE).all_delivered
        return sum(connection.noops for connection in server.connections)

    pool.send(*ENVELOPE)
    assert [use_after_a_while() for _ in range(4)] == [1, 2, 2, 2]
    assert pool.stats().retired["nonmail"] == 2
    pool.invalidate()
    pool.send(*ENVELOPE)
    assert use_after_a_while() == 3
    pool.close()


def test_VA5_another_refusal_of_noop_is_no_reason_to_stop_asking(server: FakeServer, clock: Clock) -> None:
    pool = pool_of(server, clock, max_size=1)
    for _ in range(4):
        pool.send(*ENVELOPE)
        server.connections[-1].alive, server.connections[-1].noop_code = False, 451
        clock.now += 16
    pool.send(*ENVELOPE)
    assert pool.stats().probes == 4
    pool.close()


def test_LI4_a_connection_is_retired_before_a_mail_that_would_exceed_its_domains(
    server: FakeServer, clock: Clock
) -> None:
    """pipelining:LI4, pool:VA9: RCPTDOMAINMAX counts over a connection's life."""
    server.capabilities = capabilities("LIMITS RCPTDOMAINMAX=2")
    pool = pool_of(server, clock)
    for domain in ("a", "b", "A", "b", "c", "d", "c"):
        pool.send("from@example.com", [f"to@{domain}.example"], b"x\r\n")
    assert [connection.mails for connection in server.connections] == [4, 3]
    assert pool.stats().retired["messages"] == 1
    assert server.connections[0].log[-1].startswith("QUIT")
    pool.send("from@example.com", ["to@e.example", "to@f.example"], b"x\r\n")
    with pool.connection():
        pass  # a lease says nothing of its mails in advance
    assert len(server.connections) == 3
    pool.close()


def test_CL2_all_say_quit_before_the_first_answer_is_awaited(server: FakeServer, clock: Clock) -> None:
    order: list[tuple[str, int]] = []
    pool = pool_of(server, clock)
    warmed(pool, 3)
    for connection in server.connections:
        number = connection.connection_id
        connection.part = lambda number=number: order.append(("part", number))  # type: ignore[method-assign,misc]
        leave = connection.leave

        def noted(budget: Any, number: int = number, leave: Any = leave) -> None:
            order.append(("leave", number))
            leave(budget)

        connection.leave = noted  # type: ignore[method-assign]
    pool.close()
    assert [what for what, _ in order] == ["part"] * 3 + ["leave"] * 3
    assert server.live == 0


# ---- credentials that change


def test_EP5_PO28_a_callable_is_asked_once_for_each_open_and_never_for_a_reuse(
    server: FakeServer, clock: Clock
) -> None:
    asked: list[str] = []

    def password() -> str:
        asked.append("")
        assert not made._supply.slots.lock.locked()
        return f"secret{len(asked)}"

    server.accepts = lambda secret: True
    made = pool_of(server, clock, credentials=PasswordAuth("user", password))
    for _ in range(3):
        made.send(*ENVELOPE)
    warmed(made, 2)
    assert server.logins == ["secret1", "secret2"]
    made.close()


@pytest.mark.parametrize("how", ["the secret", "the credentials", "refresh"])
def test_EP6_after_a_535_another_secret_is_tried_once_in_the_same_call(
    server: FakeServer, clock: Clock, how: str
) -> None:
    secrets = iter(["old", "new", "new"])
    credentials: Any
    if how == "the secret":
        credentials = PasswordAuth("user", lambda: next(secrets))
    elif how == "the credentials":
        credentials = lambda: PasswordAuth("user", next(secrets))  # noqa: E731  # one of three
    else:
        credentials = XOAuth2Auth("user", "old", refresh=lambda: "new")
    server.accepts = lambda secret: secret == "new"
    pool = pool_of(server, clock, credentials=credentials)
    assert pool.send(*ENVELOPE).all_delivered
    assert server.logins == ["old", "new"]
    stats = pool.stats()
    assert (stats.breaker_trips, stats.breaker, stats.open_errors) == (0, None, 0)
    pool.close()


@pytest.mark.parametrize("given", [["bad", "bad"], ["bad", "worse"]], ids=["the same", "another"])
def test_EP6_BO6_the_same_secret_or_a_second_refusal_trips_the_breaker(
    server: FakeServer, clock: Clock, given: list[str]
) -> None:
    """I35: a refused credential is not sent again before the breaker lets one trial through."""
    secrets = iter(given)
    last = given[-1]
    server.accepts = lambda secret: False
    pool = pool_of(server, clock, credentials=PasswordAuth("user", lambda: next(secrets, last)))
    for _ in range(4):
        with pytest.raises(AuthenticationError):
            pool.send(*ENVELOPE)
    assert server.logins == list(dict.fromkeys(given))
    assert pool.stats().breaker_trips == 1
    clock.now += 60
    with pytest.raises(AuthenticationError):
        pool.send(*ENVELOPE)
    assert len(server.logins) == len(set(given)) + 1
    assert pool.stats().breaker == 120.0
    pool.close()


def test_I35_a_literal_that_was_refused_is_sent_once_in_a_minute(server: FakeServer, clock: Clock) -> None:
    server.accepts = lambda secret: False
    pool = pool_of(server, clock, credentials=("user", "bad"))
    for _ in range(30):
        with pytest.raises(AuthenticationError):
            pool.send(*ENVELOPE)
        clock.now += 1.9
    assert server.logins == ["bad"]
    pool.close()


def test_BO6_a_changed_secret_closes_the_breaker_at_once(server: FakeServer, clock: Clock) -> None:
    current = ["old"]
    server.accepts = lambda secret: secret == "new"
    pool = pool_of(server, clock, credentials=PasswordAuth("user", lambda: current[0]))
    for _ in range(2):
        with pytest.raises(AuthenticationError):
            pool.send(*ENVELOPE)
    assert server.logins == ["old"]
    current[0] = "new"
    assert pool.send(*ENVELOPE).all_delivered
    assert server.logins == ["old", "new"]
    assert pool.stats().breaker is None
    pool.close()


class Contended:
    """A lock for which somebody else is first: he does what is given, then it is free, or it is not had in time."""

    def __init__(self, first: Callable[[], object] | None) -> None:
        self.first = first
        self.patience: list[float] = []

    def acquire(self, timeout: float) -> bool:
        self.patience.append(timeout)
        if self.first is None:
            return False
        first, self.first = self.first, int
        first()
        return True

    def release(self) -> None:
        pass


def test_BO6_I11_who_waited_while_another_caller_asked_for_a_secret_does_not_ask_again() -> None:
    asked = []

    def source() -> PasswordAuth:
        asked.append(1)
        return PasswordAuth("user", "new")

    logins: Any = Logins(source)
    logins._asking = Contended(lambda: logins.changed(1.0))
    assert logins.changed(5.0) == (True, None)
    assert len(asked) == 1
    logins._asking = Contended(None)
    assert logins.changed(-5.0) == (False, None)  # his deadline has passed: he does not wait
    assert (logins._asking.patience, len(asked)) == ([0.0], 1)


def test_EP6_what_the_callable_raises_when_asked_again_passes_and_the_refusal_counts(
    server: FakeServer, clock: Clock
) -> None:
    def password() -> str:
        if server.logins:
            raise LookupError("no token")
        return "old"

    server.accepts = lambda secret: False
    pool = pool_of(server, clock, credentials=PasswordAuth("user", password))
    with pytest.raises(LookupError):
        pool.send(*ENVELOPE)
    stats = pool.stats()
    assert (stats.breaker, stats.leased, stats.opening) == (60.0, 0, 0)
    pool.close()


def test_EP6_a_login_that_is_only_put_off_is_not_asked_about_again(server: FakeServer, clock: Clock) -> None:
    asked: list[str] = []

    def password() -> str:
        asked.append("")
        raise AuthenticationError("454 later", permanent=False, reply=reply(454))  # as if the server had said it

    server.accepts = lambda secret: True
    pool = pool_of(server, clock, credentials=PasswordAuth("user", password))
    with pytest.raises(AuthenticationError):
        pool.send(*ENVELOPE)
    stats = pool.stats()
    assert (len(asked), stats.breaker, stats.backoffs) == (1, None, 1)
    assert stats.endpoints[0].backoff >= 5.0
    pool.close()


def test_BO7_a_server_may_still_count_the_connection_that_was_just_closed(server: FakeServer, clock: Clock) -> None:
    """With nothing else alive it would be this caller's error: he waits for the end of the back-off instead."""
    pool = pool_of(server, clock, max_messages=1)
    pool.send(*ENVELOPE)
    server.script = [unavailable("greeting"), unavailable("greeting")]
    begun = clock.now
    assert pool.send(*ENVELOPE).all_delivered
    assert 1.2 <= clock.now - begun <= 1.8  # 0.5 and 1 s, each within a fifth
    stats = pool.stats()
    assert (stats.open_errors, stats.backoffs, stats.endpoints[0].error) == (0, 2, None)
    clock.now += 10
    server.script = [unavailable("greeting")]
    with pytest.raises(ServiceUnavailableError):
        pool.send(*ENVELOPE)
    pool.close()


def test_BO8_the_limit_counts_the_connection_that_was_just_closed(server: FakeServer, clock: Clock) -> None:
    pool = pool_of(server, clock)
    with pool.connection():
        with pool.connection() as lease:
            lease.close()
        server.script = [unavailable("greeting")]
        assert pool.send(*ENVELOPE).all_delivered
        assert pool.stats().limit == 2
    pool.close()


def test_SN2_BO7_a_retry_that_finds_too_many_connections_waits_for_one(server: FakeServer, clock: Clock) -> None:
    """The server still counts the connection that it has just ended: no error of this caller's."""
    pool = pool_of(server, clock)
    pool.send(*ENVELOPE)
    server.acts = [unavailable(unanswered=True)]
    server.script = [unavailable("greeting")]
    with pool.connection() as lease:
        lease.noop()
    assert pool.send(*ENVELOPE).all_delivered
    stats = pool.stats()
    assert (stats.stale_retries, stats.open_errors, stats.opened) == (1, 0, 2)
    pool.close()
