"""What the feature list promises of the pool (BS4-BS6, BS22, F98b), over real connections and counted at the server.

The rules behind it have their tables in the other modules of this directory, over connections that are scripted. Where
time matters the pool's clock is moved by hand.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.message import EmailMessage
from typing import Any, Literal

import pytest

from smtpconn import (
    BoundedPolicy,
    ConnectionPool,
    Delivery,
    Mail,
    PolicyError,
    PoolClosedError,
    PoolTimeoutError,
    ServiceUnavailableError,
    SmtpConnection,
    SmtpError,
    TlsMode,
    UsageError,
)
from smtpconn.pooling.pooled import System
from smtpconn.testing import LoopbackServer

from .fakes import Clock

SENDER, RECIPIENT = "a@example.com", "b@example.com"
BODY = b"Subject: x\r\n\r\nhello\r\n"


def pool_of(server: LoopbackServer, clock: Clock | None = None, **options: Any) -> ConnectionPool:
    kind: Any = ConnectionPool
    if clock is not None:
        system = System(ConnectionPool._system.connector, clock, clock.sleep)
        kind = type("ClockedPool", (ConnectionPool,), {"_system": system})
    made: ConnectionPool = kind("127.0.0.1", server.port, TlsMode.NONE, **{"timeout": 20, **options})
    return made


def send(pool: Any, sender: str = SENDER) -> Any:
    return pool.send(sender, [RECIPIENT], BODY)


@contextmanager
def idle(pool: ConnectionPool, count: int) -> Iterator[ConnectionPool]:
    """The pool with so many idle connections, each of which has sent a mail."""
    leases = [pool.connection() for _ in range(count)]
    for lease in leases:
        assert send(lease.__enter__()).all_delivered
    for lease in reversed(leases):
        lease.__exit__(None, None, None)
    assert pool.stats().idle == count
    with pool:
        yield pool


def commands(server: LoopbackServer) -> list[str]:
    """All commands of all sessions until now."""
    return [verb for session in server.sessions for verb in session.commands]


def ends(server: LoopbackServer) -> list[str | None]:
    """How each session ended: the pool does not wait for the answer to its QUIT."""
    server.wait_for_connections(0, 5)
    return [session.closed_by for session in server.sessions]


# --- BS4: bounded, FIFO hand-off, leases, sizes, resize, invalidate, maintain, stats, drain ---


def test_BS4_callers_beyond_the_size_wait_and_are_served_in_the_order_of_their_arrival(server: LoopbackServer) -> None:
    with pool_of(server, max_size=1) as pool:
        threads = [threading.Thread(target=send, args=(pool, f"{number}@example.com")) for number in range(6)]
        with pool.connection(timeout=5) as lease:
            for waiting, thread in enumerate(threads, 1):
                thread.start()
                while pool.stats().waiting < waiting:
                    assert thread.is_alive()
            with pytest.raises(PoolTimeoutError) as late:
                send_within(pool, 0.05)
            assert late.value.retry_safe
            assert send(lease, "holder@example.com").all_delivered
        for thread in threads:
            thread.join(20)
            assert not thread.is_alive()
        stats = pool.stats()
    assert [mail.sender.split("@")[0] for mail in server.mails] == ["holder", *map(str, range(6))]
    assert (server.connections_peak, server.connections_total) == (1, 1)
    assert (stats.opened, stats.messages, stats.delivered, stats.timeouts) == (1, 7, 7, 1)


def send_within(pool: ConnectionPool, seconds: float) -> Any:
    return pool.send(SENDER, [RECIPIENT], BODY, timeout=seconds)


def test_BS4_a_lease_is_one_connection_until_it_ends_and_none_after(server: LoopbackServer) -> None:
    with pool_of(server) as pool:
        with pool.connection() as lease:
            for _ in range(3):
                assert send(lease).all_delivered
        with pytest.raises(UsageError):
            send(lease)
        assert send(pool).all_delivered
    assert [session.transactions for session in server.sessions] == [4]


@pytest.mark.parametrize(
    ("options", "seconds", "reason"),
    [
        ({"max_idle": 45.0}, 46, "idle"),
        ({"max_age": 300.0, "max_idle": None}, 301, "age"),
        ({"max_messages": 1}, 0, "messages"),
    ],
)
def test_BS4_a_connection_past_its_limit_leaves_with_QUIT_and_nobody_notices(
    server: LoopbackServer, options: dict[str, Any], seconds: int, reason: str
) -> None:
    clock = Clock()
    with pool_of(server, clock, **options) as pool:
        assert send(pool).all_delivered
        clock.now += seconds
        assert send(pool).all_delivered
        assert dict(pool.stats().retired)[reason] == (2 if reason == "messages" else 1)
        assert pool.stats().opened == 2
    assert ends(server) == ["QUIT", "QUIT"]
    assert commands(server).count("NOOP") == 0


def test_BS4_resize_closes_what_is_idle_beyond_and_opens_more_when_it_may(server: LoopbackServer) -> None:
    with idle(pool_of(server, max_size=3), 3) as pool:
        pool.resize(max_size=1)
        server.wait_for_connections(1, 5)
        with pool.connection(timeout=5), pytest.raises(PoolTimeoutError):
            pool.connection(timeout=0.05).__enter__()
        pool.resize(max_size=2)
        with pool.connection(timeout=5), pool.connection(timeout=5):
            assert server.connections_now == 2
    assert ends(server) == ["QUIT"] * 4


def test_BS4_invalidate_replaces_idle_connections_now_and_leased_ones_on_return(server: LoopbackServer) -> None:
    with idle(pool_of(server, max_size=2), 2) as pool:
        with pool.connection() as lease:
            pool.invalidate()
            server.wait_for_connections(1, 5)
            assert send(lease).all_delivered
        server.wait_for_connections(0, 5)
        assert send(pool).all_delivered
        assert dict(pool.stats().retired)["generation"] == 2
    assert ends(server) == ["QUIT"] * 3


def test_BS4_maintain_fills_to_the_least_size_and_finds_the_dead_without_a_command(server: LoopbackServer) -> None:
    with pool_of(server, min_size=2) as pool:
        assert server.connections_total == 0
        pool.maintain(timeout=5)
        assert (pool.stats().idle, server.connections_now) == (2, 2)
        server.restart()
        pool.maintain(timeout=5)
        assert (pool.stats().idle, pool.stats().opened) == (2, 4)
        assert send(pool).all_delivered
    assert commands(server).count("NOOP") == 0


def test_BS4_close_wakes_who_waits_lets_leases_end_and_leaves_by_QUIT(server: LoopbackServer) -> None:
    pool = pool_of(server, max_size=2)
    woken: list[SmtpError] = []
    release = threading.Event()
    busy = [threading.Event(), threading.Event()]

    def hold(number: int) -> None:
        with pool.connection() as lease:
            busy[number].set()
            assert release.wait(20)
            assert send(lease).all_delivered

    def wait() -> None:
        try:
            send(pool)
        except SmtpError as error:
            woken.append(error)
            release.set()  # nobody was served: the close alone has woken this one

    threads = [threading.Thread(target=hold, args=(number,)) for number in (0, 1)]
    for number, thread in enumerate(threads):
        thread.start()
        assert busy[number].wait(20)
    threads.append(threading.Thread(target=wait))
    threads[-1].start()
    while not pool.stats().waiting:
        assert threads[-1].is_alive()
    pool.close(timeout=20)
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    assert [type(error) for error in woken] == [PoolClosedError]
    assert len(server.mails) == 2
    with pytest.raises(PoolClosedError):
        send(pool)
    assert pool.stats().idle == pool.stats().leased == 0
    assert ends(server) == ["QUIT", "QUIT"]


# --- BS5: validation without a round trip, NOOP within a budget, one safe retry ---


def test_BS5_a_connection_that_died_costs_no_octet_and_a_living_one_no_command(server: LoopbackServer) -> None:
    with idle(pool_of(server), 1) as pool:
        octets = server.sessions[0].octets
        with pool.connection():
            assert server.sessions[0].octets == octets
        server.restart()
        assert send(pool).all_delivered
    assert ends(server) == ["server", "QUIT"]
    assert server.sessions[0].octets == octets
    assert len(server.mails) == 2


def test_BS5_NOOP_is_asked_beyond_probe_after_only_and_five_times_at_most(server: LoopbackServer) -> None:
    clock = Clock()
    with pool_of(server, clock, probe_after=15.0, max_age=None) as pool:
        for turn in range(7):
            assert send(pool).all_delivered
            clock.now += 14
            assert send(pool).all_delivered
            assert commands(server).count("NOOP") == min(turn, 5)
            clock.now += 16
        stats = pool.stats()
    assert ends(server) == ["QUIT", "QUIT"]
    first, second = server.sessions
    assert first.commands.count("NOOP") == 5
    assert second.commands.count("NOOP") == 0
    assert (stats.probes, stats.probe_failures, dict(stats.retired)["nonmail"]) == (5, 0, 1)


@pytest.mark.parametrize("answer", ["221 2.0.0 idle timeout", "554 5.5.0 no", "252 what"])
def test_BS5_a_connection_that_fails_its_NOOP_is_replaced_and_nobody_notices(
    server: LoopbackServer, answer: str
) -> None:
    clock = Clock()
    server.reply("NOOP", answer, nth=1)
    with idle(pool_of(server, clock), 1) as pool:
        clock.now += 16
        assert send(pool).all_delivered
        assert (pool.stats().opened, pool.stats().probe_failures) == (2, 1)
    assert len(server.mails) == 2


@pytest.mark.parametrize("failure", ["421", "EOF", "RST"])
def test_BS5_a_mail_is_repeated_once_on_a_fresh_connection_if_a_reused_one_fails_at_MAIL(
    server: LoopbackServer, failure: str
) -> None:
    server.fault("MAIL", failure, nth={2, 4, 5})
    with pool_of(server) as pool:
        assert send(pool).all_delivered
        assert send(pool).all_delivered  # the second MAIL fails, the third one is the retry
        with pytest.raises(SmtpError) as twice:  # so does the fourth, and its retry
            send(pool)
        assert twice.value.delivery is Delivery.NOT_DELIVERED
        assert pool.stats().stale_retries == 2
    assert len(server.mails) == 2
    assert server.connections_total == 3


@pytest.mark.parametrize("stage", ["RCPT", "DATA", "end of data"])
def test_BS5_nothing_is_repeated_once_a_reply_to_MAIL_was_read(server: LoopbackServer, stage: str) -> None:
    server.fault(stage, "EOF", nth=2)
    with pool_of(server) as pool:
        assert send(pool).all_delivered
        with pytest.raises(SmtpError):
            send(pool)
        assert (pool.stats().stale_retries, pool.stats().opened) == (0, 1)
    assert commands(server).count("MAIL") == 2


# --- BS6: 421, 221, EOF, "session used up": the siblings are checked before their next use ---


@pytest.mark.parametrize(
    ("stage", "how"),
    [
        ("MAIL", "421 4.3.2 shutting down"),
        ("MAIL", "221 2.0.0 idle timeout"),
        ("MAIL", "451 4.3.2 shutting down"),
        ("end of data", "421 4.3.2 shutting down"),
        ("MAIL", "EOF"),
        ("RCPT", "RST"),
    ],
)
def test_BS6_a_closing_signal_on_one_connection_has_the_others_probed_once_and_kept(
    stage: str, how: str, server: LoopbackServer
) -> None:
    with idle(pool_of(server, max_size=3), 3) as pool:
        if how[0].isdigit():
            server.reply(stage, how, nth=1)
        else:
            server.fault(stage, how, nth=1)
        with pool.connection() as lease, pytest.raises(SmtpError) as signal:
            send(lease)
        assert signal.value.delivery is Delivery.NOT_DELIVERED
        assert pool.stats().idle == 2, "a signal on one connection closes no other"
        with pool.connection() as one, pool.connection() as another:
            for lease in (one, another):
                assert send(lease).all_delivered
        assert commands(server).count("NOOP") == 2
        with pool.connection() as one, pool.connection() as another:
            for lease in (one, another):
                assert send(lease).all_delivered
        assert commands(server).count("NOOP") == 2, "the mark is gone"
        assert pool.stats().opened == 3
    assert len(server.mails) == 7


def test_BS6_siblings_that_do_not_answer_as_they_should_are_replaced(server: LoopbackServer) -> None:
    with idle(pool_of(server, max_size=3), 3) as pool:
        server.reply("MAIL", "421 4.3.2 shutting down", nth=1)
        server.reply("NOOP", "421 4.3.2 shutting down", nth=1)
        with pool.connection() as lease, pytest.raises(ServiceUnavailableError):
            send(lease)
        assert send(pool).all_delivered
        assert pool.stats().opened == 4
        assert (pool.stats().probes, pool.stats().probe_failures) == (1, 1)


def test_BS6_a_refusal_that_is_no_signal_makes_nobody_suspect(server: LoopbackServer) -> None:
    with idle(pool_of(server, max_size=2), 2) as pool:
        server.reply("MAIL", "451 4.7.1 greylisted", nth=1)
        with pool.connection() as lease, pytest.raises(SmtpError):
            send(lease)
        with pool.connection() as one, pool.connection() as another:
            assert send(one).all_delivered
            assert send(another).all_delivered
        assert pool.stats().opened == 2
    assert commands(server).count("NOOP") == 0


# --- F98b: a policy is asked by every verb ---


def _message() -> EmailMessage:
    message = EmailMessage()
    message["From"], message["To"] = SENDER, RECIPIENT
    message.set_content("x")
    return message


SENDS: dict[str, Callable[[Any, dict[str, Any]], Any]] = {
    "send": lambda sender, limit: sender.send(SENDER, [RECIPIENT], BODY, **limit),
    "send_bdat": lambda sender, limit: sender.send_bdat(SENDER, [RECIPIENT], BODY, **limit),
    "send_lmtp": lambda sender, limit: sender.send_lmtp(SENDER, [RECIPIENT], BODY, **limit),
    "send_lmtp_bdat": lambda sender, limit: sender.send_lmtp_bdat(SENDER, [RECIPIENT], BODY, **limit),
    "send_message": lambda sender, limit: sender.send_message(_message(), **limit),
    "send_many": lambda sender, limit: _first(sender.send_many([Mail(SENDER, [RECIPIENT], BODY)], **limit)),
}


def _first(outcomes: Any) -> Any:
    (outcome,) = outcomes
    if outcome.error is not None:
        raise outcome.error
    return outcome.result


@pytest.mark.parametrize(
    ("protocol", "verb"),
    [("lmtp", verb) for verb in SENDS] + [("smtp", verb) for verb in SENDS if not verb.startswith("send_lmtp")],
)
def test_F98b_a_policy_is_asked_by_every_verb_of_connections_leases_and_pools(
    protocol: Literal["smtp", "lmtp"], verb: str
) -> None:
    """features:F98, E94: no octet, usable, permanent, nobody has the mail."""
    policy = BoundedPolicy(max_recipients=0)
    connect = SmtpConnection.connect_lmtp if protocol == "lmtp" else SmtpConnection.connect
    with (
        LoopbackServer(protocol=protocol) as server,
        connect("127.0.0.1", server.port, TlsMode.NONE, timeout=5, policy=policy) as connection,
        pool_of(server, policy=policy, protocol=protocol) as pool,
        pool.connection() as lease,
    ):
        senders = [(connection, {"timeout": 5}), (lease, {})]
        if hasattr(pool, verb):
            senders.append((pool, {}))
        for sender, limit in senders:
            with pytest.raises(PolicyError) as refused:
                SENDS[verb](sender, limit)
            assert refused.value.permanent is True
            assert [entry.delivery for entry in refused.value.recipients] == [Delivery.NOT_DELIVERED]
        connection.noop(timeout=5)
        lease.noop()
        assert set(commands(server)) <= {"EHLO", "LHLO", "NOOP"}


def test_F98b_E182_a_mail_that_the_policy_refuses_fails_alone_in_a_batch_of_the_pool(server: LoopbackServer) -> None:
    recipients = [RECIPIENT, "c@example.com"]
    mails = [Mail(SENDER, recipients[:count], BODY) for count in (1, 2, 1)]
    with pool_of(server, policy=BoundedPolicy(max_recipients=1)) as pool:
        first, second, third = pool.send_many(mails)
    assert (first.delivery, third.delivery) == (Delivery.DELIVERED, Delivery.DELIVERED)
    assert isinstance(second.error, PolicyError)
    assert [entry.delivery for entry in second.recipients] == [Delivery.NOT_DELIVERED] * 2
    assert len(server.mails) == 2


# --- F74: the verbs follow the protocol ---


@pytest.mark.parametrize("verb", ["send", "send_bdat", "send_message", "send_many"])
def test_F74_the_verbs_of_an_LMTP_pool_give_a_verdict_for_each_recipient(
    lmtp_server: LoopbackServer, verb: str
) -> None:
    lmtp_server.refuse(RECIPIENT, "452 4.2.2 full", when="data")
    with pool_of(lmtp_server, protocol="lmtp") as pool:
        result = SENDS[verb](pool, {})
    assert result.reply is None
    assert [(entry.delivery, entry.reply.code, entry.stage) for entry in result.recipients] == [
        (Delivery.NOT_DELIVERED, 452, "end of data")
    ]
    assert lmtp_server.sessions[0].commands[0] == "LHLO"


# --- E66: a source that raises, in each of DATA and BDAT over SMTP and LMTP ---


@pytest.mark.parametrize("verb", ["send", "send_bdat"])
@pytest.mark.parametrize("protocol", ["smtp", "lmtp"])
def test_E66_F63_after_a_source_that_raises_the_next_mail_goes_out_and_nothing_of_the_first(
    protocol: Literal["smtp", "lmtp"], verb: str
) -> None:
    failure = OSError("disk")

    def source() -> Iterator[bytes]:
        for _ in range(30):
            yield b"half of a message " * 900 + b"\r\n"
        raise failure

    with LoopbackServer(protocol=protocol) as server:
        with pool_of(server, protocol=protocol) as pool:
            with pytest.raises(OSError, match="disk") as raised:
                getattr(pool, verb)("first@example.com", [RECIPIENT], source())
            assert raised.value is failure
            assert SENDS[verb](pool, {}).all_delivered
            assert pool.stats().opened == (2 if verb == "send" else 1)
        assert ends(server) == (["client", "QUIT"] if verb == "send" else ["QUIT"])
    assert commands(server).count("RSET") == (0 if verb == "send" else 1)
    assert [(mail.sender, mail.content) for mail in server.mails] == [(SENDER, BODY)]
    assert server.violations == []


# --- BS22: a batch from a URL, over several connections, with its progress ---


@pytest.mark.parametrize("ordered", [True, False])
def test_BS22_a_batch_shows_its_progress_while_the_input_is_still_read(server: LoopbackServer, ordered: bool) -> None:
    pulled: list[int] = []

    def mails() -> Iterator[Mail]:
        for number in range(60):
            pulled.append(number)
            yield Mail(SENDER, [RECIPIENT], BODY, tag=number)

    server.rtt = 0.005  # or one connection does it all
    url = f"smtp://127.0.0.1:{server.port}?max_size=3&timeout=20"
    with ConnectionPool.from_url(url) as pool, pool.send_many(mails(), ordered=ordered) as outcomes:
        first = next(outcomes)
        assert len(pulled) < 60
        rest = list(outcomes)
        done = [outcome.index for outcome in (first, *rest)]
        assert sorted(done) == pulled == list(range(60))
        assert done == pulled or not ordered
        assert all(outcome.delivery is Delivery.DELIVERED and outcome.mail.tag == outcome.index for outcome in rest)
        assert pool.stats().delivered == 60
    assert server.connections_peak > 1
