"""The pool over real sockets: what its users see, counted at the server (issue A, acceptance 3, 4, 6)."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from typing import Any, Literal

import pytest

from smtpconn import (
    AuthenticationError,
    ConnectError,
    ConnectionPool,
    Delivery,
    DeliveryUnknownError,
    Lease,
    Mail,
    PermanentReplyError,
    PoolTimeoutError,
    RecipientsRefusedError,
    ServiceUnavailableError,
    SmtpError,
    Timeouts,
    TlsConfig,
    TlsMode,
    UsageError,
)
from smtpconn.pooling import events
from smtpconn.testing import LoopbackServer, Relay, ServerProcess, TestAuthority

SENDER, RECIPIENT = "a@example.com", "b@example.com"
BODY = b"Subject: x\r\n\r\nhello\r\n"


def pool_of(server: LoopbackServer | Relay, tls_mode: TlsMode = TlsMode.NONE, **options: Any) -> ConnectionPool:
    options.setdefault("timeout", 20)
    return ConnectionPool("127.0.0.1", server.port, tls_mode, **options)


def send(pool: ConnectionPool, body: bytes = BODY) -> Any:
    return pool.send(SENDER, [RECIPIENT], body)


def in_threads(count: int, work: Callable[[int], None]) -> None:
    """Run it in that many threads; the first failure is raised here."""
    failures: list[BaseException] = []

    def guarded(number: int) -> None:
        try:
            work(number)
        except BaseException as error:  # handed to the test's thread
            failures.append(error)

    threads = [threading.Thread(target=guarded, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(50)
        assert not thread.is_alive()
    if failures:
        raise failures[0]


@pytest.mark.slow
def test_eight_threads_send_500_messages_each_over_four_connections() -> None:
    """Issue A 4, pool:I1, I6: each exactly once, nobody starves, never a fifth connection at the server.

    The server has an interpreter of its own and answers after 4 ms, so that waits are made of holds, not of the turns
    that threads of one interpreter take. Where the machine pauses, holds and opens are long, too: then the longest wait
    is measured in the longest of these (PO6: nobody waits longer than three turns).
    """
    taken: dict[int, float] = {}
    turns: list[float] = []

    def listen(event: events.PoolEvent) -> None:
        if isinstance(event, events.Acquired):
            taken[event.connection_id] = event.at
        elif isinstance(event, events.Returned):
            turns.append(event.at - taken[event.connection_id])
        elif isinstance(event, events.ConnectionOpened):
            turns.append(event.seconds)

    def work(number: int) -> None:
        for count in range(500):
            body = f"X-Id: {number}.{count}\r\n\r\nx\r\n".encode()
            assert pool.send(SENDER, [RECIPIENT], body).delivery is Delivery.DELIVERED

    with ServerProcess(rtt=0.004) as server:
        options: dict[str, Any] = {"timeout": 20, "max_size": 4, "on_event": listen}
        with ConnectionPool(server.host, server.port, TlsMode.NONE, **options) as pool:
            in_threads(8, work)
            stats = pool.stats()
        report = server.report()
    assert report["violations"] == []
    assert report["connections_peak"] <= 4
    expected = {(f"{number}.{count}", RECIPIENT, 1) for number in range(8) for count in range(500)}
    assert {tuple(entry) for entry in report["ledger"]} == expected
    assert (stats.acquired, stats.messages) == (4_000, 4_000)
    assert len(turns) == stats.acquired + stats.opened
    assert stats.longest_wait <= max(5 * stats.wait_seconds / stats.waited, 3 * max(turns))


@pytest.mark.parametrize("count", [1, 50])
def test_a_pooled_mail_costs_what_a_mail_on_a_connection_costs(server: LoopbackServer, count: int) -> None:
    """Issue A 3, pipelining:PL1, RT7, pool:PG5: two flights, and an idle checkout none."""
    recipients = [f"r{number}@example.com" for number in range(count)]
    with Relay(server, delay=0.01) as relay, pool_of(relay) as pool:
        pool.send(SENDER, recipients, BODY)
        for _ in range(5):
            before = relay.flights
            assert pool.send(SENDER, recipients, BODY).all_delivered
            assert relay.flights - before == 2
        before = relay.flights
        for _ in range(5):
            with pool.connection(timeout=5):
                pass
        assert relay.flights == before


@pytest.mark.parametrize("how", ["closed", "421", "reset"])
def test_a_server_that_goes_away_between_two_sends_is_invisible(server: LoopbackServer, how: str) -> None:
    """Issue A 6, pool:CS1, CS8, users:U3, U5: no octet is written to the dead connection, no error is seen."""
    with pool_of(server) as pool:
        assert send(pool).all_delivered
        if how == "421":
            server.close_idle("421 4.3.2 shutting down")
        else:
            server.restart(reset=how == "reset")
        assert send(pool).all_delivered
        stats = pool.stats()
    assert (stats.opened, stats.messages) == (2, 2)
    assert len(server.mails) == 2


def test_a_421_at_mail_on_a_reused_connection_is_retried_once_on_a_fresh_one(server: LoopbackServer) -> None:
    """Issue A 6, D7, faults:B1/421 (SX*), users:U6."""
    server.reply("MAIL", "421 4.4.2 idle too long", nth=2)
    with pool_of(server) as pool:
        assert send(pool).all_delivered
        assert send(pool).all_delivered
        assert pool.stats().stale_retries == 1
    assert len(server.mails) == 2


def test_a_421_at_mail_on_a_fresh_connection_is_raised(server: LoopbackServer) -> None:
    """faults:B1/421: on a fresh connection the server means it."""
    server.reply("MAIL", "421 4.3.2 no", nth=1)
    with pool_of(server) as pool:
        with pytest.raises(ServiceUnavailableError) as refused:
            send(pool)
        assert refused.value.retry_safe
        assert send(pool).all_delivered
        assert pool.stats().stale_retries == 0


def test_a_second_failure_in_a_row_is_raised(server: LoopbackServer) -> None:
    """faults:BR6: at most once."""
    server.reply("MAIL", "421 4.4.2 idle too long", nth={2, 3})
    with pool_of(server) as pool:
        assert send(pool).all_delivered
        with pytest.raises(ServiceUnavailableError):
            send(pool)
        assert pool.stats().stale_retries == 1
    assert len(server.mails) == 1


def test_I30_killing_the_server_after_the_end_of_data_is_unknown_and_never_retried(server: LoopbackServer) -> None:
    """Issue A 6, pool:I30, BR6: past the commit point nothing is repeated."""
    server.fault("end of data", "EOF", nth=2)
    with pool_of(server) as pool:
        assert send(pool).all_delivered
        with pytest.raises(DeliveryUnknownError) as unknown:
            send(pool)
        assert not unknown.value.retry_safe
        assert pool.stats().stale_retries == 0
        assert send(pool).all_delivered
    assert len(server.mails) == 3, "the server had taken the second one"


def test_refusals_leave_the_connection_in_use(server: LoopbackServer) -> None:
    """pool:I31, PO22: one connection, one RSET in front of each next mail."""
    server.refuse("no@example.com", "550 5.1.1 no")
    server.reply("end of data", "554 5.6.0 no", nth=1)
    with pool_of(server) as pool:
        with pytest.raises(PermanentReplyError):
            send(pool)
        for _ in range(3):
            with pytest.raises(RecipientsRefusedError):
                pool.send(SENDER, ["no@example.com"], BODY)
        assert send(pool).all_delivered
        assert pool.stats().opened == 1
    assert server.sessions[0].commands.count("RSET") == 4


def test_a_connection_is_retired_after_its_messages(server: LoopbackServer) -> None:
    """pool:DF8, I18: with QUIT, and nobody notices."""
    with pool_of(server, max_messages=3) as pool:
        for _ in range(7):
            assert send(pool).all_delivered
        stats = pool.stats()
    assert stats.retired["messages"] == 2
    assert (stats.acquired, stats.opened, stats.reused) == (7, 3, 4), "the lease that retires its connection counts"
    assert [session.transactions for session in server.sessions] == [3, 3, 1]
    assert all(session.commands[-1] == "QUIT" for session in server.sessions)


@pytest.mark.parametrize("tls", ["implicit", "starttls"])
def test_a_pool_over_tls_with_credentials(tls: Literal["implicit", "starttls"], authority: TestAuthority) -> None:
    mode = TlsMode.IMPLICIT if tls == "implicit" else TlsMode.STARTTLS
    config = TlsConfig(trust=authority.pem, server_name="localhost")
    with LoopbackServer(tls=tls, ca=authority, auth={"user": "secret"}) as server:
        with pool_of(server, mode, tls_config=config, credentials=("user", "secret"), max_size=2) as pool:

            def work(number: int) -> None:
                for _ in range(10):
                    assert send(pool).all_delivered

            in_threads(4, work)
            assert pool.stats().messages == 40
            assert "secret" not in repr(pool)
        assert len(server.mails) == 40
        assert {session.user for session in server.sessions} == {"user"}


@pytest.mark.parametrize("options", [{"max_size": 0}, {"timeout": -1}, {"credentials": ("user", "")}, {}], ids=repr)
def test_no_failure_of_a_pool_leaves_the_password_in_a_traceback(options: dict[str, Any]) -> None:
    """faults:SEC2."""
    options = {"credentials": ("user", "hunter2"), "timeout": 2, **options}

    def use() -> None:
        with ConnectionPool("127.0.0.1", 1, TlsMode.NONE, **options) as pool:
            send(pool)

    with pytest.raises((SmtpError, TypeError)) as refused:
        use()
    shown = traceback.TracebackException.from_exception(refused.value, capture_locals=True)
    frames = [frame for frame in shown.stack if f"{os.sep}smtpconn{os.sep}" in frame.filename]
    assert frames
    assert not [frame for frame in frames if "hunter2" in str(frame.locals)]


def test_send_many_distributes_mails_and_every_one_has_its_outcome(server: LoopbackServer) -> None:
    """pool:SM1, SM6."""
    server.refuse("no@example.com", "550 5.1.1 no")
    mails = (
        Mail(SENDER, ["no@example.com" if number % 10 == 3 else RECIPIENT], BODY, tag=number) for number in range(100)
    )
    with pool_of(server, max_size=3) as pool, pool.send_many(mails) as outcomes:
        found = list(outcomes)
    assert [outcome.mail.tag for outcome in found] == list(range(100))
    assert [outcome.index for outcome in found if outcome.error] == [
        number for number in range(100) if number % 10 == 3
    ]
    assert len(server.mails) == 90
    assert server.connections_peak <= 3


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform has no fork")
def test_a_forked_child_has_a_pool_of_its_own(server: LoopbackServer) -> None:
    """D14, pool:I27, users:U28: the parent's session goes on, the child opens another one."""
    with pool_of(server) as pool:
        assert send(pool).all_delivered
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # 3.12: fork in a process with threads
            child = os.fork()
        if child == 0:
            status = 1
            try:
                status = 0 if send(pool).all_delivered else 2
                pool.close()
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert send(pool).all_delivered
        assert pool.stats().opened == 1
    assert len(server.mails) == 3
    assert sorted(session.transactions for session in server.sessions) == [1, 2]


def test_a_server_that_cannot_take_mail_behind_a_folded_rset_is_served_all_the_same() -> None:
    """pipelining:FB6, PL30: Dovecot's submission service; delivered once, and from then on RSET travels alone."""
    with LoopbackServer(quirks=["503-mail-behind-rset"]) as server, pool_of(server) as pool:
        server.refuse("no@example.com", "550 5.1.1 no")
        for _ in range(3):
            with pytest.raises(RecipientsRefusedError):
                pool.send(SENDER, ["no@example.com"], BODY)
            assert send(pool).all_delivered
        assert pool.stats().stale_retries <= 1
    assert len(server.mails) == 3


def test_a_lease_has_every_verb_of_a_connection_and_none_after_its_end() -> None:
    """pool:LE1, I16, I34: a lease that logs in or changes its EHLO name does not give that connection to others."""
    options: dict[str, Any] = {"auth": {"user": "secret"}, "require_auth": False}
    with LoopbackServer(**options) as server, pool_of(server, allow_plaintext_auth=True) as pool:
        with pool.connection(timeout=5) as lease:
            assert lease.send(SENDER, [RECIPIENT], BODY).all_delivered
            assert lease.send_bdat(SENDER, [RECIPIENT], BODY).all_delivered
            lease.reset()
            lease.noop()
            lease.rehlo()
            assert lease.vrfy(RECIPIENT).code == 252
            assert lease.expn("list").code == 550
            assert lease.help().code == 214
            lease.set_ehlo_domain("other.example.com")
            lease.auth_plain("user", "secret")
            assert lease.is_authenticated
            assert lease.capabilities.supports_pipelining
            outcomes = list(lease.send_many([Mail(SENDER, [RECIPIENT], BODY)]))
            assert [outcome.delivery for outcome in outcomes] == [Delivery.DELIVERED]
        octets = server.sessions[0].octets
        verbs: list[Callable[[], object]] = [
            lambda: lease.send(SENDER, [RECIPIENT], BODY),
            lambda: lease.send_bdat(SENDER, [RECIPIENT], BODY),
            lambda: lease.auth_plain("user", "secret"),
            lease.noop,
            lease.reset,
            lease.rehlo,
            lease.help,
        ]
        for verb in verbs:
            with pytest.raises(UsageError):
                verb()
        assert server.sessions[0].octets - octets in (0, len(b"QUIT\r\n"))
        with pool.connection(timeout=5) as another:
            assert not another.is_authenticated
        assert pool.stats().opened == 2


@pytest.mark.parametrize("verb", ["auth", "auth_plain", "auth_login", "auth_scram"])
def test_no_refusal_of_auth_in_a_lease_leaves_the_password_in_a_traceback(verb: str) -> None:
    """faults:SEC2."""
    options: dict[str, Any] = {"auth": {"user": "right"}, "require_auth": False}
    arguments: tuple[Any, ...] = (("user", "hunter2-wrong"),) if verb == "auth" else ("user", "hunter2-wrong")
    with (
        LoopbackServer(**options) as server,
        pool_of(server, allow_plaintext_auth=True) as pool,
        pool.connection(timeout=5) as lease,
        pytest.raises(AuthenticationError) as refused,
    ):
        getattr(lease, verb)(*arguments)
    shown = traceback.TracebackException.from_exception(refused.value, capture_locals=True)
    frames = [frame for frame in shown.stack if f"{os.sep}smtpconn{os.sep}" in frame.filename]
    assert frames
    assert not [frame for frame in frames if "hunter2" in str(frame.locals)]


# ---- many dead connections, a dead server


@pytest.mark.parametrize("how", ["closed", "421", "reset"])
def test_eight_stale_connections_cost_one_connect(server: LoopbackServer, how: str) -> None:
    """Issue acceptance 3; pool:PO11, I11, VA1: no NOOP, one open, within the time of one connect."""
    with pool_of(server, max_size=8, max_connecting=8) as pool:
        leases = [pool.connection() for _ in range(8)]
        for lease in leases:
            lease.__enter__()
        for lease in leases:
            lease.__exit__(None, None, None)
        assert pool.stats().idle == 8
        if how == "421":
            assert server.close_idle("421 4.3.2 shutting down") == 8
        else:
            server.restart(reset=how == "reset")
        begun = time.monotonic()
        assert send(pool).all_delivered
        elapsed = time.monotonic() - begun
        stats = pool.stats()
    assert elapsed < 2
    assert (stats.opened, stats.probes, stats.idle, stats.stale_retries) == (9, 0, 1, 0)
    assert stats.checks_failed == 8
    assert stats.retired["closing" if how == "421" else "stale"] == 8


def test_I19_eight_half_open_connections_cost_one_probe_and_one_connect(server: LoopbackServer) -> None:
    """pool:PO10, I19, I20: the peer is silent on all of them; one NOOP is waited for, within the deadline."""
    limits = Timeouts(total=5, probe=0.3)
    with pool_of(server, max_size=8, max_connecting=8, probe_after=0.05, timeout=limits) as pool:
        leases = [pool.connection() for _ in range(8)]
        for lease in leases:
            lease.__enter__()
        for lease in leases:
            lease.__exit__(None, None, None)
        server.fault("NOOP", "silence", nth=set(range(1, 9)))
        time.sleep(0.1)  # longer than probe_after
        begun = time.monotonic()
        assert send(pool).all_delivered
        elapsed = time.monotonic() - begun
        stats = pool.stats()
    assert 0.3 <= elapsed < 2.5
    assert (stats.probes, stats.probe_failures, stats.retired["probe"], stats.opened) == (1, 1, 8, 9)


@pytest.mark.parametrize("dead", ["refused", "silent"])
def test_I11_a_dead_server_makes_every_caller_fail_in_his_own_time(dead: str) -> None:
    """Issue acceptance 3; pool:PO25, BO3, AQ8, I11: with the last failed connect as the cause."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        if dead == "silent":
            listener.listen(64)  # the kernel connects, nobody greets
        timeouts = [0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.4, 1.6]
        failed: dict[int, tuple[float, SmtpError]] = {}
        gate = threading.Barrier(len(timeouts))
        port = listener.getsockname()[1]
        with ConnectionPool("127.0.0.1", port, TlsMode.NONE, timeout=20, max_size=4) as pool:

            def work(number: int) -> None:
                gate.wait(20)
                begun = time.monotonic()
                try:
                    pool.send(SENDER, [RECIPIENT], BODY, timeout=timeouts[number])
                except SmtpError as error:
                    failed[number] = time.monotonic() - begun, error

            in_threads(len(timeouts), work)
            stats = pool.stats()
    assert len(failed) == len(timeouts)
    causes = []
    for number, (elapsed, error) in failed.items():
        assert elapsed <= timeouts[number] + 0.3, (number, elapsed, error)
        assert error.delivery is Delivery.NOT_DELIVERED
        assert error.retry_safe
        if isinstance(error, PoolTimeoutError):
            causes.append(error.__cause__)
    if dead == "refused":
        assert all(isinstance(cause, ConnectError) for cause in causes)
        assert causes, "those who queued"
    assert (stats.leased, stats.opening, stats.waiting, stats.idle) == (0, 0, 0, 0)


# ---- close and fork


def test_close_says_quit_on_all_connections_before_it_waits_for_one() -> None:
    """pool:CL2: four servers' answers to QUIT take 0.4 s each; together they take no longer than one."""
    with LoopbackServer(rtt=0.4) as server:
        pool = pool_of(server, max_connecting=4)
        together = threading.Barrier(4)

        def take(number: int) -> None:
            with pool.connection(timeout=20):
                together.wait(20)

        in_threads(4, take)
        begun = time.monotonic()
        pool.close()
        elapsed = time.monotonic() - begun
        server.wait_for_connections(0, 20)  # nobody waits for an answer for longer than a second
    assert elapsed < 1.0
    assert [session.commands[-1] for session in server.sessions] == ["QUIT"] * 4
    assert [session.closed_by for session in server.sessions] == ["QUIT"] * 4


@pytest.fixture
def short_turns() -> Iterator[None]:
    """The server's thread and two that never rest share one interpreter."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(interval / 20)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform has no fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("tls", [None, "implicit"], ids=["plain", "tls"])
def test_a_hundred_forked_children_write_nothing_to_the_parents_sockets(
    tls: Literal["implicit"] | None, authority: TestAuthority, short_turns: None
) -> None:
    """Issue acceptance 4; pool:I27, LE6, PO35: idle, leased, opening, and the lock held by another thread."""
    options: dict[str, Any] = {"tls": tls, "ca": authority} if tls else {}
    with LoopbackServer(**options) as server:
        config = {"tls_config": TlsConfig(trust=authority.pem, server_name="localhost")} if tls else {}
        mode = TlsMode.IMPLICIT if tls else TlsMode.NONE
        with pool_of(server, mode, max_size=3, **config) as pool, pool.connection() as lease:
            assert lease.send(SENDER, [RECIPIENT], BODY).all_delivered
            assert send(pool).all_delivered
            stop, busy, turned = threading.Event(), threading.Event(), threading.Event()

            def churn() -> None:
                while busy.wait(20) and not stop.is_set():
                    with pool.connection(timeout=20):
                        pass
                    pool.stats()
                    turned.set()

            threads = [threading.Thread(target=churn, daemon=True) for _ in range(2)]
            for thread in threads:
                thread.start()
            octets = server.sessions[0].octets
            for number in range(100):
                busy.set()
                turned.clear()
                assert turned.wait(20)
                _fork_and_use(pool, lease, number, busy)
            stop.set()
            busy.set()
            for thread in threads:
                thread.join(20)
            assert server.sessions[0].octets == octets
            assert lease.send(SENDER, [RECIPIENT], BODY).all_delivered
            assert send(pool).all_delivered
            assert pool.stats().opened <= 3
        assert server.violations == []
        assert len(server.mails) == 4 + 100
        commands = [session.commands for session in server.sessions]
    # Every session but the children's lives until the parent says QUIT, and has no command that he did not write.
    assert sum(session.count("MAIL") for session in commands) == 104
    assert sum(session.count("QUIT") for session in commands) == len(commands)


def _fork_and_use(pool: ConnectionPool, lease: Lease, number: int, busy: threading.Event) -> None:
    """`busy`: while it is set, others take turns with the pool. They do when the child is made, and rest after that."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            if number % 2:
                with contextlib.suppress(UsageError):
                    lease.noop(timeout=5)
                    os._exit(3)
            status = 0 if send(pool).all_delivered else 2
            pool.close()
        finally:
            os._exit(status)
    busy.clear()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


# ---- the wall clock


@pytest.mark.parametrize("step", [86_400.0, -86_400.0], ids=["a day on", "a day back"])
def test_I13_PO13_a_step_of_the_wall_clock_changes_nothing(
    server: LoopbackServer, monkeypatch: pytest.MonkeyPatch, step: float
) -> None:
    """Issue acceptance 6: neither while a connection is idle nor while a caller waits."""
    real, moved = time.time, [0.0]
    monkeypatch.setattr(time, "time", lambda: real() + moved[0])
    with pool_of(server, max_size=1) as pool:
        assert send(pool).all_delivered
        moved[0] = step
        assert send(pool).all_delivered
        waited: list[float] = []

        def wait(number: int) -> None:
            begun = time.monotonic()
            with pytest.raises(PoolTimeoutError):
                pool.send(SENDER, [RECIPIENT], BODY, timeout=0.5)
            waited.append(time.monotonic() - begun)

        with pool.connection():
            thread = threading.Thread(target=wait, args=(0,))
            thread.start()
            while not pool.stats().waiting:
                time.sleep(0.001)
            moved[0] = -step
            thread.join(20)
        stats = pool.stats()
    assert 0.45 <= waited[0] < 1.5
    assert (stats.opened, stats.probes) == (1, 0)
