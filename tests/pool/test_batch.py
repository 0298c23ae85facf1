"""`pool.send_many` (pool.md 13, SM1 to SM10)."""

from __future__ import annotations

import contextvars
import gc
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from smtpconn.attempts import attempt_of
from smtpconn.outcomes import MailOutcome, MailOutcomes
from smtpconn.pool import ConnectionPool
from smtpconn.protocol.errors import (
    AuthenticationError,
    ConnectError,
    ConnectionLostError,
    Delivery,
    DeliveryUnknownError,
    InvalidInputError,
    PermanentReplyError,
    PoolClosedError,
    SmtpError,
)
from smtpconn.protocol.flow import Pipelining
from smtpconn.protocol.mail import Mail
from smtpconn.protocol.sasl import PasswordAuth

from .fakes import FakeConnection, FakeServer, capabilities, lost, pool_of, rejected, reply, unavailable

LIMIT = 20.0


def mail(tag: object = None) -> Mail:
    return Mail("from@example.com", ["to@example.net"], b"x\r\n", tag=tag)


@pytest.fixture
def server() -> FakeServer:
    return FakeServer()


@pytest.fixture
def pool(server: FakeServer) -> Iterator[ConnectionPool]:
    made = pool_of(server, max_size=4)
    yield made
    made.close(timeout=0)


def collect(outcomes: MailOutcomes, into: list[MailOutcome]) -> None:
    """Take outcomes until there are no more, or the iterator raises."""
    for outcome in outcomes:
        into.append(outcome)  # noqa: PERF402  # what came before an exception is kept


def workers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if "-send_many-" in thread.name]


@pytest.mark.parametrize("concurrency", [1, 2, 4, 64, None])
@pytest.mark.parametrize("ordered", [True, False])
def test_SM1_PO43_each_mail_has_one_outcome(pool: ConnectionPool, concurrency: int | None, ordered: bool) -> None:
    outcomes = list(pool.send_many((mail(n) for n in range(100)), concurrency=concurrency, ordered=ordered))
    indexes = [outcome.index for outcome in outcomes]
    assert sorted(indexes) == list(range(100))
    if ordered:
        assert indexes == list(range(100))
    assert all(outcome.mail.tag == outcome.index for outcome in outcomes)
    assert all(outcome.delivery is Delivery.DELIVERED and outcome.error is None for outcome in outcomes)
    assert pool.stats().delivered == 100
    assert workers() == []


def test_SM1_nothing_happens_before_the_first_next(pool: ConnectionPool, server: FakeServer) -> None:
    pulled = []

    def mails() -> Iterator[Mail]:
        pulled.append(1)
        yield mail()

    outcomes: MailOutcomes | None = pool.send_many(mails())
    assert (pulled, server.connections) == ([], [])
    with pytest.warns(ResourceWarning, match="no mail was sent"):
        outcomes = None  # noqa: F841  # dropped


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"concurrency": 0}, InvalidInputError),
        ({"concurrency": True}, TypeError),
        ({"concurrency": 1.5}, TypeError),
        ({"timeout": -1}, InvalidInputError),
        ({"ordered": 1}, TypeError),
    ],
)
def test_wrong_arguments_are_refused_at_once(
    pool: ConnectionPool, options: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        pool.send_many([mail()], **options)
    for wrong in (mail(), b"x", "x", 5):
        with pytest.raises(TypeError):
            pool.send_many(wrong)  # type: ignore[arg-type]  # on purpose


@pytest.mark.parametrize("concurrency", [1, 3])
def test_SM3_PO42_the_input_is_pulled_in_the_consumers_thread_and_not_far_ahead(
    pool: ConnectionPool, concurrency: int
) -> None:
    pulled = yielded = most = 0
    threads = set()

    def mails() -> Iterator[Mail]:
        nonlocal pulled, most
        for n in range(400):
            pulled += 1
            most = max(most, pulled - yielded)
            threads.add(threading.current_thread())
            yield mail(n)

    for _ in pool.send_many(mails(), concurrency=concurrency):
        yielded += 1
    assert yielded == 400
    assert threads == {threading.current_thread()}
    assert most <= 4 * concurrency + 1  # one more: `yielded` is counted after the outcome was had


def test_SM2_concurrency_1_runs_in_the_consumers_thread(pool: ConnectionPool, server: FakeServer) -> None:
    threads = set()
    server.next_act = lambda: lambda connection: threads.add(threading.current_thread())  # type: ignore[method-assign]
    list(pool.send_many([mail() for _ in range(5)], concurrency=1))
    assert threads == {threading.current_thread()}
    assert len(server.connections) == 1


def test_workers_have_the_context_variables_of_their_caller(pool: ConnectionPool, server: FakeServer) -> None:
    """For what hangs on them in the code of the application: its logs, its traces, its bodies."""
    request = contextvars.ContextVar("request", default="none")
    seen: list[tuple[str, bool]] = []

    def note(connection: FakeConnection) -> None:
        seen.append((request.get(), threading.current_thread() is threading.main_thread()))
        request.set("the worker's own")

    server.next_act = lambda: note  # type: ignore[method-assign]  # every mail
    token = request.set("42")
    list(pool.send_many([mail()], concurrency=2))
    request.reset(token)
    assert seen == [("42", False)]
    assert request.get() == "none"


def test_SM2_workers_are_daemons_named_after_the_pool_and_never_more_than_the_pool_takes(
    pool: ConnectionPool, server: FakeServer
) -> None:
    seen = set()
    barrier = threading.Barrier(4)

    def act(connection: FakeConnection) -> None:
        thread = threading.current_thread()
        seen.add((thread.name, thread.daemon))
        barrier.wait(LIMIT)

    server.next_act = lambda: act  # type: ignore[method-assign]
    list(pool.send_many([mail() for _ in range(16)], concurrency=64))
    assert seen == {(f"mx.example.com:25-send_many-{n}", True) for n in range(1, 5)}
    assert server.most == 4


def test_SM3_PO43_unordered_goes_on_while_one_mail_is_slow(pool: ConnectionPool, server: FakeServer) -> None:
    release = threading.Event()
    server.acts = [lambda connection: release.wait(LIMIT)]
    got = []
    for outcome in pool.send_many((mail(n) for n in range(30)), concurrency=2, ordered=False):
        got.append(outcome.index)
        if len(got) == 29:
            assert 0 not in got or 1 not in got
            release.set()
    assert sorted(got) == list(range(30))


def test_SM4_PO44_an_outside_caller_is_served_within_one_mail(server: FakeServer) -> None:
    pool = pool_of(server, max_size=1)
    in_mail, go_on = threading.Event(), threading.Event()

    def hold(connection: FakeConnection) -> None:
        in_mail.set()
        go_on.wait(LIMIT)

    server.acts = [hold]
    order: list[object] = []
    outcomes = pool.send_many((mail(n) for n in range(50)), concurrency=1)

    def consume() -> None:
        order.extend(outcome.index for outcome in outcomes)

    def outside() -> None:
        with pool.connection(timeout=LIMIT):
            order.append("outside")

    consumer = threading.Thread(target=consume, daemon=True)
    consumer.start()
    assert in_mail.wait(LIMIT)
    other = threading.Thread(target=outside, daemon=True)
    other.start()
    end = time.monotonic() + LIMIT
    while not pool.stats().waiting and time.monotonic() < end:
        time.sleep(0.001)
    go_on.set()
    consumer.join(LIMIT)
    other.join(LIMIT)
    assert order.index("outside") <= 1
    assert len(order) == 51
    pool.close()


@pytest.mark.parametrize("concurrency", [1, 2])
def test_SM6_a_mail_fails_alone(pool: ConnectionPool, server: FakeServer, concurrency: int) -> None:
    server.acts = [
        None,
        rejected(550, "RCPT"),
        DeliveryUnknownError("lost"),
        lost("body"),
        lost(unanswered=True),
        ValueError("the body's own"),
    ]
    server.acts[4:4] = [None]
    outcomes = list(pool.send_many([mail(n) for n in range(20)], concurrency=concurrency))
    kinds = sorted(type(outcome.error).__name__ for outcome in outcomes if outcome.error is not None)
    assert len(outcomes) == 20
    assert {"DeliveryUnknownError", "PermanentReplyError", "ConnectionLostError", "ValueError"} >= set(kinds)
    assert kinds.count("PermanentReplyError") == kinds.count("ValueError") == kinds.count("DeliveryUnknownError") == 1
    refused = next(outcome for outcome in outcomes if isinstance(outcome.error, PermanentReplyError))
    assert (refused.permanent, refused.scope, refused.retry_safe) == (True, "recipient", True)
    own = next(outcome for outcome in outcomes if isinstance(outcome.error, ValueError))
    assert (own.permanent, own.scope, own.delivery) == (None, "caller", Delivery.NOT_DELIVERED)
    assert [entry.address for entry in own.recipients] == ["to@example.net"]


def test_SM6_UNKNOWN_is_never_repeated(pool: ConnectionPool, server: FakeServer) -> None:
    list(pool.send_many([mail()], concurrency=1))
    server.acts = [DeliveryUnknownError("lost")]
    (outcome,) = pool.send_many([mail()], concurrency=1)
    assert isinstance(outcome.error, DeliveryUnknownError)
    assert pool.stats().stale_retries == 0


@pytest.mark.parametrize("concurrency", [1, 2])
def test_SM7_PO46_a_refused_login_ends_the_batch_at_once(
    pool: ConnectionPool, server: FakeServer, concurrency: int
) -> None:
    server.script = [AuthenticationError("535", permanent=True, reply=reply(535))] * 4
    pulled = 0

    def mails() -> Iterator[Mail]:
        nonlocal pulled
        while True:
            pulled += 1
            yield mail(pulled)

    outcomes = pool.send_many(mails(), concurrency=concurrency)
    got: list[MailOutcome] = []
    with pytest.raises(AuthenticationError):
        collect(outcomes, got)
    assert len(got) == pulled <= 4 * concurrency
    assert all(isinstance(outcome.error, AuthenticationError) and outcome.retry_safe for outcome in got)
    verdicts = [[entry.delivery for entry in getattr(outcome.error, "recipients", ())] for outcome in got]
    assert verdicts == [[Delivery.NOT_DELIVERED]] * len(got)
    assert len(server.opened_to) <= 2
    assert workers() == []


@pytest.mark.parametrize("level", [Pipelining.GROUPED, Pipelining.BURST])
def test_SM7_three_mails_running_without_a_connection_end_the_batch(server: FakeServer, level: Pipelining) -> None:
    server.script = [ConnectError("refused")] * 9
    got: list[MailOutcome] = []
    with pool_of(server, pipelining=level) as pool, pytest.raises(SmtpError) as caught:
        collect(pool.send_many((mail(n) for n in range(50)), concurrency=1, timeout=0.1), got)
    assert len(got) == 3
    assert caught.value is got[-1].error


def test_SM7_a_pool_that_closes_ends_its_batches(pool: ConnectionPool, server: FakeServer) -> None:
    outcomes = pool.send_many((mail(n) for n in range(100)), concurrency=2)
    assert next(outcomes).error is None
    pool.close()
    rest: list[MailOutcome] = []
    with pytest.raises(PoolClosedError):
        collect(outcomes, rest)
    assert len(rest) <= 8
    assert any(isinstance(outcome.error, PoolClosedError) for outcome in rest) or all(
        outcome.error is None for outcome in rest
    )
    assert workers() == []


@pytest.mark.parametrize("end", ["close", "with", "break and collect"])
@pytest.mark.parametrize("concurrency", [1, 3])
def test_SM8_PO45_an_early_end_leaves_no_thread_and_no_slot(pool: ConnectionPool, end: str, concurrency: int) -> None:
    outcomes: MailOutcomes | None = pool.send_many((mail(n) for n in range(1_000)), concurrency=concurrency)
    assert outcomes is not None
    if end == "with":
        with outcomes:
            next(outcomes)
    else:
        for _ in outcomes:
            break
        if end == "close":
            outcomes.close()
            outcomes.close()
            assert next(outcomes, None) is None
    if end == "break and collect":
        outcomes = None
        gc.collect()
        limit = time.monotonic() + LIMIT
        while workers() and time.monotonic() < limit:
            time.sleep(0.001)
    assert workers() == []
    assert pool.stats().leased == 0
    assert pool.stats().messages < 100


def test_SM8_workers_that_wait_for_a_connection_are_let_go(server: FakeServer) -> None:
    pool = pool_of(server, max_size=2)
    blocked = threading.Event()

    def block(connection: FakeConnection) -> None:
        blocked.set()
        connection.aborted.wait(0.3)

    with pool.connection():
        server.acts = [None, block]
        outcomes = pool.send_many((mail(n) for n in range(50)), concurrency=2)
        assert next(outcomes).error is None
        assert blocked.wait(LIMIT)
        begun = time.monotonic()
        outcomes.close()
        assert time.monotonic() - begun < 3
        assert workers() == []
    pool.close()


@pytest.mark.parametrize("concurrency", [1, 3])
def test_SM9_an_exception_of_the_input_passes_after_the_outcomes(pool: ConnectionPool, concurrency: int) -> None:
    def mails() -> Iterator[Mail]:
        for n in range(5):
            yield mail(n)
        raise LookupError("the cursor is gone")

    got: list[MailOutcome] = []
    with pytest.raises(LookupError, match="the cursor is gone"):
        collect(pool.send_many(mails(), concurrency=concurrency), got)
    assert [outcome.index for outcome in got] == list(range(5))
    assert all(outcome.error is None for outcome in got)


def test_SM9_what_is_no_mail_is_an_error_of_the_input(pool: ConnectionPool) -> None:
    got: list[MailOutcome] = []
    with pytest.raises(TypeError, match="Mail objects"):
        collect(pool.send_many([mail(), "x"]), got)  # type: ignore[list-item]  # on purpose
    assert len(got) == 1


def test_SM9_a_base_exception_of_a_body_ends_the_batch(pool: ConnectionPool, server: FakeServer) -> None:
    class Stop(BaseException):
        pass

    server.acts = [Stop()]
    got: list[MailOutcome] = []
    with pytest.raises(Stop):
        collect(pool.send_many((mail(n) for n in range(100)), concurrency=2), got)
    assert len(got) < 20
    assert workers() == []
    assert pool.stats().leased == 0


def test_D7_a_stale_connection_is_replaced_within_a_batch(pool: ConnectionPool, server: FakeServer) -> None:
    server.acts = [None, None, unavailable(unanswered=True)]
    outcomes = list(pool.send_many([mail(n) for n in range(5)], concurrency=1))
    assert all(outcome.error is None for outcome in outcomes)
    assert pool.stats().stale_retries == 1


def test_a_lease_sends_many_over_its_own_connection(pool: ConnectionPool, server: FakeServer) -> None:
    with pool.connection() as lease:
        server.acts = [None, rejected(550, "RCPT")]
        outcomes = list(lease.send_many([mail(n) for n in range(3)]))
        late = lease.send_many([mail()])
    assert [outcome.error is None for outcome in outcomes] == [True, False, True]
    assert isinstance(next(late).error, SmtpError)
    assert len(server.connections) == 1


def test_an_outcome_without_verdicts_of_its_own_says_not_delivered() -> None:
    outcome = MailOutcome(index=3, mail=mail(), error=ConnectionLostError("gone"))
    assert (outcome.delivery, outcome.retry_safe, outcome.scope) == (Delivery.NOT_DELIVERED, True, "service")
    assert repr(outcome) == "<MailOutcome 3: not delivered, error=ConnectionLostError>"


def test_where_no_thread_can_be_started_the_consumer_does_the_work(
    pool: ConnectionPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", fail)
    outcomes = list(pool.send_many([mail(n) for n in range(10)], concurrency=3))
    assert [outcome.index for outcome in outcomes] == list(range(10))
    assert all(outcome.error is None for outcome in outcomes)


def test_SM4_a_worker_carries_mail_after_mail_over_its_connection(server: FakeServer) -> None:
    pool = pool_of(server, max_size=2)
    ready = threading.Event()
    server.acts = [lambda connection: ready.wait(LIMIT)]

    def mails() -> Iterator[Mail]:
        for number in range(8):  # as many as may be pulled: they are all there when the first is through
            if number == 7:
                ready.set()
            yield mail(number)

    outcomes = list(pool.send_many(mails(), concurrency=2))
    stats = pool.stats()
    assert [outcome.delivery for outcome in outcomes] == [Delivery.DELIVERED] * 8
    assert (stats.messages, stats.delivered) == (8, 8)
    assert stats.acquired < 8
    assert stats.leased == 0
    pool.close()


def test_SM4_the_workers_of_a_batch_do_not_count_as_waiters_for_each_other(server: FakeServer) -> None:
    """One connection for two workers: the one that has it goes on, and no mail fails for the other's wait."""
    pool = pool_of(server, max_size=2, acquire_timeout=0.05)
    with pool.connection(), pool.send_many((mail(n) for n in range(200)), concurrency=2) as outcomes:
        server.acts = [lambda connection: time.sleep(0.005)] * 200
        found = list(outcomes)
    assert {outcome.delivery for outcome in found} == {Delivery.DELIVERED}
    assert len(found) == 200
    pool.close()


def test_SM4_no_mail_fails_for_the_wait_while_another_worker_opens_its_connection(server: FakeServer) -> None:
    """The open takes until the other worker has waited in vain: it waits again, as for one that sends."""
    pool = pool_of(server, max_size=2, acquire_timeout=0.02)
    until = time.monotonic() + LIMIT

    def opens_late(*_: object) -> None:
        while not pool.stats().timeouts and time.monotonic() < until:
            time.sleep(0.005)

    server.script = [None, opens_late]
    with pool.connection(), pool.send_many((mail(n) for n in range(20)), concurrency=2) as outcomes:
        found = list(outcomes)
    assert pool.stats().timeouts > 0
    assert {outcome.delivery for outcome in found} == {Delivery.DELIVERED}
    pool.close()


def test_SM2_BO8_no_more_workers_than_the_server_takes_connections(server: FakeServer) -> None:
    pool = pool_of(server, max_size=4)
    pool.send("a@b.example", ["c@d.example"], b"x\r\n")
    health = pool._supply.endpoints.healths[0]
    pool._supply.slots.locked(pool._supply.endpoints.shrink, health, 2, pool._supply.clock())
    most = 0
    for _ in pool.send_many(mail(n) for n in range(60)):
        most = max(most, len(workers()))
    assert most == 2
    pool.close()


def test_SM4_D7_the_connection_of_a_worker_is_a_reused_one_from_its_second_mail_on(server: FakeServer) -> None:
    pool = pool_of(server, max_size=2)

    def ends_after_three(connection: FakeConnection) -> None:
        if connection.mails > 3:
            connection._fail(unavailable(unanswered=True))

    server.next_act = lambda: ends_after_three  # type: ignore[method-assign]  # every mail
    outcomes = list(pool.send_many((mail(n) for n in range(60)), concurrency=2))
    assert {outcome.error for outcome in outcomes} == {None}
    assert max(connection.mails for connection in server.connections) <= 4
    pool.close()


def test_LI4_a_worker_retires_its_connection_before_a_mail_with_too_many_domains(server: FakeServer) -> None:
    server.capabilities = capabilities("LIMITS RCPTDOMAINMAX=1")
    pool = pool_of(server, max_size=2)
    mails = [Mail("a@b.example", [f"c@d{n}.example"], b"x\r\n") for n in range(12)]
    outcomes = list(pool.send_many(mails, concurrency=2))
    assert {outcome.error for outcome in outcomes} == {None}
    assert [len(connection.domains) for connection in server.connections] == [1] * 12
    pool.close()


def test_SM9_a_base_exception_of_the_credentials_in_a_worker_ends_the_batch(server: FakeServer) -> None:
    class Stop(BaseException):
        pass

    def password() -> str:
        raise Stop

    server.accepts = lambda secret: True
    pool = pool_of(server, max_size=2, credentials=PasswordAuth("user", password))
    with pytest.raises(Stop):
        collect(pool.send_many((mail(n) for n in range(9)), concurrency=2), [])
    assert workers() == []
    assert pool.stats().opening == 0
    pool.close()


def test_I24_an_interrupt_behind_the_verdict_does_not_deny_the_delivery(
    pool: ConnectionPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """design 1: `attempt_of` a KeyboardInterrupt that strikes while the connection goes back says DELIVERED."""
    give_back = pool._supply.slots.give_back

    def interrupted(*arguments: Any) -> str | None:
        give_back(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(pool._supply.slots, "give_back", interrupted)
    with pytest.raises(KeyboardInterrupt) as caught:
        pool.send("a@b.example", ["c@d.example"], b"x\r\n")
    attempt = attempt_of(caught.value)
    assert attempt is not None
    assert attempt.delivery is Delivery.DELIVERED
    assert pool.stats().delivered == 1
